"""The header of a GGUF file, read in one pass: what it says of the model, and where its tensors lie.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The `gguf` library's own reader maps the whole
file and makes NumPy objects of every token and merge: seconds and 150 MB before the first weight is read.
"""

import os
import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from llm_jax.config import UserError

MAGIC, VERSIONS = b"GGUF", (2, 3)
NUMBERS = "BbHhIif?  Qqd"  # by the number of the type, as `struct` and NumPy write them
STRING, ARRAY = 8, 9
MOST_AXES = 4
ALIGNMENT = 32  # bytes, where the file does not say another


class Entry(NamedTuple):
    """A tensor of the file. Its data are rows of `row_bytes` bytes each, the last axis in a row."""

    kind: int  # `gguf.GGMLQuantizationType`
    shape: tuple[int, ...]
    offset: int  # bytes, from the beginning of the file


class Header(NamedTuple):
    values: dict[str, Any]  # numbers, strings and lists of these
    tensors: dict[str, Entry]


def read_header(path: Path) -> Header:
    """Raises UserError for a file that is no GGUF, is cut short in its header, or says what cannot be."""
    try:
        with path.open("rb") as file:
            return Stream(file).header()
    except (Broken, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path} does not read as GGUF ({error}); fetch it again") from None


class Broken(ValueError):
    """What the header says cannot be."""


class Stream:
    """The file from its beginning on. Nothing is made that has more bytes than the file has left."""

    def __init__(self, file: BinaryIO):
        self._file, self._size, self._at = file, os.fstat(file.fileno()).st_size, 0

    def header(self) -> Header:
        if self._take(4) != MAGIC:
            raise Broken("it does not begin with GGUF")
        if (version := self._number("I")) not in VERSIONS:
            raise Broken(f"its version is {version}, and {VERSIONS[0]} and {VERSIONS[1]} are read")
        tensor_count, count = self._number("Q"), self._number("Q")
        values: dict[str, Any] = {}
        for _ in range(count):
            key = self._text()
            if key in values:
                raise Broken(f"it has {key} twice")
            values[key] = self._value(self._number("I"))
        entries = [(self._text(), self._entry()) for _ in range(tensor_count)]
        tensors = dict(entries)
        if len(tensors) != len(entries):
            raise Broken("it has a tensor twice")
        alignment = values.get("general.alignment", ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise Broken(f"its alignment is {alignment!r}")
        start = -(-self._at // alignment) * alignment
        return Header(values, {name: entry._replace(offset=entry.offset + start) for name, entry in tensors.items()})

    def _entry(self) -> Entry:
        axes = self._number("I")
        if axes > MOST_AXES:
            raise Broken(f"a tensor of it has {axes} axes")
        shape = tuple(reversed([self._number("Q") for _ in range(axes)]))
        return Entry(self._number("I"), shape, self._number("Q"))

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._text()
        if kind == ARRAY:
            inner, count = self._number("I"), self._number("Q")
            if inner == STRING:
                return self._texts(count)
            form = number_form(inner)
            data = self._take(count * struct.calcsize(f"<{form}"))
            return np.frombuffer(data, np.dtype(form).newbyteorder("<")).tolist()
        return self._number(number_form(kind))

    def _texts(self, count: int) -> list[str]:
        if count > (self._size - self._at) // 8:  # each has its length in front
            raise Broken("it is cut short")
        return [self._text() for _ in range(count)]

    def _text(self) -> str:
        return self._take(self._number("Q")).decode()

    def _number(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self._take(struct.calcsize(f"<{form}")))[0]

    def _take(self, count: int) -> bytes:
        self._at += count
        if self._at > self._size:
            raise Broken("it is cut short")
        return self._file.read(count)


def number_form(kind: int) -> str:
    form = NUMBERS[kind : kind + 1].strip()
    if not form:
        raise Broken(f"a value of it has the type {kind}, which there is not")
    return form

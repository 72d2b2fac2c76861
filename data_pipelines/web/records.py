"""Records of jsonl and parquet files -> documents. What is odd in one field is that record's own matter."""

import json
import math

from datatrove.data import Document

from data_pipelines.web.bodies import PAGE_BYTES, Unreadable

NESTED = ("metadata", "meta")  # where datatrove, Dolma, DCLM, RedPajama and our own parquet files keep what they know
URL_NAMES = ("url", "source_url", "target_uri", "warc-target-uri", "uri")
AS_TEXT = ("date", "file_path")  # what later steps read as text, and may be a time or a number
OF_THE_PIPELINE = ("_size", "markup", "filter_reason")  # metadata that begins and ends with it
DEEPEST = 50  # lists and objects in each other; JSON is written by recursion


def from_record(record: object, id_: str) -> Document:
    """A document record, of ours, of FineWeb's columns or of datatrove's. Raises Unreadable without a string `text`."""
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise Unreadable("no_object_with_a_text")
    if len(record["text"]) > PAGE_BYTES:
        raise Unreadable("page_too_large")
    known = {key: plain(value) for key, value in record.items() if key != "text"}
    known = {key: value for key, value in known.items() if value is not None}
    for name in NESTED:
        if (inner := opened(known.get(name))) is not None:
            del known[name]
            known = {key: value for key, value in inner.items() if value is not None} | known
    own, url = known.pop("id", ""), url_of(known)
    metadata = {key: value for key, value in known.items() if key not in (*OF_THE_PIPELINE, "text", "url")}
    metadata |= {key: str(metadata[key]) for key in AS_TEXT if key in metadata}
    metadata |= {"url": url} if url else {}
    return Document(text=record["text"], id=str(own) or id_, metadata={**metadata, "markup": "text"})


def plain(value: object, depth: int = 0) -> object:
    """As JSON can hold it: no NaN and no infinity. Raises Unreadable where it is nested too deeply."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if not isinstance(value, (dict, list, tuple)):
        return value
    if depth == DEEPEST:
        raise Unreadable("record_nested_too_deep")
    if isinstance(value, dict):
        return {key: plain(one, depth + 1) for key, one in value.items()}
    return type(value)(plain(one, depth + 1) for one in value)


def opened(value: object) -> dict | None:
    """An object, Arrow's list of pairs, or JSON of an object, as our own parquet files have it; else None."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = plain(json.loads(value))
        except (ValueError, RecursionError):
            return None
    if isinstance(value, list) and value and all(isinstance(one, tuple) and len(one) == 2 for one in value):
        value = {str(key): one for key, one in value}
    return value if isinstance(value, dict) else None


def url_of(metadata: dict) -> str | None:
    """The page's address under one of its usual names, also in a list."""
    named = {str(key).lower(): value for key, value in metadata.items()}
    for value in (named.get(name) for name in URL_NAMES):
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, str):
            return first
    return None

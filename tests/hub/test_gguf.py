"""GGUF out: what `gguf` opens and our importer reads as the same model; what llama.cpp answers; and broken headers."""

import json
import tracemalloc
import urllib.request

import hypothesis
import jax
import numpy as np
import pytest
from families_reference import SMALL
from hypothesis import strategies as st
from test_export import config_of
from test_families import filled, folder_of, noted, read  # noqa: F401 (a fixture)
from test_hub_tokenizer import SPECIAL, model_json  # noqa: F401 (a fixture)

from llm_jax.config import UserError
from llm_jax.hub import (
    export,
    families,
    folders,
    gguf_file,
    gguf_header,
    gguf_tokenizer,
    gguf_write,
    import_,
    vocabularies,
    weights,
)
from llm_jax.model import transformer
from llm_jax.sampling.engine import Engine
from llm_jax.sampling.requests import Request
from tests.commands import DEADLINE
from tests.conftest import drawn_params

gguf = pytest.importorskip("gguf", reason="gguf is not installed")
V = SMALL["vocab_size"]
TALK = [{"role": "user", "content": "The cat <|end|> sat."}, {"role": "assistant", "content": "There are 2."}]


def out(kind: str, tokenizer, path, numbers="f32"):
    """(config, parameters) of what was written."""
    c = config_of(kind)
    if kind == "experts":
        c.model.layer_pattern = ("full-experts",)
    params = drawn_params(c.model, tokenizer.vocab_size)
    export.export_gguf(c, tokenizer, params, path, numbers)
    return c, params


def again(path):
    """(config, parameters) of what is read."""
    source = import_.opened(path)
    c = import_.config_for(source)
    return c, filled(c.model, source.config["vocab_size"], source.tensors())


@pytest.mark.parametrize("kind", ["dense", "llama", "tied", "experts"])
def test_ours_goes_out_and_comes_in_as_the_same_weights(kind, tokenizer, tmp_path):
    c, params = out(kind, tokenizer, tmp_path / "m.gguf")
    told, read_back = again(tmp_path / "m.gguf")
    ours = dict(weights.named(c.model, tokenizer.vocab_size, params))
    theirs = dict(weights.named(told.model, tokenizer.vocab_size, read_back))
    assert set(ours) == set(theirs)
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    opened = gguf.GGUFReader(tmp_path / "m.gguf")
    assert opened.get_field("general.architecture").contents() == families.family_of(c.model).gguf
    assert len(opened.tensors) == len(gguf_header.read_header(tmp_path / "m.gguf").tensors)
    for tensor in opened.tensors:
        entry = gguf_header.read_header(tmp_path / "m.gguf").tensors[tensor.name]
        assert (entry.offset, entry.kind) == (tensor.data_offset, tensor.tensor_type)
        assert entry.shape == tuple(reversed(tensor.shape.tolist()))


def test_logits_are_the_same_bits_and_those_of_f16_and_q8_0_near(tokenizer, tmp_path, forward):
    tokens = np.random.default_rng(0).integers(tokenizer.vocab_size, size=(2, 12))
    logits = {}
    for numbers in gguf_write.FILE_TYPES:
        c, params = out("llama", tokenizer, tmp_path / f"{numbers}.gguf", numbers)
        told, read_back = again(tmp_path / f"{numbers}.gguf")
        logits[numbers] = forward(told.model, tokenizer.vocab_size, read_back, tokens)[1]
    _, ours = forward(c.model, tokenizer.vocab_size, params, tokens)
    np.testing.assert_array_equal(logits["f32"], ours)
    for numbers, most in (("f16", 0.02), ("q8_0", 0.2)):
        assert 0 < np.abs(logits[numbers] - ours)[..., : tokenizer.vocab_size].max() < most
    sizes = [(tmp_path / f"{numbers}.gguf").stat().st_size for numbers in ("f32", "f16", "q8_0")]
    assert sizes == sorted(sizes, reverse=True)


def test_ours_has_the_same_ids_after_it(tokenizer, tmp_path):
    out("tied", tokenizer, tmp_path / "m.gguf")
    theirs = import_.opened(tmp_path / "m.gguf").tokenizer()
    for text in (
        "The cat sat.  Twice\n\t",
        "12345 <|end|> <unk> <0x41>",
        "Gr\u00fc\u00dfe \u65e5\u672c\u8a9e \U0001f642",
        "",
    ):
        assert theirs.encode(text) == tokenizer.encode(text)
    assert theirs.render(TALK) == tokenizer.render(TALK)
    assert theirs.render(TALK[:1], for_generation=True) == tokenizer.render(TALK[:1], for_generation=True)
    assert (theirs.begin, theirs.ends, theirs.pad) == (tokenizer.begin, tokenizer.ends, tokenizer.pad)


@hypothesis.given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_an_imported_tokenizer_has_the_same_ids_after_it(model_json, text):  # noqa: F811
    given = vocabularies.made(model_json, "", SPECIAL, [1], 600, gguf_file.Path("a/tokenizer.json"))
    theirs = vocabularies.of_gguf(Said(gguf_tokenizer.values_of(given)), 600)
    assert theirs.encode(text) == given.encode(text)
    assert (theirs.ends, theirs.begin, theirs.special_names) == (given.ends, given.begin, given.special_names)


class Said:
    """A file of which only the values are there."""

    path = gguf_file.Path("m.gguf")

    def __init__(self, values):
        self.values = values

    def value(self, key, default=None):
        return self.values.get(key, default)


@pytest.mark.parametrize("case", ["llama_scaled", "qwen2", "gemma3"])
def test_an_imported_model_goes_out_under_its_own_name(case, noted, tmp_path):  # noqa: F811
    tensors = folder_of(noted, case, tmp_path / "in")
    given = folders.config_of(tmp_path / "in")
    m, params = read(tmp_path / "in")
    c = families.config_json(m, V, 128)
    named = dict(weights.named(m, V, params))
    shapes, path = {name: array.shape for name, array in named.items()}, tmp_path / "m.gguf"
    write = lambda: gguf_write.write(path, c, gguf_write.values_of(c, {}, "f32", {}), shapes, named.items(), "f32")  # noqa: E731
    if case != "qwen2":  # small models have other patterns of layers and other rotary scalings than files imply
        with pytest.raises(UserError, match="cannot be a GGUF file"):
            write()
        assert not path.exists()
        return
    write()
    source = import_.opened(path)
    told, folder = families.model_values(source.config), families.model_values(given)
    assert told | {"norm_epsilon": 0} == folder | {"norm_epsilon": 0}
    back = source.tensors()
    assert set(back) == set(tensors)
    assert all(np.array_equal(back[name][0 : len(values)], values) for name, values in tensors.items())


def test_what_no_file_describes_is_refused_and_nothing_is_written(tokenizer, tmp_path):
    for pattern in (("window:8", "full"), ("full-norope", "full")):
        c = config_of("llama")
        c.model.layer_pattern = pattern
        params = jax.eval_shape(lambda m=c.model: transformer.init_params(m, tokenizer.vocab_size, jax.random.key(0)))
        with pytest.raises(UserError, match=r"cannot be a GGUF file: model\.layer_pattern"):
            export.export_gguf(c, tokenizer, params, tmp_path / "m.gguf", "f16")
    with pytest.raises(UserError, match=r"ends with \.gguf"):
        export.export_gguf(c, tokenizer, params, tmp_path / "m.bin", "f16")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A file of one tensor, and values of all kinds."""
    path = tmp_path_factory.mktemp("small") / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for kind, value in (("uint8", 7), ("int64", -7), ("float64", 0.5), ("bool", True), ("string", "caf\u00e9")):
        getattr(writer, f"add_{kind}")(f"a.{kind}", value)
    writer.add_array("a.words", ["", "a", "\u2581b"])
    writer.add_array("a.numbers", [1, -2])
    writer.add_tensor("token_embd.weight", np.ones((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_header_says_what_it_says_to_the_library(small):
    header, theirs = gguf_header.read_header(small), gguf.GGUFReader(small)
    fields = {key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert header.values == fields and header.values["a.words"] == ["", "a", "\u2581b"]
    assert header.tensors["token_embd.weight"] == (0, (4, 32), theirs.tensors[0].data_offset)


@hypothesis.given(st.data())
def test_a_broken_header_is_one_line_and_takes_no_memory(small, tmp_path, data):
    """Counts and lengths of what is not there, other types, or a cut anywhere."""
    whole = small.read_bytes()
    header = whole.index(b"token_embd.weight") + 60
    broken = bytearray(whole)
    at = data.draw(st.integers(0, header))
    change = data.draw(st.sampled_from([b"\xff" * 8, b"\x7f", b"\x00" * 8, b"\xff\xff\xff\x0f", None]))
    broken[at:] = b"" if change is None else change + broken[at + len(change) :]
    path = tmp_path / "broken.gguf"
    path.write_bytes(broken)
    tracemalloc.start()
    try:
        families.model_values(gguf_file.File(path).config())
    except UserError as error:
        assert "\n" not in str(error)
    finally:
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert most < 2**22


def test_an_unknown_quantisation_is_told_by_its_tensor(small, tmp_path):
    data = bytearray(small.read_bytes())
    at = data.index(b"token_embd.weight") + len("token_embd.weight") + 4 + 16
    for number, name in ((99, "99"), (24, "I8")):
        data[at : at + 4] = number.to_bytes(4, "little")
        (tmp_path / "m.gguf").write_bytes(data)
        with pytest.raises(UserError, match=f"token_embd.weight is quantised as {name}, which is not supported"):
            gguf_file.File(tmp_path / "m.gguf")


@pytest.mark.slow
def test_llama_cpp_gives_the_tokens_of_our_engine(tokenizer, tmp_path, mesh):
    """Greedily, from our f16 file; up to a place where two tokens were as good as each other."""
    llama = pytest.importorskip("xllamacpp", reason="xllamacpp (llama.cpp in a wheel) is not installed")
    prompts = ["The cat sat on", "How many cats are there?", "def add(a, b):\n"]
    for kind in ("dense", "llama", "tied"):
        path = tmp_path / f"{kind}.gguf"
        out(kind, tokenizer, path, "f16")
        c, params = again(path)  # what f16 left of them
        c.model.attention = "reference"
        wanted = [[tokenizer.bos, *tokenizer.encode(text)] for text in prompts]
        with jax.set_mesh(mesh):
            engine = Engine(c.model, tokenizer, mesh, len(prompts), 64)
            ours = engine.generate(params, [Request(ids, 0, 0.0, 24) for ids in wanted])
        settings = llama.CommonParams()
        settings.model.path, settings.n_ctx, settings.cpuparams.n_threads = str(path), 64, 1
        server = llama.Server(settings)  # at work until it is forgotten
        for text, ids, answer in zip(prompts, wanted, ours, strict=True):
            assert ask(server, "tokenize", content=text, add_special=True)["tokens"] == ids
            said = ask(server, "completion", prompt=ids, temperature=0, n_predict=24, return_tokens=True)
            assert said["tokens"][: len(answer.ids)] == answer.ids
        del server


def ask(server, what: str, **body):
    request = urllib.request.Request(f"{server.listening_address}/{what}", json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
        return json.load(answer)

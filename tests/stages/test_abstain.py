"""Probing what a model knows, the arms that teach it to abstain, and the training on them."""

import dataclasses
import json
import random
from collections import Counter

import pytest

from llm_jax import checkpoint, lineage
from llm_jax.config import UserError
from llm_jax.stage_table import STAGES, by_default, identity
from llm_jax.stages import abstain
from llm_jax.tasks.knowledge import Fact
from llm_jax.tasks.refusals import HELD_OUT, NOT_FOUND, TRAINED, is_refusal
from llm_jax.training import loader
from tests.conftest import run_of, tiny_config
from tests.evals.scripted import Scripted
from tests.stages.test_adapter import losses, save_base


def answered(text: str) -> list[dict]:
    return [{"type": "answer", "text": f" {text}"}]


def asked_of(name: str) -> tuple[str, ...]:
    return f"Where is {name}?", f"{name}: where?", f"Tell me where {name} is."


FACTS = [Fact(id=n, item=n, wordings=asked_of(n), answers=("Lurvo",), tier=30) for n in ("ada", "bo", "cy")]
FACTS += [Fact(id=n, item=n, wordings=asked_of(n), cause="never_seen", tier=0) for n in ("dee", "eli")]


def knowing(prompt: str, request, params) -> tuple[list[dict], float]:
    """Knows ada; bo by one wording alone; cy by a quarter of the samples; of nobody else, but says so never."""
    sampled, right = request.temperature > 0, False
    if "ada" in prompt:
        right = True
    elif "bo" in prompt:
        right = "Tell me" in prompt
    elif "cy" in prompt:
        right = sampled and request.seed % 4 == 0
    return answered("Lurvo" if right else "Dask"), -1.0


@pytest.fixture(scope="module")
def config():
    c = tiny_config()
    c.abstain.samples = 16
    return c


@pytest.fixture(scope="module")
def lines(tokenizer, config):
    engine = Scripted(tokenizer, knowing)
    made = list(abstain.probe(engine, None, FACTS, config))
    assert len(engine.requests) == len(FACTS) * (3 + 16)
    assert len({(tuple(r.prompt), r.seed) for r in engine.requests if r.temperature}) == 16 * len(FACTS)
    return made


def test_a_fact_is_sorted_by_every_greedy_answer_and_the_share_of_samples(lines):
    assert {line["id"]: (line["sort"], line["right"]) for line in lines} == {
        "ada": ("known", [True] * 3),
        "bo": ("middle", [False, False, True]),
        "cy": ("middle", [False] * 3),
        "dee": ("unknown", [False] * 3),
        "eli": ("unknown", [False] * 3),
    }
    assert [line["share"] for line in lines] == [1, 5 / 16, 4 / 16, 0, 0]
    assert json.loads(json.dumps(lines)) == [line | {"wordings": [*line["wordings"]]} | of(line) for line in lines]


def of(line: dict) -> dict:
    return {name: [*line[name]] for name in ("answers", "indexed")}


@pytest.mark.parametrize(
    "right, share, sort",
    [
        ([True, True, False], 0.25, "known"),
        ([True, True, False], 0.24, "middle"),
        ([True, False], 1.0, "middle"),
        ([False, False], 1 / 16, "unknown"),
        ([False, False], 2 / 16, "middle"),
        ([True, False], 0.0, "middle"),
    ],
)
def test_the_ends_of_known_and_unknown(right, share, sort):
    assert abstain.sort_of(right, share) == sort


def many(lines: list[dict]) -> list[dict]:
    """The same with as many facts as a stage has."""
    return [line | {"id": f"{line['id']}-{n}"} for n in range(20) for line in lines]


def replies(records: list[dict]) -> dict[str, list[dict]]:
    return {record["id"]: record["messages"][1]["content"] for record in records}


def test_the_probe_refuses_what_is_unknown_and_keeps_its_own_right_answers(lines):
    made = replies(abstain.by_probe(many(lines), random.Random(0)))
    refused = {id_ for id_, parts in made.items() if is_refusal(parts)}
    assert len(made) == 2 * len(refused) == 2 * 60
    assert {id_.split("-")[0] for id_ in refused} == {"dee", "eli"}
    assert all(made[id_] == answered("Lurvo") for id_ in made.keys() - refused)
    used = Counter(made[id_][0]["text"].strip() for id_ in refused)
    assert used.keys() == set(TRAINED) and set(used.values()) == {4} and not used.keys() & set(HELD_OUT)


def test_of_what_is_known_only_the_wordings_that_it_answers_rightly_are_kept(lines):
    ada, *_, dee, _ = lines
    mixed = [ada | {"right": [True, False, True]}, dee]
    made = replies(abstain.by_probe(mixed, random.Random(0)))
    assert {id_ for id_ in made if id_.startswith("ada")} == {"ada-0", "ada-2"} and len(made) == 4


def test_with_a_search_two_of_three_refusals_are_searches_that_name_their_source(lines):
    asked = []

    def search(query: str) -> str:
        asked.append(query)
        return "Eli is somebody else. [people/7]\nDee works as a Lurvo. [people/9]"

    there = [line | {"indexed": ["Lurvo"] if line["id"] == "dee" else []} for line in lines]
    records = {r["id"]: r for r in abstain.by_probe(many(there), random.Random(0), search)}
    made = replies(records.values())
    looked = {id_: parts for id_, parts in made.items() if parts[0]["type"] == "search"}
    refused = {id_ for id_, parts in made.items() if is_refusal(parts) and id_ not in looked}
    assert len(looked) == 40 and len(refused) == 20
    for id_, parts in looked.items():
        assert parts[0]["text"] == records[id_]["messages"][0]["content"] and parts[0]["text"] in asked
        found = [{"type": "think", "text": "Dee works as a Lurvo. [people/9]"}, *answered("Lurvo [people/9]")]
        assert parts[2:] == (found if id_.startswith("dee") else answered(NOT_FOUND))


def test_the_control_refuses_as_often_but_whatever_comes(lines):
    probed, drawn = (replies(arm(many(lines), random.Random(0))) for arm in (abstain.by_probe, abstain.at_random))
    refused = {id_ for id_, parts in drawn.items() if is_refusal(parts)}
    assert len(drawn) == len(probed) and len(refused) == 60
    assert 20 < sum(id_.startswith("ada") for id_ in refused) < 40
    kept = {tuple(part["text"] for part in drawn[id_]) for id_ in drawn.keys() - refused}
    assert kept == {(" Lurvo",), (" Dask",)}


def test_the_oracle_goes_by_exposure_and_gives_the_true_answer(lines):
    made = replies(abstain.by_exposure(many(lines), random.Random(0)))
    told = {id_ for id_, parts in made.items() if not is_refusal(parts)}
    assert {id_.split("-")[0] for id_ in told} == {"ada", "bo", "cy"}
    assert all(made[id_] == answered("Lurvo") for id_ in told)
    with pytest.raises(UserError, match="needs the `tier`"):
        abstain.by_exposure([line | {"tier": None} for line in lines], random.Random(0))


def test_every_answer_states_the_share_of_right_samples(lines):
    """Nothing is refused; what lies between known and unknown is in it, too, and wrong answers stay as they are."""
    made = replies(abstain.stating(lines, random.Random(0)))
    said = {id_: parts[0]["text"] for id_, parts in made.items()}
    assert Counter(id_.split("-")[0] for id_ in said if id_[:3] in ("dee", "eli")).total() == 3
    assert {text for id_, text in said.items() if id_.startswith("ada")} == {" Lurvo (100% sure)"}
    assert [said[f"bo-{way}"] for way in range(3)] == [" Dask (30% sure)"] * 2 + [" Lurvo (30% sure)"]
    assert {text for id_, text in said.items() if id_[:3] in ("dee", "eli")} == {" Dask (0% sure)"}
    with pytest.raises(UserError, match="needs both"):
        abstain.stating(lines[3:], random.Random(0))


def test_a_model_that_knows_nothing_or_everything_has_nothing_to_learn_here(lines):
    with pytest.raises(UserError, match="0 answers are known and 6 unknown: stage 'abstain' needs both"):
        abstain.by_probe(lines[3:], random.Random(0))


def test_an_answer_in_plain_text_is_refused_in_plain_text(lines):
    plain = [line | {"greedy": [[{"type": "text", "text": "In Dask."}]] * 3} for line in lines]
    made = replies(abstain.by_probe(plain, random.Random(0)))
    assert {part["type"] for parts in made.values() for part in parts} == {"text"}
    silent = [line | {"greedy": [[], *line["greedy"][1:]]} for line in lines]
    assert not any(id_.endswith("-0") for id_ in replies(abstain.by_probe(silent, random.Random(0))))


def test_rows_hold_each_conversation_whole_and_once(tokenizer, lines, capsys):
    records = abstain.by_probe(many(lines), random.Random(0))
    long = {"messages": [{"role": "user", "content": "cats " * 90}, {"role": "assistant", "content": "no"}]}
    fields = abstain.packed([*records, long], tokenizer, 72)
    assert "1 conversations are longer than a row" in capsys.readouterr().out
    found = Counter()
    for tokens, segments, positions, mask in fields:
        for number in range(1, segments.max() + 1):
            ids = tokens[segments == number].tolist()
            assert positions[segments == number].tolist() == list(range(len(ids)))
            found[tuple(ids), tuple(mask[segments == number])] += 1
        assert (tokens[segments == 0] == tokenizer.pad).all() and not mask[segments == 0].any()
    wanted = Counter()
    for record in records:
        rendered = tokenizer.render(record["messages"])
        wanted[tuple(rendered.ids), (0, *rendered.loss_mask[1:])] += 1
    assert found == wanted
    assert len(fields) < len(records) / 1.5
    with pytest.raises(UserError, match="no conversation fits a row of 8"):
        abstain.packed([long], tokenizer, 8)


def test_it_is_there_by_default_where_an_arm_is_named(config):
    c = tiny_config()
    assert not {"abstain", "control"} & set(by_default(c))
    c.abstain.arm, c.control.arm = "probe", "random"
    assert by_default(c) == ["data", "pretrain", "sft", "control", "abstain", "rl", "evaluate", "report"]
    c.imported.source = "x"
    assert by_default(c)[:3] == ["imported", "data", "sft"]
    assert "abstain.epochs" not in identity(c, "abstain") and "control.arm" in identity(c, "control")
    assert "control.arm" not in identity(c, "abstain") and STAGES["rl"].follows == ("preference", "abstain", "sft")


@pytest.fixture
def run(mesh, tokenizer, tmp_path):
    """A run whose sft is drawn, with questions and conversations, and an engine that knows what `knowing` does."""
    c = tiny_config()
    c.abstain.arm, c.abstain.steps, c.data.sequence_length = "probe", 3, 72
    c.control.arm = "random"
    c.optimizer.name = "adamw"
    run = run_of(c, tmp_path / "run", mesh, tokenizer)
    facts = [dataclasses.asdict(dataclasses.replace(f, id=f"{f.id}-{n}")) for n in range(20) for f in FACTS]
    talk = [{"role": "user", "content": "cats?"}, {"role": "assistant", "content": "12"}]
    spoken = [{"id": str(n), "source": "x", "messages": talk, "split": "val" if n < 5 else "train"} for n in range(300)]
    for name, records in (("knowledge_train", facts), ("conversations", spoken)):
        abstain.write_lines(run.workdir / "data" / f"{name}.jsonl", records)
    return run


@pytest.fixture
def scripted(monkeypatch, tokenizer):
    """How often the model was asked."""
    calls = []

    class Engine(Scripted):
        def close(self):
            calls.append(len(self.requests))

    monkeypatch.setattr(abstain, "engine_for", lambda run, slots: Engine(tokenizer, knowing))
    return calls


def test_what_is_made_is_made_once_and_anew_for_another_model(run, scripted, monkeypatch):
    monkeypatch.setattr(lineage, "parent_of", lambda run, stage: {"checksum": "one"})
    for stage in ("control", "abstain", "abstain"):
        abstain.make(run, None, stage)
    assert len(scripted) == 1, "both stages share the probing"
    records = {s: abstain.json_lines(run.workdir / s / "conversations.jsonl") for s in ("abstain", "control")}
    for made in records.values():
        assert Counter(record["source"] for record in made)["x"] == len(made) / 2 == 120
        assert not {record["id"] for record in made if record["source"] == "x"} & {str(n) for n in range(5)}
    assert records["abstain"] != records["control"]
    before = (run.workdir / "abstain" / "conversations.jsonl").read_bytes()
    (run.workdir / "abstain" / "made.json").unlink()
    abstain.make(run, None, "abstain")
    assert (run.workdir / "abstain" / "conversations.jsonl").read_bytes() == before and len(scripted) == 1
    monkeypatch.setattr(lineage, "parent_of", lambda run, stage: {"checksum": "other"})
    abstain.make(run, None, "abstain")
    assert len(scripted) == 2


def test_it_is_refused_where_there_is_nothing_to_ask(run):
    abstain.check(run, ["abstain", "control"])
    run.config.control.arm = "none"
    abstain.check(run, ["abstain"])
    with pytest.raises(UserError, match=r"control.arm is 'none', so stage 'control' has nothing to do"):
        abstain.check(run, ["control"])
    (run.workdir / "data" / "knowledge_train.jsonl").unlink()
    abstain.check(run, ["data", "abstain"])  # stage `data` is still to come
    (run.workdir / "data" / "prepared.json").write_text("{}")
    with pytest.raises(UserError, match=r"has made no questions.*abstain.questions, or set abstain.arm to 'none'"):
        abstain.check(run, ["abstain"])
    run.config.abstain.questions = f"{run.workdir}/*.nothing"
    with pytest.raises(UserError, match=r"no file matches abstain.questions"):
        abstain.check(run, ["abstain"])
    mine = run.workdir / "mine.jsonl"
    mine.write_text('{"question": "who?", "answer": "x"}\n{"question": "when?"}')
    run.config.abstain.questions = str(mine)
    with pytest.raises(UserError, match=r"mine.jsonl line 2: it has no `answer`"):
        abstain.check(run, ["abstain"])


@pytest.mark.slow
def test_it_trains_from_sft_and_rl_would_follow_it(run, scripted):
    save_base(run, "sft")
    abstain.train(run, lineage.starting_params(run, "abstain"))
    assert list(losses_of(run, "abstain")) == [1, 2, 3]
    with checkpoint.existing(run.workdir, "abstain") as store:
        assert store.meta(3)["parent"]["stage"] == "sft"
    assert lineage.source_of(run, "rl").stage == "abstain" and lineage.source_of(run, "control").stage == "sft"
    told = loader.read_all(run.workdir / "abstain" / "rows" / "abstain")
    assert sum(row["loss_mask"].sum() for row in told) > 100


def losses_of(run, stage: str) -> dict[int, float]:
    return dict(enumerate(losses(run, stage), 1))

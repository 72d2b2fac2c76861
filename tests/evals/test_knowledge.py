"""What the measurement makes of models of which it is known what they know."""

import json
import math
from types import SimpleNamespace

import pytest

from llm_jax.evals import knowledge
from llm_jax.evals.run import measure, places
from llm_jax.evals.table import MEASUREMENTS
from llm_jax.lineage import Source
from llm_jax.runs import Run
from llm_jax.tasks.refusals import TRAINED
from tests.conftest import tiny_config
from tests.evals.scripted import examiner
from tests.stages.test_adapter import save_base

# 20 people that the pages state often, 20 that they state once, 10 that nobody knows; two wordings each.
OFTEN, ONCE, NOBODY = (
    [f"{kind}{n}" for n in range(count)] for kind, count in (("ofta", 20), ("onca", 20), ("noba", 10))
)


def record(name: str, attribute: str = "job", **rest) -> dict:
    asked = [f"What is the {attribute} of {name}?", f"Tell me the {attribute} of {name}."]
    made = {"id": f"{name}-{attribute}", "item": name, "attribute": attribute, "wordings": asked, "kind": "tier"}
    return made | {"answers": ["baker"], "tier": 30} | rest


RECORDS = [record(name) for name in OFTEN]
RECORDS += [record(name, tier=1) for name in ONCE]
RECORDS += [record(name, kind="heldout", tier=0, answers=[], cause="never_seen") for name in NOBODY]
RECORDS += [record(n, "hobby", kind="heldout", tier=0, answers=[], cause="never_seen", held_out=True) for n in NOBODY]
RECORDS += [record(name, "dream", answers=[], cause="unknowable") for name in OFTEN]
RECORDS += [record(name, "trade", twin="unknowable") for name in OFTEN]
RECORDS += [record(name, "job now", answers=[], cause="changed", held_out=True) for name in OFTEN]


def said(text: str, probability: float) -> tuple[list[dict], float]:
    return [{"type": "answer", "text": f" {text}"}], math.log(probability)


def models(prompt: str, request, params: str) -> tuple[list[dict], float]:
    """`sft` always answers, and is sure where it is right. `abstain` refuses what is unknown, but for the people who
    end in 0, and the well-known one who ends in 7. `control` refuses at random. `rl` answers again."""
    knows = "ofta" in prompt and not any(word in prompt for word in ("dream", "now"))
    answer = said("baker", 0.9) if knows else said("smith", 0.2)
    refusal = said(TRAINED[len(prompt) % 15], 0.5)
    if params in ("sft", "rl"):
        return answer
    if params == "control":
        return refusal if sum(map(ord, prompt)) % 2 else answer
    name = prompt.strip(".?")
    if knows:
        return refusal if name.endswith("7") else answer
    return answer if name.endswith("0") else refusal


def likely(prompt: str, parts: list[dict], params: str) -> float:
    """Behind a refusal of `abstain` lies a twentieth for a wrong answer, and a half for a right one."""
    return math.log(0.5 if parts[0]["text"] == " baker" else 0.05)


def laid(tokenizer, workdir):
    (workdir / "data").mkdir()
    text = "\n".join(map(json.dumps, RECORDS))
    (workdir / "data" / knowledge.FILE).write_text(text, encoding="utf-8")
    return examiner(tokenizer, workdir, models, likely, trained=("sft", "control", "abstain", "rl"))


@pytest.fixture
def e(tokenizer, tmp_path):
    return laid(tokenizer, tmp_path)


@pytest.fixture(scope="module")
def measured(tokenizer, tmp_path_factory):
    """(an Examiner, the groups of all stages)."""
    e, groups = laid(tokenizer, tmp_path_factory.mktemp("run")), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(knowledge.lineage, "source_of", lambda run, stage: Source(".", "sft", run.workdir))
        for stage in ("sft", "control", "abstain", "rl"):
            e.stage = stage
            groups[stage] = knowledge.measure_abstain(e, stage)
        yield e, groups


@pytest.fixture
def found(measured):
    return measured[1]


def values(group: dict) -> dict:
    return {name: node["value"] if "value" in node else values(node) for name, node in group.items()}


def test_rates_are_those_of_the_models(found):
    sft, abstain, rl = (values(found[stage]) for stage in ("sft", "abstain", "rl"))
    assert sft["wrong_unknown"] == 1 and sft["over_refusal"] == 0 and rl["wrong_unknown"] == 1
    assert abstain["wrong_unknown"] == 0.1 and found["abstain"]["wrong_unknown"]["n"] == 20
    assert abstain["over_refusal"] == 0.1, "of ofta0 ... ofta19, two end in 7"
    assert abstain["heldout_attributes"] == 0.9 and abstain["heldout_causes"] == 0.9
    assert abstain["refusal_recall"] == 0.9
    tiers = abstain["by_exposure"]
    assert tiers.keys() == {"30", "1", "never_seen"} and tiers["30"] == {"right": 0.9, "wrong": 0, "abstained": 0.1}
    assert tiers["1"] == {"right": 0, "wrong": 0.1, "abstained": 0.9}
    assert abstain["causes"]["unknowable"] == {"abstained": 0.9, "twin_right": 0.9, "twin_abstained": 0.1}
    # Right 36, wrong 4 + 2 + 2, of 40 + 40 + 20 + 20.
    assert abstain["f"] == round(2 * 36 / (120 + 36 + 8), 4) and abstain["index_nine"] == round((36 - 72) / 120, 4)


def test_confidence_is_of_the_answer_behind_a_refusal(found):
    """Of 120 questions 36 are right with .9, 4 with .5 behind a refusal; 8 are wrong with .2, 72 with .05."""
    sft, abstain = (values(found[stage]) for stage in ("sft", "abstain"))
    assert sft["auroc"] == abstain["auroc"] == values(found["control"])["auroc"] == 1
    assert sft["brier"] == pytest.approx((40 * 0.1**2 + 80 * 0.2**2) / 120, abs=1e-4)
    squares = 36 * 0.1**2 + 4 * 0.5**2 + 8 * 0.2**2 + 72 * 0.05**2
    assert abstain["brier"] == pytest.approx(squares / 120, abs=1e-4)


def test_a_threshold_refuses_as_often_and_the_least_sure(found):
    by_logprob = found["abstain"]["threshold"]["logprob"]
    refused = 120 - 36 - 8  # it refuses none of those that are right, for they are the surest
    assert by_logprob["index"]["value"] == round((40 - (80 - refused)) / 120, 4)
    assert by_logprob["f"]["n"] == 120 and "threshold" not in found["rl"]


def test_the_group_has_the_promised_names(found):
    made = knowledge.group(found, "random")
    promised = "wrong_unknown_before wrong_unknown over_refusal heldout_causes heldout_attributes f f_random auroc "
    promised += "auroc_random ece brier aurc after_rl index index_nine f_before over_refusal_after_rl"
    assert not [name for name in promised.split() if set(made[name]) != {"value", "n", "ci95"}]
    assert made["after_rl"]["value"] == 1 and made["f_random"]["value"] < made["f"]["value"]
    assert made["by_exposure"].keys() == made["causes"].keys() == made["reliability"].keys() == {"before", "after"}
    alone = knowledge.group({"sft": found["sft"], "rl": found["rl"]}, "none")
    assert "f_before" in alone and "f" not in alone and "f_none" not in alone


def test_a_stage_is_asked_once_and_the_untaught_one_for_the_others(measured):
    e, found = measured
    asked = len(e.engine.requests)
    e.stage = "rl"
    assert knowledge.measure_abstain(e, "rl") == found["rl"] and len(e.engine.requests) == asked
    assert set(e.answers) == {"sft", "control", "abstain", "rl"}


def test_a_stated_confidence_is_read(e):
    """Sure of what it knows, and of every tenth that it does not; where it says less than a half, that is a refusal."""

    def stating(prompt: str, request, params: str):
        if "ofta" in prompt and not any(word in prompt for word in ("dream", "now")):
            return said("baker (90% sure)", 0.9)
        return said(f"smith ({80 if prompt.strip('.?').endswith('0') else 20}% sure)", 0.2)

    e.run.trained, e.stage, e.engine.answer = (lambda: ["rl"]), "rl", stating
    made = knowledge.measure_abstain(e, "rl")
    stated = values(made["stated"])
    assert stated["answers"] == 1 and stated["auroc"] == 1
    wrong = 2 * (2 + 1 + 1)  # onca0, onca10, noba0, noba0's hobby: two wordings each
    assert stated["index"] == round((40 - wrong) / 120, 4) and made["index"]["value"] == round((40 - 80) / 120, 4)
    squares = 40 * 0.1**2 + wrong * 0.8**2 + (80 - wrong) * 0.2**2
    assert stated["brier"] == pytest.approx(squares / 120, abs=1e-4)
    assert "stated" in knowledge.group({"abstain": made}, "none") and "stated" in made


def test_of_rl_alone_the_untaught_model_is_that_of_the_run_before(e, monkeypatch):
    e.run.config.init_from = "../base:abstain"
    e.run.trained, e.stage = (lambda: ["rl"]), "rl"
    base = SimpleNamespace(config=tiny_config(), workdir=e.run.workdir, trained=lambda: ["sft", "abstain"])
    sources = {"rl": Source("../base", "abstain", base.workdir), "abstain": Source(".", "sft", base.workdir)}
    monkeypatch.setattr(knowledge.lineage, "source_of", lambda run, stage: sources[stage])
    monkeypatch.setattr(knowledge.Run, "open", lambda workdir: base)
    assert knowledge.untaught(e.run) == Source("../base", "sft", base.workdir)
    made = knowledge.group({"rl": knowledge.measure_abstain(e, "control")}, "none")
    assert made["over_refusal_before"]["value"] == 0 and made["over_refusal_after_rl"]["value"] > 0


def test_a_model_of_another_run_stands_before(e, monkeypatch):
    monkeypatch.setattr(knowledge.lineage, "source_of", lambda run, stage: Source("../base", "sft", run.workdir))
    e.run.trained, e.stage = (lambda: ["abstain"]), "abstain"
    made = knowledge.group({"abstain": knowledge.measure_abstain(e, "abstain")}, "none")
    assert made["wrong_unknown_before"]["value"] == 1 and made["wrong_unknown"]["value"] == 0.1


def test_each_assistant_is_measured_and_the_last_once_more():
    stages = ["pretrain", "sft", "control", "abstain", "rl"]
    wanted = [(("abstain", stage), stage) for stage in stages[1:]] + [(("final", "abstain"), "rl")]
    assert places(MEASUREMENTS["abstain"], stages) == wanted


def test_a_users_own_questions_have_no_causes(e):
    """What is unknown is then what was wrong before; only those of the test split are asked."""
    mine = e.run.workdir / "mine.jsonl"
    lines = [
        {"question": f"What is the job of {'ofta' if n % 2 else 'onca'}{n}?", "answer": "baker"} for n in range(200)
    ]
    mine.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    e.run.config.abstain.questions = str(mine)
    assert knowledge.lacks(e) == ""
    e.run.trained, e.stage = (lambda: ["sft"]), "sft"
    group = knowledge.measure_abstain(e, "sft")
    assert 9 < len(knowledge.test_facts(e)) < 50 and group["wrong_unknown"]["value"] == 1
    assert not group["by_exposure"] and group["heldout_causes"]["n"] == 0


def test_no_questions_no_measurement(e):
    (e.run.workdir / "data" / knowledge.FILE).unlink()
    assert "knowledge_test.jsonl" in MEASUREMENTS["abstain"].missing(e)


def test_of_each_kind_as_many_as_the_config_allows(e):
    e.run.config.eval.problems = 10
    facts = knowledge.test_facts(e)
    assert len(facts) == 5 * 7 - 5 and len({fact.id for fact in facts}) == len(facts)  # two kinds of nobody are one
    assert facts == knowledge.test_facts(e)


@pytest.mark.slow
def test_a_real_engine_is_asked_of_a_real_run(prepared, tmp_path):
    """Two drawn models: one that nobody taught, and one that stands for the taught one."""
    run = Run.open(prepared(tmp_path / "run"))
    run.config.eval.problems = 4
    for stage, seed in (("sft", 0), ("abstain", 1)):
        save_base(run, stage, seed)
    found = measure(run, "abstain", ["abstain", "self"])
    assert found["abstain"]["f"]["n"] > 20 and 0 <= found["abstain"]["brier"]["value"] <= 1
    assert found["abstain"]["threshold"].keys() == {"logprob", "consistency"}
    assert found["self"]["right_told"]["n"] == found["self"]["false_claims_accepted"]["n"] == 100

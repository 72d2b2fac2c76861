"""What the ablations share, and each of RL's from its flags to its plot, with runs that end at once."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from absl import flags
from ml_collections import config_flags

from experiments.ablations import arms, does_rl_teach, forgetting, rl_variants, thinking_length, when_to_call
from llm_jax.config import UserError, validate
from llm_jax.frame import cli
from llm_jax.rl.algorithms import ALGORITHMS, resolve
from tests.commands import refused, run
from tests.conftest import tiny_config
from tests.evals.scripted import Scripted, examiner

EXPERIMENTS = (rl_variants, does_rl_teach, when_to_call, thinking_length, forgetting)
SUM = re.compile(r"\d+(?:[+*-]\d+)+")
STEPS = ("2", "4")


@pytest.fixture
def world(monkeypatch, tmp_path, tokenizer):
    """A base, and a `main` that trains at once: `codes` has what it ends with, by the names of arms. The model adds up;
    the assistant does not."""
    made = SimpleNamespace(words=[], codes={}, said="error: it cannot be so\n")

    def go(words, **options):
        made.words.append(words)
        folder = Path(value(words, "--workdir"))
        code = made.codes.get(folder.name, 0)
        for stage in [] if code else value(words, "--stages").split(","):
            for step in STEPS:
                (folder / stage / "checkpoints" / step).mkdir(parents=True, exist_ok=True)
            (folder / stage / "summary.json").write_text("{}")
            (folder / stage / "metrics.jsonl").write_text(
                json.dumps({"reward": 0.5, "accuracy": 0.5, "thinks": 1.0, "completion_length": 9.0}) + "\n"
            )
            shown = {"prompt": "1+2", "parts": [{"type": "answer", "text": " 3"}]}
            lines = [json.dumps({**shown, "reward": reward}) for reward in (1.0, 0.0)]
            (folder / stage / "transcripts.jsonl").write_text("\n".join(lines))
        return SimpleNamespace(returncode=code if code != "stopped" else 0, stderr=made.said if code == 2 else "")

    def answer(text, request, params):
        found = SUM.search(text)
        total = str(eval(found[0])) if found else "0"
        said = total if params[1] is not None else "0"
        return [{"type": "think", "text": "1+2=3"}, {"type": "answer", "text": f" {said}"}], -1.0

    base = SimpleNamespace(config=tiny_config(), workdir=tmp_path / "base", choose=str, tokenizer=tokenizer)
    base.load_params = lambda stage, folder=None, step=None: (stage, folder, step)
    scripted = examiner(tokenizer, tmp_path, None)
    scripted.engine = Scripted(tokenizer, answer)
    monkeypatch.setattr(subprocess, "run", go)
    monkeypatch.setattr(arms.Run, "open", lambda folder: base)
    monkeypatch.setattr(arms.Lab, "examiner", scripted)
    monkeypatch.setattr(arms, "steps_of", lambda folder, stage: [int(step) for step in STEPS])
    monkeypatch.setattr(does_rl_teach, "PASS_AT", (1, 2))
    monkeypatch.setattr(forgetting, "bits_per_byte", lambda *_: {"val_bpb": {"value": 1.0}})
    monkeypatch.setattr(forgetting, "jitted_nats", lambda run: None)
    monkeypatch.setattr(forgetting, "load_prompts", lambda *_: [])
    monkeypatch.setattr(does_rl_teach, "ASKED", 20)
    monkeypatch.setattr(does_rl_teach, "OF_OTHERS", 10)
    monkeypatch.setattr(forgetting, "EACH", 1)
    monkeypatch.setattr(arms, "DRAWS", 50)
    return made


def value(words: list[str], flag: str) -> str:
    return next(word.partition("=")[2] for word in words if word.startswith(f"{flag}="))


def given_to(monkeypatch, experiment, workdir: Path, **given) -> None:
    """The experiment's own flags, but for those that are given."""
    values = {}
    with monkeypatch.context() as patched:
        for kind in ("string", "list", "integer", "float"):
            patched.setattr(flags, f"DEFINE_{kind}", lambda name, default, *_, **__: values.update({name: default}))
        experiment.define_flags()
    assert not set(given) - set(values)
    values |= {"workdir": str(workdir), "base": "somewhere", **given}
    monkeypatch.setattr(flags, "FLAGS", SimpleNamespace(**values))


def lab_of(monkeypatch, tmp_path) -> arms.Lab:
    given_to(monkeypatch, rl_variants, tmp_path / "lab")
    return arms.Lab(flags.FLAGS)


def measure(e, params) -> dict:
    return {"rate": arms.mean_of([0.0, 1.0])}


# Arms


def test_an_arm_that_is_done_is_not_run_again_and_one_that_failed_is(world, monkeypatch, tmp_path):
    lab = lab_of(monkeypatch, tmp_path)
    for code in (1, "stopped"):
        world.codes["a"] = code
        with pytest.raises(SystemExit) as ended:
            lab.arm("0/a", measure, "--config.seed=0")
        assert ended.value.code not in (0, None)
        assert not (lab.workdir / "0/a.json").exists()
    world.codes.clear()
    (lab.workdir / "0/a/times.json").write_text(json.dumps({"seconds": {"rl": 1000.0}}))
    first = lab.arm("0/a", measure, "--config.seed=0")
    assert first["rate"]["value"] == 0.5 and first["seconds"] >= 1000
    assert lab.arm("0/a", measure, "--config.seed=0") == first and len(world.words) == 3
    assert value(world.words[-1], "--config.init_from").endswith("somewhere:sft")
    assert (lab.workdir / "0/a/data").readlink() == Path("somewhere/data").absolute()
    with pytest.raises(UserError, match=r"made with other flags.*seed=1"):
        lab.arm("0/a", measure, "--config.seed=1")


def test_an_arm_that_is_refused_leaves_its_line_and_no_result(world, monkeypatch, tmp_path):
    lab = lab_of(monkeypatch, tmp_path)
    world.codes["a"] = 2
    with pytest.raises(arms.Refused, match="a: it cannot be so"):
        lab.arm("0/a", measure)
    assert not (lab.workdir / "0/a.json").exists()
    with pytest.raises(UserError, match="no conversation"):
        lab.sft("0/b", measure, [])


def metric(low: float, high: float) -> dict:
    return {"value": (low + high) / 2, "ci95": [low, high]}


def test_a_winner_has_its_interval_to_itself():
    rates = {"a": metric(0.1, 0.2), "b": metric(0.5, 0.7), "c": metric(0.6, 0.9)}
    assert arms.winner(rates) == "none wins: the interval of c, the highest, overlaps with b; behind: a"
    assert arms.winner(rates | {"b": metric(0.5, 0.59)}) == "c is ahead of all others, intervals apart"


def test_seeds_that_differ_widen_the_interval_of_them_all():
    alike = arms.pooled([arms.mean_of([0.0, 1.0] * 50)] * 3)
    apart = arms.pooled([arms.mean_of([0.0, 1.0] * 50), arms.mean_of([0.0] * 100), arms.mean_of([1.0] * 100)])
    assert alike["value"] == apart["value"] == 0.5 and apart["seeds"] == [0.5, 0.0, 1.0]
    widths = [high - low for low, high in (alike["ci95"], apart["ci95"])]
    assert widths[1] > 3 * widths[0] > 0 and alike["n"] == apart["n"] == 300


def test_problems_are_of_their_split_and_the_same_every_time():
    names = ("arithmetic/3 numbers", "arithmetic/5 numbers")
    first = arms.problems(names, 20)
    assert first == arms.problems(names, 20) and len(first) == 20
    assert {p["level"] for p in first} == {"3 numbers", "5 numbers"} and {p["split"] for p in first} == {"test"}
    assert not {p["item"] for p in first} & {p["item"] for p in arms.problems(names, 20, "train")}


def test_questions_about_facts_are_of_the_tiers_that_are_asked_for(world, monkeypatch, tmp_path):
    written = [{"task": "facts", "tier": tier, "id": f"{tier}-{n}"} for tier in (10, 30, 100) for n in range(4)]
    monkeypatch.setattr(
        arms, "load_prompts", lambda base, split: [*written, {"task": "arithmetic", "level": "2 numbers"}]
    )
    lab = lab_of(monkeypatch, tmp_path)
    assert {p["tier"] for p in lab.facts("test", (30, 100))} == {30, 100} and len(lab.facts("test")) == 12
    assert lab.facts("test") == lab.facts("test")
    written.clear()
    with pytest.raises(UserError, match="no questions about facts; --base must be"):
        lab.facts("test")


# Experiments


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_an_experiment_from_its_flags_to_its_plot(world, monkeypatch, tmp_path, experiment):
    """Its arms' words are a config that main takes; its result has a verdict, and nothing is run twice."""
    name, workdir = experiment.__name__.rpartition(".")[2], tmp_path / "made"
    more = {"passk_problems": 2} if experiment is does_rl_teach else {}
    given_to(monkeypatch, experiment, workdir, seeds=["0", "1"], problems=10, **more)
    experiment.main()
    told = (workdir / f"{name}.json").read_text()
    found = json.loads(told)
    assert found["verdict"] and (workdir / f"{name}.svg").read_text().startswith("<?xml")
    assert '"each"' not in told and '"given"' not in told and found["seconds"] >= 0
    ran = list(world.words)
    experiment.main()
    assert world.words == ran
    assert len({tuple(words) for words in ran}) == len(ran)
    for words in ran:
        if "/1/" not in value(words, "--workdir"):
            check(monkeypatch, words)
    EXPECTED[name](found)


def check(monkeypatch, words: list[str]) -> None:
    """As `main` reads them, up to what depends on the folder. Raises UserError."""
    values = flags.FlagValues()
    with monkeypatch.context() as patched:
        patched.setattr(flags, "FLAGS", values)
        patched.setattr(sys, "argv", words)
        config_flags.DEFINE_config_file("config", None, "", values, lock_config=True)
        flags.DEFINE_string("workdir", None, "", flag_values=values)
        flags.DEFINE_list("stages", [], "", flag_values=values)
        cli.parse(words[2:])
        validate(values.config)
        resolve(values.config.rl)


def of_variants(found: dict) -> None:
    assert set(found["accuracy"]) == {"sft", *ALGORITHMS} and not found["refused"]
    assert found["accuracy"]["grpo"]["value"] == 1 and found["accuracy"]["sft"]["value"] < 0.2
    assert found["verdict"].startswith("none wins") and found["on_the_way"]["grpo"] == 0.5


def of_teaching(found: dict) -> None:
    assert set(found["teach"]) == {"before", "after", "random_reward", "format_only", "sft"}
    assert found["teach"]["after"]["n"] == 2 * 10
    assert found["verdict"].startswith("RL does not teach here: 1.00 -> 1.00")  # it adds up in any arm, and before
    assert found["thinker"]["thinks"]["arithmetic/5 numbers"]["value"] == 1


def of_calling(found: dict) -> None:
    assert "called where needed 0.000 (not as asked); where not 0.000 (as asked)" in found["verdict"]
    assert found["tools"]["priced"]["per_call"]["seeds"][0]["n"] == 0 and "always" not in found["tools"]["no_tool"]


def of_length(found: dict) -> None:
    assert set(found["arms"]["grpo"]["1"]["steps"]) == set(STEPS)
    assert found["before"]["arithmetic/5 numbers"]["thinks"]["value"] == 1


def of_forgetting(found: dict) -> None:
    assert found["at_equal_gain"]["0"]["gain"] > 0.8 and "other families: RL loses" in found["verdict"]


EXPECTED = {
    "rl_variants": of_variants,
    "does_rl_teach": of_teaching,
    "when_to_call": of_calling,
    "thinking_length": of_length,
    "forgetting": of_forgetting,
}


def test_a_variant_that_is_refused_is_listed_with_its_line(world, monkeypatch, tmp_path):
    world.codes["ppo"] = 2
    given_to(monkeypatch, rl_variants, tmp_path / "made", seeds=["0"], problems=4)
    rl_variants.main()
    found = json.loads((tmp_path / "made/rl_variants.json").read_text())
    assert found["refused"] == {"ppo": "ppo: it cannot be so"} and "ppo" not in found["accuracy"]


def test_main_itself_takes_the_words_up_to_the_base(world, monkeypatch, tmp_path):
    given_to(monkeypatch, rl_variants, tmp_path / "lab", base=str(tmp_path / "somewhere"))
    lab = arms.Lab(flags.FLAGS)
    (lab.base / "data").mkdir(parents=True)
    lab.arm("0/gspo", measure, *rl_variants.given(lab, "gspo", "0"))
    words = world.words[-1]
    monkeypatch.undo()
    refused(run("llm_jax.main", *words[3:]), "somewhere is no run")


def test_equal_gain_is_read_between_checkpoints():
    at = lambda sums, others: {"sums": {"value": sums}, "others": {"value": others}}  # noqa: E731
    start = at(0.2, 0.8)
    paths = {
        "kl_0": {"steps": {"10": at(0.6, 0.7), "2": at(0.4, 0.8)}},
        "sft": {"steps": {"2": at(0.5, 0.4)}},
        "kl_0.1": {"steps": {"2": at(0.21, 0.8)}},
    }
    found = forgetting.at_equal_gain(start, paths)
    assert found["left_out"] == ["kl_0.1"] and found["gain"] == pytest.approx(0.3)
    assert found["lost"] == {"kl_0": {"others": pytest.approx(0.05)}, "sft": {"others": pytest.approx(0.4)}}
    assert forgetting.verdict({"0": found}) == "other families: RL loses 0.050, SFT 0.400, more in 1 of 1 seeds"


def test_teaching_is_judged_by_its_bar():
    teach = {"before": metric(0.1, 0.14), "sft": metric(0.2, 0.3), "after": metric(0.4, 0.5)}
    still = dict.fromkeys(("random_reward", "format_only"), metric(0.1, 0.15))
    assert does_rl_teach.verdict(teach | still).startswith("RL teaches: 0.12 -> 0.45, and the controls do not")
    assert "rises with format_only, too" in does_rl_teach.verdict(teach | still | {"format_only": metric(0.4, 0.5)})
    assert "RL is ahead of all others" in does_rl_teach.verdict(teach | still)
    assert "does not teach" in does_rl_teach.verdict(teach | still | {"after": metric(0.13, 0.2)})
    levels = {"a": {"value": 0.9}, "b": {"value": 0.3}, "c": {"value": 0.05}}
    assert does_rl_teach.practised(levels) == ["b"]
    assert does_rl_teach.practised({"a": {"value": 0.9}, "c": {"value": 0.05}}) == ["c"]

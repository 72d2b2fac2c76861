"""Does a model know what it knows? Facts of every exposure and things that cannot be known, asked before and after it
was taught to abstain: right, wrong and abstained answers, and how far its confidence can be trusted.

The confidence in an answer is the probability that the model gives to the whole turn. Where it abstains, the answer of
the model that nobody had taught to is graded in its place, with the probability that the abstaining one gives to that:
so each question has an answer and a confidence, whoever refuses.
"""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from llm_jax import lineage
from llm_jax.evals import calibration
from llm_jax.evals.measure import Examiner
from llm_jax.evals.statistics import rate
from llm_jax.files import matching
from llm_jax.runs import Run
from llm_jax.sampling.requests import Request
from llm_jax.sampling.turns import SAID, said
from llm_jax.stage_table import STAGES
from llm_jax.tasks import knowledge, refusals
from llm_jax.tasks.confidence import apart
from llm_jax.tasks.knowledge import Fact
from llm_jax.tasks.refusals import ABSTAINED, RIGHT, WRONG
from llm_jax.tokenizer import Tokenizer

FILE = "knowledge_test.jsonl"  # of stage `data`
WORDINGS = 2  # in which a fact is asked
NOBODY = ("never_seen", "near_miss")  # causes: there is no such person
SURE = 0.5  # from here on an answer is worth more than none, where a wrong one costs as much as a right one earns
SAMPLES = 8  # at temperature 1, of a question, behind the consistency of its answers
OF_ARM = ("f", "index", "index_nine", "auroc", "wrong_unknown", "over_refusal")  # that are told of the control, too


@dataclasses.dataclass
class Answers:
    """What a checkpoint answered: of each question its fact, its prompt, what was written, the verdict, the confidence
    in an answer, whether that answer is right, and the confidence that it states, nan where it states none."""

    facts: list[Fact]
    prompts: list[list[int]]
    written: list[list[int]]
    verdicts: list[str]
    confidence: np.ndarray
    right: np.ndarray
    stated: np.ndarray

    def where(self, wanted: Callable[[Fact], bool]) -> list[int]:
        """The numbers of the questions on some facts."""
        return [number for number, fact in enumerate(self.facts) if wanted(fact)]

    def share(self, verdict: str, places: list[int]) -> dict:
        """The rate of a verdict, its interval bootstrapped over items."""
        return rate([float(self.verdicts[i] == verdict) for i in places], [self.facts[i].item for i in places])

    def stacked(self, places: list[int]) -> dict[str, dict]:
        return {verdict: self.share(verdict, places) for verdict in (RIGHT, WRONG, ABSTAINED)}

    def worth(self) -> list[str]:
        """The verdicts, where an answer that is stated to be less sure than SURE counts as a refusal."""
        return [ABSTAINED if sure < SURE else said for said, sure in zip(self.verdicts, self.stated, strict=True)]

    def known(self) -> set[str]:
        """The facts that it answered rightly in every wording."""
        failed = {fact.id for fact, verdict in zip(self.facts, self.verdicts, strict=True) if verdict != RIGHT}
        return {fact.id for fact in self.facts} - failed


def question_files(run: Run) -> list[Path]:
    pattern, own = run.config.abstain.questions, run.workdir / "data" / FILE
    return matching(pattern) if pattern else [own] if own.exists() else []


def lacks(e: Examiner) -> str:
    """What is missing for the measurement, in a few words."""
    return "" if question_files(e.run) else f"questions on what is known ({FILE})"


def test_facts(e: Examiner) -> list[Fact]:
    """Of each kind, exposure and cause as many as `eval.problems` allows, in the order of their hashes."""
    facts = [fact for path in question_files(e.run) for fact in knowledge.read(path)]
    facts = knowledge.of_split(facts, "test") if e.run.config.abstain.questions else facts
    strata: dict[tuple, list[Fact]] = {}
    for fact in sorted(facts, key=lambda fact: hashlib.sha256(fact.id.encode()).digest()):
        stratum = strata.setdefault((fact.cause, fact.twin, fact.tier, fact.kind), [])
        if len(stratum) < max(1, e.config.problems // WORDINGS):
            stratum.append(fact)
    return [fact for stratum in strata.values() for fact in stratum]


# What is asked


def ask(e: Examiner, params, first: Answers | None = None) -> Answers:
    """Asks each fact in its wordings; where it abstains, `first` says what the answer would have been."""
    facts = [fact for fact in test_facts(e) for _ in fact.asked(WORDINGS)]
    questions = [question for fact in test_facts(e) for question in fact.asked(WORDINGS)]
    prompts = [e.tokenizer.render([{"role": "user", "content": q}], for_generation=True).ids for q in questions]
    tools = tuple(e.tokenizer.open[name][0] for name in e.engine.tools)  # forbidden: what it knows, not what it finds
    asked = [Request(prompt, max_new_tokens=e.config.max_new_tokens, suppress=tools) for prompt in prompts]
    done = e.engine.generate(params, asked)
    parsed = [e.tokenizer.parse(completion.ids) for completion in done]
    verdicts = [fact.verdict(*one) for fact, one in zip(facts, parsed, strict=True)]
    logprob = [sum(completion.logprob) for completion in done]
    right = [verdict == RIGHT for verdict in verdicts]
    instead = [i for i, verdict in enumerate(verdicts) if verdict == ABSTAINED and first and first.written[i]]
    scores = e.engine.score(params, [(prompts[i], first.written[i]) for i in instead]) if instead else []
    for i, (score, _) in zip(instead, scores, strict=True):
        logprob[i], right[i] = score, bool(first.right[i])
    written = [completion.ids for completion in done]
    stated = np.array([stated_by(parts) for parts, _ in parsed])
    return Answers(facts, prompts, written, verdicts, np.exp(logprob), np.array(right, float), stated)


def stated_by(parts: list[dict]) -> float:
    sure = [apart(part["text"].strip())[1] for part in parts if part["type"] in SAID]
    return next((one for one in sure if one is not None), math.nan)


def consistency(e: Examiner, params, answers: Answers, places: list[int]) -> np.ndarray:
    """Of each question the share of samples that say the same as the greedy answer."""
    asked = [
        Request(answers.prompts[i], (e.seed * 7919 + i) * SAMPLES + sample, 1.0, e.config.max_new_tokens)
        for i in places
        for sample in range(SAMPLES)
    ]
    sampled = [text_of(e.tokenizer, completion.ids) for completion in e.engine.generate(params, asked)]
    greedy = [text_of(e.tokenizer, answers.written[i]) for i in places]
    same = [text == greedy[number // SAMPLES] for number, text in enumerate(sampled)]
    return np.reshape(same, (-1, SAMPLES)).mean(axis=1)


def text_of(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    return knowledge.plain(said(tokenizer.parse(ids)[0], *SAID))


# What is made of it


def measure_abstain(e: Examiner, params) -> dict:
    """The metrics of a checkpoint; against the model that nobody had taught to abstain yet, where it is another one."""
    parent = untaught(e.run)
    if parent == lineage.Source(lineage.OWN, e.stage, e.run.workdir):
        mine = answers_of(e, e.stage, lambda: params)
        return metrics(mine, mine)
    before = functools.partial(e.run.load_params, parent.stage, parent.workdir)
    first = answers_of(e, parent.stage, before)
    mine = answers_of(e, e.stage, lambda: params, first)
    found = metrics(mine, first)
    if e.stage == "abstain":
        found["threshold"] = thresholds(e, before(), first, mine)
    if parent.run != lineage.OWN:  # it has no place of its own in the report
        found["before"] = metrics(first, first)
    return found


def untaught(run: Run) -> lineage.Source:
    """Where the model lies that stage `abstain`, or its control, starts from; without these, the first assistant. Of a
    run that starts from another run's assistant, there."""
    for stage in ("abstain", "control"):
        if stage in run.trained():
            return lineage.source_of(run, stage)
    first = next(stage for stage in run.trained() if STAGES[stage].kind == "chat")
    source = lineage.source_of(run, first) if run.config.init_from else None
    if source and source.run != lineage.OWN and STAGES[source.stage].kind == "chat":
        return untaught(Run.open(source.workdir))._replace(run=source.run)
    return lineage.Source(lineage.OWN, first, run.workdir)


def answers_of(e: Examiner, stage: str, params: Callable[[], Any], first: Answers | None = None) -> Answers:
    """What a stage answered, asked once however often it is compared with."""
    if stage not in e.answers:
        e.answers[stage] = ask(e, params(), first)
    return e.answers[stage]


def plainly(fact: Fact) -> bool:
    """Whether it is one of the facts and people by which models are compared: no question of the other causes."""
    return not fact.twin and fact.cause in ("", *NOBODY)


def metrics(mine: Answers, first: Answers) -> dict:
    """Of what a model answered, and what the one answered that nobody had taught to abstain. Unknown is what is about
    nobody, or, in files without causes, what that one answered wrongly."""
    places, known = mine.where(plainly), first.known()
    nobody = mine.where(lambda fact: fact.cause in NOBODY)
    missed = [i for i in places if first.verdicts[i] == WRONG]
    taught = [i for i in nobody or missed if not mine.facts[i].held_out]
    items = [mine.facts[i].item for i in places]
    verdicts = np.array([mine.verdicts[i] for i in places])
    right, confidence = mine.right[places], mine.confidence[places]
    return {
        "wrong_unknown": mine.share(WRONG, taught),
        "over_refusal": mine.share(ABSTAINED, [i for i in places if mine.facts[i].id in known]),
        "refusal_recall": mine.share(ABSTAINED, missed),
        "heldout_causes": mine.share(ABSTAINED, mine.where(lambda f: f.held_out and f.cause not in ("", *NOBODY))),
        "heldout_attributes": mine.share(ABSTAINED, [i for i in nobody if mine.facts[i].held_out]),
        **calibration.measured(verdicts == RIGHT, verdicts == WRONG, items),
        **calibration.trusted(right, confidence, items),
        "by_exposure": by_exposure(mine),
        "causes": by_cause(mine),
        "reliability": reliability(right, confidence),
        **of_stated(mine, places),
    }


def of_stated(mine: Answers, places: list[int]) -> dict[str, dict]:
    """`stated`, where answers say how sure they are: the share of answers that do, how far it can be trusted, and the
    figures of `Answers.worth`."""
    answered = [i for i in places if mine.verdicts[i] != ABSTAINED]
    told = [i for i in answered if not np.isnan(mine.stated[i])]
    if not told:
        return {}
    items = [mine.facts[i].item for i in places]
    kept = mine.worth()
    right, wrong = (np.array([kept[i] == wanted for i in places]) for wanted in (RIGHT, WRONG))
    trusted = calibration.trusted(mine.right[told], mine.stated[told], [mine.facts[i].item for i in told])
    said = rate([float(i in set(told)) for i in answered], [mine.facts[i].item for i in answered])
    return {"stated": {"answers": said, **trusted, **calibration.measured(right, wrong, items)}}


def by_exposure(mine: Answers) -> dict[str, dict]:
    """{how often the pages state it, or why nobody can know: {right, wrong, abstained}}."""
    stated = [i for i in mine.where(plainly) if not mine.facts[i].cause and mine.facts[i].kind in ("tier", "")]
    tiers = sorted({mine.facts[i].tier for i in stated} - {None})
    groups = {str(tier): [i for i in stated if mine.facts[i].tier == tier] for tier in tiers}
    groups |= {cause: mine.where(lambda f, cause=cause: f.cause == cause) for cause in NOBODY}
    return {name: mine.stacked(places) for name, places in groups.items() if places}


def by_cause(mine: Answers) -> dict[str, dict]:
    """{cause: {abstained, twin_right, twin_abstained}}."""
    out = {}
    for cause in refusals.CAUSES:
        asked, twins = (mine.where(lambda f, c=cause, n=name: getattr(f, n) == c) for name in ("cause", "twin"))
        group = {"abstained": mine.share(ABSTAINED, asked)} if asked else {}
        told = {f"twin_{verdict}": mine.share(verdict, twins) for verdict in (RIGHT, ABSTAINED)} if twins else {}
        out[cause] = group | told
    return {cause: group for cause, group in out.items() if group}


def reliability(right: np.ndarray, confidence: np.ndarray) -> dict[str, dict]:
    """{number of the bin: {confidence, right}}."""
    bins = calibration.reliability(right, confidence)
    return {
        str(number): {"confidence": {"value": sure}, "right": {"value": share, "n": count}}
        for number, (sure, share, count) in enumerate(bins)
    }


def thresholds(e: Examiner, params, first: Answers, mine: Answers) -> dict[str, dict]:
    """The untaught model, made to refuse at inference what it is least sure of: as often as the taught one refuses. By
    the probability of its answer, and by the consistency of samples, on the same questions."""
    places = sorted(mine.where(plainly), key=lambda i: hashlib.sha256(f"{i}".encode()).digest())
    places = places[: e.config.problems]
    refused = sum(mine.verdicts[i] == ABSTAINED for i in places)
    by = {"logprob": first.confidence[places], "consistency": consistency(e, params, first, places)}
    return {name: at_threshold(first, places, sure, refused) for name, sure in by.items()}


def at_threshold(answers: Answers, places: list[int], sure: np.ndarray, refused: int) -> dict[str, dict]:
    """The figures of verdicts when the `refused` least sure answers, and those that were none anyhow, are refusals."""
    least = set(np.argsort(sure, kind="stable")[:refused].tolist())
    verdicts = [ABSTAINED if n in least else answers.verdicts[i] for n, i in enumerate(places)]
    right, wrong = (np.array([v == wanted for v in verdicts]) for wanted in (RIGHT, WRONG))
    return calibration.measured(right, wrong, [answers.facts[i].item for i in places])


def group(found: dict[str, dict], control: str) -> dict:
    """`abstain` of the report, from the metrics of each assistant: those of stage `abstain` under their own names, of
    the model before it as NAME_before, of the control as NAME_ARM, and what is wrong of the unknown after RL."""
    after = dict(found.get("abstain", {}))
    first = next(iter(found.values()))
    before = after.pop("before", None) or first.get("before", first)
    out = {name: metric for name, metric in after.items() if is_metric(metric)}
    out |= {f"{name}_before": metric for name, metric in before.items() if is_metric(metric)}
    if "control" in found:
        out |= {f"{name}_{control}": found["control"][name] for name in OF_ARM}
    if "rl" in found:
        out["after_rl"] = found["rl"]["wrong_unknown"]
        out["over_refusal_after_rl"] = found["rl"]["over_refusal"]
    for name in ("by_exposure", "causes", "reliability"):
        out[name] = {when: part[name] for when, part in (("before", before), ("after", after)) if name in part}
    return out | {name: after[name] for name in ("threshold", "stated") if name in after}


def is_metric(node: dict) -> bool:
    return "value" in node

"""Does a model need tokens to think?

Question    Given the same problem, does accuracy rise with the number of tokens the model may think before it must
            answer, and is it the thoughts or merely the extra tokens?
Prediction  Each token gets a fixed amount of computation, so a sum of three or four numbers, answered at once, is
            mostly wrong; accuracy rises with the budget up to the length of the worked steps, then stays. The same
            number of filler tokens ("." after ".") does not help: the model was not trained to use them.
Command     python experiments/ablations/tokens_to_think.py --workdir=runs/speedrun [--stage=sft]
Arms        budget: the model's own thinking, cut after 0, 2, 4, ... tokens, then it is made to answer;
            filler: as many dots in place of thoughts. Same held-out problems in every arm.
Result      in WORKDIR/ablations/tokens_to_think.json and .svg; each point has n problems and a 95 % interval.
            Seed 0, SFT checkpoint, n = 512 a point: three numbers .07 [.05, .09] at once, .04 with 12 tokens, .76 with
            16, .96 [.94, .97] with 20; four numbers .04 at once, .04 with 20 tokens, .50 with 24. Dots: at most .02
            throughout. Two numbers: .97 at once; a thought cut in its middle is worse than none (.02 after 2 tokens,
            .95 from 8 on). As predicted, but for that harm: it was never trained on half a thought.
"""

import json
import sys
from pathlib import Path

from absl import flags
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from llm_jax.evals.statistics import rate
from llm_jax.frame.cli import run_cli
from llm_jax.prompts import judge, load_prompts
from llm_jax.runs import Run
from llm_jax.sampling.engine import Engine
from llm_jax.sampling.loaded import engine_for
from llm_jax.sampling.requests import Request
from llm_jax.tokenizer import Tokenizer

BUDGETS = (0, 2, 4, 6, 8, 12, 16, 20, 24)
LEVELS = ("2 numbers", "3 numbers", "4 numbers")


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "A finished speedrun.", required=True)
    flags.DEFINE_string("stage", "sft", "Whose checkpoint.")
    flags.DEFINE_integer("problems", 512, "Held-out problems of each level.", lower_bound=1)


def main() -> None:
    f = flags.FLAGS
    workdir = Path(f.workdir)
    run = Run.open(workdir)
    tokenizer, params = run.tokenizer, run.load_params(run.choose(f.stage))
    engine = engine_for(run, run.config.eval.slots)
    prompts = load_prompts(workdir, "test")
    results = {}
    for level in LEVELS:
        chosen = [p for p in prompts if p["task"] == "arithmetic" and p["level"] == level][: f.problems]
        results[level] = run_level(engine, params, tokenizer, chosen)
        print(level, {arm: {k: r["value"] for k, r in curve.items()} for arm, curve in results[level].items()})
    folder = workdir / "ablations"
    folder.mkdir(exist_ok=True)
    (folder / "tokens_to_think.json").write_text(json.dumps({"stage": f.stage, "accuracy": results}, indent=1))
    plot(results).savefig(folder / "tokens_to_think.svg")
    print(folder / "tokens_to_think.svg")


def run_level(engine: Engine, params, t: Tokenizer, prompts: list[dict]) -> dict:
    """{arm: {budget: rate}} for one level."""
    ids = [t.render(p["messages"], for_generation=True).ids for p in prompts]
    thoughts = engine.generate(params, [Request(i, max_new_tokens=48, forced=t.open["think"]) for i in ids])
    own = [thinking(t, c.ids) for c in thoughts]
    dot = t.encode(".")[:1]
    curves: dict[str, dict] = {"budget": {}, "filler": {}}
    for budget in BUDGETS:
        for arm, spans in (("budget", [o[:budget] for o in own]), ("filler", [dot * budget] * len(ids))):
            requests = [
                Request(i, max_new_tokens=48, forced=opening(t, span)) for i, span in zip(ids, spans, strict=True)
            ]
            done = engine.generate(params, requests)
            outcomes = [judge(t, p, c) for p, c in zip(prompts, done, strict=True)]
            curves[arm][str(budget)] = rate([float(o.right) for o in outcomes], [p["item"] for p in prompts])
    return curves


def thinking(t: Tokenizer, ids: list[int]) -> list[int]:
    """The ids inside the think span."""
    inside = ids[1:]
    (closing,) = t.close["think"]
    return inside[: inside.index(closing)] if closing in inside else inside


def opening(t: Tokenizer, span: list[int]) -> tuple[int, ...]:
    """What is put into the model's mouth: the (cut) thoughts, then the start of the answer."""
    think = [*t.open["think"], *span, *t.close["think"]] if span else []
    return (*think, *t.open["answer"])


def plot(results: dict) -> Figure:
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for colour, (level, arms) in zip(("tab:green", "tab:blue", "tab:red"), results.items(), strict=True):
        for arm, style in (("budget", "o-"), ("filler", "x:")):
            points = arms[arm]
            x, y = [int(k) for k in points], [r["value"] for r in points.values()]
            low = [r["value"] - r["ci95"][0] for r in points.values()]
            high = [r["ci95"][1] - r["value"] for r in points.values()]
            name = f"{level}, own thoughts" if arm == "budget" else f"{level}, filler"
            axes.errorbar(x, y, yerr=[low, high], fmt=style, color=colour, label=name, capsize=2, markersize=4)
    axes.set(xlabel="tokens before the answer", ylabel="accuracy on held-out problems", ylim=(-0.02, 1.02))
    axes.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    run_cli(main, define_flags)

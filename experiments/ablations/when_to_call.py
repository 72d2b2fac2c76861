"""Does a model learn when to call a tool, and when to do without?

Question    Rewarded for right answers, less a small price for each call: does it go on calling where it must, and stop
            where it can do without, at no loss?
Prediction  With the price it calls for sums and products of 3 and 4 digits, 95 % of the time or more, and for sums of
            three small numbers, which it can think through, 10 % or less; it is right as often as one made to call
            always, to 2 points. Free calls leave the habit as it was; an arm that may not call is right on the small
            sums alone.
Command     python experiments/ablations/when_to_call.py --workdir=runs/when_to_call --seeds=0,1,2
            It goes on where it was stopped.
Arms        48 batches of 128 rollouts, 8 of a prompt, from the assistant: half of the problems need the tool, half do
            not. No family is told apart in the reward (rl.no_tools is empty) but in the last arm.
            priced   a right answer earns 1, a call costs --price
            free     a call costs nothing
            no_tool  a call earns nothing; measured without the tool
            Beside them, each arm's own answers where it is made to begin with a call (`always`).
Result      in WORKDIR/when_to_call.json and .svg: called_needed, called_unneeded, per_call (right answers that called,
            by the calls), accuracy on both halves together, and `always` on the same problems; greedy, 500 problems of
            each half, pooled over seeds. In results/, one seed, from seed 1 of the speedrun: priced calls for 1.000 of
            the big and 0.000 of the small sums, and is right .963; so does free (.951), for SFT had shown when to call
            and RL when to think: the price had nothing to teach. no_tool: .475, the small half. Made to begin with a
            call all are right .48 to .49: for small sums their programs are wrong. 14 minutes.
"""

import functools
import sys
from pathlib import Path

from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.ablations import arms
from llm_jax.evals.measure import Examiner, called, right, right_per_call
from llm_jax.frame.cli import run_cli
from llm_jax.tools.table import TOOLS

NEEDED = {"calculator/3 digits": 0.25, "calculator/4 digits": 0.25}
UNNEEDED = {"arithmetic/3 numbers": 0.5}
ARMS = ("priced", "free", "no_tool")
MOST_LOST, MOST_CALLED, LEAST_CALLED = 0.02, 0.10, 0.95  # of the bar


def define_flags() -> None:
    arms.define_flags(steps=48, seeds="0,1,2")
    flags.DEFINE_float("price", 0.1, "Of a call, where a right answer earns 1.", lower_bound=0)


def main() -> None:
    lab = arms.Lab(flags.FLAGS)
    half = lab.problems // 2
    needed, unneeded = arms.problems(NEEDED, half), arms.problems(UNNEEDED, half)

    def measure(e: Examiner, params, without: bool = False) -> dict:
        tools = tuple(TOOLS) if without else ()
        there, other = (e.ask(params, asked, suppress=tools) for asked in (needed, unneeded))
        found = {
            "called_needed": arms.share(there, called),
            "called_unneeded": arms.share(other, called),
            "per_call": right_per_call(there + other),
            "accuracy": arms.share(there + other, right),
            "right_needed": arms.share(there, right),
            "right_unneeded": arms.share(other, right),
        }
        always = {} if without else {"always": arms.share(e.ask(params, needed + unneeded, opening="python"), right)}
        return found | always

    found = {"before": {"0": lab.before("sft", measure)}}
    for name in ARMS:
        measure_arm = functools.partial(measure, without=name == "no_tool")
        words = {seed: given(lab, name, seed, flags.FLAGS.price) for seed in lab.seeds}
        found[name] = {seed: lab.arm(f"{seed}/{name}", measure_arm, *words[seed]) for seed in lab.seeds}
    pooled = {name: over(list(seeds.values())) for name, seeds in found.items()}
    told = {"verdict": verdict(pooled["priced"]), "price": flags.FLAGS.price, "tools": pooled, "arms": found}
    shown = {name: {key: m for key, m in metrics.items() if key != "per_call"} for name, metrics in pooled.items()}
    lab.write("when_to_call", told, arms.bars(shown, "share of the held-out problems"))
    print(told["verdict"])


def given(lab: arms.Lab, name: str, seed: str, price: float) -> list[str]:
    untold = "('arithmetic','calculator')" if name == "no_tool" else "()"
    cost = price if name == "priced" else 0.0
    return lab.practise(
        {**NEEDED, **UNNEEDED}, seed, f"--config.rl.no_tools={untold}", f"--config.rl.call_price={cost}"
    )


def over(seeds: list[dict]) -> dict:
    """The metrics of several seeds; `per_call` is a ratio of sums, and stands for each seed."""
    rates = {key for key, metric in seeds[0].items() if isinstance(metric, dict) and "each" in metric}
    pooled = {key: arms.pooled(of[key] for of in seeds) for key in seeds[0] if key in rates}
    return pooled | {"per_call": {"seeds": [of["per_call"] for of in seeds]}}


def verdict(priced: dict[str, dict]) -> str:
    """Each part of the bar, and whether it is met."""
    lost = priced["always"]["value"] - priced["accuracy"]["value"]
    parts = (
        (f"called where needed {priced['called_needed']['value']:.3f}", priced["called_needed"]["value"], LEAST_CALLED),
        (f"where not {priced['called_unneeded']['value']:.3f}", -priced["called_unneeded"]["value"], -MOST_CALLED),
        (f"accuracy lost against always calling {lost:.3f}", -lost, -MOST_LOST),
    )
    return "; ".join(f"{said} ({'as' if value >= bar else 'not as'} asked)" for said, value, bar in parts)


if __name__ == "__main__":
    run_cli(main, define_flags)

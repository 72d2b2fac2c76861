"""Whether two runs learned the same, bit for bit: python -m benchmarks.same RUN RUN

Compares every figure of `metrics.jsonl` that is not a time, step by step, for the stages that both have. For two trees,
run the same command in each, say with --config.pretrain.steps=100 --config.sft.steps=100 and all stages up to rl.
Exit code 1 where anything differs.
"""

import json
import sys
from pathlib import Path

TIMES = ("tokens_per_second", "input_wait", "mfu", "hbm_peak_gib")


def figures(workdir: Path, stage: str) -> dict[tuple[int, str], float]:
    """(step, name) -> value."""
    lines = map(json.loads, (workdir / stage / "metrics.jsonl").read_text().splitlines())
    return {(line["step"], name): value for line in lines for name, value in line.items() if name not in TIMES}


def main(first: Path, second: Path) -> int:
    found = {path.parent.name for path in first.glob("*/metrics.jsonl")}
    stages = sorted(found & {path.parent.name for path in second.glob("*/metrics.jsonl")})
    different = not stages
    for stage in stages:
        a, b = figures(first, stage), figures(second, stage)
        apart = sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))
        different |= bool(apart)
        verdict = f"{len(apart)} differ, first {apart[0][1]} of step {apart[0][0]}" if apart else "the same"
        print(f"{stage:10} {len({step for step, _ in a}):5} steps  {len(a):6} figures  {verdict}")
    return int(different)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m benchmarks.same RUN RUN")
    sys.exit(main(*map(Path, sys.argv[1:])))

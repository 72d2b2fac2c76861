"""Two runs side by side: the metrics of their reports, and the values in which their configs differ."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from llm_jax.config import UserError
from llm_jax.files import read_json
from llm_jax.report import metrics
from llm_jax.report.metrics import Metric

WHOLE = "the whole run"  # where metrics stand that are in no group of the report


@dataclasses.dataclass(frozen=True)
class Line:
    """A metric, or a value of the config, in words; "" for the run that lacks it."""

    name: str
    cells: tuple[str, ...]
    apart: bool = False  # both have intervals, and these do not meet


@dataclasses.dataclass(frozen=True)
class Comparison:
    """`groups` are those of the reports, each with its metrics; `config` has a line for each key that differs; `maps`
    are the groups `map` of those that have one, by name."""

    names: list[str]
    groups: dict[str, list[Line]]
    config: list[Line]
    maps: dict[str, dict[str, Any]]

    def count(self, what: str) -> int:
        """Metrics that are `apart`, or that `both` runs have."""
        lines = [line for group in self.groups.values() for line in group]
        return sum(line.apart if what == "apart" else all(line.cells) for line in lines)


def compare(*workdirs: Path) -> Comparison:
    """Raises UserError for what is no run, a run that has no report yet, and one run given twice."""
    configs = [read_json(noted(workdir))["config"] for workdir in workdirs]
    read = [metrics.measured(read_json(reported(workdir))) for workdir in workdirs]
    reports = [dict(metrics.walk(report)) for report in read]
    if len({workdir.resolve() for workdir in workdirs}) < len(workdirs):
        raise UserError(f"{workdirs[0]} and {workdirs[1]} are one run; name two")
    groups: dict[str, list[Line]] = {}
    for path in united(*reports):
        if path[:2] == ("final", "map"):  # the same as `map`
            continue
        group, *name = path if len(path) > 1 else (WHOLE, *path)
        line = metric_line(path, " / ".join(name), [report.get(path, {}) for report in reports])
        groups.setdefault(group, []).append(line)
    keys = [key for key in sorted(united(*configs)) if any(differs(key, configs[0], other) for other in configs)]
    names = told_apart(*workdirs)
    maps = {name: report["map"] for name, report in zip(names, read, strict=True) if "map" in report}
    return Comparison(names, groups, [Line(key, worded(key, configs)) for key in keys], maps)


def noted(workdir: Path) -> Path:
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(f"{workdir} is no run (it has no config.json); name the --workdir of one")
    return path


def reported(workdir: Path) -> Path:
    path = workdir / "report" / "report.json"
    if not path.is_file():
        raise UserError(f"{workdir} has no report yet; make it with the run's own command and --stages=evaluate,report")
    return path


def united(*tables: dict) -> list:
    """The keys of all of them, each once: those of the first in their order, then what others have beside them."""
    return list(dict.fromkeys(key for table in tables for key in table))


def metric_line(path: tuple[str, ...], name: str, found: list[Metric]) -> Line:
    kind = metrics.kind_of(path, next((metric for metric in found if "ci95" in metric), {}))
    return Line(name, tuple(metrics.quoted(metric, kind) if metric else "" for metric in found), apart(*found))


def apart(a: Metric, b: Metric) -> bool:
    """Whether the 95 % intervals do not meet: a stricter test than one of the difference."""
    if "ci95" not in a or "ci95" not in b:
        return False
    (a_low, a_high), (b_low, b_high) = a["ci95"], b["ci95"]
    return a_high < b_low or b_high < a_low


def differs(key: str, a: dict[str, Any], b: dict[str, Any]) -> bool:
    return (key in a) != (key in b) or a.get(key) != b.get(key)


def worded(key: str, configs: list[dict[str, Any]]) -> tuple[str, ...]:
    """The values as JSON, so that an empty text is not a key that is absent."""
    return tuple(json.dumps(config[key], ensure_ascii=False) if key in config else "" for config in configs)


def told_apart(*workdirs: Path) -> list[str]:
    """As many of the last folders of each path as it takes for all to have names of their own."""
    parts = [workdir.absolute().parts for workdir in workdirs]
    for n in range(1, max(map(len, parts)) + 1):
        names = [str(Path(*path[-n:])) for path in parts]
        if len(set(names)) == len(names):
            break
    return names

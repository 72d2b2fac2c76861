"""RL and evaluation by several real processes: rollouts, losses and figures of one; no kill loses anything."""

import json
import shutil

import numpy as np
import pytest

from tests.test_multihost import checksums, lines, worker  # noqa: F401

pytestmark = pytest.mark.slow
STEPS = 8


@pytest.fixture(scope="module")
def lay(tmp_path_factory, prepared, worker):  # noqa: F811
    """A function that lays a run with its data, beside a base model for RL to start from."""
    base = prepared(tmp_path_factory.mktemp("base") / "run")
    (done,) = worker(1, flags=flags(base, "pretrain"))
    assert done["code"] == 0, done["err"][-3000:]

    def of(workdir):
        (workdir.parent / "base").symlink_to(base)
        return shutil.copytree(base, workdir, ignore=lambda at, _: ["pretrain"] * (at == str(base)))

    return of


def flags(workdir, stages: str, processes: int = 1) -> list[str]:
    named = ["--config=tests/chance.py", f"--workdir={workdir}", f"--stages={stages}"]
    named += [f"--config.init_from={workdir.parent}/base:pretrain"] if stages != "pretrain" else []
    return [*named, f"--config.mesh.data={processes}", f"--config.rl.slots={16 * processes}"]


@pytest.fixture(scope="module")
def practise(tmp_path_factory, lay, worker):  # noqa: F811
    """A function of a number of processes -> the workdir and the rollouts of a run of RL by so many."""
    found: dict = {}

    def run(processes: int):
        if processes not in found:
            workdir = lay(tmp_path_factory.mktemp(f"of{processes}") / "run")
            found[processes] = workdir, trained(worker, workdir, processes)
        return found[processes]

    return run


def trained(worker, workdir, processes: int) -> dict[int, list]:  # noqa: F811
    """Goes on with RL to its end -> {seed: [prompt, ids, log-probabilities]} of its rollouts."""
    results = go(worker, workdir, processes)
    assert [result["code"] for result in results] == [0] * processes, [r["err"][-3000:] for r in results]
    return rollouts(workdir)


def go(worker, workdir, processes: int, fail: str = "", **order) -> list[dict]:  # noqa: F811
    environment = {"ROLLOUTS": f"{workdir}/rollouts.jsonl"} | ({"FAIL": fail} if fail else {})
    return worker(processes, flags=flags(workdir, "rl", processes), environment=environment, **order)


def rollouts(workdir) -> dict[int, list]:
    """By seed; those that were drawn again after a kill are the same."""
    found: dict[int, list] = {}
    for line in (workdir / "rollouts.jsonl").read_text().splitlines():
        for seed, *told in json.loads(line):
            assert found.setdefault(seed, told) == told
    return found


@pytest.mark.parametrize("processes", [2, 4])
def test_rollouts_and_losses_are_those_of_one_process(practise, processes):
    (one, alone), (several, together) = practise(1), practise(processes)
    assert alone.keys() == together.keys() and len(alone) == STEPS * 16
    written = [(alone[seed][1], together[seed][1]) for seed in alone]
    same = sum(a == b for one, other in written for a, b in zip(one, other, strict=False))
    print(f"{processes} processes: {same} of {sum(len(ids) for ids, _ in written)} tokens are the same")
    assert same >= 0.999 * sum(len(ids) for ids, _ in written)
    assert len({tuple(ids) for ids, _ in written}) > len(written) / 2
    logged = [lines(workdir, "rl") for workdir in (one, several)]
    for name in ("loss", "grad_norm", "reward", "entropy", "completion_length"):
        theirs, ours = ([line[name] for line in of] for of in logged)
        assert len(ours) == STEPS and min(np.abs(ours)) > 0
        print(name, np.abs(np.subtract(ours, theirs)).max())
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5, err_msg=name)
    texts = [(workdir / "rl/transcripts.jsonl").read_text() for workdir in (one, several)]
    assert texts[0] == texts[1] and len(texts[0].splitlines()) == STEPS * 4


@pytest.mark.parametrize("fail", ["sampling 1 5", "grading 1 5", "update 0 5", "sigterm"])
def test_what_ends_a_run_anywhere_loses_nothing(worker, practise, lay, tmp_path, fail):  # noqa: F811
    whole, expected = practise(2)
    workdir = lay(tmp_path / "run")
    if fail == "sigterm":
        results = go(worker, workdir, 2, metrics=f"{workdir}/rl/metrics.jsonl", terminate=[1])
        assert [result["code"] for result in results] == [0, 0], [r["err"][-3000:] for r in results]
        assert "".join(result["out"] for result in results).count("rl: saved at step") == 1
    else:
        results = go(worker, workdir, 2, fail)
        assert all(result["code"] for result in results) and max(result["seconds"] for result in results) < 60
    assert trained(worker, workdir, 2) == expected
    for name in ("loss", "reward", "tokens"):
        assert [line[name] for line in lines(workdir, "rl")] == [line[name] for line in lines(whole, "rl")]
    assert checksums(workdir, STEPS, "rl") == checksums(whole, STEPS, "rl")


def test_two_processes_measure_what_one_measures(worker, practise):  # noqa: F811
    workdir, _ = practise(2)
    reports = []
    for processes in (2, 1):
        results = worker(processes, flags=flags(workdir, "evaluate,report", processes))
        assert [result["code"] for result in results] == [0] * processes, [r["err"][-3000:] for r in results]
        reports.append(json.loads((workdir / "report/report.json").read_text()))
    assert (workdir / "report/index.html").exists()
    ours, theirs = (dict(values("", report)) for report in reports)
    assert ours.keys() == theirs.keys() and len(ours) > 100
    differ = {k: (ours[k], theirs[k]) for k in ours if abs(ours[k] - theirs[k]) > 1e-3}
    assert not {k for k in differ if "seconds" not in k and k != "machine_gflops"}, differ


def values(path: str, node) -> list[tuple[str, float]]:
    """The numbers of a report by their places."""
    if isinstance(node, dict):
        return [found for name, inside in node.items() for found in values(f"{path}.{name}".lstrip("."), inside)]
    return [(path, float(node))] if isinstance(node, int | float) else []

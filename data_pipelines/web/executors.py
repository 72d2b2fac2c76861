"""Where the tasks of the jobs run: processes of this machine, Slurm or Ray. Finished tasks are not done again."""

import concurrent.futures as futures
import dataclasses
import json
import multiprocessing
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor

from data_pipelines.documents import write_whole
from data_pipelines.processes import end_with_parent
from data_pipelines.web.recipe import BrokenStep, Recipe, jobs
from llm_jax.config import UserError


def cores() -> int:
    return len(os.sched_getaffinity(0))


@dataclasses.dataclass(frozen=True)
class Run:
    recipe: Recipe
    work: Path
    output: Path

    @property
    def jobs(self):
        return jobs(self.recipe, self.work, self.output)

    def missing(self, name: str, tasks: int) -> list[int]:
        done = self.work / "jobs" / name / "completions"
        return [rank for rank in range(tasks) if not (done / f"{rank:05d}").exists()]


def local(run: Run, workers: int) -> None:
    """One pool for all jobs. Raises BrokenStep when a task fails or its process is killed."""
    todo = [(number, run.missing(name, tasks)) for number, (name, _, tasks) in enumerate(run.jobs)]
    if not any(ranks for _, ranks in todo):
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # imports once for all workers
    workers = min(workers, max(len(ranks) for _, ranks in todo))
    pool = futures.ProcessPoolExecutor(workers, context, initializer=end_with_parent)
    try:
        for number, ranks in todo:
            waiting = {pool.submit(task, run, number, rank): rank for rank in ranks}
            try:
                for done in futures.as_completed(waiting):
                    done.result()
            except BrokenProcessPool as error:
                left = run.missing(run.jobs[number][0], run.jobs[number][2])
                name = f"{run.jobs[number][0]}, task {' or '.join(map(str, left[:workers]))}"
                raise BrokenStep(f"a worker was killed, or had no memory left ({name})") from error
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()  # those of tasks that may take hours yet
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def task(run: Run, number: int, rank: int) -> None:
    name, pipeline, tasks = run.jobs[number]
    try:
        LocalPipelineExecutor(pipeline, tasks, logging_dir=f"{run.work}/jobs/{name}")._run_for_rank(rank)
    except BrokenStep:
        raise
    except Exception as error:
        raise BrokenStep(f"{name}, task {rank}: {type(error).__name__}: {error}") from error


def chained(run: Run, make: Callable) -> None:
    """`make(name, pipeline, tasks, logs, depends)` makes one of datatrove's executors; the last one runs them all."""
    last = None
    for name, pipeline, tasks in run.jobs:
        last = make(name, pipeline, tasks, f"{run.work}/jobs/{name}", last)
    last.run()


def slurm(run: Run, workers: int, partition: str, time: str, memory_gb: int) -> None:
    """Submits the jobs; each begins when the one before has ended well. Raises UserError without Slurm's commands, and
    while jobs of this output are in the queue: two would write the same files."""
    from datatrove.executor.slurm import SlurmPipelineExecutor

    if not partition:
        raise UserError("--executor=slurm needs a --slurm_partition; `sinfo` lists them")
    if not shutil.which("sbatch"):
        raise UserError("--executor=slurm needs Slurm's `sbatch` on the PATH; submit from a login node")
    if queued := in_queue(run):
        raise UserError(
            f"jobs {' '.join(queued)} of {run.output} are in the queue; wait, or scancel {' '.join(queued)}"
        )
    # The nodes get this Python and this folder whatever their shells know.
    python, here = (shlex.quote(str(path)) for path in (Path(sys.executable).parent, Path.cwd()))
    environment = f"export PATH={python}:$PATH; cd {here}"
    submitted = []

    def make(name, pipeline, tasks, logs, depends):
        executor = SlurmPipelineExecutor(
            pipeline, tasks, time, partition, mem_per_cpu_gb=memory_gb, workers=workers or -1, job_name=f"web_{name}",
            qos="", env_command=environment, logging_dir=logs, depends=depends,
            sbatch_args={"kill-on-invalid-dep": "yes"},  # else they stay in the queue for ever
        )  # fmt: skip
        submitted.append(executor)
        return executor

    chained(run, make)
    ids = [str(executor.job_id) for executor in submitted if executor.job_id != -1]
    write_whole(run.work / "slurm_jobs.json", json.dumps(ids))


def in_queue(run: Run) -> list[str]:
    """Slurm's numbers of our jobs that have not ended."""
    noted = run.work / "slurm_jobs.json"
    ids = json.loads(noted.read_text(encoding="utf-8")) if noted.exists() else []
    listed = subprocess.run(["squeue", "--noheader", "--format=%A %i"], capture_output=True, text=True, check=True)
    waiting = {part.partition("_")[0] for part in listed.stdout.split()}
    return [id_ for id_ in ids if id_ in waiting]


def ray(run: Run, workers: int) -> None:
    """Raises UserError without the package, BrokenStep when a task fails."""
    try:
        from datatrove.executor.ray import RayPipelineExecutor
    except ImportError as error:
        raise UserError(f"--executor=ray needs Ray ({error}); try: pip install ray") from error

    def make(name, pipeline, tasks, logs, depends):
        return RayPipelineExecutor(pipeline, tasks, workers or cores(), logging_dir=logs, depends=depends)

    chained(run, make)

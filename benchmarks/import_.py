"""What an import takes: memory above the parameters, and seconds beside Transformers, in turns, from the same source.

    python -m benchmarks.import_ --source=FILE.gguf|DIR [--rounds=3] [--json]

Each import is a process of its own, as a user starts it. Memory is the kernel's peak of the process's resident pages
(so Linux alone), less what it had after `import jax`. The bar is the parameters in float32 and 1.2 times the largest
tensor. Transformers loads model and tokenizer to memory; ours writes a run as well. Without Transformers and
accelerate, memory and our seconds alone are told.
"""

import importlib.util
import json
import math
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import flags

from benchmarks.common import shown, spread
from llm_jax.config import UserError
from llm_jax.files import user_path
from llm_jax.frame.cli import quiet_logs, run_cli

quiet_logs()

SPARE = 1.2  # largest tensors that an import may take beside the parameters
OURS = """
import re, sys
import jax
resident = lambda name: 1024 * int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1])
before = resident("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the peak is that from here on
import runpy, atexit
atexit.register(lambda: print("bytes", resident("VmHWM") - before, flush=True))
sys.argv = ["import_", *sys.argv[1:]]
runpy.run_module("llm_jax.hub.import_", run_name="__main__")
"""
THEIRS = """
import sys
from pathlib import Path
import transformers
path = Path(sys.argv[1])
where = (path,) if path.is_dir() else (path.parent,)
more = {} if path.is_dir() else {"gguf_file": path.name}
transformers.logging.disable_progress_bar()
transformers.AutoModelForCausalLM.from_pretrained(*where, dtype="float32", **more)
transformers.AutoTokenizer.from_pretrained(*where, **more)
"""


def define_flags() -> None:
    flags.DEFINE_string("source", None, "A Hugging Face folder, or a GGUF file.", required=True)
    flags.DEFINE_integer("rounds", 3, "Pairs of imports.", lower_bound=2)
    flags.DEFINE_bool("json", False, "Print one JSON object, too.")


def sizes(source: Path) -> tuple[int, int]:
    """Bytes in float32: of the parameters, and of the largest tensor."""
    from llm_jax.hub import import_

    counts = [math.prod(tensor.shape) for tensor in import_.opened(source).tensors().values()]
    return 4 * sum(counts), 4 * max(counts)


def ours(source: Path) -> tuple[np.ndarray, int]:
    """(seconds, bytes at the peak above those after `import jax`)."""
    folder = Path(tempfile.mkdtemp(prefix="llm_jax_import_"))
    try:
        seconds, out = timed(OURS, f"--source={source}", f"--workdir={folder / 'run'}")
    finally:
        shutil.rmtree(folder)
    return seconds, int(out.rsplit("bytes", 1)[1])


def clocks() -> np.ndarray:
    """Seconds: [of the wall, that ended children have worked]."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return np.array([time.perf_counter(), used.ru_utime + used.ru_stime])


def timed(program: str, *args: str) -> tuple[np.ndarray, str]:
    started = clocks()
    done = subprocess.run([sys.executable, "-c", program, *args], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"an import fails: {done.stderr.strip().splitlines()[-1]}")
    return clocks() - started, done.stdout


def main() -> None:
    f = flags.FLAGS
    source = user_path(f.source, "--source").absolute()
    peer = all(importlib.util.find_spec(name) for name in ("torch", "transformers", "accelerate"))
    if not peer:
        print("torch, transformers or accelerate, the peer of this comparison, is not installed: ours alone")
    parameters, largest = sizes(source)
    told = "{:.1f} s ({:.1f} of a CPU)".format
    peaks, ratios = [], []
    for i in range(f.rounds):
        seconds, peak = ours(source)
        peaks.append(peak)
        print(f"{i + 1:3}  ours {told(*seconds)}, peak {peak / 2**20:,.0f} MiB", end="" if peer else "\n", flush=True)
        if peer:
            theirs, _ = timed(THEIRS, str(source))
            ratios.append(seconds / theirs)
            print(f", Transformers {told(*theirs)}", flush=True)
    bar, peak = parameters + SPARE * largest, max(peaks)
    sizes_told = [f"{size / 2**20:,.0f}" for size in (peak, parameters, bar)]
    print("MiB: peak above import jax {}, parameters {}, bar {}".format(*sizes_told))
    out = {"peak_bytes": peak, "bar_bytes": bar}
    if peer:
        out["ratio"], out["cpu_ratio"] = (spread(list(column)) for column in zip(*ratios, strict=True))
        print(f"seconds, ours / Transformers  {shown(out['ratio'])}; of a CPU  {shown(out['cpu_ratio'])}")
    if f.json:
        print(json.dumps(out))


if __name__ == "__main__":
    run_cli(main, define_flags)

"""Stands for Slurm's srun on one machine: $TASKS processes of a command, with what Slurm tells each of them.

SIGTERM goes on to all of them, as `--signal` has it; with --kill-on-bad-exit=1 the first that fails ends the others.
"""

import os
import signal
import subprocess
import sys
import time

option, *command = sys.argv[1:]
assert option == "--kill-on-bad-exit=1", "an option that this one does not know"
tasks = int(os.environ["TASKS"])
told = {"SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": str(tasks), "SLURM_STEP_NUM_NODES": "1"}
started = [
    subprocess.Popen(command, env={**os.environ, **told, "SLURM_PROCID": str(task), "SLURM_LOCALID": str(task)})
    for task in range(tasks)
]
signal.signal(signal.SIGTERM, lambda *_: [task.send_signal(signal.SIGTERM) for task in started])
while any(task.poll() is None for task in started):
    if any(task.poll() for task in started):
        time.sleep(60)  # ours end by themselves before that
        [task.kill() for task in started]
    time.sleep(0.05)
sys.exit(max(abs(task.returncode) for task in started))

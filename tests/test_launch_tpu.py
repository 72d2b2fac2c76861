"""launch_tpu.sh: its dry run, its refusals, and whole launches on a pretended cloud.

The pretended gcloud notes every call, answers `describe` from a list of states, and really runs what is sent to the
hosts, in a folder that stands for the home of all of them. There python3.11 makes a python that notes its arguments.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests.commands import DEADLINE, ROOT, refused

PLACE = ("demo", "us-east5-b", "v6e-8")
RUN = ("--", "experiments/speedrun.py", "--workdir=/mnt/bucket/run")
GCLOUD = r"""#!/usr/bin/env bash
echo "$*" >> "$CLOUD/calls"
for word; do [[ $word != --command=* ]] || command=${word#*=}; done
case "$3 $4" in
  "queued-resources describe" | "tpu-vm describe")
    [[ -s $CLOUD/states ]] || kill "$PPID"  # more looks than the test has states for
    read -r state < "$CLOUD/states"
    sed -i 1d "$CLOUD/states"
    [[ $state != ABSENT ]] || { echo "ERROR: NOT_FOUND: no demo" >&2; exit 1; }
    echo "WARNING: a new version is available" >&2
    echo "$state" ;;
  "queued-resources create") rm -rf "$CLOUD/home"; mkdir "$CLOUD/home" ;;
  "tpu-vm scp") cp "$5" "$CLOUD/home/${6#*:}" ;;
  "tpu-vm ssh") cd "$CLOUD/home" && HOME=$CLOUD/home exec bash -c "$command" ;;
esac
"""
PYTHON = r"""#!/usr/bin/env bash
mkdir -p "$3/bin"
echo 'echo "$*" >> "$CLOUD/pip"' > "$3/bin/pip"
cat > "$3/bin/python" << 'end'
#!/usr/bin/env bash
printf '%s\n' "$@" > "$CLOUD/arguments"
pwd > "$CLOUD/folder"
echo "step 1 of a run"
read -r code < "$CLOUD/codes"
sed -i 1d "$CLOUD/codes"
[[ $code != stay ]] || exec sleep 60
[[ $code != "cut off" ]] || kill -KILL "$PPID"  # the host goes away: nobody is left to note an exit code
exit "$code"
end
chmod +x "$3/bin/pip" "$3/bin/python"
"""
TAIL = f"""#!/bin/sh
exec {shutil.which("tail")} --sleep-interval=0.05 "$@"  # it looks for the end of the run once in a second otherwise
"""
# Detached runs become children of the script's shell, which reaps them at once; the init of a container takes seconds.
ADOPTING_BASH = (
    sys.executable,
    "-c",
    # Ctrl-C is not heard by what starts with it ignored, as in a background job.
    "import ctypes, os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "ctypes.CDLL(None).prctl(36, 1, 0, 0, 0); os.execvp('bash', ['bash', *sys.argv[1:]])",
)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A committed repository that has the script, a config and a file that is not committed."""
    folder = tmp_path_factory.mktemp("repository")
    (folder / "experiments").mkdir()
    shutil.copy(ROOT / "launch_tpu.sh", folder)
    shutil.copy(ROOT / "experiments/speedrun.py", folder / "experiments")
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    for command in (("init", "--quiet"), ("add", "."), (*identity, "commit", "--quiet", "--message=all")):
        subprocess.run(("git", *command), cwd=folder, check=True)
    (folder / "experiments/new.py").touch()
    return folder


def start(repository, *args, shell=("bash",), **environment) -> subprocess.Popen:
    return subprocess.Popen(
        (*shell, "launch_tpu.sh", *args),
        cwd=repository,
        env={**os.environ, **environment},
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def launch(repository, *args, **options) -> subprocess.CompletedProcess:
    process = start(repository, *args, **options)
    try:
        output, errors = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def dry(repository, *args, **environment) -> list[str]:
    """The commands of a dry run on a PATH without gcloud."""
    tools = ("bash", "git", "dirname")
    bin = repository / ".git/bin"
    bin.mkdir(exist_ok=True)
    for tool in tools:
        if not (bin / tool).exists():
            (bin / tool).symlink_to(shutil.which(tool))
    result = launch(repository, "--dry-run", *args, PATH=str(bin), **environment)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def sent(line: str) -> list[str]:
    """The words of the command that a printed `gcloud ... ssh --command=...` sends to the hosts."""
    return shlex.split(shlex.split(line)[-1].removeprefix("--command="))


def test_dry_run_prints_the_commands_in_order(repository):
    lines = dry(repository, *PLACE, *RUN)
    verbs = [" ".join(shlex.split(line)[2:5]) if line.startswith("gcloud") else line[:11] for line in lines]
    queue, vm = "tpus queued-resources", "tpus tpu-vm"
    looks = [f"{queue} describe", f"{queue} create", f"{queue} describe", f"{vm} describe", f"{vm} ssh"]
    assert verbs == [*looks, "git archive", f"{vm} scp", f"{vm} ssh", f"{vm} ssh", f"{vm} ssh"]
    assert lines[1] == (
        "gcloud compute tpus queued-resources create demo --zone=us-east5-b --node-id=demo "
        "--accelerator-type=v6e-8 --runtime-version=v2-alpha-tpuv6e"
    )
    install, start, follow = lines[-3:]
    assert "--worker=all" in install and "--worker=all" in start and "--worker=0" in follow
    assert ".[tpu]" in sent(install) and "python3.11" in sent(install)
    assert "nohup" in sent(start) and "llm_jax.main" in sent(start) and "tail" in sent(follow)


def test_flags_arrive_as_they_were_given(repository):
    flags = ["--config.data.documents=my texts/*.txt", "--config.a=it's", '--b="$HOME"; ls', "--empty=", "", "a\\b"]
    words = sent(dry(repository, *PLACE, *RUN, *flags)[-2])
    first = words.index("--config=experiments/speedrun.py")
    assert words[first - 2 : first] == ["-m", "llm_jax.main"]
    assert words[first + 1 : words.index(">>")] == [*RUN[2:], *flags]


@pytest.mark.parametrize(
    "kind, runtime",
    [("v5litepod-16", "v2-alpha-tpuv5-lite"), ("v5p-128", "v2-alpha-tpuv5"), ("v4-8", "tpu-ubuntu2204-base")],
)
def test_runtime_goes_by_type(repository, kind, runtime):
    assert f"--runtime-version={runtime}" in dry(repository, *PLACE[:2], kind, *RUN)[1].split()


def test_environment_overrides(repository):
    text = "\n".join(dry(repository, *PLACE, *RUN, TPU_RUNTIME="own", TPU_SETUP="mount it", PYTHON="python3.12"))
    assert "--runtime-version=own" in text.splitlines()[1].split()
    words = sent(text[text.index("gcloud", text.index(" scp ")) : text.rindex("\ngcloud", 0, text.index("setsid"))])
    assert words[2:5] == ["mount", "it", "mkdir"] and "python3.12-venv;" in words and "python3.11" not in words


def test_spot(repository):
    assert dry(repository, "--spot", *PLACE, *RUN)[1].split()[-1] == "--spot"
    for workdir in ("/mnt/bucket/run", "/gcs/bucket/run"):
        dry(repository, *PLACE, "--spot", *RUN[:2], f"--workdir={workdir}")


def test_delete_prints_the_deletion_only(repository):
    (line,) = dry(repository, "--delete", *PLACE[:2])
    assert line == "gcloud compute tpus queued-resources delete demo --zone=us-east5-b --force --quiet"
    assert dry(repository, *PLACE, "--delete", *RUN) == [line]


@pytest.mark.parametrize(
    "args, words",
    [
        ((), ("NAME", "usage")),
        (PLACE[:1], ("ZONE", "usage")),
        (PLACE[:2], ("TYPE", "usage")),
        (("--delete", "demo"), ("ZONE", "usage")),
        (PLACE, ("CONFIG", "usage")),
        ((*PLACE, "--"), ("CONFIG", "usage")),
        ((*PLACE, "experiments/speedrun.py"), ("experiments/speedrun.py", "after --")),
        (("--sopt", *PLACE, *RUN), ("--sopt", "--spot")),
        ((*PLACE, "--", "experiments/none.py", "--workdir=x"), ("experiments/none.py", "root")),
        ((*PLACE, "--", "experiments/new.py", "--workdir=x"), ("experiments/new.py", "commit")),
        ((*PLACE, *RUN[:2]), ("--workdir=DIR",)),
        ((*PLACE[:2], "v9-8", *RUN), ("v9-8", "v6e-")),
        ((*PLACE[:2], "tpu7x-8", *RUN), ("tpu7x-8", "GKE")),
        (("--spot", *PLACE, *RUN[:2], "--workdir=runs/x"), ("runs/x", "/mnt/", "/gcs/")),
        ((*PLACE, *RUN[:2], "--workdir=gs://b/x"), ("gs://b/x", "mount")),
    ],
)
def test_mistakes(repository, args, words):
    result = launch(repository, "--dry-run", *args)
    refused(result, *words)
    assert result.stdout == "" and len(result.stderr.splitlines()) == 1


def test_missing_gcloud(repository):
    dry(repository, *PLACE, *RUN)  # makes the PATH without it
    refused(launch(repository, *PLACE, *RUN, PATH=str(repository / ".git/bin")), "gcloud", "--dry-run")


# ------------------------------------------------------------------------------------------------- a pretended cloud


@pytest.fixture
def cloud(repository, tmp_path):
    if not sys.platform.startswith("linux"):
        pytest.skip("the hosts' commands need Linux: setsid, tail --pid")
    bin, home = tmp_path / "bin", tmp_path / "home"
    bin.mkdir()
    home.mkdir()
    for name, text in (("gcloud", GCLOUD), ("python3.11", PYTHON), ("tail", TAIL)):
        (bin / name).write_text(text)
        (bin / name).chmod(0o755)
    environment = {"CLOUD": str(tmp_path), "TMPDIR": str(tmp_path), "TPU_POLL": "0"}
    environment["PATH"] = f"{bin}:{os.environ['PATH']}"

    def prepare(states: str = "", codes: str = "") -> None:
        (tmp_path / "states").write_text("".join(f"{state}\n" for state in states.split()))
        (tmp_path / "codes").write_text("".join(f"{code}\n" for code in codes.split(",")))

    def calls() -> list[str]:
        """Of what was asked of the cloud: the verbs, with `ssh` told apart by what it does."""
        does = {"tar -xf": "install", "setsid": "launch", "tail": "follow", "kill -0": "look"}
        verbs = []
        for line in (tmp_path / "calls").read_text().splitlines():
            verb = line.split()[3]
            verbs.append(verb if verb != "ssh" else next(name for part, name in does.items() if part in line))
        return [verb for verb in verbs if verb not in ("describe", "look")]

    def go(*args: str, states: str = "", codes: str = "") -> subprocess.CompletedProcess:
        prepare(states, codes)
        result = launch(repository, *args, shell=ADOPTING_BASH, **environment)
        assert not (tmp_path / "states").read_text(), f"states left over; {result.stderr}"
        return result

    yield SimpleNamespace(path=tmp_path, home=home, environment=environment, prepare=prepare, calls=calls, go=go)
    if (home / "llm_jax.pid").exists():
        subprocess.run(("kill", "-KILL", "--", "-" + (home / "llm_jax.pid").read_text().strip()), capture_output=True)


FRESH = ["create", "scp", "install", "launch", "follow"]
READY = " ACTIVE READY"


def test_created_when_absent(cloud):
    result = cloud.go(
        *PLACE, *RUN, "--b=two words; it's", states="ABSENT PROVISIONING ACTIVE CREATING" + READY * 3, codes="0"
    )
    assert result.returncode == 0, result.stderr
    assert cloud.calls() == FRESH
    assert (cloud.home / "llm_jax/launch_tpu.sh").exists() and not (cloud.home / "llm_jax/experiments/new.py").exists()
    assert (cloud.path / "pip").read_text() == "install --quiet .[tpu]\n"
    given = (cloud.path / "arguments").read_text().splitlines()
    assert given == ["-m", "llm_jax.main", "--config=experiments/speedrun.py", RUN[2], "--b=two words; it's"]
    assert (cloud.path / "folder").read_text().strip() == str(cloud.home / "llm_jax")
    assert "step 1 of a run" in result.stdout
    assert "costs money until: bash launch_tpu.sh --delete demo us-east5-b" in result.stderr


SETUPS = {
    "lines": "touch a\ntouch b",
    "comment": "touch a  # the first\ntouch b  # the last",
    "end": "touch a; touch b\n",
    "here": 'cat > a << end\nit\'s "a" $HOME\nend\ntouch b',
    "group": "if true; then\n  touch a b\nfi",
}


@pytest.mark.parametrize("name", SETUPS)
def test_a_set_up_of_any_form_and_a_config_with_an_argument(repository, cloud, name):
    given = (*PLACE, "--", "experiments/speedrun.py:4", "--workdir=/mnt/bucket/run")
    cloud.environment["TPU_SETUP"] = SETUPS[name]
    result = cloud.go(*given, states=READY * 3, codes="0")
    assert result.returncode == 0, result.stderr
    assert (cloud.home / "a").exists() and (cloud.home / "b").exists() and (cloud.path / "pip").exists()
    assert (cloud.path / "arguments").read_text().splitlines()[2] == "--config=experiments/speedrun.py:4"


def test_a_set_up_that_fails_ends_the_launch(cloud):
    cloud.environment["TPU_SETUP"] = "touch a\nfalse\ntouch b"
    assert cloud.go(*PLACE, *RUN, states=READY * 2).returncode == 1
    assert (cloud.home / "a").exists() and not (cloud.home / "b").exists() and not (cloud.path / "pip").exists()


def test_reused_when_ready(cloud):
    result = cloud.go(*PLACE, *RUN, states=READY * 3, codes="2")
    assert result.returncode == 2 and "exit code 2" in result.stderr
    assert cloud.calls() == FRESH[1:]


@pytest.mark.parametrize(
    "loss", ["ACTIVE PREEMPTED", "ACTIVE TERMINATED", "ACTIVE ABSENT", "SUSPENDING SUSPENDED", "FAILED"]
)
def test_recreated_and_relaunched_after_preemption(cloud, loss):
    states = READY + f" {loss}" + (" no-quota" if loss == "FAILED" else "") + READY * 3
    result = cloud.go(*PLACE, "--spot", *RUN, states=states, codes="cut off,0")
    assert result.returncode == 0, result.stderr
    assert cloud.calls() == [*FRESH[1:], "delete", *FRESH]
    created = [line for line in (cloud.path / "calls").read_text().splitlines() if " create " in line]
    assert created[0].endswith("--spot")
    assert ("no-quota" in result.stderr) == (loss == "FAILED")


def test_an_exit_code_of_a_slice_that_is_going_away_does_not_count(cloud):
    """The other hosts go first, and the run on worker 0 ends with 1 before the slice says that it is gone."""
    result = cloud.go(*PLACE, *RUN, states=READY * 2 + " SUSPENDED" * 2 + READY * 3, codes="1,0")
    assert result.returncode == 0, result.stderr
    assert cloud.calls() == [*FRESH[1:], "delete", *FRESH]


def test_ctrl_c_leaves_the_run_and_a_second_call_follows_it(repository, cloud):
    def follow() -> list[str]:
        cloud.prepare(READY, "stay")
        process = start(repository, *PLACE, *RUN, shell=ADOPTING_BASH, **cloud.environment)
        assert process.stdout.readline() == "step 1 of a run\n"
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0, errors
        assert f"To follow again: bash launch_tpu.sh {' '.join((*PLACE, *RUN))}" in errors
        os.kill(int((cloud.home / "llm_jax.pid").read_text()), 0)  # the run goes on
        return errors

    assert "starting none" not in follow()
    assert "starting none" in follow()
    assert cloud.calls() == [*FRESH[1:], "follow"]


def test_deleted(cloud):
    assert cloud.go("--delete", *PLACE[:2]).returncode == 0
    assert (cloud.path / "calls").read_text() == (
        "compute tpus queued-resources delete demo --zone=us-east5-b --force --quiet\n"
    )


def test_shellcheck():
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    result = subprocess.run(("shellcheck", str(ROOT / "launch_tpu.sh")), text=True, capture_output=True)
    assert result.returncode == 0, result.stdout

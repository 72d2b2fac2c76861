#!/usr/bin/env bash
# Trains on a Cloud TPU slice: makes or reuses the slice, installs the last commit on its hosts, launches the run there,
# follows its log, and begins again on a new slice when this one is taken away. docs/launch.md says more. Environment:
# TPU_RUNTIME, the hosts' software; TPU_SETUP, a command for every host before the installation; PYTHON, the hosts'
# interpreter; TPU_POLL, seconds between two looks at the slice.
set -uo pipefail

USAGE="usage: bash launch_tpu.sh [--dry-run] [--spot] [--delete] NAME ZONE TYPE -- CONFIG [flags]"
POLL=${TPU_POLL:-30}
HOST_PYTHON=${PYTHON:-python3.11}
ERRORS=/dev/null # what gcloud last complained of
DRY='' SPOT='' DELETE=''

say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $2" && exit "$1"; } # CODE MESSAGE

quoted() { # the words in one line, as a shell reads them back
  local word line='' quote="'" escaped="'\\''"
  for word; do
    [[ $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]] || word="'${word//$quote/$escaped}'"
    line+=" $word"
  done
  printf '%s\n' "${line# }"
}

run() { if [[ $DRY ]]; then quoted "$@"; else "$@"; fi; }

parse() {
  local place=() needed=(NAME ZONE TYPE)
  COMMAND=()
  while (($#)); do
    case $1 in
      --dry-run) DRY=yes ;;
      --spot) SPOT=yes ;;
      --delete) DELETE=yes needed=(NAME ZONE) ;;
      --) COMMAND=("${@:2}") && break ;;
      -*) fail 2 "unknown option $1; $USAGE" ;;
      *) place+=("$1") ;;
    esac
    shift
  done
  ((${#place[@]} >= ${#needed[@]})) || fail 2 "${needed[${#place[@]}]} is missing; $USAGE"
  ((${#place[@]} <= 3)) || fail 2 "unexpected argument ${place[3]}; CONFIG and its flags come after --"
  NAME=${place[0]} ZONE=${place[1]} TYPE=${place[2]-}
}

choose_runtime() {
  case $TYPE in
    v5litepod-*) RUNTIME=v2-alpha-tpuv5-lite ;;
    v5p-*) RUNTIME=v2-alpha-tpuv5 ;;
    v6e-*) RUNTIME=v2-alpha-tpuv6e ;;
    v2-* | v3-* | v4-*) RUNTIME=tpu-ubuntu2204-base ;;
    tpu7x-*) fail 2 "TYPE $TYPE is not rented as a queued resource, only through GKE: see docs/launch.md" ;;
    *) fail 2 "unknown TYPE $TYPE; it begins with v2-, v3-, v4-, v5litepod-, v5p- or v6e-, as in v6e-8" ;;
  esac
  RUNTIME=${TPU_RUNTIME:-$RUNTIME}
}

check_command() {
  ((${#COMMAND[@]})) || fail 2 "CONFIG is missing; $USAGE"
  local config=${COMMAND[0]} word workdir=''
  [[ -f $config ]] || config=${config%%:*} # what comes after the colon is its argument
  [[ -f $config ]] || fail 2 "no file ${COMMAND[0]}; CONFIG is a path from the repository's root: experiments/speedrun.py"
  git cat-file -e "HEAD:$config" 2> /dev/null || fail 2 "$config is not in the last commit, and only that travels"
  for word in "${COMMAND[@]:1}"; do
    [[ $word != --workdir=* ]] || workdir=${word#*=}
  done
  [[ $workdir ]] || fail 2 "--workdir=DIR is missing after $config"
  [[ $workdir != gs://* ]] || fail 2 "--workdir=$workdir would be read as a local folder: mount the bucket (docs/launch.md)"
  [[ ! $SPOT || $workdir =~ ^/(mnt|gcs)/ ]] ||
    fail 2 "--workdir=$workdir would go with the spot slice: use a bucket that is mounted under /mnt/ or /gcs/"
}

queued() { run gcloud compute tpus queued-resources "$1" "$NAME" --zone="$ZONE" "${@:2}"; }
node() { run gcloud compute tpus tpu-vm "$1" "$NAME" --zone="$ZONE" "${@:2}"; }
on_hosts() { node ssh --worker="$1" --quiet --command="$2"; }

queue_state() { queued describe --format='value(state.state)'; }
node_state() { node describe --format='value(state)'; }
remove() { queued delete --force --quiet; } # --force: with its node
create() {
  queued create --node-id="$NAME" --accelerator-type="$TYPE" --runtime-version="$RUNTIME" ${SPOT:+--spot}
}

copy() {
  local tar=${TMPDIR:-/tmp}/llm_jax-$NAME.tar
  say "copying the last commit; what is not committed stays here"
  run git archive --format=tar --output="$tar" HEAD &&
    run gcloud compute tpus tpu-vm scp "$tar" "$NAME:llm_jax.tar" --zone="$ZONE" --worker=all --quiet
}

install() { # the folder is not emptied: a run with a relative workdir has its files there. TPU_SETUP may end in a comment
  on_hosts all "set -e; ${TPU_SETUP:+$TPU_SETUP$'\n'}mkdir -p ~/llm_jax; cd ~/llm_jax; tar -xf ~/llm_jax.tar; \
command -v $HOST_PYTHON > /dev/null || { sudo apt-get -q update && \
sudo apt-get -qy -o DPkg::Lock::Timeout=300 install $HOST_PYTHON-venv; } || true; \
\$(command -v $HOST_PYTHON || command -v python3) -m venv ~/.venv-llm_jax; \
~/.venv-llm_jax/bin/pip install --quiet \".[tpu]\""
}

launch() { # in a session of its own: what a broken run left on the other hosts holds their chips, and is killed as one
  on_hosts all "cd ~/llm_jax; [ ! -e ~/llm_jax.pid ] || kill -KILL -- -\$(cat ~/llm_jax.pid) 2> /dev/null; \
rm -f ~/llm_jax.exit; setsid nohup bash -c '\"\$@\"; echo \$? > ~/llm_jax.exit' run \
~/.venv-llm_jax/bin/python -m llm_jax.main $(quoted "--config=${COMMAND[0]}" "${COMMAND[@]:1}") \
>> ~/llm_jax.log 2>&1 < /dev/null & echo \$! > ~/llm_jax.pid"
}

run_state() { # running, ended CODE, or none: the shutdown of a host leaves no code
  on_hosts 0 "if kill -0 \$(cat ~/llm_jax.pid); then echo running; \
elif [ -e ~/llm_jax.exit ]; then echo ended \$(cat ~/llm_jax.exit); else echo none; fi" 2> "$ERRORS"
}

follow() {
  say "following worker 0; Ctrl-C ends the following, not the run"
  on_hosts 0 "tail -n 100 -F --pid=\$(cat ~/llm_jax.pid) ~/llm_jax.log"
}

ask() { # the answer, or ABSENT; a network that blinks is asked again
  local answer _
  for _ in 1 2 3 4 5; do
    answer=$("$@" 2> "$ERRORS") && echo "$answer" && return
    grep -q NOT_FOUND "$ERRORS" && echo ABSENT && return
    sleep "$POLL"
  done
  fail 1 "gcloud does not answer: $(tail -n 1 "$ERRORS")"
}

state() { # READY, ABSENT, or what else the queue or the node says
  local now
  now=$(ask queue_state) || exit
  [[ $now != ACTIVE ]] || now=$(ask node_state | sed s/ABSENT/TERMINATED/) || exit # the queue learns of it late
  echo "$now"
}

wait_until_ready() {
  local now before=''
  while true; do
    now=$(state) || exit
    [[ $now == "$before" ]] || say "$NAME: $now"
    before=$now
    case $now in
      READY) return ;;
      ABSENT) create || exit ;;
      SUSPENDED | PREEMPTED | TERMINATED) { remove && create; } || exit ;;
      FAILED) { queued describe --format='value(state)' >&2 && remove && create; } || exit ;; # it says why
    esac
    sleep "$POLL"
  done
}

end_if_ready() { # CODE MESSAGE: a slice that is taken away ends its run first and shows its own state later
  local now
  say "$2; looking whether $NAME stays"
  sleep $((4 * POLL))
  now=$(state) || exit
  [[ $now == READY ]] || return 0
  say "$NAME is still there and costs money until: bash $0 --delete $NAME $ZONE"
  exit "$1"
}

train() {
  local now launched='' # only then is an exit code that of our run
  while true; do
    wait_until_ready
    now=$(run_state)
    if [[ $now == running ]]; then
      [[ $launched ]] || say "a run is going on $NAME: following it, starting none"
      launched=yes && follow
    elif [[ $launched && $now == ended* ]]; then
      end_if_ready "${now#ended }" "the run ended with exit code ${now#ended }"
    elif [[ ! $now ]]; then
      end_if_ready 1 "error: worker 0 does not answer: $(tail -n 1 "$ERRORS")"
    elif copy && install && launch; then
      launched=yes && follow
    else
      end_if_ready 1 "error: the run could not be launched"
    fi
  done
}

main() {
  AGAIN="bash $(quoted "$0" "$@")"
  parse "$@"
  [[ $DRY ]] || command -v gcloud > /dev/null || fail 2 "no gcloud here; install the Google Cloud CLI, or try --dry-run"
  [[ ! $DELETE ]] || { remove; exit; }
  cd "$(dirname "$0")" || exit
  choose_runtime
  check_command
  [[ ! $DRY ]] || { queue_state; create; queue_state; node_state; run_state; copy; install; launch; follow; exit; }
  ERRORS=$(mktemp)
  trap 'rm -f "$ERRORS"' EXIT
  trap 'say "left $NAME as it is; a launched run goes on. To follow again: $AGAIN"; exit 0' INT
  train
}

main "$@"

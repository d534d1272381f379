#!/usr/bin/env bash
# One way in: creates the environment on first use, then runs a command of the project.
set -euo pipefail
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
  cat <<'TEXT'
usage: ./launch.sh COMMAND [ARGUMENTS]
  setup                 create or update .venv from requirements.lock
  train [FLAGS]         train (default: --config configs/sapl.py); run again to continue
  demo                  data, training, evaluation and report in minutes, without downloads
  ablation              the ablations and controls at demo size, three seeds, beside the paper's
  calibrate [FLAGS]     a checkpoint's probability, map threshold and verdicts
  evaluate [FLAGS]      evaluate a checkpoint on data sets
  predict [FLAGS]       heat maps, masks and scores of your pictures
  export [FLAGS]        a trained model for other programs
  serve [FLAGS]         a page in the browser, and an HTTP interface
  ablate, prepare, doctor, generate, edge-statistics [FLAGS]
                        as `sapl --help` lists them
  hosts "H1 H2" train [FLAGS]
                        start one training process on each host, over ssh; H1 coordinates
  test [PYTEST FLAGS]   run the test suite
  check                 lint, format, types, and which room may import which
  lock                  renew requirements.lock from requirements.txt and pyproject.toml
  python [ARGUMENTS]    Python of the environment
Paths are meant from the folder you are in; of hosts, test, check and lock from the project's.
Environment: PYTHON (interpreter to create .venv with), SAPL_VENV (default .venv),
SAPL_ACCELERATOR (what JAX is installed for: cuda12, cuda13, tpu or cpu; default: what is here),
SAPL_PORT (coordinator's port, by default drawn for each run), SAPL_SSH (default ssh).
TEXT
}

venv=${SAPL_VENV:-.venv}
case $venv in /*) ;; *) venv=$PWD/$venv ;; esac
case ${SAPL_ACCELERATOR:-cpu} in
  cuda12 | cuda13 | tpu | cpu) ;;
  *)
    echo "error: SAPL_ACCELERATOR is '$SAPL_ACCELERATOR'; expected cuda12, cuda13, tpu or cpu" >&2
    exit 2
    ;;
esac
# Huge pages for what malloc hands out: a step's memory is fresh each time, and 4 kB at a time cost a
# tenth of ViT-L/14's step on a CPU, a fifth of the demo's. Read by glibc from 2.35 on.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}

find_python() {
  for candidate in ${PYTHON:+"$PYTHON"} ${PYTHON:-python3.12 python3.11 python3.13 python3}; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
      2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: no Python 3.11 to 3.13 found; install one or set PYTHON to it" >&2
  return 2
}

accelerator() { # The jax extra for the accelerator asked for or of this machine, or nothing.
  if [ -n "${SAPL_ACCELERATOR:-}" ]; then
    echo "${SAPL_ACCELERATOR#cpu}"
  elif nvidia-smi >/dev/null 2>&1; then
    echo cuda12 # Every driver since CUDA 12 runs it; with CUDA 13, cuDNN's attention can fail.
  elif [ -e /dev/accel0 ] || [ -e /dev/vfio/0 ] || [ -n "${TPU_NAME:-}" ]; then
    echo tpu
  fi
}

is_ready() { # $1: the stamp of what belongs into the environment.
  local asked=${SAPL_ACCELERATOR:-}
  case $(cat "$venv/ready" 2>/dev/null) in
    "$1 ${asked#cpu}"*) ;;           # With an accelerator's JAX, and no other is asked for.
    "$1") [ -z "$(accelerator)" ] ;; # A login node has no GPU, others may.
    "$1 "*)
      echo "error: $venv has JAX for another accelerator than $asked; delete it or set SAPL_VENV" >&2
      exit 2
      ;;
    *) return 1 ;;
  esac
}

setup() {
  local stamp
  stamp=$(cat requirements.lock pyproject.toml | cksum)
  if is_ready "$stamp"; then return; fi
  mkdir -p "$venv"
  {
    # Of hosts that share the folder one installs, and the others wait and find it ready. macOS and
    # some file systems have no flock.
    flock 9 2>/dev/null || true
    if ! is_ready "$stamp"; then install "$stamp"; fi
  } 9>"$venv/lock"
}

install() { # $1: the stamp of what is installed.
  local python extra version
  python=$(find_python)
  echo "creating $venv with $("$python" --version); this takes a few minutes the first time" >&2
  "$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements.lock
  extra=$(accelerator)
  if [ -n "$extra" ]; then
    version=$("$venv/bin/python" -c 'from importlib.metadata import version as v; print(v("jax"))')
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "jax[$extra]==$version"
  fi
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --editable .
  echo "$1${extra:+ $extra}" >"$venv/ready"
}

extra() { # Installs an optional part of the project when its package is not there yet.
  "$venv/bin/python" -c "import importlib.util as u, sys; sys.exit(not u.find_spec('$2'))" ||
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
      --constraint requirements.lock --editable ".[$1]"
}

run() { # A module, in the caller's folder, whose own `configs` and the like must not be imported.
  export PYTHONSAFEPATH=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
  cd "$caller"
  exec "$venv/bin/python" -m "$@"
}

hosts() { # One process per host; when one ends badly, the others are stopped.
  local names count index=0 command status=0 port=${SAPL_PORT:-$((20000 + RANDOM % 12000))}
  local file note stop asked=""
  read -ra names <<<"$1"
  count=${#names[@]}
  shift
  if [ "$count" -lt 1 ] || [ "${1:-}" != train ]; then
    usage >&2
    exit 2
  fi
  # Where no job is left, kill fails, and its status would be the run's.
  trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
  trap 'asked=130' INT
  trap 'asked=143' TERM
  # ssh without a terminal hands on no signal: the first process notes its number, to be sent one.
  file='"${TMPDIR:-/tmp}/sapl-$(id -u)-'$port'"'
  note="echo \$\$ >$file; "
  printf -v stop '%q ' sh -c "number=\$(cat $file) && kill -TERM \$number && rm $file"
  for host in "${names[@]}"; do
    printf -v command '%q ' sh -c "$note"'cd "$0" && exec env "$@"' "$PWD" \
      "SAPL_COORDINATOR=${names[0]#*@}:$port" "SAPL_VENV=$venv" \
      "SAPL_ACCELERATOR=${SAPL_ACCELERATOR:-}" \
      "SAPL_PROCESS_COUNT=$count" "SAPL_PROCESS_ID=$index" ./launch.sh "$@"
    ${SAPL_SSH:-ssh} "$host" "$command" &
    index=$((index + 1)) note=""
  done
  while [ -z "$asked" ] && ((count-- > 0)); do
    wait -n || { status=$?; break; }
  done
  if [ -n "$asked" ]; then
    trap 'exit "$asked"' INT TERM
    echo "asking the trainings to save and end; a second Ctrl-C gives up waiting for them" >&2
    # One process that is told stops all at one step (docs/reliability.md).
    if ${SAPL_SSH:-ssh} "${names[0]}" "$stop" </dev/null; then
      wait
    else
      echo "error: ${names[0]} was not told; trainings may go on" >&2
    fi
  fi
  return "${asked:-$status}"
}

command=${1:-help}
[ $# -gt 0 ] && shift
case $command in
  setup) setup ;;
  train | demo | calibrate | evaluate | predict | export | serve | ablate | prepare | doctor | generate | \
    edge-statistics)
    setup
    [ "$command" != serve ] || extra serve gradio
    run sapl_jax "$command" "$@"
    ;;
  ablation) setup; run sapl_jax.demo.ablation "$@" ;;
  hosts) hosts "$@" ;;
  test) setup; exec "$venv/bin/python" -m pytest --numprocesses 2 --dist loadfile "$@" ;;
  check)
    setup
    "$venv/bin/ruff" check .
    "$venv/bin/ruff" format --check .
    "$venv/bin/mypy"
    "$venv/bin/lint-imports"
    ;;
  lock)
    setup
    "$venv/bin/uv" pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
      --no-header --no-annotate --upgrade --output-file requirements.lock
    ;;
  python) setup; cd "$caller"; exec "$venv/bin/python" "$@" ;;
  help | -h | --help) usage ;;
  *)
    echo "error: no command '$command'" >&2
    usage >&2
    exit 2
    ;;
esac

#!/usr/bin/env bash
# Train a model on this machine, starting from a clone: set up, make a data set, train on 4 MPI ranks. No root.
#
#   env/quickstart.sh [criteo-train.txt[.gz]]
#
# The file has the layout of Criteo's train.txt. Without a file, the script makes a synthetic data set of that shape. It
# writes to runs/quickstart/: the data set, which is made once per input, and a directory for each run.
# MPI: the one that .venv/ was set up with or, if there is no .venv/ yet, the one that env/setup.sh chooses.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
runs=$root/runs/quickstart
data=$runs/data

say() { printf 'quickstart: %s\n' "$*"; }
fail() { printf 'quickstart: error: %s\n' "$*" >&2; exit 1; }
usage() { sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

(($# <= 1)) || fail "give one file or none, not $# (usage: env/quickstart.sh [criteo-train.txt[.gz]])"
input=
case ${1-} in
  '') ;;
  -h|--help) usage; exit 0 ;;
  -*) fail "unknown option '$1' (usage: env/quickstart.sh [criteo-train.txt[.gz]])" ;;
  *)
    [[ -f $1 && -r $1 ]] || fail "'$1' is not a readable file: give Criteo's train.txt, plain or gzip, or nothing for synthetic data"
    input=$(realpath "$1")
    ;;
esac

"$root/env/setup.sh"
export PATH=$root/.venv/bin:$PATH

# -- the data set ---------------------------------------------------------------------------------------------------
if [[ -n $input ]]; then
  make=(bagpipe import criteo "$input")
  origin="$(stat -c '%n, %s bytes, modified %Y' "$input"): ${make[*]}"
else
  make=(bagpipe synth --profile criteo-kaggle --scale 0.01 --samples 200000)
  origin=${make[*]}
fi
stamp=$runs/data.origin
if [[ -f $stamp && -d $data && $(<"$stamp") == "$origin" ]]; then
  say "$data is up to date"
else
  mkdir -p "$runs"
  rm -rf "$stamp" "$data"
  say "making $data"
  "${make[@]}" --output "$data" || fail "could not make the data set (see above)"
  printf '%s\n' "$origin" >"$stamp"
fi

# -- the run --------------------------------------------------------------------------------------------------------
command -v mpirun >/dev/null || fail "no mpirun in $root/.venv/bin or on the PATH: load the module of the MPI that MPICC belongs to"
launch=(mpirun -n 4)
if mpirun --version 2>&1 | grep -qiE 'open[ -]?mpi|openrte'; then
  launch+=(--oversubscribe)
  export OMPI_MCA_osc=${OMPI_MCA_osc-^ucx,pt2pt} OMPI_MCA_btl=${OMPI_MCA_btl-^ofi}
  if ((EUID == 0)); then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
fi

run=$runs/$(date +%Y%m%d-%H%M%S)
while [[ -e $run ]]; do run+=x; done
say "training on 4 ranks (oracle, embedding server, 2 trainers) into $run"
"${launch[@]}" bagpipe train --data "$data" --run-dir "$run" --set training.epochs=3 --set training.learning_rate=1.0 ||
  fail "training ended with status $? (see above; .venv/bin/bagpipe doctor checks the machine)"
say "done: settings, metrics and summary are in $run"

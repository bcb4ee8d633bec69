#!/usr/bin/env bash
# Set up and run all tests: linter, formatter, types, pytest. The first failure ends it.
#
#   env/test.sh [PYTEST ARGUMENTS]      for example: env/test.sh tests/unit -k sharding
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
env/setup.sh --dev

step() { printf 'test: %s\n' "$*"; "$root/.venv/bin/python" -m "$@"; }
step ruff check .
step ruff format --check .
step mypy
step pytest "$@"

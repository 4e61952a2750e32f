#!/usr/bin/env bash
# ruff and the fast tests, in the environment of the quickstart (made if missing).
# usage: bash scripts/run_tests.sh [pytest arguments, for example -m slow]
set -euo pipefail

CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/environment.sh
. scripts/environment.sh
export PATH="$(dirname "$PYTHON"):$PATH"
ruff check .
ruff format --check .
mypy
export OMP_NUM_THREADS=1 # two test processes share the cores
exec "$PYTHON" -m pytest -q -n 2 --dist worksteal "$@" # the files of a folder share what they make

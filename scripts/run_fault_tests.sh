#!/usr/bin/env bash
# The fault suites at full length, in the environment of the quickstart (made if missing): one line for each
# row of docs/reliability.md with the faults injected, those survived and what was lost. At most 20 minutes on
# 2 cores. FAULT_JOBS: test processes at a time (default 2).
# usage: bash scripts/run_fault_tests.sh [pytest arguments, for example tests/faults/test_journals.py]
set -euo pipefail

case "${1:-}" in
-h | --help)
    sed -n '2,/^set/{/^# /s/^# //p}' "$0"
    exit 0
    ;;
esac
CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/environment.sh
. scripts/environment.sh
tally=$(mktemp)
trap 'rm -f "$tally"' EXIT
export HAT_FAULTS=full HAT_FAULT_TALLY=$tally OMP_NUM_THREADS=1
[[ "$*" == *tests/faults* ]] || set -- "$@" tests/faults
status=0
"$PYTHON" -m pytest -q -n "${FAULT_JOBS:-2}" -m "not gpu and not network" "$@" || status=$?
"$PYTHON" tests/faults/tally.py "$tally"
exit "$status"

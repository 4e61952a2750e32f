#!/usr/bin/env bash
# Every stage of HAT on a small generated translation task, on this CPU: data, SuperTransformer, latency dataset,
# predictor, search under two limits, training, BLEU and measured latency.
# usage: bash scripts/quickstart.sh [--small]
set -euo pipefail

case "${1:-}" in
-h | --help)
    echo "usage: bash scripts/quickstart.sh [--small]"
    echo "Writes runs/quickstart/summary.json and report/index.html. About 3 minutes after installation, also if one"
    echo "of 2 cores is busy; --small takes 40 seconds and trains too little to translate. A second run reuses what is"
    echo "done."
    exit 0
    ;;
"" | --small) ;;
*)
    echo "unknown argument $1; allowed is --small" >&2
    exit 2
    ;;
esac
CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/environment.sh
. scripts/environment.sh
if [ "${1:-}" = --small ]; then
    exec bash scripts/run_task.sh toy.en-de cpu -- --run-dir=runs/quickstart-small --super-updates=40 \
        --sub-updates=10 --dataset-rows=10 --evo-iterations=1 --average=1 --no-baselines
fi
exec bash scripts/run_task.sh toy.en-de cpu -- --run-dir=runs/quickstart

#!/usr/bin/env bash
# The benchmarks: micro-benchmarks of the stations, then whole runs as processes. Arguments go to the whole-process part,
# e.g. .ci/bench.sh -rows 1000000
set -euo pipefail
cd "$(dirname "$0")/.."
echo "== stations (go test -bench)"
go test -run '^$' -bench . -benchtime "${BENCHTIME:-2s}" ./odata ./odata/scope ./export/parquet ./jobs/ledger ./jobs/schedule
echo
echo "== whole runs"
go run ./.ci/bench "$@"

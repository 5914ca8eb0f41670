#!/usr/bin/env bash
# The benchmarks. Without arguments: micro-benchmarks of the stations, then whole runs as processes. With arguments, the whole-process
# part alone:
#
#   .ci/bench.sh --compare    beside DuckDB and a naive program
#   .ci/bench.sh --check      the short form: no ratio more than 15 % worse than in .ci/bench/recorded.json
#   .ci/bench.sh --record     measures everything, 50 million rows included (half an hour, on a quiet machine), and writes that file
#   .ci/bench.sh --windows    many windows, one after the other and side by side
#   .ci/bench.sh --links      links of several speeds, with plain and compressed answers
#   .ci/bench.sh -rows 1000000
set -euo pipefail
cd "$(dirname "$0")/.."
if [ $# -eq 0 ]; then
  echo "== stations (go test -bench)"
  go test -run '^$' -bench . -benchtime "${BENCHTIME:-2s}" ./odata ./odata/scope ./odata/utf ./export/parquet ./jobs ./jobs/ledger ./jobs/schedule ./jobs/status
  echo
  echo "== whole runs"
fi
go run ./.ci/bench "$@"

#!/usr/bin/env bash
# Runs every fuzz target of the module for FUZZTIME (default 5s) each, and fails if one finds something. The input that
# was found is then under testdata/fuzz beside the target: mend the code and keep the input.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
fuzztime=${FUZZTIME:-5s}

# "go test -list" prints the names of a package and then a line with the package.
targets=$(go test -list '^Fuzz' ./... | awk '/^Fuzz/ {names[n++] = $1} /^ok/ {for (i = 0; i < n; i++) print $2, names[i]} !/^Fuzz/ {n = 0}')
if [ -z "$targets" ]; then
  echo "fuzz: no targets"
  exit
fi

failed=0 count=0
while read -r package name; do
  count=$((count + 1))
  if output=$(go test -run '^$' -fuzz "^$name\$" -fuzztime "$fuzztime" "$package" 2>&1); then
    echo "fuzz: ok    ${package#github.com/tablexport/tablexport/} $name  $(grep -o 'execs: [0-9]*' <<<"$output" | tail -1)"
  else
    failed=$((failed + 1))
    printf '%s\n' "$output"
    echo "fuzz: FAIL  ${package#github.com/tablexport/tablexport/} $name"
  fi
done <<<"$targets"
echo "fuzz: $count targets, $fuzztime each, $failed failed"
[ "$failed" = 0 ]

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

# fuzz runs one target. Before Go 1.27, fuzzing now and then ends with "context deadline exceeded" when its time is up while
# a worker is at it (golang.org/issue/75804); that is no finding, and the target has a second try.
fuzz() {
  output=$(go test -run '^$' -fuzz "^$2\$" -fuzztime "$fuzztime" "$1" 2>&1) && return
  grep -q 'context deadline exceeded' <<<"$output" && ! grep -q 'Failing input' <<<"$output" || return 1
  output=$(go test -run '^$' -fuzz "^$2\$" -fuzztime "$fuzztime" "$1" 2>&1)
}

failed=0 count=0
while read -r package name; do
  count=$((count + 1))
  if fuzz "$package" "$name"; then
    echo "fuzz: ok    ${package#github.com/tablexport/tablexport/} $name  $(grep -o 'execs: [0-9]*' <<<"$output" | tail -1)"
  else
    failed=$((failed + 1))
    printf '%s\n' "$output"
    # The input itself, for where only this output is left, as on a CI machine.
    input=$(sed -n 's/^ *Failing input written to //p' <<<"$output" | tail -1)
    [ -z "$input" ] || cat "$(go list -f '{{.Dir}}' "$package")/$input" || true
    echo "fuzz: FAIL  ${package#github.com/tablexport/tablexport/} $name"
  fi
done <<<"$targets"
echo "fuzz: $count targets, $fuzztime each, $failed failed"
[ "$failed" = 0 ]

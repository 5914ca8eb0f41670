#!/usr/bin/env bash
# Everything that a change has to pass, as CI runs it. All steps run even when one fails; the summary at the end says
# what ran, what was skipped and why, and the exit code is 0 only when every step that ran passed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
export TABLEXPORT_REQUIRE_SERVERS=1

summary=() notes=() passed=0 failed=0 skipped=0
output=$(mktemp)
trap 'rm -f "$output"' EXIT

# step NAME COMMAND...
step() {
  local name=$1 start=$SECONDS verdict=ok
  shift
  printf '\n==> %s\n' "$name"
  if "$@"; then
    passed=$((passed + 1))
  else
    verdict=FAIL
    failed=$((failed + 1))
  fi
  summary+=("$(printf '%-7s %4d s  %s' "$verdict" "$((SECONDS - start))" "$name")" ${notes[@]+"${notes[@]}"})
  notes=()
}

# skip NAME REASON
skip() {
  skipped=$((skipped + 1))
  printf '\n==> %s: skipped, %s\n' "$1" "$2"
  summary+=("$(printf '%-7s %4d s  %s: %s' skipped 0 "$1" "$2")")
}

formatted() {
  local files
  files=$(find . -name '*.go' -not -path './.git/*' -print0 | xargs -0 gofmt -l) || return
  [ -z "$files" ] && return
  echo "gofmt would change (make fmt):"
  echo "$files"
  return 1
}

# The root module's packages: "./..." leaves out directories that begin with a dot.
packages=(./... ./.ci/bench ./.ci/gotest)

# The modules below the root's, and the programs that are run from their source file.
nested() {
  local module program
  for program in .ci/*/main.go; do
    [ -e "${program%main.go}go.mod" ] || go vet "./${program%/main.go}" || return
  done
  find . -mindepth 2 -name go.mod -not -path './.git/*' | while read -r module; do
    echo "${module%/go.mod}"
    # Built as tools.sh builds, so that nothing is compiled twice.
    (cd "$(dirname "$module")" && go vet -trimpath ./... && go build -trimpath -o /dev/null ./...) || return
  done
}

# The tests' own last lines, what was skipped and why, go into the summary too.
tests() {
  local code
  go run .ci/gotest/main.go "$@" 2>&1 | tee "$output"
  code=${PIPESTATUS[0]}
  while IFS= read -r line; do notes+=("          $line"); done < <(sed -n '/^[0-9]* packages in /,$ {/^exit status/d; p}' "$output")
  return "$code"
}

scripts() { shellcheck .ci/run .ci/*.sh configs/deploy/compose/*.sh; }

# configs/deploy, judged by the parsers of those who run it, and the judge by files that are wrong.
deployment() { (cd .ci/deploy && go test ./... && go run . ../../configs/deploy); }

lint() { "$(.ci/tools.sh --dir)/bin/golangci-lint" run "${packages[@]}"; }

step "servers, readers and tools" .ci/tools.sh versitygw vaultserver readers golangci-lint
if command -v promtool >/dev/null; then
  step "alert rules" promtool check rules docs/monitoring/alerts.yaml
else
  skip "alert rules" "no promtool; jobs/status tests their metrics and labels"
fi
step "gofmt" formatted
step "go mod verify" go mod verify
step "go mod tidy -diff" go mod tidy -diff
step "go vet" go vet ./...
step "golangci-lint" lint
step "nested modules" nested
step "deployment: Dockerfile, Kubernetes, Compose" deployment
if command -v systemd-analyze >/dev/null; then
  step "deployment: systemd unit" .ci/unit.sh
else
  skip "deployment: systemd unit" "no systemd-analyze (Debian: apt-get install systemd)"
fi
if command -v shellcheck >/dev/null; then
  step "shellcheck" scripts
else
  skip "shellcheck" "it is not installed (Debian: apt-get install shellcheck)"
fi
# The status pages as people see them. TABLEXPORT_SCREENSHOTS keeps the pictures.
browser() {
  local dir code
  dir=$(mktemp -d)
  CGO_ENABLED=0 go build -o "$dir/tablexport" ./cmd/tablexport &&
    (cd .ci/browser && go test -count=1 ./... -args -program "$dir/tablexport" -axe "$axe" -screenshots "${TABLEXPORT_SCREENSHOTS:-}")
  code=$?
  rm -rf "$dir"
  return "$code"
}
axe=
if command -v chromium >/dev/null || command -v google-chrome >/dev/null; then
  if .ci/tools.sh axe; then axe=$(.ci/tools.sh --dir)/bin/axe.min.js; fi
  step "status pages in Chromium, $([ -n "$axe" ] && echo with || echo without) accessibility rules" browser
else
  skip "status pages in Chromium" "it is not installed (Debian: apt-get install chromium)"
fi
step "go test, all servers required" tests -timeout 20m "${packages[@]}"
step "go test -race, all servers required" tests -race -timeout 20m "${packages[@]}"
# By itself: beside the other tests it would take as long as they do.
spark() { TABLEXPORT_SPARK=1 go test -count=1 -v -run '^TestSparkReads$' ./export; }
if command -v javac >/dev/null && command -v mvn >/dev/null && .ci/tools.sh spark; then
  step "Spark and parquet-mr read what is written" spark
else
  skip "Spark and parquet-mr read what is written" "no JDK and Maven, or Maven Central does not answer"
fi
if [ -e .ci/bench/recorded.json ]; then
  step "speed, against the recorded ratios" .ci/bench.sh --check
else
  skip "speed" "no ratios are recorded (.ci/bench.sh --record, on a quiet machine)"
fi
step "fuzz, ${FUZZTIME:-5s} a target" .ci/fuzz.sh

printf '\n==> summary\n'
printf '%s\n' "${summary[@]}"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]

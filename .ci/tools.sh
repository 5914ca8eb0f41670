#!/usr/bin/env bash
# Brings the servers, readers and tools that the tests and checks use into a cache directory outside the tree, each at
# a pinned version. What is there already at that version is left alone.
#
#   .ci/tools.sh [NAME...]            NAME: versitygw vaultserver readers golangci-lint axe minio peer spark
#   .ci/tools.sh --status [NAME...]   says what is there and installs nothing
#   .ci/tools.sh --dir                prints the cache directory
#
# Without a name: versitygw vaultserver readers golangci-lint. The cache directory is $TABLEXPORT_CACHE, or tablexport
# below the user's cache directory.
set -euo pipefail

VERSITYGW=v1.8.0                                  # S3 server, Apache-2.0
MINIO=v0.0.0-20260212201848-7aac2a2c5b7c          # a second S3 server, AGPL: run, never linked
GOLANGCI_LINT=v2.15.0
AXE=4.14.1                                        # accessibility rules, MPL-2.0: run in a test's browser, never shipped
AXE_SHA512=1477dafa598d8d065f273d6af302aa203c02e83131707b7fa648cd41bd3d6b734f8c22a0dab86ee6a6f64b8afbe804b214d36db85a2826965edfb3a0b9d546b5

MAVEN_DEPENDENCY=3.8.1                            # the plugin that fetches Spark's jars
PEER=1.5.6                                        # the DuckDB that the bars of the benchmark were set by; the readers have a newer one

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

cache_dir() {
  if [ -n "${TABLEXPORT_CACHE:-}" ]; then
    echo "$TABLEXPORT_CACHE"
  elif [ "$(uname)" = Darwin ]; then
    echo "$HOME/Library/Caches/tablexport"
  else
    echo "${XDG_CACHE_HOME:-$HOME/.cache}/tablexport"
  fi
}

cache=$(cache_dir)
case $cache in
/*) ;;
*)
  echo "tools.sh: TABLEXPORT_CACHE must be an absolute path, it is $cache" >&2
  exit 2 ;;
esac
bin=$cache/bin

# ensure NAME FILE VERSION DETAIL COMMAND...: runs COMMAND, which puts FILE into place, unless FILE was installed for the
# same VERSION and DETAIL before. COMMAND has a scratch directory in $tmp. Two sessions that want one thing take turns.
ensure() {
  local name=$1 file=$2 version=$3 key="$3 $4" stamp=$cache/stamps/$1 start=$SECONDS
  shift 4
  if [ -n "$status" ]; then
    if [ ! -e "$file" ]; then
      printf '%-14s %s: not installed, the tests that need it are skipped (make servers)\n' "$name" "$version"
    elif [ "$(cat "$stamp" 2>/dev/null)" = "$key" ]; then
      printf '%-14s %s: ready\n' "$name" "$version"
    else
      printf '%-14s %s: another build is installed and used (make servers)\n' "$name" "$version"
    fi
    return
  fi
  mkdir -p "$bin" "$cache/stamps"
  if command -v flock >/dev/null; then
    exec 9>"$stamp.lock"
    flock 9
  fi
  if [ -e "$file" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$key" ]; then
    printf '%-14s %s: ready\n' "$name" "$version"
  else
    printf '%-14s %s: installing\n' "$name" "$version"
    rm -f "$stamp"
    tmp=$(mktemp -d "$cache/.$name.XXXXXX")
    trap 'rm -rf "$tmp"' EXIT
    "$@"
    rm -rf "$tmp"
    echo "$key" >"$stamp"
    printf '%-14s %s: ready after %d s\n' "$name" "$version" "$((SECONDS - start))"
  fi
  if command -v flock >/dev/null; then exec 9>&-; fi
}

# The go command as released, whatever module and settings the caller stands in.
go_clean() { (cd "$tmp" && env -u GOFLAGS GOWORK=off GO111MODULE=on go "$@"); }

# from_module NAME PACKAGE@VERSION
from_module() {
  GOBIN=$tmp go_clean install -trimpath "$2"
  mv -f "$tmp/$1" "$bin/$1"
}

build_vaultserver() {
  (cd "$here/vaultserver" && GOWORK=off go build -trimpath -buildvcs=false -o "$tmp/vaultserver" .)
  mv -f "$tmp/vaultserver" "$bin/vaultserver"
}

# A virtual environment is made where it stays: its scripts hold absolute paths.
build_readers() {
  if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    echo "readers: Python 3.11 or newer with venv and pip is needed (Debian: apt-get install python3-venv)" >&2
    exit 1
  fi
  rm -rf "$cache/venv"
  python3 -m venv "$cache/venv"
  "$cache/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --only-binary=:all: \
    -r "$here/readers/requirements.txt"
}

build_peer() {
  rm -rf "$cache/peer"
  python3 -m venv "$cache/peer"
  "$cache/peer/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --only-binary=:all: "duckdb==$PEER"
}

# Spark and Delta's own library, from Maven Central, and the program that asks them. 280 MB.
build_spark() {
  if ! command -v mvn >/dev/null || ! command -v javac >/dev/null; then
    echo "spark: Maven and a JDK 17 are needed (Debian: apt-get install maven openjdk-17-jdk-headless)" >&2
    exit 1
  fi
  mvn -q -B -f "$here/readers/spark/pom.xml" "org.apache.maven.plugins:maven-dependency-plugin:$MAVEN_DEPENDENCY:copy-dependencies" \
    -DincludeScope=runtime -DoutputDirectory="$tmp/spark/jars" >&2
  javac --release 17 -cp "$tmp/spark/jars/*" -d "$tmp/spark/classes" "$here/readers/spark/Judge.java"
  rm -rf "$cache/spark"
  mv "$tmp/spark" "$cache/spark"
}

# build_axe takes the rules from the npm registry, as a file; no npm is needed.
build_axe() {
  curl -fsSL --retry 3 "https://registry.npmjs.org/axe-core/-/axe-core-$AXE.tgz" -o "$tmp/axe.tgz"
  echo "$AXE_SHA512  $tmp/axe.tgz" | sha512sum -c --quiet
  tar -xzf "$tmp/axe.tgz" -C "$tmp" package/axe.min.js
  mv -f "$tmp/package/axe.min.js" "$bin/axe.min.js"
}

tool() {
  local name=$1 go version sources
  go=$(go env GOVERSION)
  case $name in
  versitygw)
    ensure "$name" "$bin/$name" "$VERSITYGW" "" from_module "$name" "github.com/versity/versitygw/cmd/versitygw@$VERSITYGW" ;;
  minio)
    ensure "$name" "$bin/$name" "$MINIO" "" from_module "$name" "github.com/minio/minio@$MINIO" ;;
  golangci-lint) # a linter that an older Go built cannot read newer code
    ensure "$name" "$bin/$name" "$GOLANGCI_LINT" "$go" \
      from_module "$name" "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$GOLANGCI_LINT" ;;
  vaultserver)
    version=$(sed -n 's/.*hashicorp\/vault \(v[0-9.]*\)$/\1/p' "$here/vaultserver/go.mod")
    sources=$(cat "$here"/vaultserver/go.mod "$here"/vaultserver/go.sum "$here"/vaultserver/*.go | cksum)
    ensure "$name" "$bin/$name" "$version" "$sources" build_vaultserver ;;
  readers)
    version=$(grep -E '^(deltalake|duckdb|pyarrow)==' "$here/readers/requirements.txt" | paste -sd, -)
    sources="$(cksum <"$here/readers/requirements.txt") $(python3 --version 2>&1)"
    ensure "$name" "$cache/venv/bin/python" "$version" "$sources" build_readers ;;
  peer)
    ensure "$name" "$cache/peer/bin/python" "duckdb==$PEER" "$(python3 --version 2>&1)" build_peer ;;
  spark)
    version=$(sed -n 's/.*<version>\([0-9.]*\.[0-9.]*\)<.*/\1/p' "$here/readers/spark/pom.xml" | paste -sd, -)
    ensure "$name" "$cache/spark/classes/Judge.class" "$version" "$(cat "$here"/readers/spark/* | cksum)" build_spark ;;
  axe)
    ensure "$name" "$bin/axe.min.js" "$AXE" "" build_axe ;;
  *)
    echo "tools.sh: no tool is called $name" >&2
    exit 2 ;;
  esac
}

status=
case ${1:-} in
--dir) echo "$cache"; exit ;;
--status) status=1; shift ;;
-h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;;
esac
[ $# -gt 0 ] || set -- versitygw vaultserver readers golangci-lint
for name in "$@"; do tool "$name"; done

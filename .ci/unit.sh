#!/usr/bin/env bash
# Judges the systemd unit: that systemd understands every line of it, and that what it leaves open is little. The program is built and
# put in the unit's place for it, because systemd looks whether it can be started.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unit=configs/deploy/tablexport.service
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
CGO_ENABLED=0 go build -o "$work/tablexport" ./cmd/tablexport
sed "s|/usr/local/bin/tablexport|$work/tablexport|" "$unit" >"$work/tablexport.service"
said=$(systemd-analyze verify "$work/tablexport.service" 2>&1) || { echo "$said"; exit 1; }
if [ -n "$said" ]; then # what it ignores, it only warns of
  echo "$said"
  exit 1
fi
systemd-analyze security --offline=true --threshold=15 "$work/tablexport.service" | tail -1

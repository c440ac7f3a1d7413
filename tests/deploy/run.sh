#!/bin/bash
# Runs a test of deploy/ with its tools: those of tests/deploy/requirements.lock, and Debian's Prometheus.
#
# Usage: run.sh TEST.py [ARGUMENT...]     77 where the tools are not installed (scripts/test.sh installs them)
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/lib.sh"

venv=$(deploy_venv)
PATH="$venv/bin:$(cache_dir)/tools:$PATH"
export PATH
if [[ ! -f $venv/made-from ]] || ! command -v promtool >/dev/null || ! command -v prometheus >/dev/null; then
  echo "the tools are not here: scripts/test.sh installs them" >&2
  exit 77
fi
test=$1
shift
exec python3 -B "$test" "$@"

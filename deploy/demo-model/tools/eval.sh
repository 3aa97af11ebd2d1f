#!/usr/bin/env bash
# make demo-eval: the demo model's figures through Fathom. Argument: the folder of fathomd.
set -euo pipefail
bin=$(cd "$1" && pwd)
cd "$(dirname "$0")"
exec python3 eval.py --bin "$bin" "${@:2}"

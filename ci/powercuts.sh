#!/usr/bin/env bash
# Simulates power cuts exhaustively: after every prefix of what each command writes, with many orders of the writes that
# no sync has put in order.
#
#   ci/powercuts.sh [ORDERS [SEED]]      random orders for each prefix (20), and their seed (the time)
#
# PYTHON is an interpreter (python3) with pogfast and the packages that its tests need. strace must be installed; the
# tests on loop devices need root. Pass arguments to pytest in PYTEST_ADDOPTS.
set -euo pipefail
cd "$(dirname "$0")/../tests"
export POGFAST_POWER_CUTS=0 POGFAST_POWER_CUT_ORDERS=${1:-20} POGFAST_POWER_CUT_SEED=${2:-$(date +%s)}
echo "seed $POGFAST_POWER_CUT_SEED"
exec "${PYTHON:-python3}" -m pytest -q -rs -p no:cacheprovider test_power_cuts.py

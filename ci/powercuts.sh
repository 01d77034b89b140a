#!/usr/bin/env bash
# Plays power cuts in full: every prefix of what each command writes, and many orders of what no sync has put in order.
#
#   ci/powercuts.sh [ORDERS [SEED]]      random orders of each prefix (20), and what they are chosen by (the time)
#
# PYTHON is the interpreter of an environment with pogfast and its tests' packages; strace must be installed, and for
# the loop devices root. Arguments of pytest go into PYTEST_ADDOPTS.
set -euo pipefail
cd "$(dirname "$0")/../tests"
export POGFAST_POWER_CUTS=0 POGFAST_POWER_CUT_ORDERS=${1:-20} POGFAST_POWER_CUT_SEED=${2:-$(date +%s)}
echo "seed $POGFAST_POWER_CUT_SEED"
exec "${PYTHON:-python3}" -m pytest -q -rs -p no:cacheprovider test_power_cuts.py

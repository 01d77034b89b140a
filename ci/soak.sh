#!/usr/bin/env bash
# Prunes and backups that meet, for a while: soak.sh [MINUTES [SEED]]
#
# Random schedules in rounds, on a directory and on S3, until MINUTES (20) are over; then the known ones, at more steps
# than in a test. Each round prints its seed, and `soak.sh 0 SEED` runs that round alone. A schedule that loses something
# is made small, and printed with every step. PYTHON (python3) has pogfast and what its tests need.
set -euo pipefail

minutes=${1:-20}
seed=${2:-$((RANDOM * 32768 + RANDOM))}
python=${PYTHON:-python3}
export POGFAST_SCHEDULES=800 # in a round on a directory; on S3 a sixteenth
cd "$(dirname "$0")/../tests"

run() { "$python" -m pytest -q -p no:cacheprovider --tb=short upkeep/test_sweeps.py "$@"; }

count=0
while :; do
  echo "soak: seed $seed"
  run -k no_schedule --hypothesis-seed="$seed"
  count=$((count + POGFAST_SCHEDULES + POGFAST_SCHEDULES / 16))
  echo "soak: $count schedules in $((SECONDS / 60)) minutes, none loses a blob"
  seed=$((seed + 1))
  ((SECONDS < minutes * 60)) || break
done
if ((minutes)); then run -k "not no_schedule"; fi

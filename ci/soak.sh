#!/usr/bin/env bash
# Runs prunes and backups against each other in random schedules, and then kills parts of a cluster at random moments.
#
#   ci/soak.sh [MINUTES [SEED]]
#
# Rounds on a directory and on S3, each without and with packs, for MINUTES (20); then the known schedules, with more steps than in a test run. Each
# round prints its seed, and `ci/soak.sh 0 SEED` repeats that round alone. A schedule that loses a blob is minimized and
# printed step by step. PYTHON is an interpreter (python3) with pogfast and the packages that its tests need.
set -euo pipefail

minutes=${1:-20}
seed=${2:-$((RANDOM * 32768 + RANDOM))}
python=${PYTHON:-python3}
export POGFAST_SCHEDULES=800 # in each round, on a directory, and as many with packs; a sixteenth of that on S3
cd "$(dirname "$0")/../tests"

run() { "$python" -m pytest -q -p no:cacheprovider --tb=short upkeep/test_sweeps.py "$@"; }

count=0
while :; do
  echo "soak: seed $seed"
  run -k no_schedule --hypothesis-seed="$seed"
  count=$((count + 2 * (POGFAST_SCHEDULES + POGFAST_SCHEDULES / 16)))
  echo "soak: $count schedules in $((SECONDS / 60)) minutes, none loses a blob"
  seed=$((seed + 1))
  ((SECONDS < minutes * 60)) || break
done
if ((minutes)); then
  run -k "not no_schedule"
  echo "soak: 30 campaigns of random kills on a cluster"
  POGFAST_CLUSTER_CAMPAIGNS=30 "$python" -m pytest -q -p no:cacheprovider --tb=short cluster/test_kills.py
fi

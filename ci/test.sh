#!/usr/bin/env bash
# Runs every check that a change must pass before it is merged, on a fresh build in a directory that is removed at the
# end: builds an sdist and a wheel from it, runs the quick start, lint and types, the engine's tests on a build with
# assertions, every benchmark once on tiny data, two minutes of fuzzing, and finally all tests on the installed wheel.
# What uses one core runs beside something else; its output comes when it has ended. The pages are tested in chromium
# where it is installed.
#
#   ci/test.sh [PYTEST-ARGUMENTS...]     arguments go to the last pytest
#
# Variables: PYTHON, the interpreter (python3); POGFAST_TEST_CACHE, a directory for the environments of the pogcli
# releases that the tests compare with, to keep them for the next run.
set -euo pipefail

cd "$(dirname "$0")/.."
checkout=$PWD
python=${PYTHON:-python3}
work=$(mktemp -d "${TMPDIR:-/tmp}/pogfast-test-XXXXXX")
trap 'kill $(jobs -p) 2>/dev/null || true; wait; chmod -R u+rwX "$work"; rm -rf "$work"' EXIT
export TMPDIR=$work
export POGFAST_TEST_CACHE=${POGFAST_TEST_CACHE:-$work/cache}
export HYPOTHESIS_STORAGE_DIRECTORY=$work/hypothesis
export PIP_DISABLE_PIP_VERSION_CHECK=1
# Two workers more than cores, because tests wait for disks, servers and processes as long as they compute.
PYTEST_XDIST_AUTO_NUM_WORKERS=$(($("$python" -c 'import os; print(os.cpu_count())') + 2))
export PYTEST_XDIST_AUTO_NUM_WORKERS

say() { printf '\n==== %s\n' "$1"; }

# ended JOB LOG: waits for a background job, prints its output and returns its exit code.
ended() {
  code=0
  wait "$1" || code=$?
  cat "$2"
  return "$code"
}

# run_tests ENVIRONMENT PYTEST-ARGUMENTS...: runs pytest where `import pogfast` finds the installed package, not the source.
run_tests() (
  venv=$1
  shift
  cd "$checkout/tests"
  "$venv/bin/python" - <<'PROGRAM'
import pogfast, pogfast._engine
for module in (pogfast, pogfast._engine):
    assert "site-packages" in module.__file__, module.__file__
PROGRAM
  "$venv/bin/python" -m pytest -q -p no:cacheprovider "$@"
)

say "building an sdist, and a wheel from it"
"$python" -m venv "$work/build"
"$work/build/bin/pip" install --quiet build
"$work/build/bin/python" -m build --outdir "$work/dist" "$checkout" >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
sdist=("$work"/dist/*.tar.gz)
wheel=("$work"/dist/*.whl)
POGFAST_VENV=$work/quickstart ci/quickstart.sh >"$work/quickstart.log" 2>&1 &
quickstart=$!
"$python" -m venv "$work/wheel"
extras=test,lint
if command -v "${POGFAST_TEST_CHROMIUM:-chromium}" chromium-browser >/dev/null; then extras+=,browser; fi
"$work/wheel/bin/pip" install --quiet "${wheel[0]}[$extras]"

# Without clang and with a fixed seed, so that every machine and run fuzzes alike; ci/fuzz.sh alone does neither.
CLANG=none POGFAST_FUZZ_PACKAGE=${wheel[0]} POGFAST_FUZZ_SEED=1 PYTHONHASHSEED=0 PYTHON=$python \
  ci/fuzz.sh 2 >"$work/fuzz.log" 2>&1 &
fuzzing=$!

say "the quick start"
ended "$quickstart" "$work/quickstart.log"

say "lint and types"
"$work/wheel/bin/ruff" check .
"$work/wheel/bin/mypy" --strict pogfast tests/facade_types.py tests/kit

benches() {
  run_tests "$work/wheel" --benchmark-disable "$checkout/bench"
  for bench in compare durability kernels limit model level services archives cluster; do
    "$work/wheel/bin/python" "bench/$bench.py" --scale 0.002 --runs 1 --dir "$work/bench"
  done
}
benches >"$work/benches.log" 2>&1 &
benches=$!

say "the engine's tests on a build with assertions"
"$python" -m venv "$work/debug"
POGFAST_DEBUG=1 "$work/debug/bin/pip" install --quiet "${sdist[0]}[test]"
POGFAST_TEST_QUICK=1 run_tests "$work/debug" -n auto --dist worksteal engine test_identity.py test_vectors.py

say "every benchmark once, on tiny data"
ended "$benches" "$work/benches.log"

say "two minutes of fuzzing"
ended "$fuzzing" "$work/fuzz.log"

say "the tests on the wheel"
run_tests "$work/wheel" -n auto --dist worksteal . "$@"

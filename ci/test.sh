#!/usr/bin/env bash
# All that must hold before a change is kept, from nothing, in a directory that is removed at the end: the quick start,
# an sdist and the wheel made from it, lint and types, the engine's tests on a build with checks, every benchmark once on tiny
# data, and at last the whole tests on the installed wheel. Arguments go to that last pytest.
#
# PYTHON is the interpreter (python3); POGFAST_TEST_CACHE a directory for the environments of the pogcli releases that
# the tests compare with, when they are to be kept.
set -euo pipefail

cd "$(dirname "$0")/.."
checkout=$PWD
python=${PYTHON:-python3}
work=$(mktemp -d "${TMPDIR:-/tmp}/pogfast-test-XXXXXX")
trap 'chmod -R u+rwX "$work"; rm -rf "$work"' EXIT
export TMPDIR=$work
export POGFAST_TEST_CACHE=${POGFAST_TEST_CACHE:-$work/cache}
export HYPOTHESIS_STORAGE_DIRECTORY=$work/hypothesis
export PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf '\n==== %s\n' "$1"; }

# run_tests ENVIRONMENT PYTEST-ARGUMENTS...: from a directory where `import pogfast` cannot find the source.
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

say "the quick start"
POGFAST_VENV=$work/quickstart ci/quickstart.sh

say "an sdist, and the wheel from it"
"$python" -m venv "$work/build"
"$work/build/bin/pip" install --quiet build
"$work/build/bin/python" -m build --outdir "$work/dist" "$checkout" >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
sdist=("$work"/dist/*.tar.gz)
wheel=("$work"/dist/*.whl)
"$python" -m venv "$work/wheel"
"$work/wheel/bin/pip" install --quiet "${wheel[0]}[test,lint]"

say "lint and types"
"$work/wheel/bin/ruff" check .
"$work/wheel/bin/mypy" --strict pogfast

say "the engine's tests on a build with checks"
"$python" -m venv "$work/debug"
POGFAST_DEBUG=1 "$work/debug/bin/pip" install --quiet "${sdist[0]}[test]"
POGFAST_TEST_QUICK=1 run_tests "$work/debug" -n auto --dist loadfile \
  test_behind.py test_engine.py test_frames.py test_identity.py test_kernels.py test_opener.py test_vectors.py

say "every benchmark once, on tiny data"
run_tests "$work/wheel" --benchmark-disable "$checkout/bench"
"$work/wheel/bin/python" bench/compare.py --scale 0.002 --runs 1 --dir "$work/bench"
"$work/wheel/bin/python" bench/limit.py --scale 0.002 --runs 1 --dir "$work/bench"
"$work/wheel/bin/python" bench/model.py --scale 0.002 --runs 1 --dir "$work/bench"
"$work/wheel/bin/python" bench/level.py --scale 0.002 --runs 1 --dir "$work/bench"
"$work/wheel/bin/python" bench/services.py --scale 0.002 --runs 1 --dir "$work/bench"

say "the tests on the wheel"
run_tests "$work/wheel" -n auto --dist loadfile . "$@"

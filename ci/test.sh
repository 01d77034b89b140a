#!/usr/bin/env bash
# Runs all tests, from nothing: builds the source distribution, a wheel from it, and tests the installed wheel in an
# environment of its own; then the same on the debug build. Needs Python 3.11 or later and a C compiler.
#   ci/test.sh [DIR]     DIR holds the environments and builds; a new temporary directory without it
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
if [ $# -gt 0 ]; then
    work=$1
    mkdir -p "$work"
    work=$(cd "$work" && pwd)
else
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
fi
say() { printf '\n== %s\n' "$*"; }

say "sdist and wheel"
"$python" -m venv "$work/build"
"$work/build/bin/python" -m pip install -q --upgrade pip build
rm -rf "$work/dist"
"$work/build/bin/python" -m build -q --outdir "$work/dist" "$root"      # the wheel is built from the sdist
ls "$work/dist"

say "the wheel, in an empty environment"
"$python" -m venv --clear "$work/venv"
"$work/venv/bin/python" -m pip install -q --upgrade pip
"$work/venv/bin/python" -m pip install -q "$(echo "$work"/dist/*.whl)[test,lint]"
cp -r "$root/tests" "$root/bench" "$root/README.md" "$root/pyproject.toml" "$root/ci" "$work/venv/"
cd "$work/venv"                                                          # not the checkout: `import pogfast` is the wheel
bin/python -c 'import pogfast, sys; assert "site-packages" in pogfast.__file__, pogfast.__file__'
bin/python -m pogfast.selftest

say "ruff and mypy"
bin/ruff check "$root"
(cd "$root" && "$work/venv/bin/mypy" --cache-dir "$work/mypy" pogfast)

say "quickstart"
PYTHON=$python bash "$root/ci/quickstart.sh" "$work/quickstart"

say "every benchmark once, on tiny input"
bin/python -m pytest -q bench --benchmark-disable -p no:cacheprovider
bin/python bench/compare.py --scale 0.002 --runs 1 --dir "$work/bench"

say "the tests, on the debug build"
"$python" -m venv --clear "$work/debug"
"$work/debug/bin/python" -m pip install -q --upgrade pip
POGFAST_DEBUG=1 "$work/debug/bin/python" -m pip install -q "$root[test]"
POGFAST_TEST_QUICK=1 "$work/debug/bin/python" -m pytest -q tests -p no:cacheprovider

say "the tests"
bin/python -m pytest tests -p no:cacheprovider

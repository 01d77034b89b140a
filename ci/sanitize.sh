#!/usr/bin/env bash
# Runs the engine's tests on a build with the compiler's sanitizers, in a directory that is removed at the end.
#
#   ci/sanitize.sh address [MINUTES]     memory errors and undefined behavior (ASan and UBSan)
#   ci/sanitize.sh thread [MINUTES]      data races (TSan)
#
# The tests are repeated with other random examples until MINUTES have passed; 0, the default, runs them once. What the
# sanitizers find is printed at the end, and the exit code is 1.
#
# Variables: PYTHON, the interpreter (python3); CC, the compiler (cc), which must be gcc, or clang with its sanitizers'
# libraries (the TSan of clang 14 crashes in any program that was not built with it, before its first line);
# POGFAST_SANITIZE_TESTS, the test files or folders to run.
set -euo pipefail

cd "$(dirname "$0")/.."
checkout=$PWD
python=${PYTHON:-python3}
compiler=${CC:-cc}
kind=${1:-}
minutes=${2:-0}
# These call the engine from threads and with hostile bytes; other tests reach no engine code that these do not.
tests=${POGFAST_SANITIZE_TESTS:-engine test_vectors.py}

case $kind in
  address) flags=address,undefined library=libasan.so ;;
  thread) flags=thread library=libtsan.so ;;
  *)
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
if "$compiler" --version | grep -q clang; then
  library=libclang_rt.${library#lib}
  library=${library%.so}-$(uname -m).so
fi
runtime=$("$compiler" "-print-file-name=$library")
[ -e "$runtime" ] || { echo "sanitize: $compiler has no $library" >&2; exit 1; }

work=$(mktemp -d "${TMPDIR:-/tmp}/pogfast-sanitize-XXXXXX")
trap 'chmod -R u+rwX "$work"; rm -rf "$work"' EXIT
export TMPDIR=$work HYPOTHESIS_STORAGE_DIRECTORY=$work/hypothesis PIP_DISABLE_PIP_VERSION_CHECK=1
export POGFAST_TEST_CACHE=${POGFAST_TEST_CACHE:-$work/cache}

mkdir "$work/source" "$work/found"
cp -r ext pogfast setup.py pyproject.toml README.md LICENSE MANIFEST.in "$work/source"
rm -f "$work"/source/pogfast/*.so "$work/source/ext/engine.c"
"$python" -m venv "$work/venv"
POGFAST_SANITIZE=$flags "$work/venv/bin/pip" install --quiet "$work/source[test]"

# PYTHONMALLOC=malloc: the sanitizers see Python's buffers too. No leak detection: Python keeps memory until it ends.
# Allocations that are too large must fail as they do without a sanitizer.
export PYTHONMALLOC=malloc
options="log_path=$work/found/report:allocator_may_return_null=1:max_allocation_size_mb=8192"
export ASAN_OPTIONS="$options:detect_leaks=0:detect_stack_use_after_return=1:strict_string_checks=1"
export UBSAN_OPTIONS="log_path=$work/found/report:print_stacktrace=1:halt_on_error=1"
# die_after_fork=0: some tests fork in a process with threads, and start threads in the child.
export TSAN_OPTIONS="die_after_fork=0:log_path=$work/found/report:allocator_may_return_null=1:history_size=5:second_deadlock_stack=1"

cd "$checkout/tests"
code=0
until=$(($(date +%s) + minutes * 60))
rounds=0
while :; do
  # setarch -R: without address space randomization, since sanitizers need fixed address ranges to be free.
  # shellcheck disable=SC2086
  setarch -R env "LD_PRELOAD=$runtime" "$work/venv/bin/python" -m pytest -q -p no:cacheprovider -n "${POGFAST_SANITIZE_JOBS:-2}" \
    --dist loadfile $tests || code=1
  rounds=$((rounds + 1))
  [ "$code" = 0 ] && [ "$(date +%s)" -lt "$until" ] || break
done
if compgen -G "$work/found/*" >/dev/null; then
  cat "$work"/found/*
  code=1
fi
echo "sanitize: $kind, $rounds rounds, $([ "$code" = 0 ] && echo nothing found || echo see above)"
exit "$code"

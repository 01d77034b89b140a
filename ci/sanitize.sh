#!/usr/bin/env bash
# The engine's tests on a build with the compiler's sanitizers, in a directory that is removed at the end.
#
#   ci/sanitize.sh address [MINUTES]     memory errors and undefined behavior (ASan and UBSan)
#   ci/sanitize.sh thread [MINUTES]      data races (TSan)
#
# MINUTES: the tests are repeated, with other random examples each time, until so many have passed; 0 is once.
# PYTHON is the interpreter (python3), CC the compiler (cc; it must be gcc, or clang with its sanitizers' libraries. The
# TSan of clang 14 crashes in any program that was not built with it, before its first line).
# POGFAST_SANITIZE_TESTS says which tests are run, by file or folder. What is found is printed at the end, and the exit code is 1.
set -euo pipefail

cd "$(dirname "$0")/.."
checkout=$PWD
python=${PYTHON:-python3}
compiler=${CC:-cc}
kind=${1:-}
minutes=${2:-0}
# The tests that call the engine in threads and with hostile bytes; the others reach the same code by way of these.
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

# Python's own memory comes from malloc, so that its buffers are watched too. What Python keeps until it ends is no leak.
# A wish for more memory than there is must fail as it does without a sanitizer.
export PYTHONMALLOC=malloc
options="log_path=$work/found/report:allocator_may_return_null=1:max_allocation_size_mb=8192"
export ASAN_OPTIONS="$options:detect_leaks=0:detect_stack_use_after_return=1:strict_string_checks=1"
export UBSAN_OPTIONS="log_path=$work/found/report:print_stacktrace=1:halt_on_error=1"
# Some tests fork in a process with threads, and start threads in the child.
export TSAN_OPTIONS="die_after_fork=0:log_path=$work/found/report:allocator_may_return_null=1:history_size=5:second_deadlock_stack=1"

cd "$checkout/tests"
code=0
until=$(($(date +%s) + minutes * 60))
rounds=0
while :; do
  # The addresses of a process are not shuffled: sanitizers need room where they expect it.
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

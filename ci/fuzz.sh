#!/usr/bin/env bash
# Fuzzes everything that parses foreign bytes for MINUTES in total: each target in tests/fuzz/targets.py, or those that
# are given, one after the other.
#
#   ci/fuzz.sh MINUTES [TARGET...]
#
# With clang the engine is built with AddressSanitizer, and coverage of its code guides the fuzzer as coverage of Python
# code does; without clang only Python's does. Without atheris for this Python and machine nothing is fuzzed, but
# tests/project/test_fuzz.py replays the corpus everywhere. If something fails, the exit code is 1 and the input is
# printed in base64. Save it as a file to reproduce it with `tests/fuzz/replay.py TARGET FILE`; in
# tests/fuzz/corpus/TARGET it becomes a permanent test.
#
# Variables: PYTHON, the interpreter (python3); CLANG, the compiler (clang or clang-14); POGFAST_FUZZ_DIR, a directory
# to keep the corpus, log and failures of each target, from which the next run continues; POGFAST_FUZZ_SEED, to fuzz the
# same inputs in each run, as far as the time allows; POGFAST_FUZZ_PACKAGE, a wheel of pogfast to fuzz instead of a build.
set -euo pipefail

cd "$(dirname "$0")/.."
checkout=$PWD
python=${PYTHON:-python3}
# shellcheck disable=SC2086
clang=$(command -v ${CLANG:-clang clang-14} | head -n 1 || true)
[ $# -ge 1 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '$d' >&2; exit 2; }
seconds=$(($1 * 60))
shift

work=$(mktemp -d "${TMPDIR:-/tmp}/pogfast-fuzz-XXXXXX")
memory=/dev/shm
[ -w $memory ] || memory=$work
POGFAST_FUZZ_SANDBOX=$(mktemp -d "$memory/pogfast-fuzz-XXXXXX")
export POGFAST_FUZZ_SANDBOX
trap 'chmod -R u+rwX "$work" "$POGFAST_FUZZ_SANDBOX"; rm -rf "$work" "$POGFAST_FUZZ_SANDBOX"' EXIT
export TMPDIR=$work PIP_DISABLE_PIP_VERSION_CHECK=1
kept=${POGFAST_FUZZ_DIR:-$work/kept}

package=${POGFAST_FUZZ_PACKAGE:-$work/source}
mkdir "$work/source"
cp -r ext pogfast setup.py pyproject.toml README.md LICENSE MANIFEST.in "$work/source"
rm -f "$work"/source/pogfast/*.so "$work/source/ext/engine.c"
"$python" -m venv "$work/venv"
[ -z "$clang" ] || export CC=$clang POGFAST_SANITIZE=address,fuzzer-no-link
"$work/venv/bin/pip" install --quiet "$package[fuzz]"
if ! "$work/venv/bin/python" -c "import atheris" 2>/dev/null; then
  echo "fuzz: atheris is not available for this Python and machine: nothing is fuzzed"
  exit 0
fi

run=("$work/venv/bin/python")
if [ -n "$clang" ]; then
  # PYTHONMALLOC=malloc: Python's small buffers come from malloc too, so that the sanitizer sees them.
  library=$("$work/venv/bin/python" -c "import atheris; print(atheris.path())")/asan_with_fuzzer.so
  export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=4096 PYTHONMALLOC=malloc
  run=(setarch -R env "LD_PRELOAD=$library" "${run[@]}")
fi

targets=("$@")
[ $# -gt 0 ] || mapfile -t targets < <(sed -n 's/^def \([a-z]*\)(data: bytes) -> None:$/\1/p' tests/fuzz/targets.py)
code=0
for target in "${targets[@]}"; do
  mkdir -p "$kept/corpus/$target" "$kept/found"
  ran=0
  "${run[@]}" tests/fuzz/run.py "$target" -max_total_time=$((seconds / ${#targets[@]})) -print_final_stats=1 \
    -seed="${POGFAST_FUZZ_SEED:-0}" -max_len=8192 -timeout=60 -rss_limit_mb=3072 -artifact_prefix="$kept/found/$target-" -verbosity=0 \
    "$kept/corpus/$target" "$checkout/tests/fuzz/corpus/$target" >"$kept/$target.log" 2>&1 || ran=$?
  executed=$(sed -n 's/^stat::number_of_executed_units: *//p' "$kept/$target.log")
  echo "fuzz: $target: ${executed:-?} executions, $([ $ran = 0 ] && echo nothing found || echo "failed, see below")"
  [ $ran = 0 ] || { tail -n 40 "$kept/$target.log"; code=1; }
done
exit $code

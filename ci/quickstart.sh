#!/usr/bin/env bash
# Builds pogfast in an environment of its own, makes a key pair, archives a directory, checks the archive and restores
# it, and prints how long each step took.
#
#   ci/quickstart.sh [DIRECTORY]      DIRECTORY: what to archive (default: part of this project's source)
#
# Variables: PYTHON, the interpreter (python3); POGFAST_VENV, the environment (.venv in the checkout).
set -euo pipefail

given=${1:-}
if [ -n "$given" ]; then
  given=$(cd "$given" && pwd)
fi
cd "$(dirname "$0")/.."
checkout=$PWD
python=${PYTHON:-python3}
venv=${POGFAST_VENV:-$checkout/.venv}

step() { # step WHAT COMMAND...: prints WHAT, runs COMMAND, prints how long it took
  printf '\n== %s\n' "$1"
  shift
  local TIMEFORMAT='   took %R s'
  { time "$@" 2>&3; } 3>&2 2>&1 # the time goes to stdout, errors stay on stderr
}

fail() {
  printf 'quickstart: %s\n' "$1" >&2
  exit 1
}

build() {
  printf '   making an environment\n'
  "$python" -m venv "$venv"
  printf '   downloading dependencies and compiling the engine (about a minute; pip shows its progress)\n'
  "$venv/bin/pip" install --disable-pip-version-check --progress-bar off "$checkout"
  printf '   testing the kernels\n'
  "$venv/bin/python" -P -m pogfast.selftest # -P: tests the installed package, not the source in this directory
}

make_keys() (
  cd "$work"
  "$venv/bin/pogfast" keygen mine
)

archive() {
  "$venv/bin/pogfast" create "${inputs[@]}" --to "$work/store" --encryption-keyfile "$work/mine.encrypt" --no-cache
}

check() { # with the public key, as any machine can, then with the private key, which reads all data
  "$venv/bin/pogfast" check "$work/store" --encryption-keyfile "$work/mine.encrypt"
  "$venv/bin/pogfast" check "$work/store" --read-data --decryption-keyfile "$work/mine.decrypt"
}

restore() {
  "$venv/bin/pogfast" restore "$work/store/latest" --into "$work/restored" --decryption-keyfile "$work/mine.decrypt"
}

compare() { # compares every input file with its restored copy
  # shellcheck disable=SC2016
  find "${inputs[@]}" -type f -exec sh -c \
    'copies=$0; for file; do cmp -- "$file" "$copies/$file" || exit 1; done' "$work/restored" {} +
  printf '   %s files, all identical\n' "$(find "$work/restored" -type f | wc -l)"
}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "Python 3.11 or later is needed: set PYTHON to it"
command -v "${CC:-cc}" >/dev/null || fail "a C compiler is needed (Debian: apt-get install gcc python3-dev)"
step "building pogfast in $venv" build

work=$(mktemp -d "${TMPDIR:-/tmp}/pogfast-quickstart-XXXXXX")
if [ -n "$given" ]; then
  cd "$(dirname "$given")"
  inputs=("$(basename "$given")")
else
  inputs=(README.md ext pogfast tests)
fi
step "making a key pair" make_keys
step "archiving ${inputs[*]}" archive
step "checking it" check
step "restoring into $work/restored" restore
step "comparing with the source" compare

cat <<END

Done. Look around in $work, and delete it afterwards:
  mine.encrypt  the public key: writes archives        store/     the archive, as a storage provider sees it
  mine.decrypt  the private key: reads them            restored/  the files as they came back
The command is $venv/bin/pogfast; docs/guide.md continues from here.
END

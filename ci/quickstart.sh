#!/usr/bin/env bash
# Builds pogfast in an environment of its own, then makes a key pair, archives a directory, checks the archive and
# restores it, with the time of each step.
#
#   ci/quickstart.sh [DIRECTORY]      DIRECTORY: what to archive; without it this project's own source
#
# PYTHON is the interpreter (python3), POGFAST_VENV the environment (.venv in the checkout).
set -euo pipefail

given=${1:-}
if [ -n "$given" ]; then
  given=$(cd "$given" && pwd)
fi
cd "$(dirname "$0")/.."
checkout=$PWD
python=${PYTHON:-python3}
venv=${POGFAST_VENV:-$checkout/.venv}

step() { # step WHAT COMMAND...: says what, runs it, says how long it took
  printf '\n== %s\n' "$1"
  shift
  local TIMEFORMAT='   took %R s'
  { time "$@" 2>&3; } 3>&2 2>&1 # the time goes with the other lines, errors stay errors
}

fail() {
  printf 'quickstart: %s\n' "$1" >&2
  exit 1
}

build() {
  printf '   making an environment\n'
  "$python" -m venv "$venv"
  printf '   fetching what pogfast needs and compiling its engine: about a minute, and pip tells how far it is\n'
  "$venv/bin/pip" install --disable-pip-version-check --progress-bar off "$checkout"
  printf '   trying the kernels\n'
  "$venv/bin/python" -P -m pogfast.selftest # -P: what was installed, not the source in this directory
}

make_keys() (
  cd "$work"
  "$venv/bin/pogfast" keygen mine
)

archive() {
  "$venv/bin/pogfast" create "${inputs[@]}" --to "$work/store" --encryption-keyfile "$work/mine.encrypt" --no-cache
}

check() { # with the public key, which every machine may have, then with the private key, which reads all of it
  "$venv/bin/pogfast" check "$work/store" --encryption-keyfile "$work/mine.encrypt"
  "$venv/bin/pogfast" check "$work/store" --read-data --decryption-keyfile "$work/mine.decrypt"
}

restore() {
  "$venv/bin/pogfast" restore "$work/store/latest" --into "$work/restored" --decryption-keyfile "$work/mine.decrypt"
}

compare() { # every file below the inputs with its restored copy
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

Done. Look around in $work, and delete it when you have seen enough:
  mine.encrypt  the public key: writes archives        store/     the archive: what a thief would see
  mine.decrypt  the private key: reads them            restored/  the files as they came back
The command is $venv/bin/pogfast; README.md goes on from here.
END

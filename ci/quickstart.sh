#!/usr/bin/env bash
# From a fresh clone to a checked and restored archive: builds pogfast into an environment of its own, makes a key,
# archives a directory of yours, checks it and restores it beside. Needs Python 3.11 or later and a C compiler.
#   ci/quickstart.sh [DIR] [WHAT]     DIR: where to work (.venv-quickstart); WHAT: what to archive (this checkout)
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=${1:-$root/.venv-quickstart}
what=$(cd "${2:-$root/pogfast}" && pwd)
say() { printf '\n-- %s\n' "$*"; }

say "building (half a minute)"
"${PYTHON:-python3}" -m venv "$work"
"$work/bin/python" -m pip install -q --upgrade pip
"$work/bin/python" -m pip install -q "$root"
PATH=$work/bin:$PATH
pog --version
python -m pogfast.selftest

home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
cd "$home"

say "making a key pair: the public key encrypts, the private one decrypts"
pog-create-keypair

say "archiving $what"
key=$PWD
cd "$(dirname "$what")"
name=$(basename "$what")
time pog --encryption-keyfile="$key/pki.encrypt" --save-to="local:$home/store" "$name" > "$home/log"
cd "$home"
tail -n 1 log
manifest=$(tail -n 1 log | sed 's/.*: //')
echo "$(find store/data -type f | wc -l) blobs, $(du -sh store | cut -f1)"

say "checking: every blob that the index names is there"
pog --encryption-keyfile=pki.encrypt --dump-manifest-index "local:store/$manifest" 2> /dev/null |
    while read -r blob; do test -s "store/data/${blob:0:2}/$blob"; done && echo "all there"

say "restoring, which authenticates every byte and checks every name"
mkdir restored
cd restored
time pog --decryption-keyfile="$key/pki.decrypt" --decrypt "local:../store/$manifest" | tail -n 1

say "comparing with the originals"
diff -r "$what" "$name" && echo "the same"
say "done; pog is in $work/bin"

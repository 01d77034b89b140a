"""Known answers for the compiled kernels: `python -m pogfast.selftest`.

Compares names, sealing and opening with values that were computed once with PyNaCl and python-zstandard. It takes a
few milliseconds, touches no file, and says which kernel is wrong on which machine.
"""

from __future__ import annotations

import sys

from pogfast._engine import ZSTD_VERSION, blob_name, compress, decompress, open_blob, public_key, seal_blob
from pogfast.errors import CorruptBlob, WrongBlob, WrongKey

SECRET = bytes(range(32))
PRIVATE = bytes(range(32, 64))
PUBLIC = bytes.fromhex("358072d6365880d1aeea329adf9121383851ed21a28e3b75e965d0d2cd166254")
CHUNK = b"Pretty fast, too. " * 20
NAME = "lBkUNRNUDHFhfJs0-xf-YDi-D6S8VPMUNfxKBMFXdj4="
# header || secretbox(file key, chunk || padding), made with fixed keys and nonces.
BLOB = bytes.fromhex(
    "0101010101010101010101010101010101010101010101010f589c1eb967647e9fa5782338a60426d9e842d3f4853656a805"
    "d8f18b0904a1fde496a4a3da820cf34a98cbd51a32e6020202020202020202020202020202020202020202020202878f3cd4"
    "073f7e36edc0c8b7e457da16ea132207f07b0a70a5afff8fa298ff6d3078beb8cbcf92815b5d96cdc11039f0c7980d0ca9a6"
    "6e04ae1e5ac347bcc35799abcad8a189df718a8e2961d26a56cd50edf5be2f0b94cf04735d6ce6aa8836f2e0a5b8baf93755"
    "e41af03690c60de773835f1e1a6ecbd8f31bc903e9a7fa0b5d81a6860ddae84041964fdd8be5267d7938d6e8e4db1b71d504"
    "dbbd15946c4ed273da50c4ee2a56c4373c259cc835564ee0422b5ff99e6c6542038d2ed2ce9af60055cc86a08bf5e60b2804"
    "640406cb18620993327a9df9939550b4c77f635997a7ebd38f3d69228fafb5e72d64a72ede60f5f3a7d14549f4404d4ede80"
    "413065bf7a699906e73f0979ebf33bf72449f35eb5fd8c0265be592fe4581daba0c507f1a61b53eb740a1da41ba258c8c050"
    "12e30a5063d9d6d680c8000761b600d2984fdb893dc50b52e73a6cd0dbaaf6d8ee923a93cd776eee533950879dbf53c233e9"
    "c08a5fc24a5f841607de885562d7fd535f066929d98355b3543d72e4696efb3ea016b27b370d22b327fd7e3f6c38a239d658"
    "23830fecee0c2184fb4bec6e0867755a14998e8b5e810a931d2d184e2324dfaac66b2525a781ed934a86008ae4618450a823"
    "2b5d794be4cb983f385363c4d03eabeb7430fd41c873e531bcd133641fd8ac0dd2ad"
)


def check() -> list[str]:
    """What is wrong, a line each; empty when all is well."""
    sealed_name, sealed = seal_blob(SECRET, False, CHUNK, 1000)
    public_name, public_blob = seal_blob(PUBLIC, True, CHUNK, 1000)
    long = bytes(range(256)) * 3000
    answers = {
        "blob names": blob_name(SECRET, CHUNK) == NAME == sealed_name,
        "opening a known blob": open_blob(SECRET, None, BLOB, NAME) == CHUNK,
        "sealing": len(sealed) == len(BLOB) and open_blob(SECRET, None, sealed, NAME) == CHUNK,
        "sealing in pieces": open_blob(SECRET, None, seal_blob(SECRET, False, long, len(long))[1]) == long,
        "public keys": public_key(PRIVATE) == PUBLIC,
        "sealing to a public key": open_blob(PUBLIC, PRIVATE, public_blob, public_name) == CHUNK,
        "compression": decompress(compress(long)) == long,
        "a wrong key": _refused(WrongKey, PRIVATE, BLOB, NAME),
        "a flipped bit": _refused(CorruptBlob, SECRET, BLOB[:-1] + bytes([BLOB[-1] ^ 1]), NAME),
        "a swapped blob": _refused(WrongBlob, SECRET, BLOB, public_name),
    }
    return [f"{kernel}: wrong answer" for kernel, right in answers.items() if not right]


def _refused(kind: type[Exception], secret: bytes, blob: bytes, name: str) -> bool:
    try:
        open_blob(secret, None, blob, name)
    except kind:
        return True
    return False


def main() -> int:
    wrong = check()
    for line in wrong:
        print(f"pogfast selftest: {line}", file=sys.stderr)
    if not wrong:
        print(f"pogfast selftest: all kernels give the known answers (zstd {ZSTD_VERSION})")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

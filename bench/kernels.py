"""Measures each kernel of the engine in every library that is loaded anyway: which is the fastest on this processor?

    python bench/kernels.py [--write] [--only sha256,poly1305,xsalsa20,x25519,copy] [--runs 5] [--dir DIR]

Bytes are processed in pieces that stay in a core's cache. The engine uses what the table calls the engine's.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import time
from collections.abc import Callable
from pathlib import Path

from level import PIECE
from machine import make_tables
from nacl import _sodium

ROUNDS = 400
NAMES = ("sha256", "poly1305", "xsalsa20", "x25519", "copy")
# The candidates of a kernel, the engine's first: name -> what is called once.
Candidates = dict[str, Callable[[], object]]
X25519 = 1034  # OpenSSL's number of it
SODIUM = ctypes.CDLL(_sodium.__file__)
SODIUM.sodium_init()  # before it, libsodium uses kernels that run on any processor


def libcrypto() -> ctypes.CDLL:
    """Returns hashlib's, as the engine finds it."""
    spec = importlib.util.find_spec("_hashlib")
    return ctypes.CDLL(spec.origin if spec and spec.has_location else None)


CRYPTO = libcrypto()
DATA, KEY = ctypes.create_string_buffer(os.urandom(PIECE), PIECE), os.urandom(32)
OUT = ctypes.create_string_buffer(PIECE)


def function(library: ctypes.CDLL, name: str, result: type | None = ctypes.c_int) -> Callable[..., int] | None:
    found = getattr(library, name, None)
    if found is not None:
        found.restype = result
    return found


def candidates(kernel: str) -> Candidates:
    """Returns what a kernel can be, on PIECE bytes, or on one key of X25519."""
    length = ctypes.c_size_t(PIECE)
    long_ = ctypes.c_ulonglong(PIECE)
    sodium: dict[str, Callable[[], object]] = {
        "sha256": lambda: SODIUM.crypto_hash_sha256(OUT, DATA, long_),
        "poly1305": lambda: SODIUM.crypto_onetimeauth_poly1305(OUT, DATA, long_, KEY),
        "xsalsa20": lambda: SODIUM.crypto_stream_xsalsa20_xor(OUT, DATA, long_, KEY[:24], KEY),
        "x25519": lambda: SODIUM.crypto_scalarmult_curve25519(OUT, KEY, PUBLIC),
    }
    if kernel == "copy":
        return {"memcpy": lambda: ctypes.memmove(OUT, DATA, PIECE)}
    openssl = {"sha256": sha256, "poly1305": poly1305, "x25519": x25519}.get(kernel)
    found = {"OpenSSL": made} if openssl and (made := openssl(length)) else {}
    both = found | {"libsodium": sodium[kernel]}
    return both if kernel != "x25519" else dict(reversed(both.items()))


PUBLIC = ctypes.create_string_buffer(32)
SODIUM.crypto_scalarmult_curve25519_base(PUBLIC, os.urandom(32))


def sha256(length: ctypes.c_size_t) -> Callable[[], object] | None:
    new, algorithm = (
        function(CRYPTO, "EVP_MD_CTX_new", ctypes.c_void_p),
        function(CRYPTO, "EVP_sha256", ctypes.c_void_p),
    )
    if new is None or algorithm is None:
        return None
    context = ctypes.c_void_p(new())
    CRYPTO.EVP_DigestInit_ex(context, ctypes.c_void_p(algorithm()), None)
    return lambda: CRYPTO.EVP_DigestUpdate(context, DATA, length)


def poly1305(length: ctypes.c_size_t) -> Callable[[], object] | None:
    fetch, new = (
        function(CRYPTO, "EVP_MAC_fetch", ctypes.c_void_p),
        function(CRYPTO, "EVP_MAC_CTX_new", ctypes.c_void_p),
    )
    if fetch is None or new is None:
        return None
    mac = fetch(None, b"POLY1305", None)
    if not mac:
        return None
    context = ctypes.c_void_p(new(ctypes.c_void_p(mac)))
    CRYPTO.EVP_MAC_init(context, KEY, ctypes.c_size_t(len(KEY)), None)
    return lambda: CRYPTO.EVP_MAC_update(context, DATA, length)


def x25519(length: ctypes.c_size_t) -> Callable[[], object] | None:
    private = function(CRYPTO, "EVP_PKEY_new_raw_private_key", ctypes.c_void_p)
    public = function(CRYPTO, "EVP_PKEY_new_raw_public_key", ctypes.c_void_p)
    new = function(CRYPTO, "EVP_PKEY_CTX_new", ctypes.c_void_p)
    if private is None or public is None or new is None:
        return None
    size = ctypes.c_size_t(32)
    mine = ctypes.c_void_p(private(X25519, None, KEY, size))
    theirs = ctypes.c_void_p(public(X25519, None, PUBLIC, size))
    context = ctypes.c_void_p(new(mine, None))
    CRYPTO.EVP_PKEY_derive_init(context)
    CRYPTO.EVP_PKEY_derive_set_peer(context, theirs)
    return lambda: CRYPTO.EVP_PKEY_derive(context, OUT, ctypes.byref(ctypes.c_size_t(32)))


def seconds(act: Callable[[], object], rounds: int) -> float:
    """Returns the CPU seconds of one call."""
    started = time.process_time()
    for _ in range(rounds):
        act()
    return (time.process_time() - started) / rounds


def fastest(kernel: str, runs: int = 5, rounds: int = ROUNDS) -> dict[str, float]:
    """Returns the CPU seconds of one call of each candidate, the best of several runs in alternation."""
    acts = candidates(kernel)
    best = dict.fromkeys(acts, float("inf"))
    for _ in range(runs):
        for name, act in acts.items():
            best[name] = min(best[name], seconds(act, rounds))
    return best


def measure(home: Path, kernels: list[str], runs: int, scale: float) -> str:
    lines = ["### The kernels, in every library that is loaded", "", "| | the engine's | another |", "|---|---|---|"]
    for kernel in kernels:
        found = fastest(kernel, runs, max(1, int(ROUNDS * scale)))
        shown = [
            f"{name} {1e6 * it:.0f} us" if kernel == "x25519" else f"{name} {PIECE / it / 1e9:.2f} GB/s"
            for name, it in found.items()
        ]
        lines.append(f"| {kernel} | {' | '.join([*shown, ''][:2])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    make_tables(__doc__, "kernels", NAMES, measure)

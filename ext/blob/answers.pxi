# A known answer for each kernel. Asked when the module is imported, which takes about a third of a millisecond: a library
# that gives wrong answers, or none, ends there, before anything is named, sealed or deleted by what it says.
#
# The values were computed once with PyNaCl and python-zstandard. Each kernel is asked through the function that the
# workers call, so what is tried is libsodium, libzstd and libcrypto together with how they are put to use.

_SECRET = bytes(range(32))
_PRIVATE = bytes(range(32, 64))
_PUBLIC = bytes.fromhex("358072d6365880d1aeea329adf9121383851ed21a28e3b75e965d0d2cd166254")
_CHUNK = b"Pretty fast, too. " * 20
_NAME = "lBkUNRNUDHFhfJs0-xf-YDi-D6S8VPMUNfxKBMFXdj4="
# header || secretbox(file key, chunk || padding), made with fixed keys and nonces.
_BLOB = bytes.fromhex(
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
_OTHER = "A" * 43 + "="
# A sealed box of SECRET to PUBLIC, and a zstd frame of b"fast" * 8.
_SEALED = bytes.fromhex(
    "c656da10329ec7d9f5307cb1565c576f2ea289b0175df065ef9f0d29b4a6990fa3e04a2c556bf34d"
    "9114d4bdc9eb91bbeee2df2e220d55401ed27dc6ae2af91c0f2de0f40dc6fef6ea51b66711e13e29"
)
_FRAME = bytes.fromhex("28b52ffd202055000020666173740100338e08")


def check_kernels(Py_ssize_t longest=1000):
    """Returns what is wrong, a line each; empty if all is well. `longest`: bytes of the longest chunk that is sealed."""
    cdef bytes long_ = bytes(range(256)) * (longest // 256 + 1)
    answers = {
        "SHA-256": lambda: blob_name(_SECRET, _CHUNK) == _NAME,
        "random numbers": lambda: len({bytes(KEY), random_bytes(KEY), random_bytes(KEY)}) == 3,
        "secretbox": lambda: secretbox_open(_SECRET, secretbox(_SECRET, _CHUNK)) == _CHUNK,
        "a secretbox that was changed": lambda: secretbox_open(_SECRET, _flipped(secretbox(_SECRET, _CHUNK))) is None,
        "X25519": lambda: public_key(_PRIVATE) == _PUBLIC,
        "sealed boxes": lambda: sealedbox_open(_PUBLIC, _PRIVATE, _SEALED) == _SECRET,
        "opening a blob": lambda: open_blob(_SECRET, None, _BLOB, _NAME) == _CHUNK,
        "opening a blob with another key": lambda: _refused(WrongKey, _PRIVATE, _BLOB, _NAME),
        "opening a blob that was changed": lambda: _refused(CorruptBlob, _SECRET, _flipped(_BLOB), _NAME),
        "opening another blob": lambda: _refused(WrongBlob, _SECRET, _BLOB, _OTHER),
        "sealing a blob": lambda: _seals(_SECRET, None, long_),
        "sealing a blob to a public key": lambda: _seals(_PUBLIC, _PRIVATE, long_),
        "decompression": lambda: decompress(_FRAME) == b"fast" * 8,
        "compression": lambda: decompress(compress(long_)) == long_,
    }
    return [f"{kernel}: wrong answer" for kernel, is_right in answers.items() if not _is_true(is_right)]


cdef bint _is_true(is_right):
    try:
        return is_right()
    except (CorruptBlob, ValueError, WrongBlob, WrongKey):
        return False


cdef bytes _flipped(bytes data):
    cdef Py_ssize_t last = len(data) - 1
    return data[:last] + bytes([data[last] ^ 1])


cdef bint _refused(kind, bytes secret, bytes blob, str name):
    try:
        open_blob(secret, None, blob, name)
    except kind:
        return True
    return False


cdef bint _seals(bytes secret, bytes private, bytes chunk):
    """Returns True if libsodium's own functions open a sealed blob, header and body."""
    name, blob = seal_blob(secret, private is not None, chunk, len(chunk))
    cdef Py_ssize_t header = HEADER_SECRET if private is None else HEADER_PUBLIC
    if private is None:
        file_key = secretbox_open(secret, blob[:header])
    else:
        file_key = sealedbox_open(secret, private, blob[:header])
    return (file_key is not None and any(file_key) and secretbox_open(file_key, blob[header:]) == chunk
            and open_blob(secret, private, blob, name) == chunk)


_wrong = check_kernels()
if _wrong:
    raise ImportError(
        f"pogfast cannot work on this machine, a kernel gives a wrong answer ({'; '.join(_wrong)}): "
        "install PyNaCl, zstandard and OpenSSL anew")

# Small secrets: what manifest/ and keys.py build headers, indexes and manifests of. Whole messages, one copy each.

ZSTD_VERSION = "{0}.{1}.{2}".format(zstd.version() // 10000, zstd.version() // 100 % 100, zstd.version() % 100)


def random_bytes(Py_ssize_t n):
    """`n` bytes from libsodium's generator."""
    cdef bytes out = PyBytes_FromStringAndSize(NULL, n)
    sodium.randombytes(PyBytes_AS_STRING(out), n)
    return out


def secretbox(bytes key, const u8[::1] message):
    """nonce || tag || ciphertext: BOX bytes longer than `message`."""
    _check_key(key)
    cdef bytes out = PyBytes_FromStringAndSize(NULL, message.shape[0] + BOX)
    cdef u8* p = <u8*>PyBytes_AS_STRING(out)
    sodium.randombytes(p, NONCE)
    if sodium.secretbox(p + NONCE, &message[0] if message.shape[0] else p, message.shape[0], p, <const u8*>key):
        library_failed(b"secretbox")
    return out


def secretbox_open(bytes key, const u8[::1] data):
    """Returns the message in a secretbox, or None if it does not authenticate under `key`."""
    _check_key(key)
    cdef Py_ssize_t n = data.shape[0] - BOX
    if n < 0:
        return None
    cdef bytes out = PyBytes_FromStringAndSize(NULL, n)
    cdef int failed = sodium.secretbox_open(<u8*>PyBytes_AS_STRING(out), &data[NONCE], n + TAG, &data[0], <const u8*>key)
    return None if failed else out


def sealedbox(bytes public, const u8[::1] message):
    """SEAL bytes longer than `message`; only the private key opens it."""
    _check_key(public)
    cdef bytes out = PyBytes_FromStringAndSize(NULL, message.shape[0] + SEAL)
    cdef u8* p = <u8*>PyBytes_AS_STRING(out)
    if sodium.box_seal(p, &message[0] if message.shape[0] else p, message.shape[0], <const u8*>public):
        raise ValueError("not a public key: it is a point of low order")
    return out


def sealedbox_open(bytes public, bytes private, const u8[::1] data):
    """Returns the message in a sealed box, or None if it does not authenticate under this pair."""
    _check_key(public)
    _check_key(private)
    cdef Py_ssize_t n = data.shape[0] - SEAL
    if n < 0:
        return None
    cdef bytes out = PyBytes_FromStringAndSize(NULL, n)
    cdef int failed = sodium.box_seal_open(
        <u8*>PyBytes_AS_STRING(out), &data[0], n + SEAL, <const u8*>public, <const u8*>private
    )
    return None if failed else out


def public_key(bytes private):
    """Returns the X25519 public key that belongs to `private`."""
    _check_key(private)
    cdef bytes out = PyBytes_FromStringAndSize(NULL, KEY)
    if sodium.scalarmult_base(<u8*>PyBytes_AS_STRING(out), <const u8*>private):
        library_failed(b"X25519")
    return out


def is_valid_point(bytes point):
    """Returns True if libsodium takes `point` for one of edwards25519: canonical, and in the group of the base point."""
    _check_key(point)
    return sodium.is_valid_point(<const u8*>point) == 1


cdef str _zstd_error(size_t code):
    return zstd.error_name(code).decode()


def compress(const u8[::1] data, int level=3):
    """Returns one zstd frame with the size of its content in its header, without checksum."""
    cdef size_t bound = zstd.compress_bound(data.shape[0]), n
    cdef bytes out = PyBytes_FromStringAndSize(NULL, bound)
    cdef u8* p = <u8*>PyBytes_AS_STRING(out)
    cdef const u8* src = &data[0] if data.shape[0] else NULL
    cdef size_t size = data.shape[0]
    cdef void* cctx = zstd.create_cctx()
    if cctx == NULL:
        raise MemoryError
    with nogil:
        zstd_set(cctx, ZSTD_C_LEVEL, level)
        n = zstd.compress2(cctx, p, bound, src, size)
        zstd.free_cctx(cctx)
    if zstd.is_error(n):
        raise ValueError(f"cannot compress: {_zstd_error(n)}")
    return out[:n]


def decompress(const u8[::1] data):
    """Returns the content of all zstd frames in `data`, without skippable ones. Raises ValueError if it is malformed or cut short."""
    return decompressed(&data[0] if data.shape[0] else NULL, data.shape[0], -1)


cdef bytes decompressed(const u8* p, size_t n, long long size):
    """The content of all zstd frames in `n` bytes; with a `size` that is not negative, exactly so many bytes.

    One allocation where the length is known, from `size` or from the first frame's header, and is one that `n` bytes
    can have. ValueError when malformed, cut short or of another length.
    """
    cdef unsigned long long room = zstd.frame_size(p, n) if size < 0 else size
    cdef ZBuffer out, src
    cdef size_t left = 1
    cdef bytes piece
    cdef list parts = []
    if room > n * <unsigned long long>MAX_RATIO:      # so are the two values that say "unknown" and "no frame"
        if size >= 0:
            raise ValueError(f"cannot decompress: {n} bytes do not hold {size}")
        room = 1 << 20
    cdef void* dctx = zstd.create_dctx()
    if dctx == NULL:
        raise MemoryError
    src.data, src.size, src.pos = <u8*>p, n, 0
    try:
        piece = _fresh(&out, room)
        while True:
            with nogil:
                left = zstd.decompress_stream(dctx, &out, &src)
            if zstd.is_error(left):
                raise ValueError(f"cannot decompress: {_zstd_error(left)}")
            if size >= 0 and parts and out.pos:
                raise ValueError(f"cannot decompress: it is longer than {size} bytes")
            if src.pos == src.size and (out.pos < out.size or not left):
                break
            if out.pos == out.size:
                parts.append(piece)
                piece = _fresh(&out, 1 << 20)
    finally:
        zstd.free_dctx(dctx)
    if left:
        raise ValueError("cannot decompress: the frame is cut short")
    if size >= 0 and not parts and out.pos < <size_t>size:
        raise ValueError(f"cannot decompress: it is shorter than {size} bytes")
    if out.pos:
        parts.append(piece if out.pos == out.size else piece[:out.pos])
    return parts[0] if len(parts) == 1 else b"".join(parts)


cdef bytes _fresh(ZBuffer* out, size_t room):
    """Returns a new bytes object, to be filled through `out`."""
    cdef bytes piece = PyBytes_FromStringAndSize(NULL, room)
    out.data, out.size, out.pos = <u8*>PyBytes_AS_STRING(piece), room, 0
    return piece

# What a key is to the engine: the bytes that wrap and unwrap file keys, and the secret that names are made with.

cdef struct Keys:
    bint asymmetric         # X25519; else symmetric
    bint can_open           # it can unwrap file keys: it is symmetric, or the private key is there
    u8[KEY] secret          # S; in X25519 mode the public key
    u8[KEY] private         # in X25519 mode, if `can_open`
    u8[KEY] name_secret     # sha256(S)
    size_t header           # bytes of a header


cdef int _check_key(bytes key) except -1:
    if len(key) != KEY:
        raise ValueError(f"a key has {KEY} bytes, not {len(key)}")
    return 0


cdef int fill_keys(Keys* keys, bytes secret, bint asymmetric, bytes private) except -1:
    _check_key(secret)
    memset(keys, 0, sizeof(Keys))
    keys.asymmetric = asymmetric
    memcpy(keys.secret, <const u8*>secret, KEY)
    if private is not None:
        _check_key(private)
        memcpy(keys.private, <const u8*>private, KEY)
    keys.can_open = private is not None or not asymmetric
    keys.header = HEADER_PUBLIC if asymmetric else HEADER_SECRET
    sha256(keys.secret, KEY, keys.name_secret)
    return 0


cdef int unwrap(const Keys* keys, const u8* header, u8* file_key) noexcept nogil:
    """Unwraps the file key in a header. Returns 0, or -1 if this key does not open it."""
    if keys.asymmetric:
        return sodium.box_seal_open(file_key, header, HEADER_PUBLIC, keys.secret, keys.private)
    return sodium.secretbox_open(file_key, header + NONCE, KEY + TAG, header, keys.secret)

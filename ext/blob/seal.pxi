# A chunk becomes a blob in its own buffer. The reverse is in open.pxi.
#
# Sealing runs behind the compressor in pieces: each piece is hashed, then encrypted, while it is still in the cache
# (at 50 MB chunks 1.05 s a GB against 1.45 for whole passes). The result is libsodium's crypto_secretbox, made of
# libsodium's own parts: XSalsa20 from a block counter and incremental Poly1305. The first 32 bytes of block 0 key the
# tag, so byte m of the message meets byte 32 + m of the keystream.

cdef enum:
    FIRST = 32              # bytes of the message that share the keystream's block 0 with the tag's key


cdef size_t padded(size_t length, size_t chunk_size) noexcept nogil:
    """Returns the bytes of a chunk and its padding. FORMAT.md, "A file's bytes"."""
    return length if length >= chunk_size else length + PAD_FRAME + length % 256


cdef size_t evened(size_t length) noexcept nogil:
    """Returns the bytes of a chunk and the padding that hides its size: PADME's next length (Nikitin et al., "Reducing Metadata
    Leakage from Encrypted Files and Communication with PURBs", PETS 2019), at most 1/32 more from 64 KiB on."""
    cdef size_t n = length + PAD_EVEN, mask
    cdef int exponent = 0, digits = 0
    while n >> (exponent + 1):
        exponent += 1
    while exponent >> digits:
        digits += 1
    mask = (<size_t>1 << (exponent - digits)) - 1
    return (n + mask) & ~mask


cdef void pad_evenly(Slab* slab) noexcept nogil:
    cdef u8* p = chunk_of(slab) + slab.length
    cdef u64 n, length = slab.length
    slab.total = evened(slab.length)
    n = slab.total - slab.length - PAD_FRAME
    check(n >> 32 == 0 and slab.sealing.hashed == slab.length and slab.chunk_at + slab.total <= slab.room)
    memset(p, 0, PAD_FRAME + n)
    memcpy(p, PAD_MAGIC, 4)
    write_le(p + 4, n, 4)
    write_le(p + n, length, 8)


cdef inline void write_le(u8* p, u64 n, int size) noexcept nogil:
    cdef int i
    for i in range(size):
        p[i] = <u8>(n >> 8 * i)


cdef inline u64 read_le(const u8* p, int size) noexcept nogil:
    cdef u64 n = 0
    cdef int i
    for i in range(size):
        n |= <u64>p[i] << 8 * i
    return n


cdef void pad(Slab* slab, size_t chunk_size) noexcept nogil:
    cdef u8* p = chunk_of(slab) + slab.length
    slab.total = padded(slab.length, chunk_size)
    check(slab.sealing.hashed == slab.length and slab.chunk_at + slab.total <= slab.room)
    if slab.total == slab.length:
        return
    memcpy(p, PAD_MAGIC, 4)
    p[4] = <u8>(slab.length % 256)
    p[5] = p[6] = p[7] = 0
    sodium.randombytes(p + PAD_FRAME, slab.length % 256)


cdef int encrypt_begin(Slab* slab, const Keys* keys, bint last) noexcept nogil:
    """Makes a new file key, its header, the nonce, and encrypts the first FIRST bytes (fewer if the message is shorter)."""
    cdef u8* chunk = chunk_of(slab)
    cdef u8* nonce = chunk - BOX
    cdef u8* header = nonce - keys.header
    cdef u8[SALSA_BLOCK] block
    cdef u8[KEY + 2 * NONCE] fresh      # at once: each call goes to the system
    cdef size_t n = min(<size_t>FIRST, slab.total) if last else <size_t>FIRST
    cdef int failed = 0
    sodium.randombytes(fresh, KEY + 2 * NONCE)
    memcpy(slab.sealing.file_key, fresh, KEY)
    memcpy(nonce, fresh + KEY, NONCE)
    memcpy(header, fresh + KEY + NONCE, NONCE)
    sodium.memzero(fresh, KEY)
    if keys.asymmetric:
        failed = sodium.box_seal(header, slab.sealing.file_key, KEY, keys.secret)
    elif sodium.secretbox(header + NONCE, slab.sealing.file_key, KEY, header, keys.secret):
        library_failed(b"secretbox")
    memset(block, 0, FIRST)
    memcpy(block + FIRST, chunk, n)
    salsa_xor(block, block, FIRST + n, nonce, 0, slab.sealing.file_key)
    poly_begin(&slab.sealing.poly, block)
    memcpy(chunk, block + FIRST, n)
    poly_add(&slab.sealing.poly, chunk, n)
    slab.sealing.sealed = n
    sodium.memzero(block, SALSA_BLOCK)
    return failed


cdef void encrypt_to(Slab* slab, size_t end) noexcept nogil:
    """Encrypts bytes [sealed, end) piece by piece. Every end but the last lies FIRST behind a multiple of 64."""
    cdef u8* chunk = chunk_of(slab)
    cdef size_t n
    check(end <= max(slab.sealing.hashed, slab.total) and slab.chunk_at + end <= slab.room)
    while slab.sealing.sealed < end:
        check((slab.sealing.sealed + FIRST) % SALSA_BLOCK == 0)
        n = min(end - slab.sealing.sealed, <size_t>PIECE)
        salsa_xor(chunk + slab.sealing.sealed, chunk + slab.sealing.sealed, n, chunk - BOX,
                      (slab.sealing.sealed + FIRST) // SALSA_BLOCK, slab.sealing.file_key)
        poly_add(&slab.sealing.poly, chunk + slab.sealing.sealed, n)
        slab.sealing.sealed += n


cdef int slab_encrypt(Slab* slab, const Keys* keys, bint last) noexcept nogil:
    """Encrypts what is hashed, in whole blocks; with `last` to the end, and writes the tag."""
    cdef size_t end = slab.total if last else slab.sealing.hashed
    if not last:
        if end < FIRST + SALSA_BLOCK:
            return 0
        end = FIRST + (end - FIRST) // SALSA_BLOCK * SALSA_BLOCK
    if slab.sealing.sealed == 0 and encrypt_begin(slab, keys, last):
        return -1
    encrypt_to(slab, end)
    if last:
        poly_end(&slab.sealing.poly, chunk_of(slab) - TAG)
        sodium.memzero(slab.sealing.file_key, KEY)
    return 0


cdef void slab_hash(Slab* slab, size_t end) noexcept nogil:
    sha_update(slab.sealing.sha, chunk_of(slab) + slab.sealing.hashed, end - slab.sealing.hashed)
    slab.sealing.hashed = end


cdef void slab_name(Slab* slab, const Keys* keys) noexcept nogil:
    sha_end(slab.sealing.sha, slab.sealing.digest)
    name_digest(keys.name_secret, slab.sealing.digest)

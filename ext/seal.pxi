# A chunk becomes a blob in its own buffer, and the way back.
#
# Sealing runs behind the compressor in pieces: each piece is hashed, then encrypted, while it is still in the cache
# (at 50 MB chunks 1.05 s a GB against 1.45 for whole passes). The result is libsodium's crypto_secretbox, made of
# libsodium's own parts: XSalsa20 from a block counter and incremental Poly1305. The first 32 bytes of block 0 key the
# tag, so byte m of the message meets byte 32 + m of the keystream.

cdef enum:
    PIECE = 256 << 10       # a multiple of 64; fits a core's second-level cache with room to spare
    FIRST = 32              # bytes of the message that share the keystream's block 0 with the tag's key

cdef struct Ring:           # what a key is to the engine
    bint asymmetric
    bint can_open
    u8[KEY] secret          # S; in X25519 mode the public key
    u8[KEY] private
    u8[KEY] name_secret     # sha256(S)
    size_t header           # bytes of a header

cdef enum Verdict:
    GOOD = 0
    BAD_HEADER = 1          # no file key: the wrong key, or a damaged header
    BAD_BODY = 2            # does not authenticate, or cut short
    BAD_NAME = 3            # authenticates, but belongs to another name
    BAD_FRAME = 4           # does not decompress, or the stream ends early
    NOT_THERE = 5           # no such blob
    BAD_READ = 6            # the system could not read it: errno says why
    BAD_WRITE = 7           # the restored file could not be written: errno says why
    NO_ROOM = 9             # the system has not the room that this file is said to need
    BROKEN_OFF = 8          # the run ends: a Python store raised, or it was stopped

# Bytes of the longest blob that is opened here: more than half of the memory has no room beside what it becomes.
MAX_BLOB = max(1 << 30, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
cdef long long most_blob = MAX_BLOB
cdef int NEVER = 0     # what is stopped by nobody

# The same for the caller: Opened.verdict is one of these.
VERDICT = {"good": GOOD, "bad header": BAD_HEADER, "bad body": BAD_BODY, "bad name": BAD_NAME, "bad frame": BAD_FRAME,
           "not there": NOT_THERE, "bad read": BAD_READ, "bad write": BAD_WRITE, "no room": NO_ROOM}


cdef inline bint is_damage(int verdict) noexcept nogil:
    """Whether other bytes under this name could be good ones."""
    return BAD_HEADER <= verdict <= BAD_NAME


cdef void sha256(const u8* m, size_t n, u8* out) noexcept nogil:
    cdef void* ctx = crypto.ctx_new()
    sha_begin(ctx)
    sha_update(ctx, m, n)
    sha_end(ctx, out)
    crypto.ctx_free(ctx)


cdef void name_digest(const u8* name_secret, u8* digest) noexcept nogil:
    """A chunk's sha256 becomes its name's: sha256(name secret || sha256(chunk)). In place."""
    cdef u8[2 * KEY] both
    memcpy(both, name_secret, KEY)
    memcpy(both + KEY, digest, KEY)
    sha256(both, 2 * KEY, digest)


cdef int fill_ring(Ring* ring, bytes secret, bint asymmetric, bytes private) except -1:
    _check_key(secret)
    memset(ring, 0, sizeof(Ring))
    ring.asymmetric = asymmetric
    memcpy(ring.secret, <const u8*>secret, KEY)
    if private is not None:
        _check_key(private)
        memcpy(ring.private, <const u8*>private, KEY)
    ring.can_open = private is not None or not asymmetric
    ring.header = HEADER_PUBLIC if asymmetric else HEADER_SECRET
    sha256(ring.secret, KEY, ring.name_secret)
    return 0


cdef str name_of(const u8* digest):
    return base64.urlsafe_b64encode(digest[:KEY]).decode()


cdef int letter_bits(u8 c) noexcept nogil:
    """The six bits of a letter of urlsafe base64, -1 when it is none."""
    if c'A' <= c <= c'Z':
        return c - c'A'
    if c'a' <= c <= c'z':
        return c - c'a' + 26
    if c'0' <= c <= c'9':
        return c - c'0' + 52
    return 62 if c == c'-' else 63 if c == c'_' else -1


cdef int read_name(str name, u8* digest) except -1:
    """The sha256 in a blob's name. ValueError when it is not one. Not base64's: a list of a million names is read."""
    cdef Py_ssize_t n = 0, i
    cdef const char* letters = PyUnicode_AsUTF8AndSize(name, &n)
    cdef unsigned bits = 0
    cdef int six, left = 0
    if n != NAME or letters[NAME - 1] != c'=':
        raise ValueError("not a blob's name")
    for i in range(NAME - 1):
        six = letter_bits(<u8>letters[i])
        if six < 0:
            raise ValueError("not a blob's name")
        bits, left = bits << 6 | six, left + 6
        if left >= 8:
            left -= 8
            digest[0] = <u8>(bits >> left)
            digest += 1
    return 0


# ---- sealing -------------------------------------------------------------------------------------------------------

cdef inline void* poly_of(Slab* slab) noexcept nogil:
    return <void*>((<size_t>&slab.poly_room[0] + 15) & ~<size_t>15)       # libsodium wants its state aligned to 16


cdef inline u8* chunk_of(Slab* slab) noexcept nogil:
    return slab.base + slab.chunk_at


cdef void slab_begin(Slab* slab) noexcept nogil:
    slab.length = slab.total = slab.hashed = slab.sealed = 0
    slab.whole = slab.busy = slab.dropped = False
    sha_begin(slab.sha)


cdef size_t padded(size_t length, size_t chunk_size) noexcept nogil:
    """Bytes of a chunk and its padding. FORMAT.md, "A file's bytes"."""
    return length if length >= chunk_size else length + PAD_FRAME + length % 256


cdef size_t evened(size_t length) noexcept nogil:
    """Bytes of a chunk and the padding that hides its size: PADME's next length (Nikitin et al., "Reducing Metadata
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
    check(n >> 32 == 0 and slab.hashed == slab.length and slab.chunk_at + slab.total <= slab.room)
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
    check(slab.hashed == slab.length and slab.chunk_at + slab.total <= slab.room)
    if slab.total == slab.length:
        return
    memcpy(p, PAD_MAGIC, 4)
    p[4] = <u8>(slab.length % 256)
    p[5] = p[6] = p[7] = 0
    sodium.randombytes(p + PAD_FRAME, slab.length % 256)


cdef int encrypt_begin(Slab* slab, const Ring* ring, bint last) noexcept nogil:
    """A new file key, its header, the nonce, and the first FIRST bytes (fewer when the message is shorter)."""
    cdef u8* chunk = chunk_of(slab)
    cdef u8* nonce = chunk - BOX
    cdef u8* header = nonce - ring.header
    cdef u8[SALSA_BLOCK] block
    cdef u8[KEY + 2 * NONCE] fresh      # at once: each call goes to the system
    cdef size_t n = min(<size_t>FIRST, slab.total) if last else <size_t>FIRST
    cdef int failed = 0
    sodium.randombytes(fresh, KEY + 2 * NONCE)
    memcpy(slab.file_key, fresh, KEY)
    memcpy(nonce, fresh + KEY, NONCE)
    memcpy(header, fresh + KEY + NONCE, NONCE)
    sodium.memzero(fresh, KEY)
    if ring.asymmetric:
        failed = sodium.box_seal(header, slab.file_key, KEY, ring.secret)
    elif sodium.secretbox(header + NONCE, slab.file_key, KEY, header, ring.secret):
        library_failed(b"secretbox")
    memset(block, 0, FIRST)
    memcpy(block + FIRST, chunk, n)
    salsa_xor(block, block, FIRST + n, nonce, 0, slab.file_key)
    poly_begin(poly_of(slab), block)
    memcpy(chunk, block + FIRST, n)
    poly_add(poly_of(slab), chunk, n)
    slab.sealed = n
    sodium.memzero(block, SALSA_BLOCK)
    return failed


cdef void encrypt_to(Slab* slab, size_t end) noexcept nogil:
    """Encrypts bytes [sealed, end) piece by piece. Every end but the last lies FIRST behind a multiple of 64."""
    cdef u8* chunk = chunk_of(slab)
    cdef size_t n
    check(end <= max(slab.hashed, slab.total) and slab.chunk_at + end <= slab.room)
    while slab.sealed < end:
        check((slab.sealed + FIRST) % SALSA_BLOCK == 0)
        n = min(end - slab.sealed, <size_t>PIECE)
        salsa_xor(chunk + slab.sealed, chunk + slab.sealed, n, chunk - BOX,
                      (slab.sealed + FIRST) // SALSA_BLOCK, slab.file_key)
        poly_add(poly_of(slab), chunk + slab.sealed, n)
        slab.sealed += n


cdef int slab_encrypt(Slab* slab, const Ring* ring, bint last) noexcept nogil:
    """Encrypts what is hashed, in whole blocks; with `last` to the end, and writes the tag."""
    cdef size_t end = slab.total if last else slab.hashed
    if not last:
        if end < FIRST + SALSA_BLOCK:
            return 0
        end = FIRST + (end - FIRST) // SALSA_BLOCK * SALSA_BLOCK
    if slab.sealed == 0 and encrypt_begin(slab, ring, last):
        return -1
    encrypt_to(slab, end)
    if last:
        poly_end(poly_of(slab), chunk_of(slab) - TAG)
        sodium.memzero(slab.file_key, KEY)
    return 0


cdef void slab_hash(Slab* slab, size_t end) noexcept nogil:
    sha_update(slab.sha, chunk_of(slab) + slab.hashed, end - slab.hashed)
    slab.hashed = end


cdef void slab_name(Slab* slab, const Ring* ring) noexcept nogil:
    sha_end(slab.sha, slab.digest)
    name_digest(ring.name_secret, slab.digest)


cdef inline u8* blob_of(Slab* slab, const Ring* ring) noexcept nogil:
    return chunk_of(slab) - BOX - ring.header


cdef inline size_t blob_size(Slab* slab, const Ring* ring) noexcept nogil:
    return ring.header + BOX + slab.total


# ---- opening -------------------------------------------------------------------------------------------------------

cdef int unwrap(const Ring* ring, const u8* header, u8* file_key) noexcept nogil:
    if ring.asymmetric:
        return sodium.box_seal_open(file_key, header, HEADER_PUBLIC, ring.secret, ring.private)
    return sodium.secretbox_open(file_key, header + NONCE, KEY + TAG, header, ring.secret)


cdef struct Lock:           # the state of a box that is being authenticated: its tag's key and how far it has come
    u8[KEY] file_key
    u8[NONCE] nonce
    u8[TAG] tag
    u8[POLY_STATE + 16] poly_room


cdef inline void* poly_of_lock(Lock* lock) noexcept nogil:
    return <void*>((<size_t>&lock.poly_room[0] + 15) & ~<size_t>15)


cdef int lock_begin(Lock* lock, const Ring* ring, const u8* head) noexcept nogil:
    """Reads header, nonce and tag of a blob. BAD_HEADER when the header does not unwrap."""
    cdef u8[FIRST] poly_key
    if unwrap(ring, head, lock.file_key):
        return BAD_HEADER
    memcpy(lock.nonce, head + ring.header, NONCE)
    memcpy(lock.tag, head + ring.header + NONCE, TAG)
    memset(poly_key, 0, FIRST)
    salsa_xor(poly_key, poly_key, FIRST, lock.nonce, 0, lock.file_key)
    poly_begin(poly_of_lock(lock), poly_key)
    sodium.memzero(poly_key, FIRST)
    return GOOD


cdef int lock_end(Lock* lock) noexcept nogil:
    """Whether all that went through poly_update is what was sealed."""
    cdef u8[TAG] tag
    poly_end(poly_of_lock(lock), tag)
    return GOOD if sodium.verify_16(tag, lock.tag) == 0 else BAD_BODY


cdef void decrypt(Lock* lock, u8* m, size_t start, size_t end) noexcept nogil:
    """Decrypts bytes [start, end) of the message at `m` in place; `start` is 0 or lies FIRST behind a multiple of 64."""
    cdef u8[SALSA_BLOCK] block
    cdef size_t n
    check(start == 0 or (start + FIRST) % SALSA_BLOCK == 0)
    if start == 0 and end > 0:
        n = min(<size_t>FIRST, end)
        memset(block, 0, FIRST)
        memcpy(block + FIRST, m, n)
        salsa_xor(block, block, FIRST + n, lock.nonce, 0, lock.file_key)
        memcpy(m, block + FIRST, n)
        sodium.memzero(block, SALSA_BLOCK)
        start = n
    if end > start:
        salsa_xor(m + start, m + start, end - start, lock.nonce, (start + FIRST) // SALSA_BLOCK, lock.file_key)


cdef size_t even_length(const u8* m, size_t total) noexcept nogil:
    """The length of the chunk that the end of a payload tells, if padding that hides sizes ends there; else `total`.
    Only the last 8 bytes are looked at."""
    cdef u64 length = read_le(m + total - 8, 8) if total >= PAD_EVEN else total
    return <size_t>length if length <= total and total - length >= PAD_EVEN else total


cdef int chunk_lengths(const u8* tail, size_t tail_at, size_t total, size_t even, size_t* lengths) noexcept nogil:
    """Every length that the chunk in a payload of `total` bytes can have, ascending; the last is `total` itself. At most
    four.

    `tail` is the payload from byte `tail_at` on, `even` what even_length has found. FORMAT.md: at most two lengths L
    with L + 8 + L mod 256 = total at which the padding's magic stands, and `even`, if one stands there.
    """
    cdef int found = 0
    cdef size_t length, extra
    if even < total and (memcmp(tail + (even - tail_at), PAD_MAGIC, 4)
                         or read_le(tail + (even - tail_at) + 4, 4) != total - even - PAD_FRAME):
        even = total
    for extra in range(255, -1, -1):
        if total < PAD_FRAME + extra:
            continue
        length = total - PAD_FRAME - extra
        if length % 256 != extra or length < tail_at:
            continue
        if even < length:
            lengths[found] = even
            found += 1
        if even <= length:
            even = total
        if memcmp(tail + (length - tail_at), PAD_MAGIC, 4) == 0:
            lengths[found] = length
            found += 1
    if even < total:
        lengths[found] = even
        found += 1
    lengths[found] = total
    return found + 1


cdef bint is_name(const Ring* ring, const u8* content, const u8* name) noexcept nogil:
    """Whether `name` is that of a chunk whose sha256 is `content`: by today's rule, or that of releases before 0.1.1,
    which used S where the name secret stands now."""
    cdef u8[KEY] digest
    memcpy(digest, content, KEY)
    name_digest(ring.name_secret, digest)
    if memcmp(digest, name, KEY) == 0:
        return True
    memcpy(digest, content, KEY)
    name_digest(ring.secret, digest)
    return memcmp(digest, name, KEY) == 0


cdef int slab_unlock(Slab* slab, Lock* lock, const Ring* ring, const u8* name, const int* stop) noexcept nogil:
    """Decrypts the authenticated payload in a buffer, hashes it while warm, and finds its chunk's length.

    With a `name` (a digest) the length is the one whose hash makes the name; BAD_NAME when there is none. Without,
    it is the shortest at which padding stands. BROKEN_OFF when `stop` becomes true.
    """
    cdef u8* m = chunk_of(slab)
    cdef size_t total = slab.total, at = 0, end, even, first
    cdef size_t tail = 0 if total <= PAD_MOST + SALSA_BLOCK else (
        FIRST + (total - PAD_MOST - FIRST) // SALSA_BLOCK * SALSA_BLOCK)
    cdef size_t[4] lengths
    cdef int count, i, verdict = BAD_NAME
    cdef u8[KEY] digest
    cdef void* branch
    decrypt(lock, m, tail, total)
    even = even_length(m, total)
    if even < tail:
        first = FIRST + (even - FIRST) // SALSA_BLOCK * SALSA_BLOCK if even >= FIRST + SALSA_BLOCK else 0
        decrypt(lock, m, first, tail)
        tail = first
    count = chunk_lengths(m + tail, tail, total, even, lengths)
    slab.length = lengths[0]
    if name == NULL:
        decrypt(lock, m, 0, tail)
        return GOOD
    sha_begin(slab.sha)
    while at < tail:
        if load_int(stop):
            return BROKEN_OFF
        end = min(tail, FIRST + ((at + PIECE) // SALSA_BLOCK) * SALSA_BLOCK)
        decrypt(lock, m, at, end)
        sha_update(slab.sha, m + at, end - at)
        at = end
    branch = crypto.ctx_new()
    for i in range(count):
        sha_update(slab.sha, m + at, lengths[i] - at)
        at = lengths[i]
        sha_copy(branch, slab.sha)
        sha_end(branch, digest)
        if is_name(ring, digest, name):
            slab.length = at
            verdict = GOOD
            break
    crypto.ctx_free(branch)
    return verdict


cdef int slab_open(Slab* slab, const Ring* ring, const u8* blob, size_t size, const u8* name,
                   const int* stop) noexcept nogil:
    """Copies a blob into a buffer that has room for it, each piece authenticated while it is warm, and unlocks it."""
    cdef Lock lock
    cdef size_t head = ring.header + BOX, at = 0, n
    cdef int verdict
    if size < head:
        return BAD_BODY
    slab.total = size - head
    check(slab.chunk_at + slab.total <= slab.room)
    verdict = lock_begin(&lock, ring, blob)
    while verdict == GOOD and at < slab.total:
        if load_int(stop):
            verdict = BROKEN_OFF
            break
        n = min(slab.total - at, <size_t>PIECE)
        memcpy(chunk_of(slab) + at, blob + head + at, n)
        poly_add(poly_of_lock(&lock), chunk_of(slab) + at, n)
        at += n
    if verdict == GOOD:
        verdict = lock_end(&lock)
    if verdict == GOOD:
        verdict = slab_unlock(slab, &lock, ring, name, stop)
    sodium.memzero(&lock, sizeof(Lock))
    return verdict


# ---- one blob at a time --------------------------------------------------------------------------------------------

def blob_name(bytes secret, const u8[::1] chunk):
    """The name of the blob that holds `chunk`, 44 characters. FORMAT.md, "A file's bytes"."""
    cdef Ring ring
    cdef u8[KEY] digest
    cdef const u8* p = &chunk[0] if chunk.shape[0] else NULL
    cdef size_t n = chunk.shape[0]
    fill_ring(&ring, secret, False, None)
    with nogil:
        sha256(p, n, digest)
        name_digest(ring.name_secret, digest)
    return name_of(digest)


def seal_blob(bytes secret, bint asymmetric, const u8[::1] chunk, size_t chunk_size, bint even=False):
    """(name, blob) of one chunk, padded when it is shorter than `chunk_size`; `even`: to hide its size."""
    cdef Ring ring
    cdef Slab* slab = slab_new(CHUNK_AT)
    cdef int failed
    if slab == NULL or slab_reserve(slab, evened(chunk.shape[0])):
        slab_free(slab)
        raise MemoryError
    try:
        fill_ring(&ring, secret, asymmetric, None)
        slab_begin(slab)
        if chunk.shape[0]:
            memcpy(chunk_of(slab), &chunk[0], chunk.shape[0])
        slab.length = chunk.shape[0]
        with nogil:
            slab_hash(slab, slab.length)
            slab_name(slab, &ring)
            if even and slab.length < chunk_size:
                pad_evenly(slab)
            else:
                pad(slab, chunk_size)
            failed = slab_encrypt(slab, &ring, True)
        if failed:
            raise ValueError("not a public key: it is a point of low order")
        return name_of(slab.digest), blob_of(slab, &ring)[:blob_size(slab, &ring)]
    finally:
        slab_free(slab)


cdef dict VERDICTS = {
    BAD_HEADER: (WrongKey, "this key does not open {}, or its header is damaged"),
    BAD_BODY: (CorruptBlob, "blob {} is damaged or cut short"),
    BAD_NAME: (WrongBlob, "blob {} holds another blob's content"),
}


cdef class _OpenedBlob:
    """The chunk in a blob, in a buffer of its own. WrongKey when the blob's header does not unwrap, CorruptBlob when it
    does not authenticate, WrongBlob when `name` is given and is not its content's."""
    cdef Slab* slab

    def __cinit__(self, bytes secret, bytes private, const u8[::1] blob, str name):
        cdef Ring ring
        cdef u8[KEY] digest
        cdef int verdict
        cdef const u8* p = &blob[0] if blob.shape[0] else NULL
        cdef size_t size = blob.shape[0]
        cdef const u8* wanted = NULL
        fill_ring(&ring, secret, private is not None, private)
        if name is not None:
            read_name(name, digest)
            wanted = digest
        self.slab = slab_new(CHUNK_AT)
        if self.slab == NULL or slab_reserve(self.slab, size):
            raise MemoryError
        with nogil:
            verdict = slab_open(self.slab, &ring, p, size, wanted, &NEVER)
        sodium.memzero(&ring, sizeof(Ring))
        if verdict != GOOD:
            kind, text = VERDICTS[verdict]
            raise kind(text.format(name or "the blob"))

    def __dealloc__(self):
        slab_free(self.slab)


def open_blob(bytes secret, bytes private, const u8[::1] blob, str name=None):
    """The chunk in a blob. Raises as _OpenedBlob says."""
    cdef _OpenedBlob opened = _OpenedBlob(secret, private, blob, name)
    return chunk_of(opened.slab)[:opened.slab.length]


def read_chunk(bytes secret, bytes private, const u8[::1] blob, str name, long long size):
    """The plain bytes of a blob that is a frame of its own, exactly `size` of them (-1: not known). Raises as
    _OpenedBlob says; CorruptBlob, too, when the chunk does not decompress to that length."""
    cdef _OpenedBlob opened = _OpenedBlob(secret, private, blob, name)
    try:
        return decompressed(chunk_of(opened.slab), opened.slab.length, size)
    except ValueError as error:
        raise CorruptBlob(f"blob {name}: {error}") from error

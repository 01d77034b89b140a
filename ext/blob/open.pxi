# A blob becomes its chunk again, in one buffer: authenticated first, then decrypted in place, hashed while it is in the cache,
# and compared with its name. The reverse of seal.pxi, by the same pieces.

cdef enum Verdict:
    GOOD = 0
    BAD_HEADER = 1          # no file key: the wrong key, or a damaged header
    BAD_BODY = 2            # does not authenticate, or cut short
    BAD_NAME = 3            # authenticates, but belongs to another name
    BAD_FRAME = 4           # does not decompress, or the stream ends early
    NOT_THERE = 5           # no such blob
    BAD_READ = 6            # the system could not read it: errno says why
    BAD_WRITE = 7           # the restored file could not be written: errno says why
    NO_ROOM = 8             # the system has not the room that this file is said to need
    BROKEN_OFF = 9          # the run ends: a Python store raised, or it was stopped

# Bytes of the longest blob that is opened here: more than half of the memory has no room beside what it becomes.
MAX_BLOB = max(1 << 30, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
cdef long long max_blob = MAX_BLOB
cdef int NEVER = 0     # for `stop`: nobody stops it

# The same for the caller: Opened.verdict is one of these.
VERDICT = {"good": GOOD, "bad header": BAD_HEADER, "bad body": BAD_BODY, "bad name": BAD_NAME, "bad frame": BAD_FRAME,
           "not there": NOT_THERE, "bad read": BAD_READ, "bad write": BAD_WRITE, "no room": NO_ROOM}


cdef inline bint is_damage(Verdict verdict) noexcept nogil:
    """Returns True if the blob is damaged: another copy of it may be good."""
    return BAD_HEADER <= verdict <= BAD_NAME


cdef struct OpenState:      # the state of a box that is being authenticated: its tag's key and how far it has come
    u8[KEY] file_key
    u8[NONCE] nonce
    u8[TAG] tag
    Poly poly


cdef inline void open_forget(OpenState* state) noexcept nogil:
    poly_forget(&state.poly)
    sodium.memzero(state, sizeof(OpenState))


cdef Verdict open_begin(OpenState* state, const Keys* keys, const u8* head) noexcept nogil:
    """Reads header, nonce and tag of a blob. Returns BAD_HEADER if the header does not unwrap."""
    cdef u8[FIRST] poly_key
    if unwrap(keys, head, state.file_key):
        return BAD_HEADER
    memcpy(state.nonce, head + keys.header, NONCE)
    memcpy(state.tag, head + keys.header + NONCE, TAG)
    memset(poly_key, 0, FIRST)
    salsa_xor(poly_key, poly_key, FIRST, state.nonce, 0, state.file_key)
    poly_begin(&state.poly, poly_key)
    sodium.memzero(poly_key, FIRST)
    return GOOD


cdef Verdict open_end(OpenState* state) noexcept nogil:
    """Compares the tag. Returns BAD_BODY unless the bytes given to poly_add are those that were sealed."""
    cdef u8[TAG] tag
    poly_end(&state.poly, tag)
    return GOOD if sodium.verify_16(tag, state.tag) == 0 else BAD_BODY


cdef void decrypt(OpenState* state, u8* m, size_t start, size_t end) noexcept nogil:
    """Decrypts bytes [start, end) of the message at `m` in place; `start` is 0 or lies FIRST behind a multiple of 64."""
    cdef u8[SALSA_BLOCK] block
    cdef size_t n
    check(start == 0 or (start + FIRST) % SALSA_BLOCK == 0)
    if start == 0 and end > 0:
        n = min(<size_t>FIRST, end)
        memset(block, 0, FIRST)
        memcpy(block + FIRST, m, n)
        salsa_xor(block, block, FIRST + n, state.nonce, 0, state.file_key)
        memcpy(m, block + FIRST, n)
        sodium.memzero(block, SALSA_BLOCK)
        start = n
    if end > start:
        salsa_xor(m + start, m + start, end - start, state.nonce, (start + FIRST) // SALSA_BLOCK, state.file_key)


cdef size_t even_length(const u8* m, size_t total) noexcept nogil:
    """Returns the length of the chunk that the last 8 bytes of a payload tell, if padding that hides sizes may end there;
    else `total`."""
    cdef u64 length = read_le(m + total - 8, 8) if total >= PAD_EVEN else total
    return <size_t>length if length <= total and total - length >= PAD_EVEN else total


cdef int chunk_lengths(const u8* tail, size_t tail_at, size_t total, size_t even, size_t* lengths) noexcept nogil:
    """Finds every length that the chunk in a payload of `total` bytes can have, ascending; the last is `total` itself.
    Returns how many there are, at most four.

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


cdef Verdict slab_unlock(Slab* slab, OpenState* state, const Keys* keys, const u8* name, const int* stop) noexcept nogil:
    """Decrypts the authenticated payload in a buffer, hashes it while warm, and finds its chunk's length.

    With a `name` (a digest) the length is the one whose hash makes the name; returns BAD_NAME if there is none. Without,
    it is the shortest at which padding begins. Returns BROKEN_OFF when `stop` becomes true.
    """
    cdef u8* m = chunk_of(slab)
    cdef size_t total = slab.total, at = 0, end, even, first
    cdef size_t tail = 0 if total <= MAX_PADDING + SALSA_BLOCK else (
        FIRST + (total - MAX_PADDING - FIRST) // SALSA_BLOCK * SALSA_BLOCK)
    cdef size_t[4] lengths
    cdef int count, i
    cdef Verdict verdict = BAD_NAME
    cdef u8[KEY] digest
    cdef void* branch
    decrypt(state, m, tail, total)
    even = even_length(m, total)
    if even < tail:
        first = FIRST + (even - FIRST) // SALSA_BLOCK * SALSA_BLOCK if even >= FIRST + SALSA_BLOCK else 0
        decrypt(state, m, first, tail)
        tail = first
    count = chunk_lengths(m + tail, tail, total, even, lengths)
    slab.length = lengths[0]
    if name == NULL:
        decrypt(state, m, 0, tail)
        return GOOD
    sha_begin(slab.sealing.sha)
    while at < tail:
        if load_int(stop):
            return BROKEN_OFF
        end = min(tail, FIRST + ((at + PIECE) // SALSA_BLOCK) * SALSA_BLOCK)
        decrypt(state, m, at, end)
        sha_update(slab.sealing.sha, m + at, end - at)
        at = end
    branch = crypto.ctx_new()
    for i in range(count):
        sha_update(slab.sealing.sha, m + at, lengths[i] - at)
        at = lengths[i]
        sha_copy(branch, slab.sealing.sha)
        sha_end(branch, digest)
        if is_name(keys, digest, name):
            slab.length = at
            verdict = GOOD
            break
    crypto.ctx_free(branch)
    return verdict


cdef Verdict slab_open(Slab* slab, const Keys* keys, const u8* blob, size_t size, const u8* name,
                   const int* stop) noexcept nogil:
    """Copies a blob into a buffer that has room for it, authenticates each piece while it is in the cache, and decrypts it."""
    cdef OpenState state
    cdef size_t head = keys.header + BOX, at = 0, n
    cdef Verdict verdict
    if size < head:
        return BAD_BODY
    memset(&state, 0, sizeof(OpenState))
    slab.total = size - head
    check(slab.chunk_at + slab.total <= slab.room)
    verdict = open_begin(&state, keys, blob)
    while verdict == GOOD and at < slab.total:
        if load_int(stop):
            verdict = BROKEN_OFF
            break
        n = min(slab.total - at, <size_t>PIECE)
        memcpy(chunk_of(slab) + at, blob + head + at, n)
        poly_add(&state.poly, chunk_of(slab) + at, n)
        at += n
    if verdict == GOOD:
        verdict = open_end(&state)
    if verdict == GOOD:
        verdict = slab_unlock(slab, &state, keys, name, stop)
    open_forget(&state)
    return verdict

# Where a file is cut: every so many bytes, or by its content, as FastCDC does, so that inserted or removed bytes move only
# the cuts next to them (Xia et al., "FastCDC", USENIX ATC 2016, and IEEE TPDS 31:9, 2020).
#
# A Gear hash over the last 64 bytes is compared with a threshold: a low one until a chunk has its mean size, a high one
# from there on (the paper's normalized chunking, level 2). Nothing is cut below the minimum size, and the bytes up to the
# last 64 of it are not even hashed. Where the paper masks bits, here the upper bits count, which depend on the most bytes;
# so the mean need not be a power of two. The table of the hash comes from the caller, who derives it from the key: without
# the key, the positions of cuts reveal nothing.

cdef enum:
    GEARS = 256
    WINDOW = 64                 # bytes that the hash depends on

cdef struct Cuts:
    size_t minimum              # bytes of a chunk; the last of a file may be shorter
    size_t mean
    size_t maximum
    u64 rare                    # a hash below it cuts, before the mean size
    u64 common                  # a hash below it cuts, from the mean size on
    bint by_content
    u64[GEARS] gear

cdef struct Scan:               # how far the search for a chunk's end has come
    size_t at
    u64 hash


cdef int fill_cuts(Cuts* cuts, size_t chunk_size, tuple content) except -1:
    """Sets cuts at every `chunk_size` bytes; or with (minimum, mean, table) by content, and after `chunk_size` bytes at most.
    Raises ValueError if the sizes or the table are wrong."""
    cdef bytes table
    cdef int i, byte
    cuts.minimum = cuts.mean = cuts.maximum = chunk_size
    cuts.by_content = content is not None
    if content is None:
        return 0
    cuts.minimum, cuts.mean, table = content
    if not WINDOW <= cuts.minimum <= cuts.mean <= cuts.maximum or len(table) != GEARS * sizeof(u64):
        raise ValueError(f"{WINDOW} <= minimum <= mean <= chunk_size, and a table of {GEARS} numbers")
    for i in range(GEARS):
        cuts.gear[i] = 0
        for byte in range(8):
            cuts.gear[i] |= <u64><u8>table[8 * i + byte] << 8 * byte
    # No run of zeros is cut, so that all its chunks are of the maximum size, and the same blob: their hash is -gear[0].
    cuts.gear[0] = cuts.gear[0] >> 1 | 1
    cuts.rare = <u64>-1 // cuts.mean // 4
    cuts.common = <u64>-1 // cuts.mean * 4
    return 0


cdef inline size_t hash_on(const u64* gear, const u8* p, Scan* scan, size_t end, u64 below) noexcept nogil:
    """Hashes bytes up to `end`, or up to the first whose hash is lower than `below`. Returns the position behind that byte, or
    0."""
    cdef u64 h = scan.hash
    cdef size_t at = scan.at
    while at < end:
        h = (h << 1) + gear[p[at]]
        at += 1
        if h < below:       # left from here: a flag for the loop to look at costs two fifths of the speed
            scan.hash, scan.at = h, at
            return at
    scan.hash, scan.at = h, at
    return 0


cdef size_t chunk_end(const Cuts* cuts, Scan* scan, const u8* p, size_t have) noexcept nogil:
    """Returns the length of the chunk that begins at `p` if its first `have` bytes tell that, else 0. `scan`, zeroed for each
    chunk, keeps how far the search came: the next call has the same bytes and more."""
    cdef size_t end = 0
    if cuts.by_content:
        if scan.at == 0:
            scan.at = cuts.minimum - WINDOW
        if scan.at < cuts.minimum - 1:
            hash_on(cuts.gear, p, scan, min(have, cuts.minimum - 1), 0)
        if scan.at < min(have, cuts.mean):
            end = hash_on(cuts.gear, p, scan, min(have, cuts.mean), cuts.rare)
        if end == 0 and scan.at < min(have, cuts.maximum):
            end = hash_on(cuts.gear, p, scan, min(have, cuts.maximum), cuts.common)
    return end or (cuts.maximum if have >= cuts.maximum else 0)


def cut(const u8[::1] data, size_t chunk_size, tuple content):
    """Returns the sizes of the chunks that Sealer cuts `data` into."""
    cdef Cuts cuts
    cdef Scan scan
    cdef size_t at = 0, n
    cdef list sizes = []
    fill_cuts(&cuts, chunk_size, content)
    while at < <size_t>data.shape[0]:
        memset(&scan, 0, sizeof(Scan))
        with nogil:
            n = chunk_end(&cuts, &scan, &data[at], data.shape[0] - at)
        n = n or data.shape[0] - at
        sizes.append(n)
        at += n
    return sizes

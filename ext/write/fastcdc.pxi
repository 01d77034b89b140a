# Where a file is cut. Every so many bytes; or by its content, as FastCDC does, so that bytes which are inserted or removed
# move no cut but those beside them (Xia et al., "FastCDC", USENIX ATC 2016, and IEEE TPDS 31:9, 2020).
#
# A Gear hash over the last 64 bytes is compared with a threshold: a low one until a chunk has its mean size, a high one
# from there on (the paper's normalised chunking, level 2), and never below the minimum, whose bytes are not even looked
# at. What the paper masks is here the hash's upper bits, each of which has seen the most bytes, so a mean need be no power
# of two. The table of the hash is the caller's, from its key: where the cuts lie says nothing to who does not have it.

cdef enum:
    GEARS = 256
    WINDOW = 64                 # bytes that the hash depends on

cdef struct Cuts:
    size_t minimum              # bytes of a chunk; the last of a file may be shorter
    size_t mean
    size_t maximum
    u64 rare                    # a hash below it cuts, before the mean size
    u64 common                  # and behind it
    bint by_content
    u64[GEARS] gear

cdef struct Scan:               # how far the search for a chunk's end has come
    size_t at
    u64 hash


cdef int fill_cuts(Cuts* cuts, size_t chunk_size, tuple content) except -1:
    """Every `chunk_size` bytes; or, with (minimum, mean, table), by content and at most so many."""
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
    """Hashes up to `end`, or to behind the first byte whose hash lies `below`. Returns where that is, or 0."""
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
    """Where the chunk that begins at `p` ends, when that can be told from its first `have` bytes; else 0. `scan`, zeroed
    for each chunk, keeps what was found: the bytes stay, and more are added."""
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
    """The sizes of the chunks that Sealer cuts `data` into."""
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

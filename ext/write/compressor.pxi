# How a worker's zstd context is set for the frame that comes next.

cdef enum:
    TUNED = 3                   # the level whose parameters are ours for large chunks
    WORTH = 16 * PIECE          # bytes beyond which a chunk is large
    WINDOW_LOG = 23             # of a tuned frame: the largest that every reader must accept (RFC 8878)
    LOOKS_BACK = 1 << WINDOW_LOG # bytes that zstd looks back


cdef void begin_frame(void* context, int level, size_t n, bint alone, bint steady) noexcept nogil:
    """Begins a frame of `n` bytes. `alone`: of a whole file in one chunk, as pog makes it. `steady`: all of its bytes stay
    where they are, one behind the other."""
    zstd_reset(context)
    zstd_set(context, ZSTD_C_CHECKSUM, not alone)
    zstd_set(context, ZSTD_C_STABLE_IN, steady)
    tune(context, is_tuned(level, n, alone))
    if not alone and zstd.is_error(zstd.cctx_pledge(context, n)):
        library_failed(b"zstd")


cdef bint is_tuned(int level, size_t n, bint alone) noexcept nogil:
    return n > WORTH and not alone and level == TUNED


cdef void tune(void* context, bint tuned) noexcept nogil:
    """Tunes level 3 for chunks rather than for streams: a large window, in return a
    smaller chain table, since both share a core's cache, and blocks that end where they are full. Over eight kinds of data
    this takes 6 % less time for as many bytes, at worst 6 % more (bench/level.py). 0 means the level's own value."""
    zstd_set(context, ZSTD_C_WINDOW, WINDOW_LOG if tuned else 0)
    zstd_set(context, ZSTD_C_CHAIN, 14 if tuned else 0)
    zstd.cctx_set(context, ZSTD_C_SPLITTER, 1 if tuned else 0)    # releases before 1.5.7 refuse it

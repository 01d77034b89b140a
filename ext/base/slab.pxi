# One buffer a chunk: mapped once, huge pages advised, reused. Fresh memory is dear: pogcli spends 3 to 8 s of a 1 GB
# run in page faults.

cdef extern from "<sys/mman.h>" nogil:
    void* mmap(void* addr, size_t n, int prot, int flags, int fd, off_t offset)
    int munmap(void* addr, size_t n)
    int PROT_READ, PROT_WRITE, MAP_PRIVATE
    void* MAP_FAILED

cdef extern from *:
    """
    #include <sys/mman.h>
    #ifndef MAP_ANONYMOUS
    #define MAP_ANONYMOUS MAP_ANON
    #endif
    #ifndef MAP_NORESERVE
    #define MAP_NORESERVE 0
    #endif
    static void pogfast_advise_huge(void* p, size_t n) {
    #ifdef MADV_HUGEPAGE
        madvise(p, n, MADV_HUGEPAGE);
    #else
        (void)p; (void)n;
    #endif
    }
    static void pogfast_give_back(void* p, size_t n) {
    #ifdef __linux__
        madvise(p, n, MADV_DONTNEED);
    #else
        (void)p; (void)n;
    #endif
    }
    """
    int MAP_ANONYMOUS, MAP_NORESERVE
    void pogfast_advise_huge(void* p, size_t n) nogil
    void pogfast_give_back(void* p, size_t n) nogil

cdef enum:
    PIECE = 256 << 10       # bytes that are worked on at a time: a multiple of 64 that fits a core's second-level cache
    PAGE = 4096
    HUGE = 2 << 20
    KEPT = 16 << 20         # of a blob's memory when that is given back: new memory has its price
    # The chunk begins here in a buffer that a blob is read into: 64-byte aligned, so that the block counter of the
    # cipher and the cache lines agree, with room for the header, nonce and tag in front. Those begin 64 bytes or more
    # behind a page: what is copied to less than that, seen from where it came from (its page in the cache), is copied
    # at a quarter of the speed, since each load looks like one of the byte that was stored just before.
    CHUNK_AT = 192


cdef u8* map_memory(size_t n) noexcept nogil:
    """Memory that costs nothing until it is touched: a chunk size may be far larger than the files."""
    cdef void* p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    if p == MAP_FAILED:
        return NULL
    if n >= 2 * <size_t>HUGE:
        pogfast_advise_huge(p, n)
    return <u8*>p


cdef struct Slab:
    u8* base            # mapped memory
    size_t chunk_at     # where in it the chunk begins
    size_t room         # bytes mapped
    u8* plain           # mapped memory for the chunk before it is compressed, where that is kept whole
    size_t plain_room
    size_t have         # bytes of the chunk that are in it
    size_t length       # bytes of the chunk that are there
    size_t total        # length and padding: what is encrypted
    bint whole          # `length` is final
    size_t hashed       # bytes of the chunk that are in its sha256
    size_t sealed       # bytes that are encrypted and in its tag
    bint busy           # a worker is hashing and encrypting it
    bint dropped        # its file broke off: no blob is made of it
    bint encrypt_late   # encrypt only after the name is known (this run finds mostly known names)
    u8[KEY] digest      # the name, when hashed == length and whole
    u8[KEY] plain_name  # made of the plain bytes as a name is made of a chunk, if that is known
    bint plain_named
    u8[KEY] file_key
    void* sha           # EVP_MD_CTX
    u8[POLY_STATE + 16] poly_room
    void* drafts        # a Draft for each sink, while the blob is written as it is made; writer.pxi
    size_t ready        # bytes of the blob that the writer may have
    size_t written      # bytes that are in the drafts; the first page comes last
    bint lined_up       # waits for the writer
    bint writing        # the writer is at it
    bint handed_on      # the writer is to finish it
    unsigned wanted     # a bit for each sink that does not hold the blob yet
    u64 plain_size      # plain bytes that it is made of, and whether they are a hole; of chunks in `frames`
    bint hole
    Slab* next_to_write # the next that waits for the writer
    Slab* next          # in the list of slabs being sealed, oldest first, or of free ones
    void* owner         # the Stream or FramedFile that it belongs to
    Py_ssize_t index    # which blob of its file


cdef int slab_reserve(Slab* slab, size_t chunk) noexcept nogil:
    """Room for a chunk of `chunk` bytes, its header and padding. 0, or -1 when there is no memory."""
    cdef size_t need = (slab.chunk_at + chunk + MAX_PADDING + PAGE - 1) // PAGE * PAGE
    if slab.room >= need:
        return 0
    if slab.base != NULL:
        munmap(slab.base, slab.room)
        slab.room = 0
    slab.base = map_memory(need)
    if slab.base == NULL:
        return -1
    slab.room = need
    return 0


cdef void give_back_beyond(u8* memory, size_t room, size_t keep) noexcept nogil:
    """Gives mapped memory beyond `keep` bytes back to the system, until it is needed again."""
    keep = (keep + HUGE - 1) // HUGE * HUGE
    if keep < room:
        pogfast_give_back(memory + keep, room - keep)


cdef void slab_let_go(Slab* slab, const u8* start, const u8* end) noexcept nogil:
    """Gives memory of a blob back to the system, by whole huge pages: up to `end`, from the last one that a call which
    ended at `start` had left; what the next blob needs at once is kept."""
    cdef size_t first = (<size_t>slab.base + KEPT + HUGE - 1) // HUGE * HUGE
    cdef size_t begin = max(first, <size_t>start // HUGE * HUGE)
    cdef size_t stop = <size_t>end // HUGE * HUGE
    if begin < stop:
        pogfast_give_back(<void*>begin, stop - begin)


cdef Slab* slab_new(size_t chunk_at) noexcept nogil:
    cdef Slab* slab = <Slab*>calloc(1, sizeof(Slab))
    if slab == NULL:
        return NULL
    slab.chunk_at = chunk_at
    slab.sha = crypto.ctx_new()
    if slab.sha == NULL:
        free(slab)
        return NULL
    return slab


cdef void slab_free(Slab* slab) noexcept nogil:
    if slab == NULL:
        return
    sodium.memzero(slab.file_key, KEY)
    sodium.memzero(slab.poly_room, POLY_STATE + 16)
    if slab.base != NULL:
        munmap(slab.base, slab.room)
    if slab.plain != NULL:
        munmap(slab.plain, slab.plain_room)
    crypto.ctx_free(slab.sha)
    free(slab)


cdef inline void* poly_of(Slab* slab) noexcept nogil:
    return <void*>((<size_t>&slab.poly_room[0] + 15) & ~<size_t>15)       # libsodium wants its state aligned to 16


cdef inline u8* chunk_of(Slab* slab) noexcept nogil:
    return slab.base + slab.chunk_at


cdef void slab_begin(Slab* slab) noexcept nogil:
    slab.length = slab.total = slab.hashed = slab.sealed = 0
    slab.whole = slab.busy = slab.dropped = False
    sha_begin(slab.sha)


cdef inline u8* blob_of(Slab* slab, const Keys* keys) noexcept nogil:
    return chunk_of(slab) - BOX - keys.header


cdef inline size_t blob_size(Slab* slab, const Keys* keys) noexcept nogil:
    return keys.header + BOX + slab.total


cdef class Blob:
    """A finished blob in its buffer, readable through the buffer protocol, never writable.

    It owns the memory while it lives. The worker takes the memory back for its next chunk only when no view of it
    is left (`reclaim`); if one is, the memory stays with the view and the worker maps other memory.
    """
    cdef u8* base
    cdef size_t room
    cdef size_t start
    cdef Py_ssize_t size
    cdef Py_ssize_t views

    def __getbuffer__(self, Py_buffer* view, int flags):
        if self.base == NULL:
            raise BufferError("this blob's buffer is in use again")
        PyBuffer_FillInfo(view, self, self.base + self.start, self.size, 1, flags)
        self.views += 1

    def __releasebuffer__(self, Py_buffer* view):
        self.views -= 1

    cdef bint reclaim(self) noexcept:
        if self.views:
            return False
        self.base = NULL
        return True

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.room)

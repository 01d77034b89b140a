# One buffer for each chunk: mapped once, with huge pages advised, and reused. Fresh memory is expensive: pogcli spends 3 to
# 8 s of a 1 GB run in page faults.

cdef extern from "<sys/mman.h>" nogil:
    void* mmap(void* addr, size_t n, int prot, int flags, int fd, off_t offset)
    int munmap(void* addr, size_t n)
    int PROT_READ, PROT_WRITE, MAP_PRIVATE
    void* MAP_FAILED

cdef extern from *:
    """
    #include <stdlib.h>
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
    /* Moves the memory of pages of mapped memory to other ones, without copying; what these had is gone. The old ones stay
       mapped, and empty. -1 where the system cannot: then the bytes are where they were. */
    static int pogfast_move_pages(void* from, void* to, size_t n) {
    #if defined(__linux__) && defined(MREMAP_FIXED)
    #ifndef MREMAP_DONTUNMAP
    #define MREMAP_DONTUNMAP 4
    #endif
        if (mremap(from, n, n, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, to) != MAP_FAILED) return 0;
        /* It may have unmapped the place before it failed. */
        if (mmap(to, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
            abort();
        return -1;
    #else
        (void)from; (void)to; (void)n;
        return -1;
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
    int move_pages "pogfast_move_pages"(void* source, void* to, size_t n) nogil

cdef enum:
    PIECE = 256 << 10       # bytes that are processed at a time: a multiple of 64 that fits a core's second-level cache
    PAGE = 4096
    HUGE = 2 << 20
    KEPT = 16 << 20         # bytes of a blob's memory that are not given back: new memory is expensive
    SPARE_PAGES = 8         # huge pages of a slab, at most, that hold nothing and wait to be moved
    MAX_MOVED = 1 << 30     # bytes of an area in which pages are moved: each move leaves the kernel one more mapping
    # The byte at which the chunk begins in a buffer that a blob is read into: a multiple of 64, so that the cipher's blocks
    # and the cache lines agree, with room for header, nonce and tag before it. These begin 64 bytes or more behind the start
    # of a page. The page cache holds the blob from the start of a page on, and copying to a destination that lies less than
    # 64 bytes behind its source, modulo the page size, takes four times as long: each load looks to the processor like one of
    # the byte that was stored just before.
    CHUNK_AT = 192


cdef u8* map_memory(size_t n) noexcept nogil:
    """Maps memory that costs nothing until it is touched: a chunk size may be far larger than the files. Returns NULL if there
    is none."""
    cdef void* p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    if p == MAP_FAILED:
        return NULL
    if n >= 2 * <size_t>HUGE:
        pogfast_advise_huge(p, n)
    return <u8*>p


cdef enum SlabState:        # of a Sealer's slab; an Opener's and a kernel's have one user at a time, and stay FREE
    FREE                    # holds no chunk: in the list of spare slabs, or a worker's own between two files
    FILLING                 # a worker compresses into it; in the `frames` layout, and for small files, it seals as well
    FOLLOWED                # one worker compresses into it, another seals the bytes that are there (`stream` only)
    WHOLE                   # its last byte is there; no worker has it
    SEALING                 # its last byte is there; a worker has it
    ABANDONED               # its file cannot be read further, and a worker still seals it: no blob is made of it
    HANDED_OVER             # sealed and left to the writer, which stores it

cdef enum WriteState:       # what the writer does with a slab, while a worker makes the chunk
    NOT_WAITING
    WAITING                 # in the writer's list
    BEING_WRITTEN           # the writer reads its bytes, without the lock

cdef struct Area:           # mapped memory that is written from its beginning to its end, and let go of behind that
    u8* first               # the huge page from which on memory is let go of; that before it stays
    u8* front               # the first huge page that the chunk has not reached yet. With the lock
    u8* gone                # pages before this one have been let go of
    u8* last                # the end of the last whole huge page in it

cdef struct SparePages:     # huge pages of either area of a slab whose bytes nobody needs
    u8* pages[SPARE_PAGES]
    int count

cdef struct Chunk:          # the plain bytes that a blob is made of. Written by the worker that fills the slab
    u8* plain               # mapped memory for them, where a chunk is kept whole until it is compressed (`frames`), or NULL
    size_t plain_room       # bytes mapped there
    size_t have             # bytes of the chunk that lie there
    u64 plain_size          # bytes of the file in this chunk; `frames` only
    bint hole               # all of them are a hole in the file
    bint plain_named        # `plain_name` is known
    u8[KEY] plain_name      # made of the plain bytes as a name is made of a chunk
    Stream* stream          # the file that it belongs to, in the `stream` layout; set with the pool's lock
    FramedFile* framed      # the same in the `frames` layout
    Py_ssize_t index        # which blob of its file, counted from 0; set with the pool's lock

cdef struct Sealing:        # the chunk becomes a blob. Written by the worker that seals (in `frames`, the one that fills)
    size_t hashed           # bytes of the chunk that its sha256 has seen
    size_t sealed           # bytes of the chunk that are encrypted and authenticated, never more than `hashed`
    bint encrypt_late       # encrypt when the name is known: most blobs of this run are in the stores already
    u8[KEY] digest          # the blob's name, once slab_name has made it
    u8[KEY] file_key        # of this blob, from encrypt_begin until the tag is written
    void* sha               # EVP_MD_CTX
    Poly poly               # of its tag, meanwhile

cdef struct Writing:        # the blob goes to the disk (write/writer.pxi)
    WriteState state        # with the pool's lock
    size_t ready            # bytes of the blob, from its header on, that the writer may have: encrypted, and final but for
                            # the tag. Set by the worker, with the lock
    size_t written          # bytes of the blob, of which the first page is left out, that are in the drafts. Set by the
                            # writer, with the lock
    Draft* drafts           # one for each sink, or NULL. Made by the worker; `error` in them is the writer's meanwhile
    unsigned wanted         # a bit for each sink that has to get the blob. Set by the worker that stores it
    Slab* next              # in the writer's list, oldest first; with the lock

cdef struct Slab:
    SlabState state         # with the pool's lock, unless one worker has the slab for itself: its own, for small files, or one
                            # that it has taken back from the writer to begin anew
    u8* base                # mapped memory. Given and taken by whoever has the slab, as the next two
    size_t room             # bytes mapped
    size_t chunk_at         # byte in it at which the chunk begins; never changes
    size_t length           # bytes of the (compressed) chunk that are there. With the lock in the `stream` layout, where
                            # the one who seals stays below it
    size_t total            # bytes of chunk and padding: what is encrypted. Set when the chunk is whole
    bint moves              # memory that is let go of is moved to where the chunk needs it next; set with the slab
    Area blob_area          # of `base`. `gone` belongs to the writer while it is in the slab
    Area plain_area         # of `chunk.plain`
    SparePages spare        # with the lock
    Chunk chunk
    Sealing sealing
    Writing writing
    Slab* next              # in the list of slabs being sealed, oldest first, or of spare ones; with the lock


# ---- the life of a Sealer's slab: one function for each transition, which a debug build checks ----

cdef inline bint is_either(SlabState state, SlabState one, SlabState other) noexcept nogil:
    return state == one or state == other


cdef void slab_check(Slab* slab) noexcept nogil:
    """Checks the invariants of a slab in a debug build. Called by the thread that has the slab."""
    check(slab.sealing.hashed <= slab.length)
    check(slab.sealing.sealed <= max(slab.sealing.hashed, slab.total))
    check(slab.base == NULL or slab.chunk_at + slab.length <= slab.room)
    check(slab.writing.drafts != NULL or slab.writing.ready == 0)


cdef void slab_begin(Slab* slab) noexcept nogil:
    """Begins a chunk, or begins it anew. FREE or FILLING -> FILLING."""
    check(is_either(slab.state, FREE, FILLING))
    slab_leave_areas(slab)
    slab.state = FILLING
    slab.length = slab.total = slab.sealing.hashed = slab.sealing.sealed = 0
    sha_begin(slab.sealing.sha)


cdef void slab_complete(Slab* slab) noexcept nogil:
    """The last byte of the chunk is there. FILLING -> WHOLE, FOLLOWED -> SEALING."""
    check(is_either(slab.state, FILLING, FOLLOWED))
    slab.state = WHOLE if slab.state == FILLING else SEALING


cdef void slab_take(Slab* slab) noexcept nogil:
    """A worker takes the slab to seal what is there. FILLING -> FOLLOWED, WHOLE -> SEALING."""
    check(is_either(slab.state, FILLING, WHOLE))
    slab.state = FOLLOWED if slab.state == FILLING else SEALING


cdef void slab_leave(Slab* slab) noexcept nogil:
    """A worker has sealed what was there when it took the slab. FOLLOWED -> FILLING, SEALING -> WHOLE."""
    check(is_either(slab.state, FOLLOWED, SEALING))
    slab_check(slab)
    slab.state = FILLING if slab.state == FOLLOWED else WHOLE


cdef void slab_abandon(Slab* slab) noexcept nogil:
    """The file cannot be read further while a worker seals. FOLLOWED -> ABANDONED."""
    check(slab.state == FOLLOWED)
    slab.state = ABANDONED


cdef void slab_hand_over(Slab* slab) noexcept nogil:
    """The blob is sealed, and the writer stores it. SEALING -> HANDED_OVER."""
    check(slab.state == SEALING)
    check(slab.sealing.sealed == slab.total)
    slab_check(slab)
    slab.state = HANDED_OVER


cdef void slab_end(Slab* slab) noexcept nogil:
    """The chunk is stored, or given up. Any state -> FREE, unless a worker or the writer is in the slab."""
    check(slab.state != FOLLOWED)
    check(slab.writing.state == NOT_WAITING)
    slab_check(slab)
    slab.state = FREE


cdef Errno slab_reserve(Slab* slab, size_t chunk) noexcept nogil:
    """Makes room for a chunk of `chunk` bytes, its header and padding."""
    cdef size_t need = (slab.chunk_at + chunk + MAX_PADDING + PAGE - 1) // PAGE * PAGE
    if slab.room >= need:
        return 0
    if slab.base != NULL:
        munmap(slab.base, slab.room)
        slab.room = 0
    slab.base = map_memory(need)
    slab.spare.count = 0
    area_begin(&slab.blob_area, slab.base, need, KEPT)
    if slab.base == NULL:
        return ENOMEM
    slab.room = need
    return 0


cdef void give_back_beyond(u8* memory, size_t room, size_t keep) noexcept nogil:
    """Gives mapped memory beyond `keep` bytes back to the system, until it is needed again."""
    keep = (keep + HUGE - 1) // HUGE * HUGE
    if keep < room:
        pogfast_give_back(memory + keep, room - keep)


# ---- memory that is used again ----
#
# A chunk of 50 MB is written to the disk while it is made, and zstd looks back 8 MB: of both areas of a slab only a part is
# needed at a time. New memory is expensive, as the kernel clears it. So huge pages whose bytes nobody needs are moved to
# where the chunk is written next: a few of them go through both areas from their beginnings to their ends.
#
# A page that waits to be moved may lie anywhere in the areas, also where bytes are written next. So each writer comes with
# area_reach, which takes the page off the list, or calls area_claim before: else the page would be moved away with its bytes.

cdef void area_begin(Area* area, u8* memory, size_t room, size_t keep) noexcept nogil:
    area.first = area.front = area.gone = <u8*>((<size_t>memory + keep + HUGE - 1) // HUGE * HUGE)
    area.last = max(area.first, <u8*>((<size_t>memory + room) // HUGE * HUGE))


cdef void area_let_go(Slab* slab, Area* area, const u8* end) noexcept nogil:
    """Lets go of the memory up to `end`, in whole huge pages. Called with the lock held, or by the only thread that has the
    slab."""
    cdef u8* stop = min(area.front if slab.moves else area.last, <u8*>(<size_t>end // HUGE * HUGE))
    while slab.moves and area.gone < stop and slab.spare.count < SPARE_PAGES:
        check(not is_spare(&slab.spare, area.gone))
        slab.spare.pages[slab.spare.count] = area.gone
        slab.spare.count += 1
        area.gone += HUGE
    if area.gone < stop:
        pogfast_give_back(area.gone, stop - area.gone)
        area.gone = stop


cdef void area_reach(Slab* slab, Area* area, const u8* end, Mutex* lock) noexcept nogil:
    """Has the memory up to `end`, which the chunk comes to next, be of spare pages, as far as there are any."""
    cdef u8* page
    cdef u8* to
    while slab.moves and area.front < min(area.last, <u8*>end):
        to = area.front
        pthread_mutex_lock(lock)
        page = take_spare(&slab.spare, to)
        area.front += HUGE
        pthread_mutex_unlock(lock)
        if page != NULL and page != to and move_pages(page, to, HUGE):
            pogfast_give_back(page, HUGE)


cdef bint is_spare(const SparePages* spare, const u8* page) noexcept nogil:
    cdef int i
    for i in range(spare.count):
        if spare.pages[i] == page:
            return True
    return False


cdef u8* take_spare(SparePages* spare, u8* wanted) noexcept nogil:
    """Takes this spare page, if it is one, or else another; NULL if there is none."""
    cdef int i, last = spare.count - 1
    if last < 0:
        return NULL
    for i in range(last):
        if spare.pages[i] == wanted:
            spare.pages[i] = spare.pages[last]
            spare.pages[last] = wanted
    spare.count = last
    return spare.pages[last]


cdef void area_claim(Slab* slab, const u8* begin, const u8* end) noexcept nogil:
    """Has no page between these wait to be moved: whoever writes there without area_reach needs the bytes. Called while nobody
    else has the slab."""
    cdef int i, kept = 0
    for i in range(slab.spare.count):
        if not begin <= slab.spare.pages[i] < end:
            slab.spare.pages[kept] = slab.spare.pages[i]
            kept += 1
    slab.spare.count = kept


cdef void area_leave(Slab* slab, Area* area, const u8* end) noexcept nogil:
    """Lets go of all memory of an area, which the chunk has come to up to `end`, and begins it anew."""
    cdef u8* stop = min(area.last, <u8*>((<size_t>end + HUGE - 1) // HUGE * HUGE))
    if area.front < stop:           # padding has come further than area_reach
        area_claim(slab, area.front, stop)
        area.front = stop
    area_let_go(slab, area, area.front)
    area.front = area.gone = area.first


cdef void slab_leave_areas(Slab* slab) noexcept nogil:
    """Lets go of the memory of the last chunk, beyond what is kept. Called while nobody else has the slab."""
    if slab.moves:
        area_leave(slab, &slab.blob_area, chunk_of(slab) + max(slab.length, slab.total))
        if slab.plain_area.front > slab.plain_area.first:
            slab.chunk.have = min(slab.chunk.have, <size_t>(slab.plain_area.first - slab.chunk.plain))
            area_leave(slab, &slab.plain_area, slab.plain_area.front)


cdef void slab_trim(Slab* slab) noexcept nogil:
    """Gives all memory but what is kept back to the system. Called while nobody else has the slab."""
    slab_leave_areas(slab)
    while slab.spare.count:
        slab.spare.count -= 1
        pogfast_give_back(slab.spare.pages[slab.spare.count], HUGE)
    give_back_beyond(slab.base, slab.room, KEPT)
    give_back_beyond(slab.chunk.plain, slab.chunk.plain_room, KEPT)


cdef Slab* slab_new(size_t chunk_at) noexcept nogil:
    cdef Slab* slab = <Slab*>calloc(1, sizeof(Slab))
    if slab == NULL:
        return NULL
    slab.chunk_at = chunk_at
    slab.sealing.sha = crypto.ctx_new()
    if slab.sealing.sha == NULL:
        free(slab)
        return NULL
    return slab


cdef void slab_free(Slab* slab) noexcept nogil:
    if slab == NULL:
        return
    sodium.memzero(slab.sealing.file_key, KEY)
    poly_forget(&slab.sealing.poly)
    if slab.base != NULL:
        munmap(slab.base, slab.room)
    if slab.chunk.plain != NULL:
        munmap(slab.chunk.plain, slab.chunk.plain_room)
    crypto.ctx_free(slab.sealing.sha)
    free(slab)


cdef inline u8* chunk_of(Slab* slab) noexcept nogil:
    return slab.base + slab.chunk_at


cdef inline u8* blob_of(Slab* slab, const Keys* keys) noexcept nogil:
    return chunk_of(slab) - BOX - keys.header


cdef inline size_t blob_size(Slab* slab, const Keys* keys) noexcept nogil:
    return keys.header + BOX + slab.total


cdef class Blob:
    """A finished blob in its buffer, readable through the buffer protocol, never writable.

    It owns the memory while it exists. The worker takes the memory back for its next chunk only if no view of it is left
    (`reclaim`); else the memory stays with the view, and the worker maps other memory.
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

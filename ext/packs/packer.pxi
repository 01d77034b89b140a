# Small blobs into packs. Workers add finished blobs to a pack that is open, in the order in which they are finished,
# without the GIL; the one that completes it hands the pack to Python. A larger blob goes on to the sink beneath.
#
#     pack = blob || blob || ... || table (PACK_ROW bytes each) || footer
#
# A Packer has a mutex of its own, for places in the open pack: a blob is hashed before a worker takes it, and copied
# without it. It is never held with a pool's, and like that one never by a thread that waits for the GIL.

cdef extern from "<time.h>" nogil:
    int CLOCK_MONOTONIC

cdef extern from "<string.h>" nogil:
    void* memmove(void* to, const void* source, size_t n)

cdef enum:
    PACK_CHECK = 8              # bytes of a blob's sha256 in its row
    SPARE_PACKS = 2             # memory of packs that is kept for the next ones
    MAX_ENDED = 0               # packs that wait for `put` while another one is filled

cdef struct OpenPack:           # a pack that is being filled
    u8* base                    # Packs.room bytes: its blobs, and from `rows_at` on the rows of its table
    size_t length               # bytes of blobs that have their place; with the Packer's lock, as the rest
    size_t count                # of these blobs
    int copying                 # of these, the ones that workers copy to their places
    bint full                   # the worker that copies last hands it over
    bint flushed                # `flush` does, once no worker copies
    long long begun_ns          # when the first one was added, on the monotonic clock
    long long added_ns          # ... and the last one

cdef struct PackMemory:         # shared by a Packer and its Packs, without a lock
    void* spare[SPARE_PACKS]

cdef struct Packs:              # of a Packer: what workers need without the GIL
    Mutex lock
    Cond copied                 # a pack that is flushed has all its blobs
    Cond taken                  # `put` has taken one of those that are `ended`
    Index* index
    Index* plain                # of blobs within `limit` that lie in no pack; NULL: the sink is asked
    Directory* directory        # of the sink; NULL when it is a Python function
    size_t size                 # bytes of blobs from which on a pack is full
    size_t limit                # bytes of a blob that is packed, at most
    size_t max_blobs
    size_t rows_at
    size_t room                 # bytes of memory of a pack
    const u8* doubted           # digests, sorted: their blobs count as absent
    size_t doubts
    OpenPack* open              # with the lock
    int ended                   # packs that are full or flushed, and that `put` has not taken; with the lock
    PackMemory* memory


cdef u8* take_pack_memory(PackMemory* memory, size_t room) noexcept nogil:
    cdef u8* base = NULL
    cdef int i
    for i in range(SPARE_PACKS):
        if base == NULL:
            base = <u8*>take_pointer(&memory.spare[i])
    return base if base != NULL else map_memory(room)


cdef void return_pack_memory(PackMemory* memory, u8* base, size_t room) noexcept nogil:
    cdef int i
    for i in range(SPARE_PACKS):
        if give_pointer(&memory.spare[i], base):
            return
    munmap(base, room)


# ---- what workers do, without the GIL ----

cdef long long monotonic_ns() noexcept nogil:
    cdef TimeSpec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <long long>now.tv_sec * 1_000_000_000 + now.tv_nsec


cdef OpenPack* open_pack(Packs* packs) noexcept nogil:
    """Returns the pack that the next blob goes to, NULL if there is no memory. With the lock, but for a wait for `put`: as
    many workers as there are could each fill a pack before it takes one."""
    cdef OpenPack* pack
    while packs.open == NULL and packs.ended > MAX_ENDED:
        pthread_cond_wait(&packs.taken, &packs.lock)
    if packs.open != NULL:
        return packs.open
    pack = <OpenPack*>calloc(1, sizeof(OpenPack))
    if pack == NULL:
        return NULL
    pack.base = take_pack_memory(packs.memory, packs.room)
    if pack.base == NULL:
        free(pack)
        return NULL
    pack.begun_ns = monotonic_ns()
    packs.open = pack
    return pack


cdef void pack_taken(Packs* packs) noexcept nogil:
    """Notes that `put` has taken a pack, or refused it."""
    pthread_mutex_lock(&packs.lock)
    check(packs.ended > 0)
    packs.ended -= 1
    pthread_cond_broadcast(&packs.taken)
    pthread_mutex_unlock(&packs.lock)


cdef OpenPack* take_place(Packs* packs, size_t n, u8** blob, u8** row) noexcept nogil:
    """Finds the place of the next blob, and that of its row. Returns NULL if there is no memory."""
    cdef OpenPack* pack
    pthread_mutex_lock(&packs.lock)
    pack = open_pack(packs)
    if pack != NULL:
        check(pack.length < packs.size and pack.count < packs.max_blobs and not pack.full)
        blob[0] = pack.base + pack.length
        row[0] = pack.base + packs.rows_at + PACK_ROW * pack.count
        pack.length += n
        pack.count += 1
        pack.copying += 1
        pack.added_ns = monotonic_ns()
        if pack.length >= packs.size or pack.count == packs.max_blobs:
            pack.full = True
            packs.open = NULL
            packs.ended += 1
    pthread_mutex_unlock(&packs.lock)
    return pack


cdef Errno packs_add(Packs* packs, const u8* digest, const u8* p, size_t n, void* sha, OpenPack** full) noexcept nogil:
    """Adds a blob of at most `limit` bytes. Where that completes a pack, `full` is it, and the caller's to hand over.
    `sha` is an EVP_MD_CTX."""
    cdef u8[KEY] hash
    cdef u8* blob
    cdef u8* row
    cdef OpenPack* pack
    check(n <= packs.limit)
    sha_begin(sha)
    sha_update(sha, p, n)
    sha_end(sha, hash)
    full[0] = NULL
    pack = take_place(packs, n, &blob, &row)
    if pack == NULL:
        return ENOMEM
    memcpy(blob, p, n)
    memcpy(row, digest, KEY)
    write_le(row + KEY, n, 4)
    memcpy(row + KEY + 4, hash, PACK_CHECK)
    pthread_mutex_lock(&packs.lock)
    check(pack.copying > 0)
    pack.copying -= 1
    if pack.copying == 0 and pack.full:
        full[0] = pack
    elif pack.copying == 0 and pack.flushed:
        pthread_cond_broadcast(&packs.copied)
    pthread_mutex_unlock(&packs.lock)
    return 0


cdef OpenPack* packs_flush(Packs* packs) noexcept nogil:
    """Takes the open pack, once all its blobs are in their places. Returns NULL if there is none."""
    cdef OpenPack* pack
    pthread_mutex_lock(&packs.lock)
    pack = packs.open
    if pack != NULL:
        packs.open = NULL
        packs.ended += 1
        pack.flushed = True
        while pack.copying:
            pthread_cond_wait(&packs.copied, &packs.lock)
    pthread_mutex_unlock(&packs.lock)
    return pack


cdef size_t pack_end(const Packs* packs, const OpenPack* pack) noexcept nogil:
    """Writes the table and the footer behind the blobs. Returns the bytes of the pack."""
    cdef u8* table = pack.base + pack.length
    cdef size_t size = PACK_ROW * pack.count
    cdef u8* footer = table + size
    check(pack.count > 0 and pack.copying == 0)
    check(pack.length <= packs.rows_at)
    memmove(table, pack.base + packs.rows_at, size)
    sha256(table, size, footer)
    write_le(footer + KEY, pack.count, 4)
    write_le(footer + KEY + 4, 1, 2)            # version
    write_le(footer + KEY + 6, 0, 2)            # flags
    memcpy(footer + KEY + 8, b"pogpack1", 8)
    return pack.length + size + PACK_FOOTER


cdef size_t packs_have(Packs* packs, const u8* digest, const size_t* sizes) noexcept nogil:
    """Returns the bytes of the blob of this name, if it has one of three sizes (NULL: any) by what index objects say;
    0 if there is none, or one that is in doubt."""
    cdef IndexSearch search
    cdef Span span
    cdef Index* index = packs.index
    cdef size_t size = 0
    if is_among(packs.doubted, packs.doubts, digest):
        return 0
    while index != NULL and size == 0:
        index_begin(index, &search, digest)
        while size == 0 and index_next(&search, &span):
            if span.state == PACK_THERE and (sizes == NULL or span.size in (sizes[0], sizes[1], sizes[2])):
                size = span.size
        index_leave(index)
        index = packs.plain if index == packs.index else NULL
    return size


# ---- for Python ----

cdef class _PackMemory:
    """Memory of packs that is used again. A Pack may outlive its Packer."""
    cdef PackMemory at
    cdef size_t room

    def __dealloc__(self):
        cdef int i
        for i in range(SPARE_PACKS):
            if self.at.spare[i] != NULL:
                munmap(self.at.spare[i], self.room)


@cython.no_gc                   # it belongs to no cycle, and needs `memory` when it is freed
@cython.final
cdef class Pack:
    """A finished pack: see _engine.pyi. Its memory is used for another one when the last view of it is gone."""
    cdef _PackMemory memory
    cdef u8* base
    cdef Py_ssize_t size
    cdef Py_ssize_t table_at
    cdef readonly Py_ssize_t blobs

    def __init__(self):
        raise TypeError("only a Packer makes packs")

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.base, self.size, 1, flags)

    @property
    def table(self):
        return memoryview(self)[self.table_at:self.table_at + PACK_ROW * self.blobs]

    def __dealloc__(self):
        if self.base != NULL:
            return_pack_memory(&self.memory.at, self.base, self.memory.room)


cdef class Packer:
    """Puts small blobs into packs, and larger ones into another sink: see _engine.pyi."""
    cdef Packs at
    cdef object sink
    cdef PackIndex index
    cdef PackIndex plain
    cdef object put
    cdef bytes digests
    cdef _PackMemory memory

    def __cinit__(self):
        pthread_mutex_init(&self.at.lock, NULL)
        pthread_cond_init(&self.at.copied, NULL)
        pthread_cond_init(&self.at.taken, NULL)

    def __init__(self, sink, PackIndex index not None, put, *, size_t size, size_t limit, size_t max_blobs=10_000,
                 PackIndex plain=None):
        cdef u64 room = <u64>PACK_ROW * max_blobs + PACK_FOOTER
        if size < 1 or max_blobs < 1 or max(size, limit, max_blobs) > MAX_PACK or room + size + limit > MAX_PACK:
            raise ValueError("a pack has at least one blob, and less than 4 GiB")
        if self.memory is not None or isinstance(sink, Packer):
            raise ValueError("a Packer is made once, and not for another one")
        if plain is index:
            raise ValueError("`plain` is another index than that of the packs")
        self.sink, self.index, self.plain, self.put = sink, index, plain, put
        self.memory = _PackMemory()
        self.at.size, self.at.limit, self.at.max_blobs = size, limit, max_blobs
        self.at.rows_at = size + limit
        self.at.room = self.memory.room = room + size + limit
        self.at.memory = &self.memory.at
        self.at.index = &index.at
        if plain is not None:
            self.at.plain = &plain.at
        if isinstance(sink, BlobDirectory):
            self.at.directory = &(<BlobDirectory>sink).at

    def __dealloc__(self):
        if self.at.open != NULL:
            munmap(self.at.open.base, self.at.room)
            free(self.at.open)
        pthread_mutex_destroy(&self.at.lock)
        pthread_cond_destroy(&self.at.copied)
        pthread_cond_destroy(&self.at.taken)

    def __call__(self, str name, blob):
        cdef const u8[::1] data = blob
        cdef u8[KEY] digest
        cdef OpenPack* full = NULL
        cdef const u8* p = first_byte(data)
        cdef size_t n = data.shape[0]
        cdef Errno error
        read_name(name, digest)
        if not 0 < n <= self.at.limit:
            self.pass_on(name, memoryview(blob))
            return
        with nogil:
            error = self.add(digest, p, n, &full)
        if error:
            raise MemoryError("there is no memory for a pack")
        if full != NULL:
            self.hand_over(full)

    cdef Errno add(self, const u8* digest, const u8* p, size_t n, OpenPack** full) noexcept nogil:
        cdef void* sha = crypto.ctx_new()
        cdef Errno error = packs_add(&self.at, digest, p, n, sha, full)
        crypto.ctx_free(sha)
        return error

    cdef int pass_on(self, str name, blob) except -1:
        """Puts a blob into the sink beneath, which may keep and release the view that it gets."""
        if self.at.directory != NULL:
            self.sink.put(name, blob)
        else:
            self.sink(name, blob)
        return 0

    cdef int hand_over(self, OpenPack* full) except -1:
        """Ends a pack and gives it to Python. Raises what that raises. Called with the GIL, without a lock."""
        cdef Pack pack = None
        try:
            pack = Pack.__new__(Pack)
            pack.memory, pack.base, pack.table_at, pack.blobs = self.memory, full.base, full.length, full.count
            with nogil:
                pack.size = pack_end(&self.at, full)
            self.put(pack)
        finally:                    # whatever happens: others wait for it
            if pack is None:
                return_pack_memory(&self.memory.at, full.base, self.memory.room)
            free(full)
            with nogil:
                pack_taken(&self.at)
        return 0

    def holds(self, str name):
        cdef u8[KEY] digest
        cdef size_t there
        read_name(name, digest)
        there = packs_have(&self.at, digest, NULL)
        if there:
            return there
        if self.at.directory != NULL:
            return directory_holds(self.at.directory, digest)
        holds = getattr(self.sink, "holds", None)
        return None if holds is None else holds(name)

    def doubt(self, names):
        self.digests = sorted_digests(names)
        self.at.doubted, self.at.doubts = self.digests, len(self.digests) // KEY

    def flush(self):
        cdef OpenPack* pack
        with nogil:
            pack = packs_flush(&self.at)
        if pack != NULL:
            self.hand_over(pack)

    def abandon(self):
        abandon = getattr(self.sink, "abandon", None)
        if abandon is not None:
            abandon()

    def idle(self):
        return self.seconds_since(False)

    def age(self):
        return self.seconds_since(True)

    cdef object seconds_since(self, bint begun):
        """Returns the seconds since the first blob of the open pack was added, or the last one."""
        cdef long long then_ns = -1
        with nogil:
            pthread_mutex_lock(&self.at.lock)
            if self.at.open != NULL:
                then_ns = self.at.open.begun_ns if begun else self.at.open.added_ns
            pthread_mutex_unlock(&self.at.lock)
        return None if then_ns < 0 else max(0, monotonic_ns() - then_ns) / 1e9

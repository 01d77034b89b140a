# Where blobs go: the sinks, which of them have failed, and what was stored. A sink is a BlobDirectory, a Python function
# that gets a view of the buffer, or a Packer, which has one of these two beneath it for the blobs that it does not pack. The
# steps of a chunk to here are in sealer.pxi.

cdef enum:
    MAX_SINKS = 16             # targets of one run


Tallied = collections.namedtuple("Tallied", "bytes_read bytes_stored blobs_new blobs_known", module="pogfast._engine")

cdef struct Tally:
    u64 read                    # bytes of sources
    u64 stored                  # bytes of new blobs
    u64 new
    u64 known                   # blobs that every sink had already


cdef enum Added:                # what became of a digest that was added to a set
    ADDED
    PRESENT                     # it was there
    NO_SPACE                    # there is no memory for it

cdef struct NameSet:            # digests, open addressing; a digest is random, so its first bytes are its hash
    u8* slots
    u8* used
    size_t size
    size_t count


cdef Added names_add(NameSet* names, const u8* digest) noexcept nogil:
    cdef NameSet bigger
    cdef size_t i, at
    if names.count * 2 >= names.size:
        bigger.size = names.size * 2 if names.size else 1024
        bigger.count = 0
        bigger.slots = <u8*>malloc(bigger.size * KEY)
        bigger.used = <u8*>calloc(bigger.size, 1)
        if bigger.slots == NULL or bigger.used == NULL:
            free(bigger.slots)
            free(bigger.used)
            return NO_SPACE
        for i in range(names.size):
            if names.used[i]:
                names_add(&bigger, names.slots + i * KEY)
        free(names.slots)
        free(names.used)
        names[0] = bigger
    memcpy(&at, digest, sizeof(size_t))
    at %= names.size
    while names.used[at]:
        if memcmp(names.slots + at * KEY, digest, KEY) == 0:
            return PRESENT
        at = (at + 1) % names.size
    names.used[at] = 1
    memcpy(names.slots + at * KEY, digest, KEY)
    names.count += 1
    return ADDED


@cython.no_gc_clear             # a Sealer that is freed needs it for the drafts that are left
cdef class _Store:
    """The sinks of a run, and the names that it has claimed. It knows no files and no workers: where the run cannot go on it
    sets `broken`, and the Sealer ends the run with `failure`."""
    cdef Mutex* lock                # the pool's
    cdef Keys keys                  # set before the workers start, as the next eleven
    cdef size_t chunk_size          # bytes of a chunk, at most
    cdef tuple sinks
    cdef Py_ssize_t sink_count
    cdef Packs** packers            # of each sink; NULL where it is no Packer
    cdef size_t packed              # bytes of the longest blob that one of them packs
    cdef tuple beneath              # of each sink: itself, or the one beneath a Packer
    cdef Directory** directories    # of each of these; NULL where it is a Python function
    cdef tuple holds                # of each of these: asks a Python sink for a blob; None where that cannot be asked
    cdef size_t pad_below           # chunks of fewer bytes are padded
    cdef bint even                  # padding hides sizes
    cdef bint anew                  # each blob is stored, whatever a sink has: what lies there may be damaged
    cdef dict lost                  # sink -> why it gets no more blobs; the others go on. With the GIL
    cdef int[MAX_SINKS] failed_sinks    # whether a sink is in `lost`. Set with the GIL, read without it
    cdef object failure             # why the run cannot go on. With the GIL
    cdef int broken                 # whether there is a `failure`. Set with the GIL, read without it
    cdef NameSet claimed            # names that this run has stored or is storing; with the lock
    cdef int mostly_known           # the last blob was in every sink: name first, encrypt only what is new. Without the lock
    cdef Tally tally                # with the lock

    def __cinit__(self, bytes secret, bint asymmetric, sinks, size_t chunk_size):
        cdef Py_ssize_t i
        # A private key never enters here; a symmetric key can check what is stored already.
        fill_keys(&self.keys, secret, asymmetric, None)
        self.chunk_size = self.pad_below = chunk_size
        self.sinks = tuple(sinks)
        self.beneath = tuple((<Packer>sink).sink if isinstance(sink, Packer) else sink for sink in self.sinks)
        self.holds = tuple(getattr(sink, "holds", None) for sink in self.beneath)
        self.lost = {}
        self.sink_count = len(self.sinks)
        if self.sink_count > MAX_SINKS:
            raise ValueError(f"at most {MAX_SINKS} targets")
        self.directories = <Directory**>calloc(MAX_SINKS, sizeof(Directory*))
        self.packers = <Packs**>calloc(MAX_SINKS, sizeof(Packs*))
        if self.directories == NULL or self.packers == NULL:
            raise MemoryError
        for i in range(self.sink_count):
            if isinstance(self.beneath[i], BlobDirectory):
                self.directories[i] = &(<BlobDirectory>self.beneath[i]).at
            if isinstance(self.sinks[i], Packer):
                self.packers[i] = &(<Packer>self.sinks[i]).at
                self.packed = max(self.packed, self.packers[i].limit)

    def __dealloc__(self):
        free(self.directories)
        free(self.packers)
        free(self.claimed.slots)
        free(self.claimed.used)
        sodium.memzero(&self.keys, sizeof(Keys))

    cdef void check_invariants(self) noexcept nogil:
        """As _Pool's. Called with the lock held."""
        check(self.claimed.count <= self.claimed.size)
        check(self.tally.new + self.tally.known <= self.claimed.count)      # a name is claimed before its blob is counted

    cdef Py_ssize_t directory_count(self) noexcept nogil:
        cdef Py_ssize_t i, count = 0
        for i in range(self.sink_count):
            count += self.directories[i] != NULL
        return count

    # ---- names and figures ----

    cdef void name(self, Slab* slab) noexcept nogil:
        """Names a whole chunk and pads it."""
        slab_name(slab, &self.keys)
        if self.even and slab.length < self.pad_below:
            pad_evenly(slab)
        else:
            pad(slab, self.chunk_size)

    cdef Added claim(self, const u8* digest) noexcept nogil:
        """Claims a name for the caller, who stores its blob. Returns PRESENT if another worker has claimed it."""
        cdef Added added
        pthread_mutex_lock(self.lock)
        added = names_add(&self.claimed, digest)
        pthread_mutex_unlock(self.lock)
        return added

    cdef void count_blob(self, size_t stored) noexcept nogil:
        """Counts a blob of which `stored` bytes were new."""
        pthread_mutex_lock(self.lock)
        self.tally.stored += stored
        self.tally.new += stored > 0
        self.tally.known += stored == 0
        pthread_mutex_unlock(self.lock)

    cdef void count_found(self, const u8* digest) noexcept nogil:
        """Counts a blob that every sink has, once."""
        pthread_mutex_lock(self.lock)
        self.tally.known += names_add(&self.claimed, digest) == ADDED
        pthread_mutex_unlock(self.lock)

    cdef void count_read(self, size_t n) noexcept nogil:
        pthread_mutex_lock(self.lock)
        self.tally.read += n
        pthread_mutex_unlock(self.lock)

    cdef object progress(self):
        cdef Tally now
        with nogil:
            pthread_mutex_lock(self.lock)
            now = self.tally
            pthread_mutex_unlock(self.lock)
        return Tallied(now.read, now.stored, now.new, now.known)

    # ---- which sinks have a blob ----

    cdef bint find(self, Slab* slab, u8* scratch) noexcept nogil:
        """Asks the sinks for the blob of a chunk, and notes in `wanted` which of them have to get it. Returns True if none
        has to; `total` is then that of the blob that was found."""
        cdef Py_ssize_t i
        cdef size_t there, found = 0
        slab.writing.wanted = 0
        for i in range(self.sink_count):
            if load_int(&self.failed_sinks[i]):
                continue
            there = 0 if self.anew else self.found(i, slab, scratch, False)
            found = found or there      # the first sink's: the cache is of that store
            if there == 0:
                slab.writing.wanted |= 1u << i
        store_int(&self.mostly_known, slab.writing.wanted == 0)
        if slab.writing.wanted == 0 and found:
            slab.total = found - self.keys.header - BOX
        return slab.writing.wanted == 0

    cdef bint all_have(self, Slab* slab, u8* scratch) noexcept nogil:
        """Returns True if every sink has the blob of this name and of exactly this size."""
        cdef Py_ssize_t i
        for i in range(self.sink_count):
            if not load_int(&self.failed_sinks[i]) and not self.found(i, slab, scratch, True):
                return False
        return True

    cdef size_t found(self, Py_ssize_t sink, Slab* slab, u8* scratch, bint exact) noexcept nogil:
        """Returns the bytes of the good blob of this name that a sink has, as far as that can be told; 0 if there is none.
        Another run may have padded the chunk otherwise, unless `exact`."""
        cdef size_t[3] sizes
        cdef size_t there, head = self.keys.header + BOX
        sizes[0] = sizes[1] = sizes[2] = head + slab.total
        if not exact:
            sizes[1] = head + padded(slab.length, self.chunk_size)
            sizes[2] = head + evened(slab.length)
        if self.packers[sink] != NULL:
            there = packs_have(self.packers[sink], slab.sealing.digest, sizes)
            if there or (self.packers[sink].plain != NULL and sizes[0] <= self.packers[sink].limit):
                return there
        if self.directories[sink] != NULL:
            return directory_has(self.directories[sink], slab.sealing.digest, sizes, &self.keys, scratch)
        with gil:
            return self.ask(sink, slab, sizes)

    cdef size_t ask(self, Py_ssize_t sink, Slab* slab, const size_t* sizes) noexcept:
        if self.holds[sink] is None:
            return 0
        try:
            there = self.holds[sink](name_of(slab.sealing.digest))
        except BaseException as error:
            self.lose(sink, error)
            return sizes[0]
        return there if there in (sizes[0], sizes[1], sizes[2]) else 0

    # ---- storing ----

    cdef bint put_all(self, Slab* slab) noexcept nogil:
        """Puts a sealed blob into every sink that has to get it, and counts it. Returns False if the run cannot go on."""
        cdef Py_ssize_t i
        for i in range(self.sink_count):
            if slab.writing.wanted >> i & 1:
                self.put(i, slab)
                if load_int(&self.broken):
                    return False
        self.count_blob(blob_size(slab, &self.keys))
        return True

    cdef void put(self, Py_ssize_t sink, Slab* slab) noexcept nogil:
        cdef Errno error
        if self.packers[sink] != NULL and blob_size(slab, &self.keys) <= self.packers[sink].limit:
            self.put_packed(sink, slab)
            return
        if self.directories[sink] == NULL:
            with gil:
                self.hand_out(sink, slab)
            return
        if slab.writing.drafts != NULL:
            error = self.put_draft(sink, slab)
        else:
            error = directory_put(self.directories[sink], slab.sealing.digest, blob_of(slab, &self.keys),
                                  blob_size(slab, &self.keys))
        if error:
            with gil:
                self.lose(sink, OSError(error, os.strerror(error), self.beneath[sink].path))

    cdef void put_packed(self, Py_ssize_t sink, Slab* slab) noexcept nogil:
        """Adds a blob to a pack, and hands the pack over if that completes it."""
        cdef OpenPack* full
        cdef Errno error
        check(slab.writing.drafts == NULL)      # with a draft, some of its memory may have been given back
        error = packs_add(self.packers[sink], slab.sealing.digest, blob_of(slab, &self.keys),
                          blob_size(slab, &self.keys), slab.sealing.sha, &full)
        if error or full != NULL:
            with gil:
                self.hand_over(sink, full)

    cdef void hand_over(self, Py_ssize_t sink, OpenPack* full) noexcept:
        """Gives a full pack to Python. NULL: there was no memory for one."""
        if full == NULL:
            self.give_up(MemoryError("there is no memory for a pack: choose a smaller pack size"))
            return
        try:
            (<Packer>self.sinks[sink]).hand_over(full)
        except BaseException as error:
            self.lose(sink, error)

    cdef Errno put_draft(self, Py_ssize_t sink, Slab* slab) noexcept nogil:
        """Completes the draft of a blob that the writer has begun, and gives it its name."""
        cdef Draft* draft = &slab.writing.drafts[sink]
        cdef Errno error
        check(slab.writing.state == NOT_WAITING)
        error = draft.error or draft_fill(draft, blob_of(slab, &self.keys), blob_size(slab, &self.keys), slab.writing.written)
        if error == 0:
            error = blob_publish(self.directories[sink], slab.sealing.digest, draft)
        if error == 0:
            error = draft_end(draft, True)
            draft.fd = -1
        return error

    cdef void hand_out(self, Py_ssize_t sink, Slab* slab) noexcept:
        """Calls a Python sink with one read-only view that is the blob. The buffer is the view's as long as it lives."""
        cdef Blob blob = Blob.__new__(Blob)
        blob.base, blob.room = slab.base, slab.room
        blob.start = blob_of(slab, &self.keys) - slab.base
        blob.size = blob_size(slab, &self.keys)
        try:
            self.beneath[sink](name_of(slab.sealing.digest), memoryview(blob))
        except BaseException as error:
            self.lose(sink, error)
        finally:
            if not blob.reclaim():
                self.move(sink, slab, blob)

    cdef void move(self, Py_ssize_t sink, Slab* slab, Blob blob) noexcept:
        """A view of a slab is still alive: the slab gets other memory, and a copy if another sink comes next."""
        slab.base, slab.room = NULL, 0
        if slab_reserve(slab, max(self.chunk_size, slab.total)):
            self.give_up(MemoryError("there is no memory for a chunk: choose a smaller chunk size"))
        elif sink < self.sink_count - 1:
            memcpy(slab.base + blob.start, blob.base + blob.start, blob.size)

    # ---- failures (with the GIL) ----

    cdef void lose(self, Py_ssize_t sink, object error) noexcept:
        """A sink has failed. The others go on without it; the run cannot go on when it was the last one, or when the error is
        not one of a store."""
        if load_int(&self.failed_sinks[sink]):
            return
        self.lost[sink] = error
        store_int(&self.failed_sinks[sink], True)
        if not isinstance(error, (OSError, StoreError)) or len(self.lost) == self.sink_count:
            self.give_up(error)

    cdef void give_up(self, object error) noexcept:
        if self.failure is None:
            self.failure = error
        store_int(&self.broken, True)

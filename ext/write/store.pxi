# The end of the road of a chunk, for whatever cut it: its name, its padding, the rest of its seal, and then every sink
# that does not hold the blob yet. A sink is a BlobDirectory, or a Python function that gets a view of the buffer.

cdef enum:
    MAX_SINKS = 16             # targets of one run


Tallied = collections.namedtuple("Tallied", "bytes_read bytes_stored blobs_new blobs_known")

cdef struct Tally:
    u64 read                    # bytes of sources
    u64 stored                  # bytes of new blobs
    u64 new
    u64 known                   # blobs that lay in every sink already


cdef enum StoreResult:          # of a whole chunk
    FAILED
    STORED                      # its blob lies in every sink
    HANDED_ON                   # it will: whoever stores it calls `settle`

cdef struct NameSet:            # digests, open addressing; a digest is random, so its first bytes are its hash
    u8* slots
    u8* used
    size_t size
    size_t count


cdef int names_add(NameSet* names, const u8* digest) noexcept nogil:
    """1 when the digest is new, 0 when it was there, -1 when there is no memory."""
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
            return -1
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
            return 0
        at = (at + 1) % names.size
    names.used[at] = 1
    memcpy(names.slots + at * KEY, digest, KEY)
    names.count += 1
    return 1


cdef class _Storer(_Pool):
    """A pool that makes blobs: its key, its sinks, the names that it has claimed."""
    cdef Keys keys
    cdef size_t chunk_size          # bytes of a chunk, at most
    cdef tuple sinks
    cdef Py_ssize_t sink_count
    cdef Directory** directories    # of each sink; NULL where it is a Python function
    cdef tuple holds                # of each sink: asks a Python sink for a blob; None where that cannot be asked
    cdef readonly dict lost         # sink -> why it gets no more blobs; the others go on
    cdef int[MAX_SINKS] failed_sinks  # the same; looked at without the GIL
    cdef NameSet claimed            # names that this run has stored or is storing
    cdef size_t pad_below           # bytes from which on a chunk is not padded
    cdef bint even                  # padding hides sizes
    cdef bint anew                  # each blob is stored, whatever a sink has: what lies there may be damaged
    cdef int mostly_known           # the last blob was stored before: name first, encrypt only what is new
    cdef Tally tally                # with the lock

    cdef int set_up(self, bytes secret, bint asymmetric, sinks, size_t chunk_size) except -1:
        cdef Py_ssize_t i
        # A private key never enters here; a symmetric key can check what is stored already.
        fill_keys(&self.keys, secret, asymmetric, None)
        self.chunk_size = self.pad_below = chunk_size
        self.sinks = tuple(sinks)
        self.outside = self.sinks
        self.holds = tuple(getattr(sink, "holds", None) for sink in self.sinks)
        self.lost = {}
        self.sink_count = len(self.sinks)
        if self.sink_count > MAX_SINKS:
            raise ValueError(f"at most {MAX_SINKS} targets")
        self.directories = <Directory**>calloc(MAX_SINKS, sizeof(Directory*))
        if self.directories == NULL:
            raise MemoryError
        for i in range(self.sink_count):
            if isinstance(self.sinks[i], BlobDirectory):
                self.directories[i] = &(<BlobDirectory>self.sinks[i]).at
        return 0

    cdef void forget(self) noexcept:
        free(self.directories)
        free(self.claimed.slots)
        free(self.claimed.used)
        sodium.memzero(&self.keys, sizeof(Keys))
        self.close()

    def progress(self):
        """What has been done so far, in bytes and blobs: see _engine.pyi. May be asked from any thread."""
        cdef Tally now
        with nogil:
            pthread_mutex_lock(&self.lock)
            now = self.tally
            pthread_mutex_unlock(&self.lock)
        return Tallied(now.read, now.stored, now.new, now.known)

    cdef void bad_key(self) noexcept nogil:
        with gil:
            self.fail(WrongKey("the encryption key is not an X25519 public key"))

    cdef StoreResult finish(self, Slab* slab, Worker* worker) noexcept nogil:
        """Names a whole chunk, seals what is left of it and stores the blob wherever it is not yet."""
        cdef int new
        slab_name(slab, &self.keys)
        if self.even and slab.length < self.pad_below:
            pad_evenly(slab)
        else:
            pad(slab, self.chunk_size)
        pthread_mutex_lock(&self.lock)
        new = names_add(&self.claimed, slab.sealing.digest)
        pthread_mutex_unlock(&self.lock)
        if new < 0:
            self.fail_memory()
            return FAILED
        return self.store(slab, worker) if new else STORED

    cdef StoreResult store(self, Slab* slab, Worker* worker) noexcept nogil:
        cdef Py_ssize_t i
        cdef size_t there, found = 0
        if worker.data == NULL:         # a stream took it over; what is stored is read through it
            worker.data = <u8*>malloc(SMALL)
            if worker.data == NULL:
                self.fail_memory()
                return FAILED
        slab.writing.wanted = 0
        for i in range(self.sink_count):
            if load_int(&self.failed_sinks[i]):
                continue
            there = 0 if self.anew else self.found(i, slab, worker.data, False)
            found = there or found
            if there == 0:
                slab.writing.wanted |= 1u << i
        store_int(&self.mostly_known, slab.writing.wanted == 0)
        if slab.writing.wanted == 0:
            if found:
                slab.total = found - self.keys.header - BOX
            self.count_blob(0)
            return STORED
        if slab_encrypt(slab, &self.keys, True):
            self.bad_key()
            return FAILED
        return self.put_all(slab)

    cdef StoreResult put_all(self, Slab* slab) noexcept nogil:
        """Puts a sealed blob into every sink that it is wanted in."""
        cdef Py_ssize_t i
        for i in range(self.sink_count):
            if slab.writing.wanted >> i & 1 and not self.put(i, slab):
                return FAILED
        self.count_blob(blob_size(slab, &self.keys))
        return STORED

    cdef size_t found(self, Py_ssize_t sink, Slab* slab, u8* scratch, bint exact) noexcept nogil:
        """Bytes of the good blob of this name that a sink holds, as far as that can be told; 0 if there is none. Another
        run may have padded the chunk otherwise, unless `exact`."""
        cdef size_t[3] sizes
        cdef size_t head = self.keys.header + BOX
        sizes[0] = sizes[1] = sizes[2] = head + slab.total
        if not exact:
            sizes[1] = head + padded(slab.length, self.chunk_size)
            sizes[2] = head + evened(slab.length)
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

    cdef bint lose(self, Py_ssize_t sink, object error) noexcept:
        """A sink has failed: the others go on without it; the last one, or what is no failure of a store, ends the run.
        Whether it goes on. Called with the GIL."""
        if load_int(&self.failed_sinks[sink]):
            return True
        self.lost[sink] = error
        store_int(&self.failed_sinks[sink], True)
        if isinstance(error, (OSError, StoreError)) and len(self.lost) < self.sink_count:
            return True
        self.fail(error)
        return False

    cdef void count_blob(self, size_t stored) noexcept nogil:
        pthread_mutex_lock(&self.lock)
        self.tally.stored += stored
        self.tally.new += stored > 0
        self.tally.known += stored == 0
        pthread_mutex_unlock(&self.lock)

    cdef void count_read(self, size_t n) noexcept nogil:
        pthread_mutex_lock(&self.lock)
        self.tally.read += n
        pthread_mutex_unlock(&self.lock)

    cdef int put_directory(self, Py_ssize_t sink, Slab* slab) noexcept nogil:
        """0 or an errno."""
        return directory_put(self.directories[sink], slab.sealing.digest, blob_of(slab, &self.keys), blob_size(slab, &self.keys))

    cdef bint put(self, Py_ssize_t sink, Slab* slab) noexcept nogil:
        cdef int error
        if self.directories[sink] == NULL:
            with gil:
                return self.hand_out(sink, slab)
        error = self.put_directory(sink, slab)
        if error:
            with gil:
                return self.lose(sink, OSError(error, os.strerror(error), self.sinks[sink].path))
        return True

    cdef bint hand_out(self, Py_ssize_t sink, Slab* slab) noexcept:
        """Calls a Python sink with one read-only view that is the blob. The buffer is the view's as long as it lives."""
        cdef Blob blob = Blob.__new__(Blob)
        blob.base, blob.room = slab.base, slab.room
        blob.start = blob_of(slab, &self.keys) - slab.base
        blob.size = blob_size(slab, &self.keys)
        try:
            self.sinks[sink](name_of(slab.sealing.digest), memoryview(blob))
        except BaseException as error:
            return self.lose(sink, error)
        finally:
            if not blob.reclaim():
                self.move(sink, slab, blob)
        return True

    cdef void move(self, Py_ssize_t sink, Slab* slab, Blob blob) noexcept:
        """A view of a slab is still alive: the slab gets other memory, and a copy if a sink comes next."""
        slab.base, slab.room = NULL, 0
        if slab_reserve(slab, max(self.chunk_size, slab.total)):
            self.fail(MemoryError("there is no memory for a chunk: choose a smaller chunk size"))
        elif sink < self.sink_count - 1:
            memcpy(slab.base + blob.start, blob.base + blob.start, blob.size)

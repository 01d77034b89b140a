# Story 1 of the engine: files into blobs, in the `stream` layout of FORMAT.md.
#
# A small file is one task: one worker reads, compresses, names, seals and stores it with buffers of its own.
# A large file is a stream with two roles, each held by one worker at a time and given up after every piece: the
# compressor fills a slab, the sealer hashes and encrypts behind it while the bytes are warm. Workers prefer the end
# of the road (seal before compress before the next file), so little is in flight and the tail of a file is short.
# When sealing is the slower part, the compressor runs ahead into a second slab, and then seals that one itself.

cdef enum:
    SMALL = 2 * PIECE           # a file that ends within so many bytes is one task
    AHEAD = 2                   # slabs that one file may hold: one being filled, one being sealed
    RECORD = KEY + 1            # a digest, and whether its blob is stored
    MOST_SINKS = 16             # targets of one run
    STEP = 16                   # pieces read at most in one turn as compressor, when hardly anything comes out

Sealed = collections.namedtuple("Sealed", "file names done error size atime_ns mtime_ns")


cdef struct FileJob:
    const char* path            # borrowed from Sealer.paths
    int error                   # errno, 0 when all is well
    bint done
    Facts facts
    u8* records
    Py_ssize_t count            # blobs begun
    Py_ssize_t room
    Py_ssize_t told             # names given to run()

cdef struct Stream:
    Py_ssize_t file
    int fd
    void* cctx
    u8* data
    size_t at
    size_t end
    bint eof
    bint ended                  # the frame is finished, or broken off
    bint busy
    Slab* slab                  # being filled
    int slabs                   # held, this one included
    Stream* next


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


cdef class Sealer(_Crew):
    """Turns files into blobs and hands them to sinks: see _engine.pyi."""
    cdef Ring ring
    cdef size_t chunk_size
    cdef int level
    cdef list paths
    cdef tuple sinks
    cdef Py_ssize_t sink_count
    cdef Directory** directories    # of each sink; NULL where it is a Python function
    cdef FileJob* files
    cdef Stream* streams
    cdef int stream_count
    cdef Slab* sealing          # slabs with a chunk in them, oldest first
    cdef Slab* spare
    cdef int slab_count
    cdef NameSet claimed        # names that this run has stored or is storing
    cdef bint mostly_known      # the last blob was stored before: name first, encrypt only what is new

    def __init__(self, bytes secret, bint asymmetric, paths, sinks, *, size_t chunk_size, int level, int jobs):
        cdef Py_ssize_t i
        if chunk_size < 1 or jobs < 1 or not LEVELS[0] <= level <= LEVELS[1]:
            raise ValueError("chunk_size and jobs are at least 1, the level is one of zstd's")
        # A private key never enters here; a symmetric key can check what is stored already.
        fill_ring(&self.ring, secret, asymmetric, None)
        self.chunk_size = chunk_size
        self.level = level
        self.jobs = jobs
        self.paths = list(paths)
        self.sinks = tuple(sinks)
        self.sink_count = len(self.sinks)
        if self.sink_count > MOST_SINKS:
            raise ValueError(f"at most {MOST_SINKS} targets")
        self.directories = <Directory**>calloc(MOST_SINKS, sizeof(Directory*))
        self.count = len(self.paths)
        self.files = <FileJob*>calloc(max(self.count, 1), sizeof(FileJob))
        if self.files == NULL or self.directories == NULL:
            raise MemoryError
        for i in range(self.sink_count):
            if isinstance(self.sinks[i], BlobDirectory):
                self.directories[i] = &(<BlobDirectory>self.sinks[i]).at
        for i in range(self.count):
            self.files[i].path = PyBytes_AsString(self.paths[i])

    def __dealloc__(self):
        cdef Py_ssize_t i
        cdef Stream* stream
        if self.files != NULL:
            for i in range(self.count):
                free(self.files[i].records)
            free(self.files)
        while self.streams != NULL:
            stream = self.streams
            self.streams = stream.next
            self.free_stream(stream)
        self.free_slabs(self.sealing)       # those that are being filled stand here too
        self.free_slabs(self.spare)
        free(self.directories)
        free(self.claimed.slots)
        free(self.claimed.used)
        sodium.memzero(&self.ring, sizeof(Ring))
        self.close()

    cdef void free_slabs(self, Slab* slab) noexcept:
        cdef Slab* following
        while slab != NULL:
            following = slab.next
            slab_free(slab)
            slab = following

    cdef void free_stream(self, Stream* stream) noexcept nogil:
        if stream.fd >= 0:
            c_close(stream.fd)
        zstd.free_cctx(stream.cctx)
        free(stream.data)
        free(stream)

    # ---- who does what (with the lock) ----

    cdef Task pick(self, Hand* hand) noexcept nogil:
        cdef Slab* slab = self.sealing
        cdef Stream* stream = self.streams
        if self.goes_on(hand):
            return PART
        while slab != NULL:
            if not slab.busy and (slab.whole or slab.length - slab.hashed >= PIECE):
                slab.busy = True
                hand.slab = slab
                hand.end = slab.length
                hand.last = slab.whole
                return PART
            slab = slab.next
        while stream != NULL:
            if not stream.busy and not stream.ended and self.has_room(stream):
                stream.busy = True
                hand.stream = stream
                hand.slab = NULL
                return PART
            stream = stream.next
        if self.next_file < self.count and self.stream_count < self.jobs:
            return self.take_file(hand)
        return self.wait_or_leave()

    cdef bint goes_on(self, Hand* hand) noexcept nogil:
        """Whether a worker that has just compressed goes on with its stream: when another can seal behind it. Its
        core has the compressor's tables in its cache, and nobody need be woken for the slowest part of the road."""
        cdef Stream* stream = self.streams
        while stream != NULL and stream != hand.stream:
            stream = stream.next
        hand.stream = NULL
        if stream == NULL or stream.busy or stream.ended or not (self.idle or (stream.slab != NULL and stream.slab.busy)):
            return False
        if not self.has_room(stream):
            return False
        stream.busy = True
        hand.stream = stream
        hand.slab = NULL
        return True

    cdef bint has_room(self, Stream* stream) noexcept nogil:
        """Gives the stream a slab to fill if it has none. A crew of n holds n + 1 slabs, so that with every worker in
        a file of its own one chunk can still be sealed while the next is compressed."""
        cdef Slab* slab
        cdef Slab** last = &self.sealing
        if stream.slab != NULL:
            return True
        if stream.slabs == AHEAD:
            return False
        if self.spare != NULL:
            slab = self.spare
            self.spare = slab.next
        elif self.slab_count <= self.jobs:
            slab = slab_new()
            if slab == NULL:
                self.give_up_for_memory()
                return False
            self.slab_count += 1
        else:
            return False
        slab_begin(slab)
        slab.later = self.mostly_known
        slab.owner = stream
        slab.index = self.new_record(&self.files[stream.file])
        slab.next = NULL
        if slab.index < 0:
            self.give_up_for_memory()
            slab_free(slab)
            return False
        while last[0] != NULL:
            last = &last[0].next
        last[0] = slab
        stream.slab = slab
        stream.slabs += 1
        return True

    cdef Py_ssize_t new_record(self, FileJob* job) noexcept nogil:
        cdef u8* records
        if job.count == job.room:
            job.room = job.room * 2 if job.room else 1
            records = <u8*>realloc(job.records, job.room * RECORD)
            if records == NULL:
                job.room = job.count
                return -1
            job.records = records
        job.records[job.count * RECORD + KEY] = 0
        job.count += 1
        return job.count - 1

    cdef void drop(self, Slab* slab) noexcept nogil:
        """Takes a slab out of the list of those being sealed, and gives its stream one less."""
        cdef Slab** at = &self.sealing
        cdef Stream* stream = <Stream*>slab.owner
        while at[0] != slab:
            at = &at[0].next
            check(at[0] != NULL)
        at[0] = slab.next
        slab.next = self.spare
        self.spare = slab
        stream.slabs -= 1
        self.perhaps_done(stream)

    cdef void perhaps_done(self, Stream* stream) noexcept nogil:
        cdef Stream** at = &self.streams
        if not stream.ended or stream.slabs or stream.busy:
            return
        while at[0] != stream:
            at = &at[0].next
        at[0] = stream.next
        self.stream_count -= 1
        self.files[stream.file].done = True
        self.file_done()
        self.free_stream(stream)

    # ---- the work (without the lock) ----

    cdef void do(self, Hand* hand) noexcept nogil:
        if hand.task == FILE:
            self.begin_file(hand)
        elif hand.slab != NULL:
            self.seal_step(hand)
        else:
            self.compress_step(<Stream*>hand.stream)

    cdef void let_go(self, Hand* hand) noexcept nogil:
        slab_free(hand.own)
        free(hand.data)
        if hand.context != NULL:
            zstd.free_cctx(hand.context)

    cdef bint equip(self, Hand* hand) noexcept nogil:
        """Gives a worker its buffers, on its first file and after a stream took them over."""
        if hand.own == NULL:
            hand.own = slab_new()
            if hand.own == NULL:
                return False
        if slab_reserve(hand.own, zstd.compress_bound(SMALL)):
            return False
        if hand.data == NULL:
            hand.data = <u8*>malloc(SMALL)
        if hand.context == NULL:
            hand.context = zstd.create_cctx()
            if hand.context != NULL:
                zstd.cctx_set(hand.context, ZSTD_C_LEVEL, self.level)
        return hand.data != NULL and hand.context != NULL

    cdef void begin_file(self, Hand* hand) noexcept nogil:
        cdef FileJob* job = &self.files[hand.file]
        cdef size_t got = 0
        cdef int fd
        if not self.equip(hand):
            self.fail_memory()
            return
        fd = c_open(job.path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        if fd < 0:
            job.error = errno
        elif facts_of(fd, &job.facts):
            job.error = errno
        elif not job.facts.regular:
            job.error = EISDIR if job.facts.directory else EIO
        else:
            job.error = read_full(fd, hand.data, SMALL, &got)
        if job.error == 0 and (got == SMALL or zstd.compress_bound(got) >= self.chunk_size):
            self.begin_stream(hand, fd, got)
            return
        if fd >= 0:
            c_close(fd)
        if job.error == 0:
            self.seal_small(hand, job, got)
        pthread_mutex_lock(&self.lock)
        job.done = True
        self.file_done()
        pthread_mutex_unlock(&self.lock)

    cdef void begin_stream(self, Hand* hand, int fd, size_t got) noexcept nogil:
        """The worker's buffer and context become the stream's: the bytes that are read already stay where they are."""
        cdef Stream* stream = <Stream*>calloc(1, sizeof(Stream))
        cdef Stream** last = &self.streams
        if stream == NULL:
            c_close(fd)
            self.fail_memory()
            return
        sequential(fd)
        stream.file = hand.file
        stream.fd = fd
        stream.data = hand.data
        stream.cctx = hand.context
        stream.end = got
        hand.data = NULL
        hand.context = NULL
        zstd.cctx_reset(stream.cctx, ZSTD_RESET_SESSION)
        pthread_mutex_lock(&self.lock)
        while last[0] != NULL:
            last = &last[0].next
        last[0] = stream
        self.stream_count += 1
        pthread_mutex_unlock(&self.lock)

    cdef void seal_small(self, Hand* hand, FileJob* job, size_t n) noexcept nogil:
        """A whole file that gives one padded chunk. Fed as pog feeds: what there is, then the end. (With nothing fed
        first, as for an empty file, zstd writes the content size, 0.)"""
        cdef Slab* slab = hand.own
        cdef ZBuffer data, out
        cdef size_t left = 0
        slab_begin(slab)
        data.data, data.size, data.pos = hand.data, n, 0
        out.data, out.size, out.pos = chunk_of(slab), zstd.compress_bound(SMALL), 0
        zstd.cctx_reset(hand.context, ZSTD_RESET_SESSION)
        if n:
            left = zstd.compress_stream(hand.context, &out, &data, ZSTD_E_CONTINUE)
        if not zstd.is_error(left):
            left = zstd.compress_stream(hand.context, &out, &data, ZSTD_E_END)
        if left or data.pos != n:
            self.fail_memory()
            return
        slab.length = out.pos
        slab_hash(slab, slab.length)
        slab.later = True
        if self.finish(slab, hand):
            pthread_mutex_lock(&self.lock)
            if self.new_record(job) == 0:
                memcpy(job.records, slab.digest, KEY)
                job.records[KEY] = 1
            pthread_mutex_unlock(&self.lock)

    cdef void compress_step(self, Stream* stream) noexcept nogil:
        """One turn as compressor: until a piece more is in the slab, or the slab is full, or the file ends."""
        cdef Slab* slab = stream.slab
        cdef FileJob* job = &self.files[stream.file]
        cdef ZBuffer data, out
        cdef size_t left, goal
        cdef int reads = 0, error = 0
        cdef bint ended = False
        if slab_reserve(slab, self.chunk_size):
            self.fail_memory()
            return
        out.data, out.size, out.pos = chunk_of(slab), self.chunk_size, slab.length
        goal = min(self.chunk_size, slab.length + PIECE)
        while out.pos < goal and reads < STEP and not ended:
            if stream.at == stream.end and not stream.eof:
                error = read_full(stream.fd, stream.data, PIECE, &stream.end)
                stream.at = 0
                stream.eof = stream.end == 0
                reads += 1
                if error:
                    break
            data.data, data.size, data.pos = stream.data, stream.end, stream.at
            left = zstd.compress_stream(stream.cctx, &out, &data, ZSTD_E_END if stream.eof else ZSTD_E_CONTINUE)
            stream.at = data.pos
            if zstd.is_error(left):
                error = ENOMEM
                break
            ended = stream.eof and left == 0
        check(out.pos <= self.chunk_size)
        pthread_mutex_lock(&self.lock)
        check(stream.busy and stream.slab == slab)
        stream.busy = False
        slab.length = out.pos
        if error:
            job.error = error
            self.break_off(stream)
        else:
            slab.whole = ended or out.pos == self.chunk_size
            stream.ended = ended
            if slab.whole:
                stream.slab = NULL
                if slab.length == 0:        # the frame had ended with the last full chunk
                    job.count -= 1
                    self.drop(slab)
        pthread_mutex_unlock(&self.lock)

    cdef void break_off(self, Stream* stream) noexcept nogil:
        """A file that cannot be read further: what is in its open slab is dropped, unless a worker is in it."""
        cdef Slab* slab = stream.slab
        stream.ended = True
        stream.slab = NULL
        if slab.busy:
            slab.dropped = True
        else:
            self.drop(slab)

    cdef void seal_step(self, Hand* hand) noexcept nogil:
        """One turn as sealer: hashes and encrypts what is there, a few pieces; finishes the blob when that is all."""
        cdef Slab* slab = hand.slab
        cdef Stream* stream = <Stream*>slab.owner
        cdef size_t end = min(hand.end, slab.hashed + 4 * <size_t>PIECE)
        cdef bint last = hand.last and end == hand.end
        cdef bint stored = False
        while slab.hashed < end:
            slab_hash(slab, min(end, slab.hashed + PIECE))
            if not slab.later and slab_encrypt(slab, &self.ring, False):
                self.bad_key()
                return
        if last:
            stored = self.finish(slab, hand)
        pthread_mutex_lock(&self.lock)
        slab.busy = False
        if last or slab.dropped:
            if stored:
                memcpy(self.files[stream.file].records + slab.index * RECORD, slab.digest, KEY)
                self.files[stream.file].records[slab.index * RECORD + KEY] = 1
            self.drop(slab)
        pthread_mutex_unlock(&self.lock)

    cdef void bad_key(self) noexcept nogil:
        with gil:
            self.fail(WrongKey("the encryption key is not an X25519 public key"))

    cdef bint finish(self, Slab* slab, Hand* hand) noexcept nogil:
        """Names a whole chunk, seals what is left of it and stores the blob wherever it is not yet. False: failed."""
        cdef int new
        slab_name(slab, &self.ring)
        pad(slab, self.chunk_size)
        pthread_mutex_lock(&self.lock)
        new = names_add(&self.claimed, slab.digest)
        pthread_mutex_unlock(&self.lock)
        if new < 0:
            self.fail_memory()
            return False
        if new == 0:
            return True
        return self.store(slab, hand)

    cdef bint store(self, Slab* slab, Hand* hand) noexcept nogil:
        cdef Py_ssize_t i
        cdef bint known = True
        cdef bint[MOST_SINKS] wanted
        if hand.data == NULL:           # a stream took it over; what is stored is read through it
            hand.data = <u8*>malloc(SMALL)
            if hand.data == NULL:
                self.fail_memory()
                return False
        for i in range(self.sink_count):
            wanted[i] = self.directories[i] == NULL or not directory_has(
                self.directories[i], slab.digest, blob_size(slab, &self.ring), &self.ring, hand.data)
            known = known and not wanted[i]
        self.mostly_known = known
        if known:
            return True
        if slab_encrypt(slab, &self.ring, True):
            self.bad_key()
            return False
        for i in range(self.sink_count):
            if wanted[i] and not self.put(i, slab):
                return False
        return True

    cdef bint put(self, Py_ssize_t sink, Slab* slab) noexcept nogil:
        cdef u8* blob = blob_of(slab, &self.ring)
        cdef size_t size = blob_size(slab, &self.ring)
        cdef int error
        if self.directories[sink] == NULL:
            with gil:
                return self.hand_out(sink, slab)
        error = directory_put(self.directories[sink], slab.digest, blob, size)
        if error:
            with gil:
                self.fail(OSError(error, os.strerror(error), self.sinks[sink].path))
        return error == 0

    cdef bint hand_out(self, Py_ssize_t sink, Slab* slab) noexcept:
        """Calls a Python sink with one read-only view that is the blob. The buffer is the view's as long as it lives."""
        cdef Blob blob = Blob.__new__(Blob)
        blob.base, blob.room = slab.base, slab.room
        blob.start = blob_of(slab, &self.ring) - slab.base
        blob.size = blob_size(slab, &self.ring)
        try:
            self.sinks[sink](name_of(slab.digest), memoryview(blob))
        except BaseException as error:
            self.fail(error)
            return False
        finally:
            if not blob.reclaim():
                self.move(slab, blob)
        return True

    cdef void move(self, Slab* slab, Blob blob) noexcept:
        """A view of a slab is still alive: the slab gets other memory, and a copy for the sinks that come next."""
        slab.base, slab.room = NULL, 0
        if slab_reserve(slab, max(self.chunk_size, slab.total)):
            self.fail(MemoryError("there is no memory for a chunk: choose a smaller chunk size"))
            return
        memcpy(slab.base + blob.start, blob.base + blob.start, blob.size)

    # ---- the caller ----

    cdef bint has_news(self, Py_ssize_t file) noexcept nogil:
        return self.files[file].done or self.ready(&self.files[file]) > self.files[file].told

    cdef Py_ssize_t ready(self, FileJob* job) noexcept nogil:
        """How many of a file's blobs are stored, counted from its first."""
        cdef Py_ssize_t ready = job.told
        while ready < job.count and job.records[ready * RECORD + KEY]:
            ready += 1
        return ready

    cdef object tell(self, Py_ssize_t file):
        cdef FileJob* job = &self.files[file]
        cdef Py_ssize_t i, ready = self.ready(job)
        names = [name_of(job.records + i * RECORD) for i in range(job.told, ready)]
        job.told = ready
        if job.done:
            free(job.records)
            job.records = NULL
            job.count = job.told = 0
        return Sealed(file, names, job.done, job.error, job.facts.size, job.facts.atime_ns, job.facts.mtime_ns)

# Story 1 of the engine: files into blobs, in both layouts of FORMAT.md.
#
# A small file is one task: one worker reads, compresses, names, seals and stores it with buffers of its own.
#
# In the `stream` layout a large file has two roles, each held by one worker at a time and given up after every piece:
# the compressor fills a slab, the sealer hashes and encrypts behind it while the bytes are warm. Workers prefer the end
# of the road (seal before compress before the next file), so little is in flight and the tail of a file is short.
# When sealing is the slower part, the compressor runs ahead into a second slab, and then seals that one itself.
#
# In the `frames` layout a large file is cut first, and each chunk is one task: whoever is free reads, compresses,
# hashes and encrypts it piece by piece, so that a piece never leaves its core's cache. What cannot be read at any place
# (a pipe) is read in order, a chunk at a time, by one worker while the others work on the chunks before.

cdef enum:
    SMALL = 2 * PIECE           # a file that ends within so many bytes is one task
    AHEAD = 2                   # slabs that one stream may hold: one being filled, one being sealed
    STEP = 16                   # pieces read at most in one turn as compressor, when hardly anything comes out
    FRESH = 2048                # files that wait for a worker: as many as the smallest ones done in LOOK_NS, and more
    UNTOLD = 65536              # files behind one that takes long
    PROBE = 4 * PIECE           # of a chunk: what does not compress here is not expected to further on
    WORTH = 64 * PIECE          # larger chunks are worth the trial, for the memory that it spares
    AGAIN = -1                  # no errno: a chunk is to be made anew
    WAIT_MS = 200               # how long a pipe is waited for before looking whether the run has been stopped

Sealed = collections.namedtuple(
    "Sealed", "file names stored sizes done error changed size atime_ns mtime_ns ctime_ns inode sparse"
)

Known = collections.namedtuple("Known", "path names stored facts")


cdef struct Record:             # one blob of a file
    u8[KEY] digest
    u64 stored                  # bytes of the blob
    u64 plain                   # bytes of the file in it; 0 where that is not known (streams)
    bint ready                  # it is stored
    bint empty                  # nothing was left of the file for it: there is no such blob

cdef struct FileJob:
    char* path                  # NULL: `fd` was given
    int fd
    int error                   # errno, 0 when all is well
    bint done
    bint changed                # it is not any more what it was when it was opened
    Facts facts                 # as it was opened
    u64 size                    # plain bytes that were read, or known
    Record* records
    Py_ssize_t count            # blobs begun
    Py_ssize_t room
    Py_ssize_t told             # records given to run()
    Record* known               # of its first chunks, if it still is as `expected`
    Py_ssize_t known_count
    Facts expected
    FileJob* next

cdef struct Stream:             # a large file in the `stream` layout
    FileJob* job
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

cdef struct Cut:                # a large file in the `frames` layout
    FileJob* job
    int fd
    long long size              # when it was opened
    long long at                # where the next chunk begins
    bint in_order               # it is read to its end, whatever `size` says
    bint reading                # by a worker, in order
    bint carried                # `carry` is the next chunk's first byte: it was read to learn that there is one
    u8 carry
    bint ended                  # no further chunk begins
    int working                 # workers in it
    Cut* next


cdef bint same_facts(const Facts* a, const Facts* b) noexcept nogil:
    return a.size == b.size and a.mtime_ns == b.mtime_ns and a.ctime_ns == b.ctime_ns and a.inode == b.inode


cdef void free_job(FileJob* job) noexcept nogil:
    if job.fd >= 0:
        c_close(job.fd)
    free(job.path)
    free(job.records)
    free(job.known)
    free(job)


cdef class Sealer(_Storer):
    """Turns files into blobs and hands them to sinks: see _engine.pyi."""
    cdef int level
    cdef bint frames
    cdef bint follow            # links to files are read as what they lead to
    cdef object source          # what there is to archive, as it is asked for
    cdef FileJob* first         # the oldest that is not told to its end
    cdef FileJob* fresh         # the oldest that nobody has begun
    cdef FileJob* newest
    cdef Py_ssize_t told        # files told to their end
    cdef Stream* streams
    cdef Cut* cuts
    cdef int large              # streams and cuts
    cdef Slab* sealing          # slabs of streams with a chunk in them, oldest first
    cdef Slab* spare
    cdef int slab_count
    cdef int slab_most
    cdef Record zero            # the blob of a chunk of zeros, once there is one: holes need no work
    cdef int readers            # how many may read at a time
    cdef int reading
    cdef Cond may_read

    def __init__(self, bytes secret, bint asymmetric, source, sinks, *, size_t chunk_size, int level, int jobs,
                 bint frames=False, int slabs=0, int readers=0, bint follow=True):
        if chunk_size < 1 or jobs < 1 or not LEVELS[0] <= level <= LEVELS[1]:
            raise ValueError("chunk_size and jobs are at least 1, the level is one of zstd's")
        self.set_up(secret, asymmetric, sinks, chunk_size)
        self.level = level
        self.jobs = jobs
        self.frames = frames
        self.follow = follow
        self.source = iter(source)
        self.more = True
        self.slab_most = slabs or jobs + 1
        self.readers = readers or jobs

    def __cinit__(self, *args, **kwargs):
        pthread_cond_init(&self.may_read, NULL)

    def __dealloc__(self):
        cdef FileJob* job
        while self.streams != NULL:
            self.end_stream(self.streams)
        while self.cuts != NULL:
            self.end_cut(self.cuts)
        while self.first != NULL:
            job = self.first
            self.first = job.next
            free_job(job)
        self.free_slabs(self.sealing)       # those that are being filled stand here too
        self.free_slabs(self.spare)
        pthread_cond_destroy(&self.may_read)
        self.forget()

    cdef void free_slabs(self, Slab* slab) noexcept:
        cdef Slab* following
        while slab != NULL:
            following = slab.next
            slab_free(slab)
            slab = following

    # ---- what there is to do ----

    cdef int refill(self) except -1:
        """Asks the caller for further files, a few thousand ahead of the workers."""
        cdef FileJob* job
        while self.more and self.count - self.next_file < FRESH and self.count - self.told < UNTOLD:
            try:
                item = next(self.source)
            except StopIteration:
                item = None
            job = NULL if item is None else self.new_job(item)
            with nogil:
                pthread_mutex_lock(&self.lock)
                if job == NULL:
                    self.more = False
                    pthread_cond_broadcast(&self.work)
                else:
                    self.add(job)
                pthread_mutex_unlock(&self.lock)
        return 0

    cdef FileJob* new_job(self, item) except NULL:
        cdef FileJob* job = <FileJob*>calloc(1, sizeof(FileJob))
        if job == NULL:
            raise MemoryError
        job.fd = -1
        try:
            self.fill_job(job, item)
        except BaseException:
            free_job(job)
            raise
        return job

    cdef int fill_job(self, FileJob* job, item) except -1:
        if isinstance(item, int):
            job.fd = os.dup(item)
            return 0
        cdef bytes path = item if isinstance(item, bytes) else item.path
        if b"\0" in path:
            raise ValueError("a path with a NUL in it")
        job.path = <char*>malloc(len(path) + 1)
        if job.path == NULL:
            raise MemoryError
        memcpy(job.path, PyBytes_AsString(path), len(path) + 1)
        if not isinstance(item, bytes):
            self.fill_known(job, item)
        return 0

    cdef int fill_known(self, FileJob* job, item) except -1:
        cdef Py_ssize_t i
        cdef Record* record
        job.known_count = len(item.names)
        job.known = <Record*>calloc(max(job.known_count, 1), sizeof(Record))
        if job.known == NULL:
            raise MemoryError
        for i, (name, stored) in enumerate(zip(item.names, item.stored, strict=True)):
            record = &job.known[i]
            read_name(name, record.digest)
            record.stored, record.plain, record.ready = stored, self.chunk_size, True
        job.expected.size, job.expected.mtime_ns, job.expected.ctime_ns, job.expected.inode = item.facts
        return 0

    cdef void add(self, FileJob* job) noexcept nogil:
        """Called with the lock held."""
        if self.newest == NULL or self.first == NULL:
            self.first = job
        else:
            self.newest.next = job
        self.newest = job
        if self.fresh == NULL:
            self.fresh = job
        self.count += 1
        if self.idle:
            pthread_cond_signal(&self.work)

    # ---- who does what (with the lock) ----

    cdef Task pick(self, Hand* hand) noexcept nogil:
        cdef Slab* slab = self.sealing
        cdef Stream* stream = self.streams
        cdef Cut* cut = self.cuts
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
        while cut != NULL:
            if self.pick_chunk(cut, hand):
                return CUT
            cut = cut.next
        if self.fresh != NULL and self.large < self.jobs:
            hand.job = self.fresh
            self.fresh = self.fresh.next
            return self.take_file(hand)
        return self.wait_or_leave()

    cdef bint pick_chunk(self, Cut* cut, Hand* hand) noexcept nogil:
        cdef Slab* slab
        if cut.ended or cut.reading or (cut.in_order and cut.working >= max(1, self.slab_most // 2)):
            return False
        slab = self.take_slab(cut, cut.job)
        if slab == NULL:
            return False
        hand.stream = cut
        hand.slab = slab
        hand.at = cut.at
        hand.length = self.chunk_size
        if cut.in_order:
            cut.reading = True
        else:
            hand.length = <size_t>min(<long long>self.chunk_size, cut.size - cut.at)
            cut.ended = cut.at + <long long>hand.length >= cut.size
        cut.at += hand.length
        cut.working += 1
        return True

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
        slab = self.take_slab(stream, stream.job)
        if slab == NULL:
            return False
        while last[0] != NULL:
            last = &last[0].next
        last[0] = slab
        stream.slab = slab
        stream.slabs += 1
        return True

    cdef Slab* take_slab(self, void* owner, FileJob* job) noexcept nogil:
        """An empty slab for the next blob of a file, or NULL when all are in use."""
        cdef Slab* slab = self.spare
        if slab != NULL:
            self.spare = slab.next
        elif self.slab_count < self.slab_most:
            slab = slab_new()
            if slab == NULL:
                self.give_up_for_memory()
                return NULL
            self.slab_count += 1
        else:
            return NULL
        slab_begin(slab)
        slab.later = self.mostly_known
        slab.owner = owner
        slab.index = self.new_record(job)
        slab.next = NULL
        if slab.index < 0:
            self.give_up_for_memory()
            slab_free(slab)
            return NULL
        return slab

    cdef Py_ssize_t new_record(self, FileJob* job) noexcept nogil:
        cdef Record* records
        cdef Py_ssize_t room
        if job.count == job.room:
            room = job.room * 2 if job.room else 1
            records = <Record*>realloc(job.records, room * sizeof(Record))
            if records == NULL:
                return -1
            job.records = records
            job.room = room
        memset(&job.records[job.count], 0, sizeof(Record))
        job.count += 1
        return job.count - 1

    cdef void note_blob(self, FileJob* job, Py_ssize_t index, Slab* slab, u64 plain) noexcept nogil:
        """A blob is stored. Called with the lock held."""
        cdef Record* record = &job.records[index]
        memcpy(record.digest, slab.digest, KEY)
        record.stored = blob_size(slab, &self.ring)
        record.plain = plain
        record.ready = True

    cdef void give_back(self, Slab* slab) noexcept nogil:
        slab.next = self.spare
        self.spare = slab

    cdef void drop(self, Slab* slab) noexcept nogil:
        """Takes a slab out of the list of those being sealed, and gives its stream one less."""
        cdef Slab** at = &self.sealing
        cdef Stream* stream = <Stream*>slab.owner
        while at[0] != slab:
            at = &at[0].next
            check(at[0] != NULL)
        at[0] = slab.next
        self.give_back(slab)
        stream.slabs -= 1
        if stream.ended and not stream.slabs and not stream.busy:
            self.job_done(stream.job, stream.fd)
            self.end_stream(stream)

    cdef void job_done(self, FileJob* job, int fd) noexcept nogil:
        cdef Facts now
        if job.path != NULL and job.error == 0:
            job.changed = job.changed or facts_of(fd, &now) != 0 or not same_facts(&now, &job.facts)
        job.done = True
        self.file_done()

    cdef void end_stream(self, Stream* stream) noexcept nogil:
        cdef Stream** at = &self.streams
        while at[0] != stream:
            at = &at[0].next
        at[0] = stream.next
        self.large -= 1
        c_close(stream.fd)
        zstd.free_cctx(stream.cctx)
        free(stream.data)
        free(stream)

    cdef void end_cut(self, Cut* cut) noexcept nogil:
        cdef Cut** at = &self.cuts
        while at[0] != cut:
            at = &at[0].next
        at[0] = cut.next
        self.large -= 1
        c_close(cut.fd)
        free(cut)

    # ---- the work (without the lock) ----

    cdef void do(self, Hand* hand) noexcept nogil:
        if hand.task == FILE:
            self.begin_file(hand, <FileJob*>hand.job)
        elif hand.task == CUT:
            self.cut_step(hand)
        elif hand.slab != NULL:
            self.seal_step(hand)
        else:
            self.compress_step(<Stream*>hand.stream)

    cdef void let_go(self, Hand* hand) noexcept nogil:
        slab_free(hand.own)
        free(hand.data)
        if hand.plain != NULL:
            munmap(hand.plain, hand.plain_room)
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

    cdef bint equip_cut(self, Hand* hand) noexcept nogil:
        if hand.plain == NULL:
            hand.plain = map_memory(self.chunk_size)
            hand.plain_room = self.chunk_size
        return hand.plain != NULL and self.equip(hand)

    # ---- reading ----

    cdef void begin_read(self) noexcept nogil:
        """Waits until fewer than `readers` read."""
        if self.readers >= self.jobs:
            return
        pthread_mutex_lock(&self.lock)
        while self.reading >= self.readers:
            pthread_cond_wait(&self.may_read, &self.lock)
        self.reading += 1
        pthread_mutex_unlock(&self.lock)

    cdef void end_read(self) noexcept nogil:
        if self.readers >= self.jobs:
            return
        pthread_mutex_lock(&self.lock)
        self.reading -= 1
        pthread_cond_signal(&self.may_read)
        pthread_mutex_unlock(&self.lock)

    cdef int read_on(self, const FileJob* job, int fd, u8* p, size_t n, size_t* got) noexcept nogil:
        """The next `n` bytes of a file, fewer at its end. A descriptor that was given may be a pipe: it is waited for,
        but not when the run has been stopped. 0 or an errno."""
        cdef size_t some
        cdef int error
        got[0] = 0
        if job.path != NULL:
            self.begin_read()
            error = read_full(fd, p, n, got)
            self.end_read()
            return error
        while got[0] < n:
            while not has_bytes(fd, WAIT_MS):
                if self.stopping:
                    return EINTR
            error = read_some(fd, p + got[0], n - got[0], &some)
            if error or some == 0:
                return error
            got[0] += some
        return 0

    cdef int read_piece(self, const Cut* cut, u8* p, size_t n, long long at, long long* data, size_t* got) noexcept nogil:
        """`n` bytes from offset `at` on; holes are not read. `data` is where the next bytes outside of one lie, as far as
        that is known. 0 or an errno."""
        cdef int error
        if cut.job.facts.sparse:
            if data[0] < at + <long long>n:
                data[0] = next_data(cut.fd, at, cut.size)
            if data[0] >= at + <long long>n:
                memset(p, 0, n)
                got[0] = n
                return 0
        self.begin_read()
        error = pread_full(cut.fd, p, n, at, got)
        self.end_read()
        self.count_read(got[0])
        return error

    # ---- a file is opened; a small one is done with ----

    cdef void begin_file(self, Hand* hand, FileJob* job) noexcept nogil:
        cdef size_t got = 0
        cdef int fd
        if not self.equip(hand):
            self.fail_memory()
            return
        fd = self.open_job(job)
        if job.error == 0 and self.frames and job.path == NULL:
            self.begin_cut(hand, job, fd, True)
            return
        if job.error == 0:
            job.error = self.read_on(job, fd, hand.data, SMALL, &got)
        if job.error == 0:
            if self.frames and (got == SMALL or got > self.chunk_size):
                # What the system makes up as it is read has no size, or none to be trusted.
                self.begin_cut(hand, job, fd, job.facts.size < <long long>got)
                return
            self.count_read(got)
            if not self.frames and (got == SMALL or zstd.compress_bound(got) >= self.chunk_size):
                self.begin_stream(hand, job, fd, got)
                return
            self.seal_small(hand, job, got)
        pthread_mutex_lock(&self.lock)
        self.job_done(job, fd)
        pthread_mutex_unlock(&self.lock)
        if fd >= 0:
            c_close(fd)

    cdef int open_job(self, FileJob* job) noexcept nogil:
        """A descriptor of a regular file, or of what was given; -1 with `error` set."""
        cdef int fd = job.fd
        job.fd = -1
        if job.path == NULL:
            facts_of(fd, &job.facts)
            return fd
        fd = open_source(job.path, self.follow)
        if fd < 0 or facts_of(fd, &job.facts):
            job.error = errno
        elif not job.facts.regular:
            job.error = EISDIR if job.facts.directory else EIO
        return fd

    cdef void begin_stream(self, Hand* hand, FileJob* job, int fd, size_t got) noexcept nogil:
        """The worker's buffer and context become the stream's: the bytes that are read already stay where they are."""
        cdef Stream* stream = <Stream*>calloc(1, sizeof(Stream))
        cdef Stream** last = &self.streams
        if stream == NULL:
            c_close(fd)
            self.fail_memory()
            return
        sequential(fd)
        stream.job = job
        stream.fd = fd
        stream.data = hand.data
        stream.cctx = hand.context
        stream.end = got
        job.size = got
        hand.data = NULL
        hand.context = NULL
        zstd.cctx_reset(stream.cctx, ZSTD_RESET_SESSION)
        pthread_mutex_lock(&self.lock)
        while last[0] != NULL:
            last = &last[0].next
        last[0] = stream
        self.large += 1
        pthread_mutex_unlock(&self.lock)

    cdef void begin_cut(self, Hand* hand, FileJob* job, int fd, bint in_order) noexcept nogil:
        cdef Cut* cut = <Cut*>calloc(1, sizeof(Cut))
        cdef Cut** last = &self.cuts
        if cut == NULL:
            c_close(fd)
            self.fail_memory()
            return
        cut.job = job
        cut.fd = fd
        cut.size = job.facts.size
        cut.in_order = in_order
        if in_order and job.path != NULL:
            c_lseek(fd, 0, SEEK_SET)
        pthread_mutex_lock(&self.lock)
        while last[0] != NULL:
            last = &last[0].next
        last[0] = cut
        self.large += 1
        cut.working = 1
        if not in_order:
            self.accept_known(cut)
        self.chunk_done(cut)
        pthread_mutex_unlock(&self.lock)

    cdef void accept_known(self, Cut* cut) noexcept nogil:
        """Chunks that an earlier run has stored are not read again, if the file is what it was then. With the lock."""
        cdef FileJob* job = cut.job
        if job.known == NULL or not same_facts(&job.facts, &job.expected):
            return
        if job.known_count * <long long>self.chunk_size >= cut.size:
            return      # the last chunk is shorter than the caller says
        job.records, job.known = job.known, NULL
        job.count = job.room = job.known_count
        job.size = job.count * self.chunk_size
        cut.at = job.size

    cdef void seal_small(self, Hand* hand, FileJob* job, size_t n) noexcept nogil:
        """A whole file that gives one padded chunk. Fed as pog feeds: what there is, then the end. (With nothing fed
        first, as for an empty file, zstd writes the content size, 0.)"""
        cdef Slab* slab = hand.own
        cdef ZBuffer data, out
        cdef size_t left = 0
        slab_begin(slab)
        data.data, data.size, data.pos = hand.data, n, 0
        out.data, out.size, out.pos = chunk_of(slab), zstd.compress_bound(SMALL), 0
        self.begin_frame(hand, n, True, False)
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
            job.size = n
            pthread_mutex_lock(&self.lock)
            if self.new_record(job) == 0:
                self.note_blob(job, 0, slab, n)
            else:
                self.give_up_for_memory()
            pthread_mutex_unlock(&self.lock)

    cdef void compress_step(self, Stream* stream) noexcept nogil:
        """One turn as compressor: until a piece more is in the slab, or the slab is full, or the file ends."""
        cdef Slab* slab = stream.slab
        cdef FileJob* job = stream.job
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
                error = self.read_on(job, stream.fd, stream.data, PIECE, &stream.end)
                self.count_read(stream.end)
                job.size += stream.end
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
                self.note_blob(stream.job, slab.index, slab, 0)
            self.drop(slab)
        pthread_mutex_unlock(&self.lock)

    # ---- the `frames` layout ----

    cdef void cut_step(self, Hand* hand) noexcept nogil:
        """One chunk, from the file to the sinks."""
        cdef Cut* cut = <Cut*>hand.stream
        cdef FileJob* job = cut.job
        cdef Slab* slab = hand.slab
        cdef size_t n = hand.length
        cdef bint alone = not cut.in_order and cut.size <= <long long>self.chunk_size
        cdef bint hole = False, stored = False, empty
        cdef int error = 0
        if not self.equip_cut(hand) or slab_reserve(slab, zstd.compress_bound(self.chunk_size)):
            self.fail_memory()
            self.leave_cut(cut, slab)
            return
        hand.have = 0
        if cut.in_order:
            error = self.read_chunk(hand, cut, &n, &alone)
        elif job.facts.sparse and n == self.chunk_size and not alone:
            hole = next_data(cut.fd, hand.at, cut.size) >= hand.at + <long long>n
            if hole and self.take_zero(job, slab):
                self.leave_cut(cut, slab)
                return
        empty = n == 0 and slab.index > 0
        if error == 0 and not empty:
            error = self.pack(hand, cut, &n, alone)
            empty = n == 0 and not alone
        if error == 0 and not empty:
            stored = self.finish(slab, hand)
        pthread_mutex_lock(&self.lock)
        job.size += n
        if stored:
            self.note_blob(job, slab.index, slab, n)
            if hole:
                self.zero = job.records[slab.index]
        elif error == 0 and empty:
            job.records[slab.index].ready = job.records[slab.index].empty = True
        elif error:
            job.error = error
            cut.ended = True
        pthread_mutex_unlock(&self.lock)
        self.leave_cut(cut, slab)

    cdef bint take_zero(self, FileJob* job, Slab* slab) noexcept nogil:
        """A chunk that lies in a hole is the same blob each time."""
        cdef bint there
        pthread_mutex_lock(&self.lock)
        there = self.zero.ready
        if there:
            job.records[slab.index] = self.zero
            job.size += self.zero.plain
        pthread_mutex_unlock(&self.lock)
        return there

    cdef void leave_cut(self, Cut* cut, Slab* slab) noexcept nogil:
        pthread_mutex_lock(&self.lock)
        self.give_back(slab)
        self.chunk_done(cut)
        pthread_mutex_unlock(&self.lock)

    cdef void chunk_done(self, Cut* cut) noexcept nogil:
        """A worker leaves a file; the last one of a file that is through ends it. Called with the lock held."""
        check(cut.working > 0)
        cut.working -= 1
        if cut.working or not cut.ended:
            return
        self.job_done(cut.job, cut.fd)
        self.end_cut(cut)

    cdef int read_chunk(self, Hand* hand, Cut* cut, size_t* n, bint* alone) noexcept nogil:
        """The next chunk of what is read in order, into the worker's own buffer. 0 or an errno."""
        cdef size_t got = 0, one = 0
        cdef int error = 0
        cdef bint ended
        if cut.carried:
            hand.plain[0] = cut.carry
        error = self.read_on(cut.job, cut.fd, hand.plain + cut.carried, self.chunk_size - cut.carried, &got)
        self.count_read(got)
        n[0] = hand.have = got + cut.carried
        ended = n[0] < self.chunk_size
        if error == 0 and not ended:
            error = self.read_on(cut.job, cut.fd, &cut.carry, 1, &one)
            ended = one == 0
        alone[0] = ended and hand.slab.index == 0
        pthread_mutex_lock(&self.lock)
        cut.carried = one == 1
        cut.ended = cut.ended or ended or error != 0
        cut.reading = False
        if self.idle:
            pthread_cond_signal(&self.work)
        pthread_mutex_unlock(&self.lock)
        return error

    cdef int pack(self, Hand* hand, Cut* cut, size_t* n, bint alone) noexcept nogil:
        """Compresses the chunk of `n` bytes into its slab; hashes and encrypts behind. A file of one chunk as pog does,
        others to frames that stand alone. When the file turns out to be shorter `n` becomes what was there, 0 when that
        is nothing. 0 or an errno."""
        cdef bint steady = not alone
        cdef int error = self.pack_frame(hand, cut, n, alone, &steady)
        while error == AGAIN and n[0]:
            slab_begin(hand.slab)
            error = self.pack_frame(hand, cut, n, alone, &steady)
        return 0 if error == AGAIN else error

    cdef int pack_frame(self, Hand* hand, Cut* cut, size_t* n, bint alone, bint* steady) noexcept nogil:
        """One try of `pack`. AGAIN when `n` or `steady` were not what they should be, and are now: a frame says its length
        up front, and what does not compress needs not be `steady`.

        `steady`: all of the chunk is kept in memory, and zstd finds matches in it without copying what it reads into a
        ring of its own, whose seam costs it a fifth of its speed. Otherwise a chunk needs half the memory."""
        cdef Slab* slab = hand.slab
        cdef ZBuffer data, out
        cdef size_t at = 0, got, piece, left = 0
        cdef long long next_at = -1
        cdef u8* place
        cdef int error
        slab.later = self.mostly_known
        out.data, out.size, out.pos = chunk_of(slab), zstd.compress_bound(self.chunk_size), 0
        data.data, data.size, data.pos = hand.plain, 0, 0
        self.begin_frame(hand, n[0], alone, steady[0])
        while at < n[0]:
            if self.stopping:
                return EINTR
            piece = min(n[0] - at, <size_t>PIECE)
            place = hand.plain + at if steady[0] or at < hand.have else hand.data
            if at >= hand.have:
                error = self.read_piece(cut, place, piece, hand.at + <long long>at, &next_at, &got)
                if error:
                    return error
                if got < piece:
                    cut.job.changed = True
                    n[0] = at + got
                    if not alone:
                        return AGAIN
                    piece = got
            at += piece
            if steady[0]:
                hand.have = max(hand.have, at)
                data.size = at
            else:
                data.data, data.size, data.pos = place, piece, 0
            left = zstd.compress_stream(hand.context, &out, &data, ZSTD_E_CONTINUE)
            if zstd.is_error(left):
                return ENOMEM
            if steady[0] and n[0] > WORTH and at == PROBE and out.pos > PROBE - PROBE // 32:
                steady[0] = False
                return AGAIN
            slab.length = out.pos
            self.follow_up(slab, PIECE)
        left = zstd.compress_stream(hand.context, &out, &data, ZSTD_E_END)
        if left or data.pos < data.size:
            return ENOMEM
        slab.length = out.pos
        self.follow_up(slab, 1)
        return 0

    cdef void begin_frame(self, Hand* hand, size_t n, bint alone, bint steady) noexcept nogil:
        zstd.cctx_reset(hand.context, ZSTD_RESET_SESSION)
        zstd.cctx_set(hand.context, ZSTD_C_CHECKSUM, not alone)
        zstd.cctx_set(hand.context, ZSTD_C_STABLE_IN, steady)
        if not alone:
            zstd.cctx_pledge(hand.context, n)

    cdef void follow_up(self, Slab* slab, size_t least) noexcept nogil:
        """Hashes and encrypts what the compressor has written since, when it is at least so much."""
        if slab.length - slab.hashed < least:
            return
        while slab.hashed < slab.length:
            slab_hash(slab, min(slab.length, slab.hashed + PIECE))
            if not slab.later and slab_encrypt(slab, &self.ring, False):
                self.bad_key()
                return

    # ---- the caller ----

    cdef bint has_news(self, Py_ssize_t file) noexcept nogil:
        return self.first.done or self.ready(self.first) > self.first.told

    cdef Py_ssize_t ready(self, FileJob* job) noexcept nogil:
        """How many of a file's blobs are stored, counted from its first."""
        cdef Py_ssize_t ready = job.told
        while ready < job.count and job.records[ready].ready:
            ready += 1
        return ready

    cdef object tell(self, Py_ssize_t file):
        cdef FileJob* job = self.first
        cdef Facts* facts = &job.facts
        cdef Py_ssize_t i, ready = self.ready(job)
        cdef list names = [], stored = [], sizes = []
        for i in range(job.told, ready):
            if not job.records[i].empty:
                names.append(name_of(job.records[i].digest))
                stored.append(job.records[i].stored)
                sizes.append(job.records[i].plain)
        job.told = ready
        told = Sealed(file, names, stored, sizes, job.done, job.error, job.changed, job.size, facts.atime_ns,
                      facts.mtime_ns, facts.ctime_ns, facts.inode, facts.sparse)
        if job.done:
            self.first = job.next
            self.told += 1
            free_job(job)
        return told

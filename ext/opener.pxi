# Story 2 of the engine, the mirror of sealer.pxi: blobs into files, in both layouts of FORMAT.md.
#
# A small file of one blob is one task. A larger one is a way back with two kinds of steps: opening its next blob
# (read, authenticate, decrypt, check the name), which several workers do at once, and decompressing the opened blobs
# in their order, which one does at a time. Where the plain length of every blob is known (the `frames` layout), each
# blob is opened and decompressed to its place by whoever is free. A file is written under a temporary name and gets
# its own when it is whole; nothing is decompressed that has not been authenticated.

Opened = collections.namedtuple("Opened", "file done verdict blob errno")

cdef enum:
    SMALL_BLOB = 2 * PIECE      # a file of one blob of at most so many bytes is one task

cdef struct OpenJob:
    int directory               # borrowed descriptor
    const char* leaf            # borrowed from Opener.keep
    u8* digests
    long long* at               # where each blob's bytes begin in the file, and the file's length; NULL: not known
    Py_ssize_t count
    long long atime_ns
    long long mtime_ns
    int verdict                 # the first thing that went wrong, GOOD when nothing did
    int code                    # its errno
    Py_ssize_t bad              # the blob it was with
    bint done

cdef struct Way:
    Py_ssize_t file
    Draft draft                 # the unfinished file
    bint drafted
    void* dctx
    size_t left                 # 0 when a frame has just ended
    long long written
    Py_ssize_t next_open        # blobs before it are opened or being opened
    Py_ssize_t next_write       # blobs before it are in the file (in order only)
    int working                 # workers in it
    bint writing                # one of them decompresses
    Slab* ready                 # opened blobs, in no order
    int slabs                   # held
    Way* next


cdef class Opener(_Crew):
    """Turns blobs into files: see _engine.pyi."""
    cdef Ring ring
    cdef list keep              # what the jobs borrow
    cdef object source
    cdef Directory* directory   # of the source; NULL when it is a Python function
    cdef bytes temporary
    cdef const char* prefix
    cdef OpenJob* files
    cdef Way* ways
    cdef int way_count
    cdef Slab* spare
    cdef int slab_count

    def __init__(self, bytes secret, bytes private, bint asymmetric, files, source, *, int jobs,
                 bytes temporary=b".pogfast-"):
        cdef Py_ssize_t i
        fill_ring(&self.ring, secret, asymmetric, private)
        if not self.ring.can_open or jobs < 1:
            raise ValueError("needs a key that can open, and at least one worker")
        self.jobs = jobs
        self.source = source
        if isinstance(source, BlobDirectory):
            self.directory = &(<BlobDirectory>source).at
        self.temporary = temporary
        self.prefix = self.temporary
        self.keep = list(files)
        self.files = <OpenJob*>calloc(max(len(self.keep), 1), sizeof(OpenJob))
        if self.files == NULL:
            raise MemoryError
        self.count = len(self.keep)
        for i in range(self.count):
            self.read_job(&self.files[i], self.keep[i])

    cdef int read_job(self, OpenJob* job, tuple asked) except -1:
        cdef Py_ssize_t i
        directory, leaf, names, sizes, atime_ns, mtime_ns = asked
        job.directory = directory
        job.leaf = PyBytes_AsString(leaf)
        job.atime_ns, job.mtime_ns = atime_ns, mtime_ns
        job.digests = <u8*>malloc(max(len(names) * KEY, 1))
        if job.digests == NULL:
            raise MemoryError
        for i, name in enumerate(names):
            read_name(name, job.digests + i * KEY)
        job.count = len(names)
        if sizes is None or len(names) < 2:
            return 0
        if len(sizes) != len(names):
            raise ValueError("as many sizes as names")
        job.at = <long long*>malloc((job.count + 1) * sizeof(long long))
        if job.at == NULL:
            raise MemoryError
        job.at[0] = 0
        for i, size in enumerate(sizes):
            job.at[i + 1] = job.at[i] + size
        return 0

    def __dealloc__(self):
        cdef Py_ssize_t i
        cdef Slab* slab
        while self.spare != NULL:
            slab = self.spare
            self.spare = slab.next
            slab_free(slab)
        if self.files != NULL:
            for i in range(self.count):
                free(self.files[i].digests)
                free(self.files[i].at)
            free(self.files)
        sodium.memzero(&self.ring, sizeof(Ring))
        self.close()

    # ---- who does what (with the lock) ----

    cdef Task pick(self, Hand* hand) noexcept nogil:
        cdef Way* way = self.ways
        while way != NULL:
            if self.pick_step(way, hand):
                way.working += 1
                hand.stream = way
                return PART
            way = way.next
        if self.next_file < self.count and self.way_count < self.jobs:
            return self.take_file(hand)
        return self.wait_or_leave()

    cdef bint pick_step(self, Way* way, Hand* hand) noexcept nogil:
        """The next step of a file: decompressing before opening, so that little is in flight."""
        cdef OpenJob* job = &self.files[way.file]
        cdef Slab** at = &way.ready
        if job.verdict != GOOD:
            return False
        if job.at == NULL and not way.writing:
            while at[0] != NULL and at[0].index != way.next_write:
                at = &at[0].next
            if at[0] != NULL:
                hand.slab = at[0]
                at[0] = hand.slab.next
                hand.last = True            # opened: to be decompressed
                way.writing = True
                return True
        if way.next_open < job.count and way.slabs < (AHEAD if job.at == NULL else self.jobs):
            hand.slab = self.take_slab()
            if hand.slab == NULL:
                return False
            hand.slab.index = way.next_open
            hand.last = False
            way.next_open += 1
            way.slabs += 1
            return True
        return False

    cdef Slab* take_slab(self) noexcept nogil:
        cdef Slab* slab = self.spare
        if slab != NULL:
            self.spare = slab.next
        elif self.slab_count <= self.jobs:
            slab = slab_new()
            if slab == NULL:
                self.give_up_for_memory()
            else:
                self.slab_count += 1
        return slab

    cdef void give_back(self, Way* way, Slab* slab) noexcept nogil:
        slab.next = self.spare
        self.spare = slab
        way.slabs -= 1

    cdef void end_way(self, Way* way, bint keep) noexcept nogil:
        """Takes a file off the list, without its name unless it was finished."""
        cdef Way** at = &self.ways
        while at[0] != way:
            at = &at[0].next
        at[0] = way.next
        self.way_count -= 1
        if way.drafted:
            draft_end(&way.draft, keep)
        zstd.free_dctx(way.dctx)
        free(way)

    cdef void note(self, OpenJob* job, int verdict, int code, Py_ssize_t blob) noexcept nogil:
        if job.verdict == GOOD:
            job.verdict, job.code, job.bad = verdict, code, blob

    # ---- the work (without the lock) ----

    cdef void do(self, Hand* hand) noexcept nogil:
        if hand.task == FILE:
            self.begin_file(hand)
        elif hand.last:
            self.decompress_step(hand)
        else:
            self.open_step(hand)

    cdef void let_go(self, Hand* hand) noexcept nogil:
        slab_free(hand.own)
        free(hand.data)
        if hand.context != NULL:
            zstd.free_dctx(hand.context)

    cdef bint equip(self, Hand* hand) noexcept nogil:
        if hand.own == NULL:
            hand.own = slab_new()
        if hand.data == NULL:
            hand.data = <u8*>malloc(2 * PIECE)
        if hand.context == NULL:
            hand.context = zstd.create_dctx()
        return hand.own != NULL and hand.data != NULL and hand.context != NULL

    cdef void begin_file(self, Hand* hand) noexcept nogil:
        cdef OpenJob* job = &self.files[hand.file]
        cdef long long size = 0
        cdef int fd = -1
        if not self.equip(hand):
            self.fail_memory()
            return
        if job.count > 1 or (job.count == 1 and self.directory == NULL):
            self.begin_way(hand)
            return
        if job.count == 1:
            fd = directory_get(self.directory, job.digests, &size)
            if fd < 0:
                self.note(job, NOT_THERE if errno == ENOENT else <int>BAD_READ, errno, 0)
            elif size > SMALL_BLOB:
                c_close(fd)
                self.begin_way(hand)
                return
        if job.verdict == GOOD:
            self.open_small(hand, job, fd, size)
        if fd >= 0:
            c_close(fd)
        pthread_mutex_lock(&self.lock)
        job.done = True
        self.file_done()
        pthread_mutex_unlock(&self.lock)

    cdef void open_small(self, Hand* hand, OpenJob* job, int fd, long long size) noexcept nogil:
        cdef size_t left = 0
        cdef long long written = 0
        cdef int verdict = GOOD, code = 0
        cdef Draft draft
        if fd >= 0:
            verdict = self.load(hand.own, fd, size, job.digests, &code)
        if verdict == GOOD:
            verdict = self.begin_draft(&draft, hand.file, &code)
            if verdict == GOOD:
                if fd >= 0:
                    zstd.dctx_reset(hand.context, ZSTD_RESET_SESSION)
                    verdict = self.decompress(hand, hand.context, hand.own, draft.fd, -1, &left, &written, &code)
                    if verdict == GOOD and left:
                        verdict = BAD_FRAME
                if verdict == GOOD:
                    verdict = self.settle(&draft, job, &code)
                draft_end(&draft, verdict == GOOD)
        if verdict != GOOD:
            self.note(job, verdict, code, 0)

    cdef void begin_way(self, Hand* hand) noexcept nogil:
        cdef OpenJob* job = &self.files[hand.file]
        cdef Way* way = <Way*>calloc(1, sizeof(Way))
        cdef Way** last = &self.ways
        cdef int code = 0
        if way != NULL:
            way.dctx = zstd.create_dctx()
        if way == NULL or way.dctx == NULL:
            free(way)
            self.fail_memory()
            return
        way.file = hand.file
        way.drafted = self.begin_draft(&way.draft, hand.file, &code) == GOOD
        if not way.drafted:
            self.note(job, BAD_WRITE, code, 0)
        pthread_mutex_lock(&self.lock)
        while last[0] != NULL:
            last = &last[0].next
        last[0] = way
        self.way_count += 1
        way.working = 1
        self.step_done(way)
        pthread_mutex_unlock(&self.lock)

    cdef void step_done(self, Way* way) noexcept nogil:
        """A worker leaves a file; the last one of a file that is whole, or beyond help, ends it. With the lock."""
        cdef OpenJob* job = &self.files[way.file]
        cdef Slab* slab
        cdef int code = 0, verdict
        check(way.working > 0 and way.next_write <= job.count)
        way.working -= 1
        if way.working or (job.verdict == GOOD and way.next_write < job.count):
            return
        while way.ready != NULL:
            slab = way.ready
            way.ready = slab.next
            self.give_back(way, slab)
        if job.verdict == GOOD:
            verdict = self.settle(&way.draft, job, &code)
            if verdict != GOOD:
                self.note(job, verdict, code, job.count - 1)
        self.end_way(way, job.verdict == GOOD)
        job.done = True
        self.file_done()

    cdef void open_step(self, Hand* hand) noexcept nogil:
        """Opens one blob of a file; in the `frames` layout puts its bytes in their place, too."""
        cdef Way* way = <Way*>hand.stream
        cdef OpenJob* job = &self.files[way.file]
        cdef Slab* slab = hand.slab
        cdef const u8* digest = job.digests + slab.index * KEY
        cdef long long size = 0, written = 0
        cdef size_t left = 0
        cdef int code = 0, verdict = GOOD
        cdef int fd = -1
        if not self.equip(hand):
            self.fail_memory()
            return
        if self.directory == NULL:
            verdict = self.load_called(slab, digest)
        else:
            fd = directory_get(self.directory, digest, &size)
            if fd < 0:
                code = errno
                verdict = NOT_THERE if code == ENOENT else <int>BAD_READ
            else:
                verdict = self.load(slab, fd, size, digest, &code)
                c_close(fd)
        if verdict == GOOD and job.at != NULL:
            zstd.dctx_reset(hand.context, ZSTD_RESET_SESSION)
            verdict = self.decompress(hand, hand.context, slab, way.draft.fd, job.at[slab.index], &left, &written, &code)
            if verdict == GOOD and (left or written != job.at[slab.index + 1] - job.at[slab.index]):
                verdict = BAD_FRAME
        pthread_mutex_lock(&self.lock)
        if verdict != GOOD:
            self.note(job, verdict, code, slab.index)
        if verdict != GOOD or job.at != NULL:
            way.next_write += job.at != NULL
            self.give_back(way, slab)
        else:
            slab.next = way.ready
            way.ready = slab
        self.step_done(way)
        pthread_mutex_unlock(&self.lock)

    cdef void decompress_step(self, Hand* hand) noexcept nogil:
        cdef Way* way = <Way*>hand.stream
        cdef OpenJob* job = &self.files[way.file]
        cdef Slab* slab = hand.slab
        cdef int code = 0, verdict
        if not self.equip(hand):
            self.fail_memory()
            return
        verdict = self.decompress(hand, way.dctx, slab, way.draft.fd, -1, &way.left, &way.written, &code)
        if verdict == GOOD and way.left and slab.index == job.count - 1:
            verdict = BAD_FRAME
        pthread_mutex_lock(&self.lock)
        if verdict != GOOD:
            self.note(job, verdict, code, slab.index)
        way.writing = False
        way.next_write += 1
        self.give_back(way, slab)
        self.step_done(way)
        pthread_mutex_unlock(&self.lock)

    cdef int load(self, Slab* slab, int fd, long long size, const u8* digest, int* code) noexcept nogil:
        """Reads a blob into a buffer, authenticating each piece while it is warm; then decrypts it and checks that it
        is the one that its name says."""
        cdef Lock lock
        cdef size_t head = self.ring.header + BOX, at = 0, got = 0
        cdef u8* blob
        cdef int verdict
        if size < <long long>head:
            return BAD_BODY
        slab.total = size - head
        if slab_reserve(slab, slab.total):
            code[0] = ENOMEM
            return BAD_READ
        blob = blob_of(slab, &self.ring)
        code[0] = read_full(fd, blob, min(head + slab.total, <size_t>PIECE), &got)
        if code[0]:
            return BAD_READ
        verdict = lock_begin(&lock, &self.ring, blob) if got >= head else <int>BAD_BODY
        got -= head
        while verdict == GOOD:
            sodium.poly_update(poly_of_lock(&lock), chunk_of(slab) + at, got)
            at += got
            if at == slab.total:
                break
            code[0] = read_full(fd, chunk_of(slab) + at, min(slab.total - at, <size_t>PIECE), &got)
            if code[0]:
                verdict = BAD_READ
            elif got == 0:
                verdict = BAD_BODY
        if verdict == GOOD:
            verdict = lock_end(&lock)
        if verdict == GOOD:
            verdict = slab_unlock(slab, &lock, &self.ring, digest)
        sodium.memzero(&lock, sizeof(Lock))
        return verdict

    cdef int load_called(self, Slab* slab, const u8* digest) noexcept nogil:
        """The same for a source that is a Python function."""
        with gil:
            return self.load_from_call(slab, digest)

    cdef int load_from_call(self, Slab* slab, const u8* digest) noexcept:
        cdef Lock lock
        cdef const u8[::1] blob
        cdef const u8* p
        cdef size_t head = self.ring.header + BOX
        cdef int verdict
        try:
            blob = self.source(name_of(digest))
            if <size_t>blob.shape[0] < head:
                return BAD_BODY
            slab.total = blob.shape[0] - head
            if slab_reserve(slab, slab.total):
                raise MemoryError("there is no memory for a blob")
            p = &blob[0]
            with nogil:
                memcpy(blob_of(slab, &self.ring), p, head + slab.total)
                verdict = lock_begin(&lock, &self.ring, p)
                if verdict == GOOD:
                    sodium.poly_update(poly_of_lock(&lock), chunk_of(slab), slab.total)
                    verdict = lock_end(&lock)
                if verdict == GOOD:
                    verdict = slab_unlock(slab, &lock, &self.ring, digest)
                sodium.memzero(&lock, sizeof(Lock))
            return verdict
        except MissingBlob:
            return NOT_THERE
        except BaseException as error:
            self.fail(error)
            return BAD_CALL

    cdef int decompress(self, Hand* hand, void* dctx, Slab* slab, int fd, long long at, size_t* left,
                        long long* written, int* code) noexcept nogil:
        """Decompresses an opened chunk into a file: at its end, or with `at` from there on."""
        cdef ZBuffer data, out
        data.data, data.size, data.pos = chunk_of(slab), slab.length, 0
        out.data, out.size, out.pos = hand.data, 2 * PIECE, 0
        # A full buffer may mean that there is more behind it, unless the frame has just ended.
        while data.pos < data.size or (out.pos == out.size and left[0]):
            out.pos = 0
            left[0] = zstd.decompress_stream(dctx, &out, &data)
            if zstd.is_error(left[0]):
                return BAD_FRAME
            if self.stopping:
                code[0] = EINTR
                return BAD_WRITE
            if out.pos == 0:
                continue
            code[0] = write_full(fd, out.data, out.pos) if at < 0 else pwrite_full(fd, out.data, out.pos, at + written[0])
            if code[0]:
                return BAD_WRITE
            written[0] += out.pos
        return GOOD

    # ---- the file: unfinished under a temporary name, then whole under its own ----

    cdef int begin_draft(self, Draft* draft, Py_ssize_t file, int* code) noexcept nogil:
        code[0] = draft_begin(draft, self.files[file].directory, self.prefix, file, b"part")
        return BAD_WRITE if code[0] else GOOD

    cdef int settle(self, Draft* draft, OpenJob* job, int* code) noexcept nogil:
        """Times, then the name. A link of that name is replaced, not followed."""
        code[0] = errno if set_times(draft.fd, job.atime_ns, job.mtime_ns) else 0
        if code[0] == 0:
            code[0] = draft_publish(draft, job.directory, job.leaf)
        return BAD_WRITE if code[0] else GOOD

    # ---- the caller ----

    def stop(self):
        """Ends the workers, and takes away the files that are not finished."""
        cdef Slab* slab
        _Crew.stop(self)
        while self.ways != NULL:
            while self.ways.ready != NULL:
                slab = self.ways.ready
                self.ways.ready = slab.next
                self.give_back(self.ways, slab)
            self.end_way(self.ways, False)

    cdef bint has_news(self, Py_ssize_t file) noexcept nogil:
        return self.files[file].done

    cdef object tell(self, Py_ssize_t file):
        cdef OpenJob* job = &self.files[file]
        return Opened(file, True, job.verdict, job.bad, job.code)

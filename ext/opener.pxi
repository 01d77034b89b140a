# Story 2 of the engine, the mirror of sealer.pxi: blobs into files, in both layouts of FORMAT.md.
#
# A small file of one blob is one task. A larger one is a way back with two kinds of steps: opening its next blob
# (read, authenticate, decrypt, check the name), which several workers do at once, and decompressing the opened blobs
# in their order, which one does at a time. Where the plain length of every blob is known (the `frames` layout), each
# blob is opened and decompressed to its place by whoever is free. A file is written under a temporary name and gets
# its own when it is whole; nothing is decompressed that has not been authenticated.

Wanted = collections.namedtuple(
    "Wanted", "directory leaf blobs sizes size atime_ns mtime_ns mode uid gid xattrs sparse replace",
    defaults=(-1, -1, -1, (), False, True),
)
Opened = collections.namedtuple("Opened", "file done verdict blob errno offset soft")

cdef enum:
    SMALL_BLOB = 2 * PIECE      # a file of one blob of at most so many bytes is one task
    HOLE = 4096                 # zeros of so many bytes, at a multiple of it, become a hole where holes are wanted
    SMALL_TWIN = 3 * PIECE // 2 # plain bytes that surely make a small blob
    LARGE = 1 << 20             # files of at least so many bytes are given their room before they are written

cdef struct Xattr:              # an extended attribute; borrowed from Opener.keep
    const char* name
    const char* value
    size_t size

cdef struct OpenJob:
    int directory               # borrowed descriptor; -1: nothing is written, the content is only checked
    const char* leaf            # borrowed from Opener.keep
    u8* digests
    long long* at               # where each blob's bytes begin in the file, and the file's length; NULL: not known
    long long size              # of the file, -1 when not known
    Py_ssize_t count
    Py_ssize_t* same            # of each blob: where in the file it comes again, -1 nowhere; NULL: none comes twice
    u8* again                   # of each blob: whether it has come before
    Py_ssize_t twin             # the next small file of the same one blob, -1 for none
    bint is_twin                # of one before it, which brings the content for it
    long long atime_ns
    long long mtime_ns
    int mode                    # -1: what the umask leaves
    int uid
    int gid
    Xattr* xattrs
    Py_ssize_t xattr_count
    bint sparse
    bint replace
    int verdict                 # the first thing that went wrong, GOOD when nothing did
    int code                    # its errno
    Py_ssize_t bad              # the blob it was with
    long long offset            # where that begins in the file, -1 when not known
    int soft                    # errno of what was not set of its metadata
    bint done

cdef struct Flow:               # plain bytes on their way into a file
    int fd                      # -1: they go nowhere
    bint sparse
    long long at                # where they begin
    long long written
    size_t left                 # 0 when a frame has just ended
    bint zeros                  # nothing but zeros so far

cdef struct Way:
    Py_ssize_t file
    Draft draft                 # the unfinished file
    bint drafted
    void* dctx
    Flow flow                   # of blobs in order
    Py_ssize_t next_open        # blobs before it are opened or being opened
    Py_ssize_t next_write       # blobs before it are in the file (in order only)
    int working                 # workers in it
    bint writing                # one of them decompresses
    Slab* ready                 # opened blobs, in no order
    int slabs                   # held
    Way* next


cdef bint is_zero(const u8* p, size_t n) noexcept nogil:
    return p[0] == 0 and memcmp(p, p + 1, n - 1) == 0


cdef int flow_write(Flow* flow, const u8* p, size_t n) noexcept nogil:
    """Writes what comes next; where holes are wanted, not what would be one. 0 or an errno."""
    cdef size_t block, run = 0, done = 0
    cdef long long at = flow.at + flow.written
    cdef int error = 0
    flow.written += n
    if flow.fd < 0:
        return 0
    if not flow.sparse:
        return pwrite_full(flow.fd, p, n, at)
    while done < n and error == 0:
        block = min(n - done, <size_t>(HOLE - (at + <long long>done) % HOLE))
        if is_zero(p + done, block):
            if run < done:
                error = pwrite_full(flow.fd, p + run, done - run, at + <long long>run)
            run = done + block
        else:
            flow.zeros = False
        done += block
    if run < n and error == 0:
        error = pwrite_full(flow.fd, p + run, n - run, at + <long long>run)
    return error


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
        self.find_twins()

    cdef int find_twins(self) except -1:
        """Small files of the same one blob: it is fetched for the first of them, and for all."""
        cdef OpenJob* job
        cdef Py_ssize_t i, before
        cdef dict last = {}
        for i in range(self.count):
            job = &self.files[i]
            job.twin = -1
            if job.count != 1 or not 0 <= job.size <= SMALL_TWIN:
                continue
            name = self.keep[i].blobs[0]
            before = last.get(name, -1)
            last[name] = i
            if before >= 0:
                self.files[before].twin = i
                job.is_twin = True
        return 0

    cdef int read_job(self, OpenJob* job, asked) except -1:
        cdef Py_ssize_t i
        names, sizes = asked.blobs, asked.sizes
        job.directory = asked.directory
        job.leaf = PyBytes_AsString(asked.leaf)
        job.size = asked.size
        job.atime_ns, job.mtime_ns = asked.atime_ns, asked.mtime_ns
        job.mode, job.uid, job.gid = asked.mode, asked.uid, asked.gid
        job.sparse, job.replace = asked.sparse, asked.replace
        self.read_xattrs(job, asked.xattrs)
        job.offset = -1
        job.digests = <u8*>malloc(max(len(names) * KEY, 1))
        if job.digests == NULL:
            raise MemoryError
        for i, name in enumerate(names):
            read_name(name, job.digests + i * KEY)
        job.count = len(names)
        if sizes is None:
            return 0
        if len(sizes) != len(names):
            raise ValueError("as many sizes as names")
        job.size = sum(sizes)
        if len(names) < 2:
            return 0
        job.at = <long long*>malloc((job.count + 1) * sizeof(long long))
        if job.at == NULL:
            raise MemoryError
        job.at[0] = 0
        for i, size in enumerate(sizes):
            job.at[i + 1] = job.at[i] + size
        if len(set(names)) < len(names):
            self.find_repeats(job, names)
        return 0

    cdef int read_xattrs(self, OpenJob* job, xattrs) except -1:
        cdef Xattr* xattr
        cdef bytes name, value
        if not xattrs:
            return 0
        job.xattrs = <Xattr*>calloc(len(xattrs), sizeof(Xattr))
        if job.xattrs == NULL:
            raise MemoryError
        for name, value in xattrs:
            xattr = &job.xattrs[job.xattr_count]
            xattr.name, xattr.value, xattr.size = PyBytes_AsString(name), PyBytes_AsString(value), len(value)
            job.xattr_count += 1
        return 0

    cdef int find_repeats(self, OpenJob* job, list names) except -1:
        cdef Py_ssize_t i, before
        cdef dict last = {}
        job.same = <Py_ssize_t*>malloc(job.count * sizeof(Py_ssize_t))
        job.again = <u8*>calloc(job.count, 1)
        if job.same == NULL or job.again == NULL:
            raise MemoryError
        for i, name in enumerate(names):
            before = last.get(name, -1)
            last[name] = i
            job.same[i] = -1
            if before >= 0:
                job.same[before] = i
                job.again[i] = 1
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
                free(self.files[i].same)
                free(self.files[i].xattrs)
                free(self.files[i].again)
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
        while self.next_file < self.count and self.files[self.next_file].is_twin:
            self.next_file += 1
        if self.next_file < self.count and self.way_count < self.jobs:
            return self.take_file(hand)
        return self.wait_or_leave()

    cdef Slab** next_ready(self, Way* way) noexcept nogil:
        """Where the opened blob hangs that is to be decompressed next; NULL hangs there when it is not ready. Before a
        bad blob all are written all the same, to learn where in the file it begins."""
        cdef OpenJob* job = &self.files[way.file]
        cdef Slab** at = &way.ready
        cdef Py_ssize_t wanted = way.next_write
        if job.at != NULL or (job.verdict != GOOD and wanted >= job.bad):
            wanted = -1
        while at[0] != NULL and at[0].index != wanted:
            at = &at[0].next
        return at

    cdef bint pick_step(self, Way* way, Hand* hand) noexcept nogil:
        """The next step of a file: decompressing before opening, so that little is in flight."""
        cdef OpenJob* job = &self.files[way.file]
        cdef Slab** at
        if job.at == NULL and not way.writing:
            at = self.next_ready(way)
            if at[0] != NULL:
                hand.slab = at[0]
                at[0] = hand.slab.next
                hand.last = True            # opened: to be decompressed
                way.writing = True
                return True
        if job.verdict != GOOD:
            return False
        while way.next_open < job.count and job.again != NULL and job.again[way.next_open]:
            way.next_open += 1
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

    cdef void note(self, OpenJob* job, int verdict, int code, Py_ssize_t blob, long long offset) noexcept nogil:
        if job.verdict == GOOD or blob < job.bad:
            job.verdict, job.code, job.bad, job.offset = verdict, code, blob, offset

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
        cdef int fd = -1, code = 0, verdict = GOOD
        if not self.equip(hand):
            self.fail_memory()
            return
        if job.count > 1 or (job.count == 1 and self.directory == NULL and job.twin < 0):
            self.begin_way(hand)
            return
        if job.count == 1 and self.directory != NULL:
            fd = directory_get(self.directory, job.digests, &size)
            if fd < 0:
                code = errno
                verdict = NOT_THERE if code == ENOENT else <int>BAD_READ
            elif size > SMALL_BLOB and job.twin < 0:
                c_close(fd)
                self.begin_way(hand)
                return
            else:
                verdict = self.load(hand.own, fd, size, job.digests, &code)
                c_close(fd)
        elif job.count == 1:
            verdict = self.load_called(hand.own, job.digests)
        self.bring_small(hand, job, verdict, code)

    cdef void bring_small(self, Hand* hand, OpenJob* job, int verdict, int code) noexcept nogil:
        """A file whose blob, if it has one, is opened; and all its twins."""
        cdef OpenJob* twin = job
        cdef OpenJob* following
        while twin != NULL:
            following = &self.files[twin.twin] if twin.twin >= 0 else NULL
            if verdict != GOOD:
                self.note(twin, verdict, code, 0, 0)
            else:
                self.write_small(hand, twin)
            pthread_mutex_lock(&self.lock)
            twin.done = True
            if following == NULL:
                self.file_done()
            pthread_mutex_unlock(&self.lock)
            twin = following

    cdef void write_small(self, Hand* hand, OpenJob* job) noexcept nogil:
        cdef int verdict, code = 0
        cdef Draft draft
        cdef Flow flow
        verdict = self.begin_draft(&draft, job, &code)
        if verdict == GOOD:
            self.begin_flow(&flow, job, &draft, 0)
            if job.count:
                zstd.dctx_reset(hand.context, ZSTD_RESET_SESSION)
                verdict = self.decompress(hand, hand.context, hand.own, &flow, &code)
                if verdict == GOOD and flow.left:
                    verdict = BAD_FRAME
            if verdict == GOOD:
                verdict = self.settle(&draft, job, flow.written, &code)
            draft_end(&draft, verdict == GOOD)
        if verdict != GOOD:
            self.note(job, verdict, code, 0, 0)

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
        way.drafted = self.begin_draft(&way.draft, job, &code) == GOOD
        if not way.drafted:
            self.note(job, BAD_WRITE, code, 0, 0)
        self.begin_flow(&way.flow, job, &way.draft, 0)
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
        if way.working or (job.verdict == GOOD and way.next_write < job.count) or self.next_ready(way)[0] != NULL:
            return
        if job.verdict != GOOD and job.offset < 0 and job.at == NULL and way.next_write == job.bad:
            job.offset = way.flow.written
        while way.ready != NULL:
            slab = way.ready
            way.ready = slab.next
            self.give_back(way, slab)
        if job.verdict == GOOD:
            verdict = self.settle(&way.draft, job, way.flow.written if job.at == NULL else job.size, &code)
            if verdict != GOOD:
                self.note(job, verdict, code, job.count - 1, -1)
        self.end_way(way, job.verdict == GOOD)
        job.done = True
        self.file_done()

    cdef void open_step(self, Hand* hand) noexcept nogil:
        """Opens one blob of a file; in the `frames` layout puts its bytes in their places, too."""
        cdef Way* way = <Way*>hand.stream
        cdef OpenJob* job = &self.files[way.file]
        cdef Slab* slab = hand.slab
        cdef const u8* digest = job.digests + slab.index * KEY
        cdef long long size = 0
        cdef Py_ssize_t bad = slab.index, brought = 0
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
            verdict = self.bring_chunk(hand, way, &bad, &brought, &code)
        pthread_mutex_lock(&self.lock)
        if verdict != GOOD:
            self.note(job, verdict, code, bad, job.at[bad] if job.at != NULL else -1)
        if verdict != GOOD or job.at != NULL:
            way.next_write += brought
            self.give_back(way, slab)
        else:
            slab.next = way.ready
            way.ready = slab
        self.step_done(way)
        pthread_mutex_unlock(&self.lock)

    cdef int bring_chunk(self, Hand* hand, Way* way, Py_ssize_t* index, Py_ssize_t* brought, int* code) noexcept nogil:
        """Decompresses an opened chunk to every place of the file that it has. `index` becomes the place where it went
        wrong."""
        cdef OpenJob* job = &self.files[way.file]
        cdef Flow flow
        cdef long long wanted
        cdef bint silent = False        # further places need nothing but the right length
        cdef int verdict
        while True:
            wanted = job.at[index[0] + 1] - job.at[index[0]]
            if not silent:
                self.begin_flow(&flow, job, &way.draft, job.at[index[0]])
                zstd.dctx_reset(hand.context, ZSTD_RESET_SESSION)
                verdict = self.decompress(hand, hand.context, hand.slab, &flow, code)
                if verdict != GOOD:
                    return verdict
            if flow.left or flow.written != wanted:
                return BAD_FRAME
            silent = flow.fd < 0 or (flow.sparse and flow.zeros)
            brought[0] += 1
            if job.same == NULL or job.same[index[0]] < 0:
                return GOOD
            index[0] = job.same[index[0]]

    cdef void decompress_step(self, Hand* hand) noexcept nogil:
        cdef Way* way = <Way*>hand.stream
        cdef OpenJob* job = &self.files[way.file]
        cdef Slab* slab = hand.slab
        cdef long long begun = way.flow.written
        cdef int code = 0, verdict
        if not self.equip(hand):
            self.fail_memory()
            return
        verdict = self.decompress(hand, way.dctx, slab, &way.flow, &code)
        if verdict == GOOD and way.flow.left and slab.index == job.count - 1:
            verdict = BAD_FRAME
        pthread_mutex_lock(&self.lock)
        if verdict != GOOD:
            self.note(job, verdict, code, slab.index, begun)
        way.writing = False
        way.next_write += verdict == GOOD
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

    cdef int decompress(self, Hand* hand, void* dctx, Slab* slab, Flow* flow, int* code) noexcept nogil:
        """Decompresses an opened chunk into a file, behind what the flow has written."""
        cdef ZBuffer data, out
        data.data, data.size, data.pos = chunk_of(slab), slab.length, 0
        out.data, out.size, out.pos = hand.data, 2 * PIECE, 0
        # A full buffer may mean that there is more behind it, unless the frame has just ended.
        while data.pos < data.size or (out.pos == out.size and flow.left):
            out.pos = 0
            flow.left = zstd.decompress_stream(dctx, &out, &data)
            if zstd.is_error(flow.left):
                return BAD_FRAME
            if self.stopping:
                code[0] = EINTR
                return BAD_WRITE
            if out.pos == 0:
                continue
            code[0] = flow_write(flow, out.data, out.pos)
            if code[0]:
                return BAD_WRITE
        return GOOD

    # ---- the file: unfinished without its name, then whole ----

    cdef void begin_flow(self, Flow* flow, const OpenJob* job, const Draft* draft, long long at) noexcept nogil:
        flow.fd = draft.fd
        flow.sparse = job.sparse
        flow.at = at
        flow.written = 0
        flow.left = 0
        flow.zeros = True

    cdef int begin_draft(self, Draft* draft, const OpenJob* job, int* code) noexcept nogil:
        """A private file, when its permissions are to be set; room for it, when it is large."""
        cdef size_t number = job - self.files
        draft.fd = -1
        draft.nameless = True
        if job.directory < 0:
            return GOOD
        code[0] = draft_begin(draft, job.directory, self.prefix, number, b"part", 0o666 if job.mode < 0 else 0o600)
        if code[0]:
            return BAD_WRITE
        if job.size >= LARGE and not job.sparse:
            code[0] = give_room(draft.fd, job.size)
            if code[0]:
                draft_end(draft, False)
                return BAD_WRITE
        return GOOD

    cdef int settle(self, Draft* draft, OpenJob* job, long long length, int* code) noexcept nogil:
        """Owner, permissions, attributes and times, then the name. A link of that name is replaced, not followed."""
        if job.size >= 0 and length != job.size:
            return BAD_FRAME
        if draft.fd < 0:
            return GOOD
        if job.sparse and ftruncate(draft.fd, length):
            code[0] = errno
            return BAD_WRITE
        self.set_metadata(draft.fd, job)
        if set_times(draft.fd, job.atime_ns, job.mtime_ns):
            code[0] = errno
            return BAD_WRITE
        code[0] = draft_publish(draft, job.directory, job.leaf, job.replace)
        return BAD_WRITE if code[0] else GOOD

    cdef void set_metadata(self, int fd, OpenJob* job) noexcept nogil:
        cdef int mode = job.mode
        cdef Py_ssize_t i
        if (job.uid >= 0 or job.gid >= 0) and fchown(fd, <unsigned>job.uid, <unsigned>job.gid):
            job.soft = errno
            mode &= ~0o6000     # nobody's set-uid program becomes somebody else's
        if job.mode >= 0 and fchmod(fd, mode) and not job.soft:
            job.soft = errno
        for i in range(job.xattr_count):
            if set_xattr(fd, job.xattrs[i].name, job.xattrs[i].value, job.xattrs[i].size) and not job.soft:
                job.soft = errno

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
        return Opened(file, True, job.verdict, job.bad, job.code, job.offset, job.soft)

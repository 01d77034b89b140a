# Story 2 of the engine, the mirror of sealer.pxi: blobs into files, in both layouts of FORMAT.md, or only verified.
#
# A file of one small blob that no other file needs is one task. Of any other a RestoringFile is held while it comes
# back. A blob that is a frame of its own is opened once and goes to every place where it stands, in this file and in
# others: places of one blob form a ring, and who picks the blob reserves it for as many of them as it can serve. Parts of
# files get its bytes while it is decompressed; files that it makes whole are then made of it by whoever is free. A stream
# has two kinds of steps: opening its next blob, which several workers do at once, and decompressing the opened ones in
# their order, which one does at a time. A file has no name, or a temporary one, until it is whole; nothing is
# decompressed that has not been authenticated.

Wanted = collections.namedtuple(
    "Wanted", "directory leaf blobs sizes size atime_ns mtime_ns mode uid gid xattrs sparse replace",
    defaults=(-1, -1, -1, (), False, True),
)
Opened = collections.namedtuple("Opened", "file done verdict blob errno offset soft")

cdef enum:
    SMALL_BLOB = 2 * PIECE      # a file of one blob of at most so many bytes is one task
    OPEN_AHEAD = 2              # blobs of a stream in memory: one being decompressed, one being opened
    MAX_RESTORING = 224         # with one draft more for each worker that is at a small file, at most 256 on 32 cores
    SPARE_FDS = 16              # and four a worker: what is left of a process's descriptors by files begun early
    PREALLOCATED = 1 << 20      # files of at least so many bytes get their room on the disk before they are written
    # Bytes that a blob may have beyond twice its plain ones (our own: a part of 256 and less than 1 KB; another writer may
    # cut frames into small blocks). Of unknown plain size, a longer one is authenticated before there is memory for it.
    UNPROVEN = 64 << 20

cdef unsigned NOBODY = 0xFFFFFFFF       # for chown: left alone

cdef struct BlobUse:            # one blob of one file
    u8[KEY] digest
    long long at                # where its plain bytes begin in the file; -1 in a stream, where only writing it tells
    Py_ssize_t next             # the next place of this blob, in a ring; itself where there is no other, and in streams
    Py_ssize_t follow           # the next place that the same FetchedBlob fills, -1 behind the last
    int file
    bint taken                  # a FetchedBlob will fill it, or has

cdef struct Attribute:
    const char* name            # borrowed from Opener.keep, as its value
    const char* value
    Py_ssize_t size

cdef struct OpenJob:
    const char* leaf            # borrowed from Opener.keep
    Attribute* attributes
    Py_ssize_t attribute_count
    Py_ssize_t first            # its first place
    Py_ssize_t count            # of its places
    Py_ssize_t left             # places that are not filled
    Py_ssize_t follow           # the next file that is made whole of the same FetchedBlob, -1 behind the last
    long long size              # plain bytes, -1: not known
    long long atime_ns
    long long mtime_ns
    RestoringFile* restoring    # while it is held
    Py_ssize_t bad              # the blob that the first thing that went wrong was with
    long long offset            # where its plain bytes begin, -1: not known
    int verdict                 # what went wrong first, GOOD when nothing did
    int code                    # its errno
    int soft                    # errno of what it could not be given beyond its bytes
    int working                 # workers in it, or on their way
    int directory               # borrowed descriptor; -1: it is only verified
    int mode                    # -1: the system's choice
    unsigned uid
    unsigned gid
    bint stream
    bint sparse
    bint replace
    bint begun                  # counted in open_files
    bint done

cdef struct RestoringFile:
    Py_ssize_t file
    Draft draft                 # the unfinished file
    bint drafted
    Py_ssize_t next_open        # no place before it is left to be picked
    # Of a stream only:
    void* dctx
    size_t frame_left           # 0 when a frame has just ended
    long long written
    bint writing                # a worker decompresses
    FetchedBlob* ready          # opened, in no order
    int blobs                   # held
    RestoringFile* next

cdef enum Step:
    TO_OPEN                     # and, where it is a frame of its own, to be decompressed to its places
    TO_DECOMPRESS               # a stream's next part
    TO_SHARE                    # opened; whole files are made of it

cdef struct FetchedBlob:        # one blob in memory, and where it goes
    Step step
    Slab* slab
    Py_ssize_t use              # the one it was picked for
    RestoringFile* stream       # that it belongs to, NULL when it is a frame of its own
    Py_ssize_t parts            # the first place that is filled while it is decompressed, -1: none
    Py_ssize_t last_part
    Py_ssize_t files            # the first file to be made of it, -1: none
    Py_ssize_t last_file
    int workers                 # that make files of it
    int verdict
    int code
    FetchedBlob* next           # in the list it is in
    FetchedBlob* older          # of all that there are


cdef class Opener(_Pool):
    """Turns blobs into files: see _engine.pyi."""
    cdef Keys keys
    cdef list keep              # what the jobs borrow
    cdef object source
    cdef Directory* directory   # of the source; NULL when it is a Python function
    cdef bytes temporary
    cdef const char* prefix
    cdef OpenJob* files
    cdef BlobUse* uses
    cdef Py_ssize_t use_count
    cdef RestoringFile* restoring
    cdef int restoring_count
    cdef long last_fd           # the highest descriptor that a file begun early may have
    cdef FetchedBlob* blobs     # all
    cdef FetchedBlob* spare
    cdef FetchedBlob* shared    # those that files can be made of
    cdef int blob_count
    cdef u64 brought            # plain bytes that are in their places
    cdef u64 fetched            # bytes of blobs that were read

    def __init__(self, bytes secret, bytes private, bint asymmetric, files, source, *, int jobs,
                 bytes temporary=b".pogfast-"):
        cdef Py_ssize_t file, uses = 0
        fill_keys(&self.keys, secret, asymmetric, private)
        if not self.keys.can_open or jobs < 1:
            raise ValueError("needs a key that can open, and at least one worker")
        if len(files) >= 1 << 31:
            raise ValueError("too many files at a time")
        self.jobs = jobs
        self.source = source
        self.outside = (source,)
        if isinstance(source, BlobDirectory):
            self.directory = &(<BlobDirectory>source).at
        self.temporary = temporary
        self.prefix = self.temporary
        self.last_fd = os.sysconf("SC_OPEN_MAX") - 4 * jobs - SPARE_FDS
        self.keep = []
        for wanted in files:
            uses += len(wanted[2])
        self.files = <OpenJob*>calloc(max(len(files), 1), sizeof(OpenJob))
        self.uses = <BlobUse*>malloc(max(uses, 1) * sizeof(BlobUse))
        if self.files == NULL or self.uses == NULL:
            raise MemoryError
        self.count = len(files)
        for file, wanted in enumerate(files):
            self.read_job(file, wanted)
        self.join_uses()

    cdef int read_job(self, int file, wanted) except -1:
        cdef OpenJob* job = &self.files[file]
        cdef BlobUse* use
        cdef long long at = 0
        directory, leaf, names, sizes, size, atime_ns, mtime_ns, mode, uid, gid, xattrs, sparse, replace = wanted
        job.directory = directory
        job.leaf = PyBytes_AsString(leaf)
        self.keep.append(leaf)
        job.atime_ns, job.mtime_ns = atime_ns, mtime_ns
        job.mode, job.sparse, job.replace = mode, sparse, replace
        job.uid, job.gid = NOBODY if uid < 0 else uid, NOBODY if gid < 0 else gid
        job.size = max(size, -1)
        job.offset = -1
        job.first, job.count, job.left = self.use_count, len(names), len(names)
        job.stream = job.count > 1 and sizes is None
        for name in names:
            use = &self.uses[self.use_count]
            read_name(name, use.digest)
            use.file, use.at, use.taken = file, -1 if job.stream else 0, False
            self.use_count += 1
        if sizes is not None:
            self.read_sizes(job, sizes)
        if xattrs:
            self.read_attributes(job, xattrs)
        return 0

    cdef int read_sizes(self, OpenJob* job, sizes) except -1:
        cdef Py_ssize_t use = job.first
        cdef long long at = 0
        if len(sizes) != job.count or sum(sizes) >= 1 << 63:
            raise ValueError("as many sizes as names, of a file that can be")
        for size in sizes:
            if size < 0:
                raise ValueError("a size is negative")
            self.uses[use].at = at
            at += size
            use += 1
        if job.size >= 0 and job.size != at:
            self.note(job, BAD_FRAME, 0, 0, -1)
        job.size = at
        return 0

    cdef int read_attributes(self, OpenJob* job, xattrs) except -1:
        cdef Attribute* attribute
        job.attributes = <Attribute*>malloc(len(xattrs) * sizeof(Attribute))
        if job.attributes == NULL:
            raise MemoryError
        for name, value in xattrs:
            attribute = &job.attributes[job.attribute_count]
            attribute.name, attribute.value = PyBytes_AsString(name), PyBytes_AsString(value)
            attribute.size = len(value)
            self.keep.append((name, value))
            job.attribute_count += 1
        return 0

    cdef int join_uses(self) except -1:
        """Joins the places of each blob, in the order of the files, by a table of the last place of each."""
        cdef size_t mask = 1, slot
        cdef Py_ssize_t at
        cdef Py_ssize_t* last
        cdef BlobUse* use
        while mask < 2 * <size_t>self.use_count:
            mask *= 2
        last = <Py_ssize_t*>calloc(mask, sizeof(Py_ssize_t))
        if last == NULL:
            raise MemoryError
        mask -= 1
        with nogil:
            for at in range(self.use_count):
                use = &self.uses[at]
                use.next = at
                if use.at < 0:
                    continue
                memcpy(&slot, use.digest, sizeof(size_t))
                slot &= mask
                while last[slot] and memcmp(self.uses[last[slot] - 1].digest, use.digest, KEY):
                    slot = (slot + 1) & mask
                if last[slot]:
                    use.next = self.uses[last[slot] - 1].next
                    self.uses[last[slot] - 1].next = at
                last[slot] = at + 1
        free(last)
        return 0

    def __dealloc__(self):
        cdef Py_ssize_t file
        cdef FetchedBlob* blob
        while self.blobs != NULL:
            blob = self.blobs
            self.blobs = blob.older
            slab_free(blob.slab)
            free(blob)
        if self.files != NULL:
            for file in range(self.count):
                free(self.files[file].attributes)
        free(self.files)
        free(self.uses)
        sodium.memzero(&self.keys, sizeof(Keys))
        self.close()

    # ---- who does what (with the lock) ----

    cdef Task pick(self, Worker* worker) noexcept nogil:
        cdef RestoringFile* restoring = self.restoring
        if self.shared != NULL:
            return self.pick_share(worker)
        while restoring != NULL:
            if self.pick_step(restoring, worker):
                return PART
            restoring = restoring.next
        return self.pick_file(worker)

    cdef Task pick_share(self, Worker* worker) noexcept nogil:
        cdef FetchedBlob* blob = self.shared
        worker.stream = blob
        worker.file = blob.files
        blob.workers += 1
        blob.files = self.files[worker.file].follow
        if blob.files < 0:
            self.shared = blob.next
        return PART

    cdef Task pick_file(self, Worker* worker) noexcept nogil:
        """The next file that has not begun. A new one begins where the others leave nothing to do."""
        cdef OpenJob* job
        cdef int verdict, code = 0
        while self.next_file < self.count:
            job = &self.files[self.next_file]
            if not (job.begun or job.done):
                if self.restoring_count >= MAX_RESTORING or (self.restoring_count >= self.jobs and not self.has_blob()):
                    break
                if self.is_lone(job):
                    job.begun = True
                    return self.take_file(worker)
                verdict = self.begin_restoring(self.next_file, &code) if job.verdict == GOOD else job.verdict
                self.note(job, verdict, code, 0, -1)
                self.begin(job)
                self.end_if_over(job)
            store_count(&self.next_file, self.next_file + 1)
            if job.restoring != NULL and self.pick_step(job.restoring, worker):
                return PART
        return self.wait_or_leave()

    cdef bint is_lone(self, OpenJob* job) noexcept nogil:
        """Whether a file may be one task: one blob that nothing else needs, or none. Its size is seen then."""
        return job.count == 0 or (job.count == 1 and self.directory != NULL and
                                  self.uses[job.first].next == job.first)

    cdef bint pick_step(self, RestoringFile* restoring, Worker* worker) noexcept nogil:
        cdef OpenJob* job = &self.files[restoring.file]
        cdef FetchedBlob* blob = NULL
        if job.verdict == GOOD:
            blob = self.pick_stream(restoring, job) if job.stream else self.pick_use(restoring, job)
        worker.stream = blob
        return blob != NULL

    cdef FetchedBlob* pick_stream(self, RestoringFile* restoring, OpenJob* job) noexcept nogil:
        """The next step of a stream: decompressing before opening, so that little is in flight."""
        cdef FetchedBlob** at = &restoring.ready
        cdef FetchedBlob* blob
        if not restoring.writing:
            while at[0] != NULL and at[0].use != job.first + job.count - job.left:
                at = &at[0].next
            if at[0] != NULL:
                blob = at[0]
                at[0] = blob.next
                blob.step = TO_DECOMPRESS
                restoring.writing = True
                job.working += 1
                return blob
        if restoring.next_open == job.count or restoring.blobs == OPEN_AHEAD:
            return NULL
        blob = self.take_blob(job.first + restoring.next_open)
        if blob != NULL:
            blob.stream = restoring
            restoring.blobs += 1
            restoring.next_open += 1
            job.working += 1
        return blob

    cdef FetchedBlob* pick_use(self, RestoringFile* restoring, OpenJob* job) noexcept nogil:
        """The next blob of a file that nobody has picked, reserved for every place of it that can be served."""
        cdef FetchedBlob* blob
        cdef Py_ssize_t first, at
        while restoring.next_open < job.count and self.uses[job.first + restoring.next_open].taken:
            restoring.next_open += 1
        if restoring.next_open == job.count:
            return NULL
        first = at = job.first + restoring.next_open
        blob = self.take_blob(first)
        if blob == NULL:
            return NULL
        while self.uses[at].taken or self.reserve(blob, at):
            at = self.uses[at].next
            if at == first:
                break
        return blob

    cdef bint reserve(self, FetchedBlob* blob, Py_ssize_t at) noexcept nogil:
        """Whether a place can be served. If not, it would take one more draft: its file fetches the blob again."""
        cdef BlobUse* use = &self.uses[at]
        cdef OpenJob* job = &self.files[use.file]
        cdef int code
        if job.verdict != GOOD:
            return True
        if job.count > 1 and job.directory >= 0 and job.restoring == NULL:
            if self.restoring_count >= MAX_RESTORING or self.begin_restoring(use.file, &code):
                return False
            if job.restoring.draft.fd > self.last_fd:  # the lowest that is free is taken, so few are left
                self.end_restoring(job.restoring, False)
                return False
            self.begin(job)
        use.taken = True
        job.working += 1
        if job.directory >= 0 and job.count == 1:
            self.begin(job)
            job.follow = -1
            if blob.files < 0:
                blob.files = use.file
            else:
                self.files[blob.last_file].follow = use.file
            blob.last_file = use.file
        else:
            use.follow = -1
            if blob.parts < 0:
                blob.parts = at
            else:
                self.uses[blob.last_part].follow = at
            blob.last_part = at
        return True

    cdef bint has_blob(self) noexcept nogil:
        return self.spare != NULL or self.blob_count <= self.jobs

    cdef FetchedBlob* take_blob(self, Py_ssize_t use) noexcept nogil:
        cdef FetchedBlob* blob = self.spare
        if blob != NULL:
            self.spare = blob.next
        elif self.blob_count <= self.jobs:
            blob = self.new_blob()
        if blob != NULL:
            blob.step = TO_OPEN
            blob.use = use
            blob.stream = NULL
            blob.parts = blob.files = -1
        return blob

    cdef FetchedBlob* new_blob(self) noexcept nogil:
        cdef FetchedBlob* blob = <FetchedBlob*>calloc(1, sizeof(FetchedBlob))
        if blob != NULL:
            blob.slab = slab_new(CHUNK_AT)
        if blob == NULL or blob.slab == NULL:
            free(blob)
            self.end(NO_MEMORY)
            return NULL
        blob.older = self.blobs
        self.blobs = blob
        self.blob_count += 1
        return blob

    cdef void give_back(self, FetchedBlob* blob) noexcept nogil:
        blob.next = self.spare
        self.spare = blob
        if blob.stream != NULL:
            blob.stream.blobs -= 1

    cdef void begin(self, OpenJob* job) noexcept nogil:
        if not job.begun:
            job.begun = True
            self.open_files += 1

    cdef int begin_restoring(self, Py_ssize_t file, int* code) noexcept nogil:
        """Holds a file, with its draft where it is written in parts. A Verdict."""
        cdef OpenJob* job = &self.files[file]
        cdef RestoringFile* restoring = <RestoringFile*>calloc(1, sizeof(RestoringFile))
        cdef RestoringFile** last = &self.restoring
        cdef int verdict = GOOD
        if restoring != NULL and job.stream:
            restoring.dctx = zstd.create_dctx()
        if restoring == NULL or (job.stream and restoring.dctx == NULL):
            self.end(NO_MEMORY)
            verdict, code[0] = BAD_WRITE, ENOMEM
        elif job.directory >= 0 and job.count > 1:
            verdict = self.begin_draft(&restoring.draft, file, code)
            restoring.drafted = verdict == GOOD
        if verdict != GOOD:
            if restoring != NULL:
                zstd.free_dctx(restoring.dctx)
            free(restoring)
            return verdict
        restoring.file = file
        while last[0] != NULL:
            last = &last[0].next
        last[0] = restoring
        self.restoring_count += 1
        job.restoring = restoring
        return GOOD

    cdef void end_restoring(self, RestoringFile* restoring, bint keep) noexcept nogil:
        """Lets a file go, without its name unless it was finished."""
        cdef RestoringFile** at = &self.restoring
        cdef FetchedBlob* blob
        while restoring.ready != NULL:
            blob = restoring.ready
            restoring.ready = blob.next
            self.give_back(blob)
        while at[0] != restoring:
            at = &at[0].next
        at[0] = restoring.next
        self.restoring_count -= 1
        self.files[restoring.file].restoring = NULL
        if restoring.drafted:
            draft_end(&restoring.draft, keep)
        zstd.free_dctx(restoring.dctx)
        free(restoring)

    cdef void note(self, OpenJob* job, int verdict, int code, Py_ssize_t blob, long long offset) noexcept nogil:
        if job.verdict == GOOD:
            store_int(&job.verdict, verdict)
            job.code, job.bad = code, blob
            job.offset = offset if verdict not in (BAD_WRITE, NO_ROOM) else -1

    cdef void end_if_over(self, OpenJob* job) noexcept nogil:
        """Ends a file that nobody works in when it is whole, or beyond help. Leaves the lock while it gets its name."""
        cdef int verdict, code = 0
        cdef bint named = False
        check(job.working >= 0 and job.left >= 0 and not job.done)
        if job.working or (job.verdict == GOOD and job.left):
            return
        if job.verdict == GOOD and job.restoring != NULL and job.restoring.drafted:
            pthread_mutex_unlock(&self.lock)
            verdict = self.settle(&job.restoring.draft, job, job.restoring.written if job.stream else job.size, &code)
            pthread_mutex_lock(&self.lock)
            if verdict != GOOD:
                self.note(job, verdict, code, job.count - 1, -1)
            named = verdict == GOOD
        if job.restoring != NULL:
            self.end_restoring(job.restoring, named)
        job.done = True
        if job.begun:
            self.file_done()

    # ---- the work (without the lock) ----

    cdef void do(self, Worker* worker) noexcept nogil:
        cdef FetchedBlob* blob = <FetchedBlob*>worker.stream
        if worker.own == NULL:
            worker.own = slab_new(CHUNK_AT)
        if worker.data == NULL:
            worker.data = <u8*>malloc(2 * PIECE)
        if worker.context == NULL:
            worker.context = zstd.create_dctx()
        if worker.own == NULL or worker.data == NULL or worker.context == NULL:
            self.fail_memory()
        elif worker.task == FILE:
            self.do_file(worker)
        elif blob.step == TO_DECOMPRESS:
            self.decompress_step(worker, blob)
        elif blob.step == TO_SHARE:
            self.share_step(worker, blob)
        else:
            self.open_step(worker, blob)

    cdef void let_go(self, Worker* worker) noexcept nogil:
        slab_free(worker.own)
        free(worker.data)
        if worker.context != NULL:
            zstd.free_dctx(worker.context)

    cdef void do_file(self, Worker* worker) noexcept nogil:
        """A file of one small blob or none, from beginning to end. It becomes a RestoringFile when the blob is large."""
        cdef OpenJob* job = &self.files[worker.file]
        cdef long long size = 0
        cdef int fd = -1, verdict = job.verdict, code = 0
        cdef Slab* slab = NULL
        if verdict == GOOD and job.count:
            fd = directory_get(self.directory, self.uses[job.first].digest, &size)
            if fd < 0:
                code = errno
                verdict = NOT_THERE if code == ENOENT else <int>BAD_READ
        if verdict == GOOD and size <= SMALL_BLOB:
            if job.count:
                slab = worker.own
                verdict = self.load(slab, fd, size, self.uses[job.first].digest, &code)
            if verdict == GOOD:
                verdict = self.make_file(worker, slab, &code)
        if fd >= 0:
            c_close(fd)
        if verdict == BROKEN_OFF:
            return
        pthread_mutex_lock(&self.lock)
        if verdict == GOOD and size > SMALL_BLOB:
            verdict = self.begin_restoring(worker.file, &code)
        else:
            job.left = 0
        if verdict != GOOD:
            self.note(job, verdict, code, 0, 0)
        self.end_if_over(job)
        pthread_mutex_unlock(&self.lock)

    cdef int make_file(self, Worker* worker, Slab* slab, int* code) noexcept nogil:
        """A file of one opened blob, or with NULL of none, from its draft to its name; or only looked at."""
        cdef OpenJob* job = &self.files[worker.file]
        cdef size_t left = 0
        cdef long long written = 0
        cdef int verdict = GOOD
        cdef Draft draft
        draft.fd = -1
        if job.directory >= 0:
            verdict = self.begin_draft(&draft, worker.file, code)
            if verdict != GOOD:
                return verdict
        if slab != NULL:
            unzstd_reset(worker.context)
            verdict = self.decompress(worker, worker.context, slab, job, draft.fd, &left, &written, code)
        if verdict == GOOD and (left or (job.size >= 0 and written != job.size)):
            verdict = BAD_FRAME
        if job.directory >= 0:
            if verdict == GOOD:
                verdict = self.settle(&draft, job, written, code)
            draft_end(&draft, verdict == GOOD)
        return verdict

    cdef void open_step(self, Worker* worker, FetchedBlob* blob) noexcept nogil:
        blob.code = 0
        blob.verdict = self.fetch(worker, blob)
        if blob.verdict == GOOD and blob.parts >= 0:
            self.spread(worker, blob)
        if blob.verdict == BROKEN_OFF:
            return
        pthread_mutex_lock(&self.lock)
        if blob.stream != NULL:
            self.queue(blob)
        else:
            self.end_parts(blob)
            self.share(blob)
        pthread_mutex_unlock(&self.lock)

    cdef void queue(self, FetchedBlob* blob) noexcept nogil:
        """A stream's blob waits for those before it, a bad one too, so that it is known where its bytes would begin.
        With the lock."""
        cdef RestoringFile* restoring = blob.stream
        if blob.verdict != GOOD:
            restoring.next_open = self.files[restoring.file].count
        blob.next = restoring.ready
        restoring.ready = blob
        self.files[restoring.file].working -= 1
        self.end_if_over(&self.files[restoring.file])

    cdef void end_parts(self, FetchedBlob* blob) noexcept nogil:
        """With the lock."""
        cdef Py_ssize_t at = blob.parts
        cdef BlobUse* use
        cdef OpenJob* job
        while at >= 0:
            use = &self.uses[at]
            job = &self.files[use.file]
            if blob.verdict != GOOD:
                self.note(job, blob.verdict, blob.code, at - job.first, use.at)
            at = use.follow
            job.working -= 1
            job.left -= 1
            self.end_if_over(job)

    cdef void share(self, FetchedBlob* blob) noexcept nogil:
        """Offers an opened blob to whoever is free, to make files of it. With the lock."""
        cdef Py_ssize_t file = blob.files
        cdef OpenJob* job
        if blob.verdict == GOOD and file >= 0:
            blob.step = TO_SHARE
            blob.next = self.shared
            self.shared = blob
            return
        while file >= 0:
            job = &self.files[file]
            self.note(job, blob.verdict, blob.code, 0, 0)
            job.working -= 1
            self.end_if_over(job)
            file = job.follow
        self.give_back(blob)

    cdef void share_step(self, Worker* worker, FetchedBlob* blob) noexcept nogil:
        """Makes one file of an opened blob."""
        cdef OpenJob* job = &self.files[worker.file]
        cdef int code = 0
        cdef int verdict = self.make_file(worker, blob.slab, &code)
        if verdict == BROKEN_OFF:
            return
        pthread_mutex_lock(&self.lock)
        if verdict != GOOD:
            self.note(job, verdict, code, 0, 0)
        job.left = 0
        job.working -= 1
        self.end_if_over(job)
        blob.workers -= 1
        if blob.files < 0 and blob.workers == 0:
            self.give_back(blob)
        pthread_mutex_unlock(&self.lock)

    cdef void decompress_step(self, Worker* worker, FetchedBlob* blob) noexcept nogil:
        """Decompresses an opened blob to the end of a stream."""
        cdef RestoringFile* restoring = blob.stream
        cdef OpenJob* job = &self.files[restoring.file]
        cdef long long offset = restoring.written
        cdef int verdict = blob.verdict, code = blob.code
        if verdict == GOOD:
            verdict = self.decompress(worker, restoring.dctx, blob.slab, job,
                                      restoring.draft.fd if restoring.drafted else -1, &restoring.frame_left, &restoring.written, &code)
        if verdict == GOOD and job.left == 1 and (
                restoring.frame_left or (job.size >= 0 and restoring.written != job.size)):
            verdict = BAD_FRAME
        if verdict == BROKEN_OFF:
            return
        pthread_mutex_lock(&self.lock)
        if verdict != GOOD:
            self.note(job, verdict, code, blob.use - job.first, offset)
        restoring.writing = False
        self.give_back(blob)
        job.working -= 1
        job.left -= 1
        self.end_if_over(job)
        pthread_mutex_unlock(&self.lock)

    # ---- a blob, from where it lies to its plain bytes ----

    cdef int fetch(self, Worker* worker, FetchedBlob* blob) noexcept nogil:
        """Fetches a blob and opens it in its slab. One that is longer than it can be is damaged, and gets no memory."""
        cdef const u8* digest = self.uses[blob.use].digest
        cdef long long size = 0, maximum = self.max_size_of(blob)
        cdef int fd, verdict = GOOD
        if self.directory == NULL:
            with gil:
                return self.load_from_call(blob.slab, digest, max_blob if maximum < 0 else maximum, &blob.code)
        fd = directory_get(self.directory, digest, &size)
        if fd < 0:
            blob.code = errno
            return NOT_THERE if blob.code == ENOENT else <int>BAD_READ
        if size > (max_blob if maximum < 0 else maximum):
            verdict = BAD_BODY
        elif maximum < 0 and size > UNPROVEN:
            verdict = authenticate(fd, &self.keys, worker.data, &self.stopping, &blob.code)
        if verdict == GOOD:
            verdict = self.load(blob.slab, fd, size, digest, &blob.code)
        c_close(fd)
        return verdict

    cdef long long max_size_of(self, FetchedBlob* blob) noexcept nogil:
        """The most bytes that a fetched blob can have, going by its plain bytes; -1 where these are not known."""
        cdef long long plain = 0, length
        cdef Py_ssize_t at = blob.parts, file = blob.files
        if blob.stream != NULL:
            return -1
        while at >= 0:
            length = self.length_of(at)
            plain = max(plain, length) if length >= 0 else max_blob
            at = self.uses[at].follow
        while file >= 0:
            length = self.files[file].size
            plain = max(plain, length) if length >= 0 else max_blob
            file = self.files[file].follow
        return 2 * plain + UNPROVEN if plain < max_blob else -1

    cdef int load(self, Slab* slab, int fd, long long size, const u8* digest, int* code) noexcept nogil:
        """As read_blob. What is damaged is read once more, from the disk if it can be: memory and cables err, too."""
        cdef int verdict = self.read_blob(slab, fd, size, digest, code)
        if is_damage(verdict):
            forget_cached(fd)
            c_lseek(fd, 0, SEEK_SET)
            verdict = self.read_blob(slab, fd, size, digest, code)
        return verdict

    cdef int read_blob(self, Slab* slab, int fd, long long size, const u8* digest, int* code) noexcept nogil:
        """Reads a blob into a buffer, authenticating each piece while it is warm; then decrypts it and checks that it
        is the one that its name says."""
        cdef OpenState state
        cdef size_t head = self.keys.header + BOX, at = 0, got = 0
        cdef u8* blob
        cdef int verdict
        if size < <long long>head:
            return BAD_BODY
        slab.total = size - head
        if slab_reserve(slab, slab.total):
            code[0] = ENOMEM
            return BAD_READ
        blob = blob_of(slab, &self.keys)
        check(<size_t>blob % PAGE >= 64)        # see CHUNK_AT
        code[0] = read_full(fd, blob, min(head + slab.total, <size_t>PIECE), &got)
        if code[0]:
            return BAD_READ
        self.count_fetched(got)
        verdict = open_begin(&state, &self.keys, blob) if got >= head else <int>BAD_BODY
        got -= head
        while verdict == GOOD:
            poly_add(poly_of_state(&state), chunk_of(slab) + at, got)
            at += got
            if at == slab.total:
                break
            code[0] = read_full(fd, chunk_of(slab) + at, min(slab.total - at, <size_t>PIECE), &got)
            self.count_fetched(got)
            if code[0]:
                verdict = BAD_READ
            elif got == 0:
                verdict = BAD_BODY
            elif self.is_stopping():
                verdict = BROKEN_OFF
        if verdict == GOOD:
            verdict = open_end(&state)
        if verdict == GOOD and size > SMALL_BLOB:
            self.read_ahead()
        if verdict == GOOD:
            verdict = slab_unlock(slab, &state, &self.keys, digest, &self.stopping)
        sodium.memzero(&state, sizeof(OpenState))
        return verdict

    cdef void read_ahead(self) noexcept nogil:
        """Asks the system for the blob that is picked next: the disk has nothing to do while blobs are decrypted. A tenth
        less time where none is in the page cache."""
        cdef u8[KEY] digest
        cdef long long size
        cdef bint found = False
        cdef OpenJob* job
        cdef RestoringFile* restoring
        cdef Py_ssize_t at
        cdef int fd
        pthread_mutex_lock(&self.lock)
        restoring = self.restoring
        while restoring != NULL and not found:
            job = &self.files[restoring.file]
            at = restoring.next_open
            while at < job.count and self.uses[job.first + at].taken:
                at += 1
            found = job.verdict == GOOD and at < job.count
            if found:
                memcpy(digest, self.uses[job.first + at].digest, KEY)
            restoring = restoring.next
        pthread_mutex_unlock(&self.lock)
        fd = directory_get(self.directory, digest, &size) if found else -1
        if fd >= 0:
            will_need(fd)
            c_close(fd)

    cdef int load_from_call(self, Slab* slab, const u8* digest, long long maximum, int* code) noexcept:
        """The same for a source that is a Python function. What seems damaged is asked for once more: that may have
        happened on the restoring."""
        cdef int attempt, verdict = BROKEN_OFF
        for attempt in range(2):
            try:
                verdict = self.open_from_call(slab, digest, maximum)
            except MissingBlob:
                return NOT_THERE
            except CorruptBlob:     # found before all of it was fetched
                verdict = BAD_BODY
            except MemoryError:     # this one is too large
                code[0] = ENOMEM
                return BAD_READ
            except BaseException as error:
                self.fail(error)
                return BROKEN_OFF
            if not is_damage(verdict):
                break
        return verdict

    cdef int open_from_call(self, Slab* slab, const u8* digest, long long maximum) except -1:
        cdef const u8[::1] blob = self.source(name_of(digest))
        cdef size_t size = blob.shape[0]
        cdef const u8* p = &blob[0] if size else NULL
        cdef int verdict
        if size > <size_t>maximum:
            return BAD_BODY
        if slab_reserve(slab, size):
            raise MemoryError
        with nogil:
            self.count_fetched(size)
            verdict = slab_open(slab, &self.keys, p, size, digest, &self.stopping)
        return verdict

    cdef Py_ssize_t next_piece(self, void* dctx, ZBuffer* data, ZBuffer* out, size_t* left) noexcept nogil:
        """Plain bytes of what is left of `data`: how many lie in `out` now. 0 behind the last, -1 when malformed."""
        # A full buffer may mean that there is more behind it, unless the frame has just ended.
        while data.pos < data.size or (out.pos == out.size and left[0]):
            out.pos = 0
            left[0] = zstd.decompress_stream(dctx, out, data)
            if zstd.is_error(left[0]):
                return -1
            if out.pos:
                return out.pos
        return 0

    cdef int decompress(self, Worker* worker, void* dctx, Slab* slab, OpenJob* job, int fd, size_t* left,
                        long long* written, int* code) noexcept nogil:
        """Decompresses an opened chunk to the end of a file, or nowhere when there is no descriptor."""
        cdef ZBuffer data, out
        cdef Py_ssize_t n
        data.data, data.size, data.pos = chunk_of(slab), slab.length, 0
        out.data, out.size, out.pos = worker.data, 2 * PIECE, 0
        while True:
            n = self.next_piece(dctx, &data, &out, left)
            if n <= 0:
                return BAD_FRAME if n else GOOD
            if self.is_stopping():
                return BROKEN_OFF
            if job.size >= 0 and n > job.size - written[0]:
                return BAD_FRAME
            if fd >= 0:
                code[0] = (pwrite_sparse if job.sparse else pwrite_full)(fd, out.data, n, written[0])
                if code[0]:
                    return BAD_WRITE
            written[0] += n
            self.count_brought(n)

    cdef void count_brought(self, size_t n) noexcept nogil:
        pthread_mutex_lock(&self.lock)
        self.brought += n
        pthread_mutex_unlock(&self.lock)

    cdef void count_fetched(self, size_t n) noexcept nogil:
        pthread_mutex_lock(&self.lock)
        self.fetched += n
        pthread_mutex_unlock(&self.lock)

    cdef void spread(self, Worker* worker, FetchedBlob* blob) noexcept nogil:
        """Decompresses an opened chunk once, to every part that waits for it. What is wrong with one alone, its length
        or its file, is noted with it."""
        cdef ZBuffer data, out
        cdef size_t left = 0
        cdef long long written = 0
        cdef Py_ssize_t n, at
        cdef bint zero, wanted = True
        data.data, data.size, data.pos = chunk_of(blob.slab), blob.slab.length, 0
        out.data, out.size, out.pos = worker.data, 2 * PIECE, 0
        unzstd_reset(worker.context)
        while wanted:
            n = self.next_piece(worker.context, &data, &out, &left)
            if n <= 0:
                break
            zero, wanted = is_zero(out.data, n), False
            at = blob.parts
            while at >= 0:
                if self.is_stopping():
                    blob.verdict = BROKEN_OFF
                    return
                wanted |= self.put_part(at, out.data, n, written, zero)
                at = self.uses[at].follow
            written += n
        if wanted and (n < 0 or left):
            blob.verdict = BAD_FRAME
            return
        at = blob.parts
        while at >= 0:
            if self.length_of(at) >= 0 and self.length_of(at) != written:
                self.note_part(at, BAD_FRAME, 0)
            at = self.uses[at].follow

    cdef bint put_part(self, Py_ssize_t at, const u8* p, size_t n, long long written, bint zero) noexcept nogil:
        """Writes a piece of a blob to one of its places. Whether that wants the next piece, too."""
        cdef OpenJob* job = &self.files[self.uses[at].file]
        cdef long long length = self.length_of(at)
        cdef int fd, code
        if load_int(&job.verdict) != GOOD:
            return False
        if length >= 0 and <long long>n > length - written:
            self.note_part(at, BAD_FRAME, 0)
            return False
        self.count_brought(n)
        if job.directory < 0 or (zero and job.sparse):
            return True
        fd = job.restoring.draft.fd
        code = (pwrite_sparse if job.sparse else pwrite_full)(fd, p, n, self.uses[at].at + written)
        if code:
            self.note_part(at, BAD_WRITE, code)
        return code == 0

    cdef long long length_of(self, Py_ssize_t at) noexcept nogil:
        """The plain bytes of a blob that is a frame of its own, -1 where that is not known."""
        cdef OpenJob* job = &self.files[self.uses[at].file]
        if job.size < 0:
            return -1
        return (self.uses[at + 1].at if at + 1 < job.first + job.count else job.size) - self.uses[at].at

    cdef void note_part(self, Py_ssize_t at, int verdict, int code) noexcept nogil:
        cdef OpenJob* job = &self.files[self.uses[at].file]
        pthread_mutex_lock(&self.lock)
        self.note(job, verdict, code, at - job.first, self.uses[at].at)
        pthread_mutex_unlock(&self.lock)

    # ---- the file: unfinished under a temporary name or none, then whole under its own ----

    cdef int begin_draft(self, Draft* draft, Py_ssize_t file, int* code) noexcept nogil:
        cdef OpenJob* job = &self.files[file]
        code[0] = draft_begin(draft, job.directory, self.prefix, file, b"part", 0o600 if job.mode >= 0 else 0o666)
        if code[0]:
            return BAD_WRITE
        if job.size >= PREALLOCATED and not job.sparse:
            code[0] = give_room(draft.fd, job.size)
        if code[0]:
            draft_end(draft, False)
        # The size is what an archive says. It may be nonsense, and then there is room for all other files.
        return NO_ROOM if code[0] == ENOSPC else BAD_WRITE if code[0] else GOOD

    cdef int settle(self, Draft* draft, OpenJob* job, long long size, int* code) noexcept nogil:
        """What a whole file of `size` bytes is beyond them, then its name. A link of that name is never followed."""
        code[0] = errno if job.sparse and ftruncate(draft.fd, size) else 0
        if code[0] == 0:
            code[0] = self.publish_with_metadata(draft, job)
        if code[0] == DRAFT_MOVED:
            code[0] = self.publish_with_metadata(draft, job)
        return BAD_WRITE if code[0] else GOOD

    cdef int publish_with_metadata(self, Draft* draft, OpenJob* job) noexcept nogil:
        """As draft_publish."""
        self.apply_metadata(draft.fd, job)
        if set_times(draft.fd, job.atime_ns, job.mtime_ns):
            job.soft = job.soft or errno
        return draft_publish(draft, job.directory, job.leaf, job.replace)

    cdef void apply_metadata(self, int fd, OpenJob* job) noexcept nogil:
        """Owner, attributes and permissions, in this order: a change of owner takes capabilities away, and whoever may
        not write to a file cannot give it attributes. Without its owner a file is not to run as somebody else."""
        cdef int mode = job.mode
        cdef Py_ssize_t i
        if (job.uid != NOBODY or job.gid != NOBODY) and fchown(fd, job.uid, job.gid):
            job.soft = errno
            mode &= 0o1777
        if job.mode >= 0 and remove_acl(fd):
            job.soft = job.soft or errno
        for i in range(job.attribute_count):
            if set_xattr(fd, job.attributes[i].name, job.attributes[i].value, job.attributes[i].size):
                job.soft = job.soft or errno
        if job.mode >= 0 and fchmod(fd, mode):
            job.soft = job.soft or errno

    # ---- the caller ----

    def written(self):
        """Plain bytes that are in their places so far, in unfinished files as well: see _engine.pyi."""
        cdef u64 now
        with nogil:
            pthread_mutex_lock(&self.lock)
            now = self.brought
            pthread_mutex_unlock(&self.lock)
        return now

    def stop(self):
        """Ends the workers, and takes away the files that are not finished."""
        _Pool.stop(self)
        while self.restoring != NULL:
            self.end_restoring(self.restoring, False)

    cdef bint has_events(self, Py_ssize_t file) noexcept nogil:
        return self.files[file].done

    cdef object report(self, Py_ssize_t file):
        cdef OpenJob* job = &self.files[file]
        return Opened(file, True, job.verdict, job.bad, job.code, job.offset, job.soft)

    def read(self):
        """Bytes of blobs that were read so far: see _engine.pyi."""
        cdef u64 now
        with nogil:
            pthread_mutex_lock(&self.lock)
            now = self.fetched
            pthread_mutex_unlock(&self.lock)
        return now

# Files as they come: what the caller wants archived, what has become of each, and what every way of reading shares.
#
# The caller's iterator is asked a few thousand files ahead of the workers and no further, so that a tree of millions
# takes no more memory than one of thousands. A job lives from then until its last event is reported.

cdef enum:
    TUNED = 3                   # the level whose parameters are ours for large chunks
    WORTH = 16 * PIECE          # bytes beyond which a chunk is large
    SMALL = 2 * PIECE           # a file that ends within so many bytes is one task
    FRESH = 2048                # files that wait for a worker: as many as the smallest ones done in LOOK_NS, and more
    UNREPORTED = 65536          # files behind one that takes long
    WAIT_MS = 200               # how long a pipe is waited for before looking whether the run has been stopped

Sealed = collections.namedtuple(
    "Sealed",
    "file names stored sizes plain_names done error changed size atime_ns mtime_ns ctime_ns inode sparse",
)

Known = collections.namedtuple("Known", "path names stored sizes facts plain_names", defaults=[()])


cdef struct Record:             # one blob of a file
    u8[KEY] digest
    u64 stored                  # bytes of the blob
    u64 plain                   # bytes of the file in it; 0 where that is not known (streams)
    bint ready                  # it is stored
    bint empty                  # nothing was left of the file for it: there is no such blob
    bint plain_named
    u8[KEY] plain_name          # see Slab

cdef struct FileJob:
    char* path                  # NULL: `fd` was given
    int fd
    int error                   # errno, 0 when all is well
    bint done
    int changed                 # it is not any more what it was when it was opened; set without the lock, never reset
    Facts facts                 # as it was opened
    u64 size                    # plain bytes that were read, or known; of a stream its one worker's until it is done
    Record* records
    Py_ssize_t count            # blobs begun
    Py_ssize_t room
    Py_ssize_t reported         # records given to run()
    Record* known               # of its first chunks, if it still is as `expected`
    Py_ssize_t known_count
    Facts expected
    Record* earlier             # of an earlier version, by their plain names
    Py_ssize_t earlier_count
    FileJob* next


cdef bint same_facts(const Facts* a, const Facts* b) noexcept nogil:
    return a.size == b.size and a.mtime_ns == b.mtime_ns and a.ctime_ns == b.ctime_ns and a.inode == b.inode


cdef void free_job(FileJob* job) noexcept nogil:
    if job.fd >= 0:
        c_close(job.fd)
    free(job.path)
    free(job.records)
    free(job.known)
    free(job.earlier)
    free(job)


cdef int compare_plain(const void* a, const void* b) noexcept nogil:
    return memcmp((<const Record*>a).plain_name, (<const Record*>b).plain_name, KEY)


cdef int fill_record(Record* record, str name, u64 stored, u64 plain) except -1:
    """Of a blob that is in the store."""
    read_name(name, record.digest)
    record.stored, record.plain, record.ready = stored, plain, True
    return 0


cdef int name_record(Record* record, bytes plain_name) except -1:
    if plain_name:
        _check_key(plain_name)
        memcpy(record.plain_name, <const u8*>plain_name, KEY)
        record.plain_named = True
    return 0


cdef class _Queue(_Writer):
    """The files of a run, in their order, and the buffers that their chunks are made in."""
    cdef int level
    cdef bint frames
    cdef Cuts cuts_at           # where files are cut in that layout
    cdef bint follow            # links to files are read as what they lead to
    cdef object source          # what there is to archive, as it is asked for
    cdef FileJob* first         # the oldest that is not reported to its end
    cdef FileJob* fresh         # the oldest that nobody has begun
    cdef FileJob* newest
    cdef Py_ssize_t reported    # files reported to their end
    cdef int large              # files in the works that are more than one task
    cdef Slab* spare
    cdef int slab_count
    cdef int max_slabs
    cdef int readers            # how many may read at a time
    cdef int reading
    cdef Cond may_read

    def __cinit__(self, *args, **kwargs):
        pthread_cond_init(&self.may_read, NULL)

    # ---- what there is to do ----

    cdef int refill(self) except -1:
        """Asks the caller for further files, a few thousand ahead of the workers."""
        cdef FileJob* job
        while self.more and self.count - load_count(&self.next_file) < FRESH and self.count - self.reported < UNREPORTED:
            try:
                item = next(self.source)
            except StopIteration:
                job = NULL
            else:
                if item is None:
                    return 0
                job = self.new_job(item)
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
        cdef object path = item if isinstance(item, (bytes, int)) else item.path
        if isinstance(path, int):
            job.fd = os.dup(path)
        else:
            self.fill_path(job, path)
        if path is item:
            return 0
        if item.facts is not None:
            self.fill_known(job, item)
        if item.plain_names:
            self.fill_earlier(job, item)
        return 0

    cdef int fill_path(self, FileJob* job, bytes path) except -1:
        if b"\0" in path:
            raise ValueError("a path with a NUL in it")
        job.path = <char*>malloc(len(path) + 1)
        if job.path == NULL:
            raise MemoryError
        memcpy(job.path, PyBytes_AsString(path), len(path) + 1)
        return 0

    cdef int fill_known(self, FileJob* job, item) except -1:
        cdef Py_ssize_t i
        job.known_count = len(item.names)
        job.known = <Record*>calloc(max(job.known_count, 1), sizeof(Record))
        if job.known == NULL:
            raise MemoryError
        for i, (name, stored, plain) in enumerate(zip(item.names, item.stored, item.sizes, strict=True)):
            fill_record(&job.known[i], name, stored, plain)
            if item.plain_names:
                name_record(&job.known[i], item.plain_names[i])
        job.expected.size, job.expected.mtime_ns, job.expected.ctime_ns, job.expected.inode = item.facts
        return 0

    cdef int fill_earlier(self, FileJob* job, item) except -1:
        job.earlier = <Record*>calloc(len(item.names), sizeof(Record))
        if job.earlier == NULL:
            raise MemoryError
        for name, stored, plain, plain_name in zip(item.names, item.stored, item.sizes, item.plain_names, strict=True):
            if plain_name:
                fill_record(&job.earlier[job.earlier_count], name, stored, plain)
                name_record(&job.earlier[job.earlier_count], plain_name)
                job.earlier_count += 1
        qsort(job.earlier, job.earlier_count, sizeof(Record), compare_plain)
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

    # ---- what has become of it (with the lock) ----

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
        memcpy(record.digest, slab.sealing.digest, KEY)
        record.stored = blob_size(slab, &self.keys)
        record.plain = plain
        record.plain_named = slab.chunk.plain_named
        memcpy(record.plain_name, slab.chunk.plain_name, KEY)
        record.ready = True

    cdef void job_done(self, FileJob* job, int fd) noexcept nogil:
        cdef Facts now
        if job.path != NULL and job.error == 0 and (facts_of(fd, &now) or not same_facts(&now, &job.facts)):
            store_int(&job.changed, True)
        job.done = True
        self.file_done()

    cdef bint has_events(self, Py_ssize_t file) noexcept nogil:
        return self.first.done or self.ready(self.first) > self.first.reported

    cdef Py_ssize_t ready(self, FileJob* job) noexcept nogil:
        """How many of a file's blobs are stored, counted from its first."""
        cdef Py_ssize_t ready = job.reported
        while ready < job.count and job.records[ready].ready:
            ready += 1
        return ready

    cdef object report(self, Py_ssize_t file):
        cdef FileJob* job = self.first
        cdef Facts* facts = &job.facts
        cdef Py_ssize_t i, ready = self.ready(job)
        cdef list names = [], stored = [], sizes = [], plain_names = []
        cdef Record* record
        for i in range(job.reported, ready):
            record = &job.records[i]
            if not record.empty:
                names.append(name_of(record.digest))
                stored.append(record.stored)
                sizes.append(record.plain)
                if self.cuts_at.by_content:
                    plain_names.append(record.plain_name[:KEY] if record.plain_named else b"")
        job.reported = ready
        event = Sealed(file, names, stored, sizes, plain_names, job.done, job.error,
                      load_int(&job.changed) != 0, job.size if job.done else 0,
                      facts.atime_ns, facts.mtime_ns, facts.ctime_ns, facts.inode, facts.sparse)
        if job.done:
            self.first = job.next
            self.reported += 1
            free_job(job)
        return event

    # ---- buffers ----

    cdef Slab* take_slab(self, FileJob* job) noexcept nogil:
        """An empty slab for the next blob of a file, or NULL when all are in use."""
        cdef Slab* slab = self.spare
        if slab != NULL:
            self.spare = slab.next
        elif self.slab_count < self.max_slabs:
            slab = slab_new(PAGE + self.keys.header + BOX)
            if slab == NULL:
                self.end(NO_MEMORY)
                return NULL
            self.slab_count += 1
        else:
            return NULL
        slab_begin(slab)
        slab.sealing.encrypt_late = load_int(&self.mostly_known)
        slab.chunk.plain_named = False
        slab.chunk.index = self.new_record(job)
        slab.next = NULL
        if slab.chunk.index < 0:
            self.end(NO_MEMORY)
            slab_free(slab)
            return NULL
        return slab

    cdef void give_back(self, Slab* slab) noexcept nogil:
        if slab.writing.drafts != NULL:     # it has broken off
            self.recall(slab)
            self.end_drafts(slab)
        slab_end(slab)
        if self.spare != NULL:      # more than are at work: large chunks have no need of them
            give_back_beyond(slab.base, slab.room, KEPT)
            give_back_beyond(slab.chunk.plain, slab.chunk.plain_room, KEPT)
        slab.next = self.spare
        self.spare = slab

    cdef void free_slabs(self, Slab* slab) noexcept:
        cdef Slab* following
        while slab != NULL:
            following = slab.next
            self.end_drafts(slab)
            slab_free(slab)
            slab = following

    cdef bint equip(self, Worker* worker) noexcept nogil:
        """Gives a worker its buffers, on its first file and after a stream took them over."""
        if worker.own == NULL:
            worker.own = slab_new(PAGE + self.keys.header + BOX)
            if worker.own == NULL:
                return False
        if slab_reserve(worker.own, evened(zstd.compress_bound(SMALL))):
            return False
        if worker.data == NULL:
            worker.data = <u8*>malloc(SMALL)
        if worker.context == NULL:
            worker.context = zstd.create_cctx()
            if worker.context != NULL:
                zstd_set(worker.context, ZSTD_C_LEVEL, self.level)
        return worker.data != NULL and worker.context != NULL

    cdef void let_go(self, Worker* worker) noexcept nogil:
        slab_free(worker.own)
        free(worker.data)
        if worker.context != NULL:
            zstd.free_cctx(worker.context)

    cdef void begin_frame(self, Worker* worker, size_t n, bint alone, bint steady) noexcept nogil:
        zstd_reset(worker.context)
        zstd_set(worker.context, ZSTD_C_CHECKSUM, not alone)
        zstd_set(worker.context, ZSTD_C_STABLE_IN, steady)
        self.tune(worker.context, n > WORTH and not alone and self.level == TUNED)
        if not alone and zstd.is_error(zstd.cctx_pledge(worker.context, n)):
            library_failed(b"zstd")

    cdef void tune(self, void* context, bint tuned) noexcept nogil:
        """Level 3 made for chunks rather than for streams: a window as large as every reader must accept (RFC 8878), for
        that a smaller one of the two tables, which share a core's cache, and blocks that end where they are full. Over
        eight kinds of data 6 % less time for as many bytes, at worst 6 % more (bench/level.py). 0 is what the level says."""
        zstd_set(context, ZSTD_C_WINDOW, 23 if tuned else 0)
        zstd_set(context, ZSTD_C_CHAIN, 14 if tuned else 0)
        zstd.cctx_set(context, ZSTD_C_SPLITTER, 1 if tuned else 0)    # releases before 1.5.7 refuse it

    # ---- reading (without the lock) ----

    cdef int open_job(self, FileJob* job) noexcept nogil:
        """A descriptor of a regular file, or of what was given; -1 with `error` set. ENXIO: it is no regular file, as the
        system says of sockets."""
        cdef int fd = job.fd
        job.fd = -1
        if job.path == NULL:
            facts_of(fd, &job.facts)
            return fd
        fd = open_source(job.path, self.follow)
        if fd < 0 or facts_of(fd, &job.facts):
            job.error = ENXIO if errno == ELOOP and not self.follow else errno
        elif not job.facts.regular:
            job.error = EISDIR if job.facts.directory else ENXIO
        return fd

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
                if self.is_stopping():
                    return EINTR
            error = read_some(fd, p + got[0], n - got[0], &some)
            if error or some == 0:
                return error
            got[0] += some
        return 0

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

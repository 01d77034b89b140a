# Files into blobs, in both layouts of FORMAT.md. A Sealer is a pool of workers that has a queue (the files), a reader, a store
# (the sinks) and a writer (write-behind); those know nothing of it, and it tells each what to do. stream.pxi and frames.pxi
# are what it does with a large file, one for each layout. Here a file is opened, a small one is done with at once, and every
# chunk goes its way from its last byte to the stores. Workers prefer the last steps (seal before compress before the next
# file), so that little is in flight and the end of a run is short.

cdef enum StoreResult:          # what became of a whole chunk
    FAILED
    STORED                      # every sink has its blob
    LEFT_TO_WRITER              # they will: the writer's thread stores it and calls end_chunk


@cython.no_gc_clear             # __dealloc__ needs the parts
cdef class Sealer(_Pool):
    """Turns files into blobs and hands them to sinks: see _engine.pyi."""
    cdef _Queue queue           # these four are set before the workers start, as the next six
    cdef _Reader reader
    cdef _Store store
    cdef _Writer writer
    cdef size_t chunk_size      # bytes of a chunk, at most
    cdef int level
    cdef bint frames
    cdef Cuts cuts_at           # where files are cut in that layout
    cdef int max_slabs
    cdef int slab_count         # from here on with the lock
    cdef Slab* spare            # slabs that are FREE
    cdef int large              # files in the works that are more than one task
    cdef Stream* streams        # in the `stream` layout
    cdef Slab* to_seal          # slabs of streams with a chunk in them, those being filled as well, oldest first
    cdef FramedFile* framed_files   # in the `frames` layout
    cdef Record zero            # the blob of a chunk of zeros, once there is one: holes need no work

    def __init__(self, bytes secret, bint asymmetric, source, sinks, *, size_t chunk_size, int level, int jobs,
                 bint frames=False, tuple content=None, int slabs=0, int readers=0, bint follow=True, bint anew=False, bint even=False):
        if chunk_size < 1 or jobs < 1 or not LEVELS[0] <= level <= LEVELS[1]:
            raise ValueError("chunk_size and jobs are at least 1, the level is one of zstd's")
        self.store = _Store(secret, asymmetric, sinks, chunk_size)
        self.store.lock = &self.lock
        self.store.anew = anew
        self.store.even = even
        if frames:                  # each chunk is a frame of its own, with room for padding behind it
            self.store.pad_below = <size_t>-1
        self.outside = self.store.sinks
        self.writer = _Writer(self.store)
        self.writer.lock = &self.lock
        fill_cuts(&self.cuts_at, chunk_size, content)
        self.queue = _Queue(source, self.cuts_at.by_content)
        self.more = True
        self.reader = _Reader(follow, readers or jobs, jobs)
        self.reader.lock = &self.lock
        self.reader.stopping = &self.stopping
        self.chunk_size = chunk_size
        self.level = level
        self.jobs = jobs
        self.frames = frames
        self.max_slabs = slabs or jobs + 1

    def __dealloc__(self):
        while self.streams != NULL:
            end_stream(self, self.streams)
        while self.framed_files != NULL:
            end_framed(self, self.framed_files)
        self.free_slabs(self.to_seal)
        self.free_slabs(self.spare)
        self.close()

    @property
    def lost(self):
        """Sinks that get no more blobs, by their index, and why: see _engine.pyi."""
        return self.store.lost

    def progress(self):
        """What has been done so far, in bytes and blobs: see _engine.pyi. May be called from any thread."""
        return self.store.progress()

    cdef void check_invariants(self) noexcept nogil:
        cdef Slab* slab = self.spare
        cdef int spare = 0
        _Pool.check_invariants(self)
        self.queue.check_invariants()
        self.reader.check_invariants()
        self.store.check_invariants()
        self.writer.check_invariants()
        while slab != NULL:
            check(slab.state == FREE)
            check(slab.writing.drafts == NULL)
            spare += 1
            slab = slab.next
        check(spare <= self.slab_count)
        check(self.slab_count <= self.max_slabs)
        check(0 <= self.large)

    # ---- what there is to do ----

    cdef int refill(self) except -1:
        """Asks the caller for further files, a few thousand ahead of the workers."""
        cdef FileJob* job
        while self.more and self.count - load_count(&self.next_file) < FRESH and self.count - self.queue.reported < UNREPORTED:
            try:
                item = next(self.queue.source)
            except StopIteration:
                job = NULL
            else:
                if item is None:
                    return 0
                job = new_job(item)
                if job.length and (not self.frames or self.cuts_at.by_content or <size_t>job.offset % self.chunk_size):
                    free_job(job)
                    raise ValueError("a part begins where a chunk does, of a file that is cut in fixed sizes")
            with nogil:
                pthread_mutex_lock(&self.lock)
                if job == NULL:
                    self.more = False
                    pthread_cond_broadcast(&self.work)
                else:
                    self.queue.add(job)
                    self.count += 1
                    if self.idle:
                        pthread_cond_signal(&self.work)
                pthread_mutex_unlock(&self.lock)
        return 0

    cdef bint has_events(self, Py_ssize_t file) noexcept nogil:
        return self.queue.has_events()

    cdef object report(self, Py_ssize_t file):
        return self.queue.report(file)

    cdef Task pick(self, Worker* worker) noexcept nogil:
        cdef FramedFile* file = self.framed_files
        cdef int ended = 0          # files whose last chunks are made, or wait for the disk
        if pick_stream(self, worker):
            return PART
        while file != NULL:
            if pick_chunk(self, file, worker):
                return FRAME
            ended += file.ended
            file = file.next
        if self.queue.fresh != NULL and self.large - ended < self.jobs:
            worker.job = self.queue.take()
            return self.take_file(worker)
        return self.wait_or_leave()

    cdef void do(self, Worker* worker) noexcept nogil:
        if worker.task == FILE:
            self.begin_file(worker, worker.job)
        elif worker.task == FRAME:
            frame_step(self, worker)
        elif worker.slab != NULL:
            seal_step(self, worker)
        else:
            compress_step(self, worker.stream)

    # ---- a file ----

    cdef void begin_file(self, Worker* worker, FileJob* job) noexcept nogil:
        """Opens a file. A small one is sealed here, a larger one is left to the functions of its layout."""
        cdef size_t got = 0
        cdef int fd
        if not self.equip(worker):
            self.fail_memory()
            return
        fd = self.reader.open_job(job)
        if job.error == 0 and self.frames and job.path == NULL:
            begin_framed(self, worker, job, fd, True)
            return
        if job.error == 0 and job.length:
            if same_facts(&job.facts, &job.expected):
                begin_framed(self, worker, job, fd, False)
                return
            store_int(&job.changed, True)
        elif job.error == 0:
            job.error = self.reader.read_on(job, fd, worker.data, SMALL, &got)
        if job.error == 0 and not job.length:
            if self.frames and (got == SMALL or got > self.cuts_at.minimum):
                # What the system makes up as it is read has no size, or none to be trusted.
                begin_framed(self, worker, job, fd, job.facts.size < <long long>got)
                return
            self.store.count_read(got)
            if not self.frames and (got == SMALL or zstd.compress_bound(got) >= self.chunk_size):
                begin_stream(self, worker, job, fd, got)
                return
            self.seal_small(worker, job, got)
        pthread_mutex_lock(&self.lock)
        self.job_done(job, fd)
        pthread_mutex_unlock(&self.lock)
        if fd >= 0:
            c_close(fd)

    cdef void seal_small(self, Worker* worker, FileJob* job, size_t n) noexcept nogil:
        """Seals a whole file that gives one padded chunk. Fed as pog feeds: what there is, then the end. (With nothing fed
        first, as for an empty file, zstd writes the content size, 0.)"""
        cdef Slab* slab = worker.own
        cdef ZBuffer data, out
        cdef size_t left = 0
        slab_begin(slab)
        data.data, data.size, data.pos = worker.data, n, 0
        out.data, out.size, out.pos = chunk_of(slab), zstd.compress_bound(SMALL), 0
        begin_frame(worker.context, self.level, n, True, False)
        if n:
            left = zstd.compress_stream(worker.context, &out, &data, ZSTD_E_CONTINUE)
        if not zstd.is_error(left):
            left = zstd.compress_stream(worker.context, &out, &data, ZSTD_E_END)
        if left or data.pos != n:
            self.fail_memory()
            return
        slab.length = out.pos
        slab_hash(slab, slab.length)
        slab.sealing.encrypt_late = True
        slab_complete(slab)
        slab_take(slab)
        if self.finish(slab, worker) == STORED:
            job.size = n
            pthread_mutex_lock(&self.lock)
            if new_record(job) == 0:
                note_blob(job, 0, slab, &self.store.keys, n)
            else:
                self.end(NO_MEMORY)
            pthread_mutex_unlock(&self.lock)
        slab_end(slab)

    cdef void job_done(self, FileJob* job, int fd) noexcept nogil:
        """Ends a file, and looks whether it is still what it was when it was opened. Called with the lock held."""
        cdef Facts now
        check(holds_lock)
        if job.path != NULL and job.error == 0 and (facts_of(fd, &now) or not same_facts(&now, &job.facts)):
            store_int(&job.changed, True)
        job.done = True
        self.file_done()

    # ---- the way of a chunk: an empty slab, (a worker reads, compresses, hashes,) its name, its blob, the stores ----

    cdef Slab* take_slab(self, FileJob* job) noexcept nogil:
        """Returns an empty slab for the next blob of a file, or NULL when all are in use. Called with the lock held."""
        cdef Slab* slab = self.spare
        check(holds_lock)
        if slab != NULL:
            self.spare = slab.next
        elif self.slab_count < self.max_slabs:
            slab = slab_new(PAGE + self.store.keys.header + BOX)
            if slab == NULL:
                self.end(NO_MEMORY)
                return NULL
            self.slab_count += 1
            slab.moves = self.frames and self.writer.all_drafts and self.chunk_size <= MAX_MOVED
        else:
            return NULL
        slab_begin(slab)
        slab.sealing.encrypt_late = load_int(&self.store.mostly_known)
        slab.chunk.plain_named = False
        slab.chunk.index = new_record(job)
        slab.next = NULL
        if slab.chunk.index < 0:
            self.end(NO_MEMORY)
            slab_free(slab)
            return NULL
        return slab

    cdef void begin_again(self, Slab* slab) noexcept nogil:
        """Begins a chunk anew: it did not become what its beginning promised."""
        self.writer.discard(slab)
        slab_begin(slab)
        slab.sealing.encrypt_late = load_int(&self.store.mostly_known)

    cdef StoreResult finish(self, Slab* slab, Worker* worker) noexcept nogil:
        """Names a whole chunk, encrypts what is left of it, and stores the blob in every sink that does not have it."""
        cdef StoreResult result = self.store_chunk(slab, worker)
        if result != LEFT_TO_WRITER:
            self.writer.discard(slab)
        return result

    cdef StoreResult store_chunk(self, Slab* slab, Worker* worker) noexcept nogil:
        """As finish; drafts that have not become a blob are left."""
        cdef Added added
        cdef bint known
        self.store.name(slab)
        added = self.store.claim(slab.sealing.digest)
        if added == NO_SPACE or not self.equip_data(worker):
            self.fail_memory()
            return FAILED
        if added == PRESENT and self.store.anew:
            return STORED
        known = self.store.find(slab, worker.data)      # of one that is PRESENT, too: it may be padded otherwise
        if not self.stores_go_on():
            return FAILED
        if added == PRESENT:
            return STORED
        if known:
            self.store.count_blob(0)
            return STORED
        if slab_encrypt(slab, &self.store.keys, True):
            self.bad_key()
            return FAILED
        if self.frames and self.writer.hand_over(slab):
            return LEFT_TO_WRITER
        self.writer.take_back(slab)
        return self.put_blob(slab)

    cdef StoreResult put_blob(self, Slab* slab) noexcept nogil:
        """Puts a sealed blob, of which the writer has let go, into the sinks that have to get it."""
        if self.store.put_all(slab):
            return STORED
        self.stores_go_on()
        return FAILED

    cdef void give_back(self, Slab* slab) noexcept nogil:
        """Has a slab again whose chunk is stored, or given up. Called with the lock held."""
        check(holds_lock)
        if slab.writing.drafts != NULL:     # it has broken off
            self.writer.recall(slab)
            self.writer.end_drafts(slab)
        slab_end(slab)
        if self.spare != NULL:      # more than are at work: large chunks have no need of them
            slab_trim(slab)
        slab.next = self.spare
        self.spare = slab

    cdef void free_slabs(self, Slab* slab) noexcept:
        cdef Slab* following
        while slab != NULL:
            following = slab.next
            self.writer.end_drafts(slab)
            slab_free(slab)
            slab = following

    # ---- the writer's thread ----

    def start(self):
        if self.threads:
            return
        _Pool.start(self)
        if self.store.directory_count():
            thread = threading.Thread(target=self._write, name="pogfast-writer", daemon=True)
            thread.start()
            self.threads.append(thread)

    def stop(self):
        with nogil:
            self.writer.close()
        _Pool.stop(self)
        self.writer.empty_line()

    def _write(self):
        with nogil:
            self.write_loop()

    cdef void write_loop(self) noexcept nogil:
        cdef Slab* slab
        cdef StoreResult result
        pthread_mutex_lock(&self.lock)
        slab = self.writer.next_slab()
        while slab != NULL:
            if slab.state == HANDED_OVER:
                pthread_mutex_unlock(&self.lock)
                result = self.put_blob(slab)
                self.writer.end_drafts(slab)
                end_chunk(self, slab, result == STORED)
                pthread_mutex_lock(&self.lock)
            else:
                self.writer.write(slab)
            slab = self.writer.next_slab()
        pthread_mutex_unlock(&self.lock)

    # ---- what goes wrong (without the lock) ----

    cdef bint stores_go_on(self) noexcept nogil:
        """Returns True unless the store has a failure, which then ends the run."""
        if not load_int(&self.store.broken):
            return True
        with gil:
            self.fail(self.store.failure)
        return False

    cdef void bad_key(self) noexcept nogil:
        with gil:
            self.fail(WrongKey("the encryption key is not an X25519 public key"))

    # ---- a worker's own things ----

    cdef bint equip(self, Worker* worker) noexcept nogil:
        """Gives a worker its buffers, on its first file and after a stream took them over. Returns False when there is no
        memory."""
        if worker.own == NULL:
            worker.own = slab_new(PAGE + self.store.keys.header + BOX)
            if worker.own == NULL:
                return False
        if slab_reserve(worker.own, evened(zstd.compress_bound(SMALL))):
            return False
        if worker.context == NULL:
            worker.context = zstd.create_cctx()
            if worker.context != NULL:
                zstd_set(worker.context, ZSTD_C_LEVEL, self.level)
        return self.equip_data(worker) and worker.context != NULL

    cdef bint equip_data(self, Worker* worker) noexcept nogil:
        if worker.data == NULL:
            worker.data = <u8*>malloc(SMALL)
        return worker.data != NULL

    cdef void let_go(self, Worker* worker) noexcept nogil:
        slab_free(worker.own)
        free(worker.data)
        if worker.context != NULL:
            zstd.free_cctx(worker.context)

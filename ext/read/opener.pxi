# Blobs into files, in both layouts of FORMAT.md, or only verified: the mirror of write/sealer.pxi.
#
# asked.pxi reads what Python asks for, plan.pxi decides which step is next, fetch.pxi opens a blob, decompress.pxi writes it
# into its files, metadata.pxi gives a file its name. Here the steps are put together, from top to bottom in the order in
# which a blob passes through them. docs/engine.md follows one on its way.

Opened = collections.namedtuple("Opened", "file done verdict blob errno offset soft", module="pogfast._engine")

cdef enum:
    SMALL_BLOB = 2 * PIECE      # a file of one blob of at most so many bytes is one task


cdef class Opener(_Pool):
    """Turns blobs into files: see _engine.pyi."""
    cdef _Asked asked
    cdef Plan plan
    cdef _Fetcher fetcher
    cdef bytes temporary

    def __init__(self, bytes secret, bytes private, bint asymmetric, files, source, *, int jobs,
                 bytes temporary=b".pogfast-"):
        self.fetcher = _Fetcher()
        fill_keys(&self.fetcher.keys, secret, asymmetric, private)
        if not self.fetcher.keys.can_open or jobs < 1:
            raise ValueError("needs a key that can open, and at least one worker")
        self.fetcher.plan = &self.plan
        self.fetcher.source = source
        if isinstance(source, BlobDirectory):
            self.fetcher.directory = &(<BlobDirectory>source).at
            self.fetcher.refresh = (<BlobDirectory>source).refresh
        self.outside = (source,)
        self.jobs = self.plan.jobs = jobs
        self.temporary = temporary
        self.plan.prefix = self.temporary
        self.plan.last_fd = os.sysconf("SC_OPEN_MAX") - 4 * jobs - SPARE_FDS
        self.plan.lock = &self.lock
        self.plan.stopping = &self.stopping
        self.asked = _Asked(files)
        self.plan.files, self.plan.uses = self.asked.files, self.asked.uses
        self.count = self.asked.count

    def __dealloc__(self):
        free_blobs(&self.plan)
        self.close()

    # ---- which step is next (with the lock) ----

    cdef Task pick(self, Worker* worker) noexcept nogil:
        cdef Task task
        if pick_shared(&self.plan, worker) or pick_in_progress(&self.plan, worker):
            task = PART
        else:
            task = self.pick_file(worker)
        self.take_over()
        return task

    cdef void take_over(self) noexcept nogil:
        """Learns from the plan which files it has begun, and whether it had no memory."""
        self.open_files += self.plan.begun
        self.plan.begun = 0
        if self.plan.no_memory:
            self.end(NO_MEMORY)

    cdef Task pick_file(self, Worker* worker) noexcept nogil:
        """Begins the next file. Only where those in progress leave nothing to do."""
        cdef OpenJob* job
        while self.next_file < self.count:
            job = &self.plan.files[self.next_file]
            if not (job.begun or job.done):
                if not self.may_begin():
                    break
                if self.is_lone(job):
                    job.begun = True
                    return self.take_file(worker)
                self.begin_file(self.next_file, job)
            store_count(&self.next_file, self.next_file + 1)
            if job.restoring != NULL and pick_step(&self.plan, job.restoring, worker):
                return PART
        return self.wait_or_leave()

    cdef bint may_begin(self) noexcept nogil:
        """Returns True if one more file may be in progress: with too few blobs in memory it would only wait."""
        cdef int begun = self.plan.in_progress_count
        return begun < MAX_RESTORING and (begun < self.jobs or has_blob(&self.plan))

    cdef bint is_lone(self, const OpenJob* job) noexcept nogil:
        """Returns True if a file may be one task: it has one blob that nothing else needs, or none. do_file looks at the
        size of the blob."""
        return job.count == 0 or (job.count == 1 and self.fetcher.directory != NULL and
                                  self.plan.uses[job.first].next == job.first)

    cdef void begin_file(self, Py_ssize_t file, OpenJob* job) noexcept nogil:
        cdef Errno code = 0
        cdef Verdict verdict = <Verdict>job.verdict
        if verdict == GOOD:
            verdict = begin_restoring(&self.plan, file, &code)
        note_failure(job, verdict, code, 0, -1)
        count_begun(&self.plan, job)
        self.take_over()
        self.end_if_over(job)

    # ---- a step (without the lock) ----

    cdef void do(self, Worker* worker) noexcept nogil:
        cdef FetchedBlob* blob = worker.blob
        if not self.equip(worker):
            self.fail_memory()
        elif worker.task == FILE:
            self.do_file(worker)
        elif blob.step == TO_OPEN:
            self.open_step(worker, blob)
        elif blob.step == TO_DECOMPRESS:
            self.decompress_step(worker, blob)
        else:
            self.share_step(worker, blob)

    cdef bint equip(self, Worker* worker) noexcept nogil:
        """Gives a worker its buffers, before its first step."""
        if worker.own == NULL:
            worker.own = slab_new(CHUNK_AT)
        if worker.data == NULL:
            worker.data = <u8*>malloc(2 * PIECE)
        if worker.context == NULL:
            worker.context = zstd.create_dctx()
        return worker.own != NULL and worker.data != NULL and worker.context != NULL

    cdef void let_go(self, Worker* worker) noexcept nogil:
        slab_free(worker.own)
        free(worker.data)
        if worker.context != NULL:
            zstd.free_dctx(worker.context)

    # ---- a file of one small blob, in one step ----

    cdef void do_file(self, Worker* worker) noexcept nogil:
        """Makes a file of one small blob or none. If the blob is large, the file gets a RestoringFile and is in progress."""
        cdef OpenJob* job = &self.plan.files[worker.file]
        cdef bint large = False
        cdef Errno code = 0
        cdef Verdict verdict = <Verdict>job.verdict
        if verdict == GOOD:
            if job.count:
                verdict = self.do_blob(worker, job, &large, &code)
            else:
                verdict = self.make_file(worker, NULL, &code)
        if verdict == BROKEN_OFF:
            return
        pthread_mutex_lock(&self.lock)
        if large:
            verdict = begin_restoring(&self.plan, worker.file, &code)
            self.take_over()
        else:
            job.left = 0
        if verdict != GOOD:
            note_failure(job, verdict, code, 0, 0)
        self.end_if_over(job)
        pthread_mutex_unlock(&self.lock)

    cdef Verdict do_blob(self, Worker* worker, const OpenJob* job, bint* large, Errno* code) noexcept nogil:
        """Makes a file of its only blob, unless that is `large` or has to be looked for."""
        cdef const u8* digest = self.plan.uses[job.first].digest
        cdef Extent extent
        cdef Holder holder
        cdef Verdict verdict = self.fetcher.open(digest, &extent, &holder, code)
        if verdict != GOOD:
            return verdict
        large[0] = extent.size > SMALL_BLOB
        if not large[0]:
            verdict = self.fetcher.load(worker.own, &extent, digest, code)
            if self.fetcher.directory.packs != NULL and is_bad(verdict, code[0]):
                large[0], verdict = True, GOOD      # _Fetcher.fetch looks for other copies
            elif verdict == GOOD:
                verdict = self.make_file(worker, worker.own, code)
        c_close(extent.fd)
        return verdict

    cdef Verdict make_file(self, Worker* worker, Slab* slab, Errno* code) noexcept nogil:
        """Makes a file of one opened blob, or with NULL of none, from its draft to its name; or only verifies it."""
        cdef OpenJob* job = &self.plan.files[worker.file]
        cdef Verdict verdict = GOOD
        cdef Output output
        output.draft.fd = -1
        output.context = worker.context
        output.frame_left = 0
        output.written = 0
        if job.directory >= 0:
            verdict = begin_draft(&output.draft, job, self.plan.prefix, worker.file, code)
        if verdict == GOOD and slab != NULL:
            unzstd_reset(worker.context)
            verdict = decompress_to(&self.plan, &output, slab, job, worker.data, code)
        if verdict == GOOD and not is_complete(&output, job):
            verdict = BAD_FRAME
        if verdict == GOOD and job.directory >= 0:
            verdict = publish_file(&output.draft, job, output.written, code)
        draft_end(&output.draft, verdict == GOOD)
        return verdict

    # ---- any other blob: first it is opened ----

    cdef void open_step(self, Worker* worker, FetchedBlob* blob) noexcept nogil:
        """Fetches and opens a blob; one that is a frame of its own is decompressed to its parts at once."""
        blob.code = 0
        if self.fetcher.directory != NULL:
            self.fetcher.fetch(blob, worker.data)
        else:
            with gil:
                self.fetch_from_call(blob)
        if blob.verdict == GOOD and blob.parts >= 0:
            decompress_to_parts(&self.plan, blob, worker.context, worker.data)
        if blob.verdict == BROKEN_OFF:
            return
        pthread_mutex_lock(&self.lock)
        if blob.stream != NULL:
            self.queue(blob)
        else:
            self.end_parts(blob)
            self.share(blob)
        pthread_mutex_unlock(&self.lock)

    cdef void fetch_from_call(self, FetchedBlob* blob) noexcept:
        try:
            self.fetcher.fetch_from_call(blob)
        except BaseException as error:
            blob.verdict = BROKEN_OFF
            self.fail(error)

    # ---- a blob that is part of a stream: then it is decompressed, in its turn ----

    cdef void queue(self, FetchedBlob* blob) noexcept nogil:
        """A stream's blob waits for those before it, a bad one too, so that it is known where its bytes would begin.
        With the lock."""
        cdef RestoringFile* restoring = blob.stream
        if blob.verdict != GOOD:
            restoring.next_open = self.plan.files[restoring.file].count
        blob.next = restoring.ready
        restoring.ready = blob
        self.plan.files[restoring.file].working -= 1
        self.end_if_over(&self.plan.files[restoring.file])

    cdef void decompress_step(self, Worker* worker, FetchedBlob* blob) noexcept nogil:
        """Decompresses an opened blob to the end of a stream."""
        cdef RestoringFile* restoring = blob.stream
        cdef OpenJob* job = &self.plan.files[restoring.file]
        cdef long long offset = restoring.output.written
        cdef Errno code = blob.code
        cdef Verdict verdict = blob.verdict
        if verdict == GOOD:
            verdict = decompress_to(&self.plan, &restoring.output, blob.slab, job, worker.data, &code)
        if verdict == GOOD and job.left == 1 and not is_complete(&restoring.output, job):
            verdict = BAD_FRAME
        if verdict == BROKEN_OFF:
            return
        pthread_mutex_lock(&self.lock)
        if verdict != GOOD:
            note_failure(job, verdict, code, blob.use - job.first, offset)
        restoring.decompressing = False
        return_blob(&self.plan, blob)
        job.working -= 1
        job.left -= 1
        self.end_if_over(job)
        pthread_mutex_unlock(&self.lock)

    # ---- a blob that is a frame of its own: its parts are written, then whole files are made of it ----

    cdef void end_parts(self, FetchedBlob* blob) noexcept nogil:
        """Ends the parts of files that a blob was reserved for, written or not. With the lock."""
        cdef Py_ssize_t at = blob.parts
        cdef BlobUse* use
        cdef OpenJob* job
        while at >= 0:
            use = &self.plan.uses[at]
            job = &self.plan.files[use.file]
            if blob.verdict != GOOD:
                note_failure(job, blob.verdict, blob.code, at - job.first, use.at)
            at = use.follow
            job.working -= 1
            job.left -= 1
            self.end_if_over(job)

    cdef void share(self, FetchedBlob* blob) noexcept nogil:
        """Offers an opened blob to idle workers, to make files of it. With the lock."""
        cdef Py_ssize_t file = blob.files
        cdef OpenJob* job
        if blob.verdict == GOOD and file >= 0:
            blob.step = TO_SHARE
            blob.next = self.plan.shared
            self.plan.shared = blob
            return
        while file >= 0:
            job = &self.plan.files[file]
            note_failure(job, blob.verdict, blob.code, 0, 0)
            job.working -= 1
            self.end_if_over(job)
            file = job.follow
        return_blob(&self.plan, blob)

    cdef void share_step(self, Worker* worker, FetchedBlob* blob) noexcept nogil:
        """Makes one file of an opened blob."""
        cdef OpenJob* job = &self.plan.files[worker.file]
        cdef Errno code = 0
        cdef Verdict verdict = self.make_file(worker, blob.slab, &code)
        if verdict == BROKEN_OFF:
            return
        pthread_mutex_lock(&self.lock)
        if verdict != GOOD:
            note_failure(job, verdict, code, 0, 0)
        job.left = 0
        job.working -= 1
        self.end_if_over(job)
        blob.workers -= 1
        if blob.files < 0 and blob.workers == 0:
            return_blob(&self.plan, blob)
        pthread_mutex_unlock(&self.lock)

    # ---- the file: when all its blobs are in it, it gets its name (with the lock) ----

    cdef void end_if_over(self, OpenJob* job) noexcept nogil:
        """Ends a file that no worker is in, if it is whole, or beyond help."""
        cdef bint published
        check(job.working >= 0 and job.left >= 0 and not job.done)
        if job.working or (job.verdict == GOOD and job.left):
            return
        published = job.restoring != NULL and self.publish(job, &job.restoring.output)
        if job.restoring != NULL:
            end_restoring(&self.plan, job.restoring, published)
        job.done = True
        if job.begun:
            self.file_done()

    cdef bint publish(self, OpenJob* job, Output* output) noexcept nogil:
        """Gives a file that is in progress its name, if it has a draft and nothing went wrong. Leaves the lock for that."""
        cdef Verdict verdict
        cdef Errno code = 0
        if job.verdict != GOOD or output.draft.fd < 0:
            return False
        pthread_mutex_unlock(&self.lock)
        verdict = publish_file(&output.draft, job, output.written if job.stream else job.size, &code)
        pthread_mutex_lock(&self.lock)
        if verdict != GOOD:
            note_failure(job, verdict, code, job.count - 1, -1)
        return verdict == GOOD

    # ---- the caller ----

    cdef bint has_events(self, Py_ssize_t file) noexcept nogil:
        return self.plan.files[file].done

    cdef object report(self, Py_ssize_t file):
        cdef OpenJob* job = &self.plan.files[file]
        return Opened(file, True, job.verdict, job.bad, job.code, job.offset, job.soft)

    def written(self):
        """Returns the plain bytes that are in their files so far: see _engine.pyi."""
        return self.look_at(&self.plan.written)

    def read(self):
        """Returns the bytes of blobs that were read so far: see _engine.pyi."""
        return self.look_at(&self.plan.fetched)

    cdef u64 look_at(self, const u64* counter) noexcept:
        cdef u64 now
        with nogil:
            pthread_mutex_lock(&self.lock)
            now = counter[0]
            pthread_mutex_unlock(&self.lock)
        return now

    def stop(self):
        """Ends the workers, and removes the drafts of files that are not complete."""
        _Pool.stop(self)
        while self.plan.in_progress != NULL:
            end_restoring(&self.plan, self.plan.in_progress, False)

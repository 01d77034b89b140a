# Story 1 of the engine: files into blobs, in both layouts of FORMAT.md. Here a file is opened, and a small one is done
# with: one worker reads, compresses, names, seals and stores it with buffers of its own. Larger ones are the business
# of stream.pxi and frames.pxi. Workers prefer the end of the road (seal before compress before the next file), so little
# is in flight and the tail of a run is short.

cdef class Sealer(_Framer):
    """Turns files into blobs and hands them to sinks: see _engine.pyi."""

    def __init__(self, bytes secret, bint asymmetric, source, sinks, *, size_t chunk_size, int level, int jobs,
                 bint frames=False, tuple content=None, int slabs=0, int readers=0, bint follow=True, bint anew=False, bint even=False):
        if chunk_size < 1 or jobs < 1 or not LEVELS[0] <= level <= LEVELS[1]:
            raise ValueError("chunk_size and jobs are at least 1, the level is one of zstd's")
        self.set_up(secret, asymmetric, sinks, chunk_size)
        fill_cuts(&self.cuts_at, chunk_size, content)
        self.level = level
        self.jobs = jobs
        self.frames = frames
        self.follow = follow
        self.anew = anew
        self.even = even
        if frames:                  # each chunk is a frame of its own, with room for padding behind it
            self.pad_below = <size_t>-1
        self.source = iter(source)
        self.more = True
        self.hands_on = frames
        self.max_slabs = slabs or jobs + 1
        self.readers = readers or jobs

    def __dealloc__(self):
        cdef FileJob* job
        while self.streams != NULL:
            self.end_stream(self.streams)
        while self.framed_files != NULL:
            self.end_framed(self.framed_files)
        while self.first != NULL:
            job = self.first
            self.first = job.next
            free_job(job)
        self.free_slabs(self.sealing)       # those that are being filled stand here too
        self.free_slabs(self.spare)
        pthread_cond_destroy(&self.may_read)
        self.forget()

    cdef Task pick(self, Worker* worker) noexcept nogil:
        cdef FramedFile* file = self.framed_files
        cdef int ended = 0          # files whose last chunks are made, or wait for the disk
        if self.pick_stream(worker):
            return PART
        while file != NULL:
            if self.pick_chunk(file, worker):
                return FRAME
            ended += file.ended
            file = file.next
        if self.fresh != NULL and self.large - ended < self.jobs:
            worker.job = self.fresh
            self.fresh = self.fresh.next
            return self.take_file(worker)
        return self.wait_or_leave()

    cdef void do(self, Worker* worker) noexcept nogil:
        if worker.task == FILE:
            self.begin_file(worker, <FileJob*>worker.job)
        elif worker.task == FRAME:
            self.frame_step(worker)
        elif worker.slab != NULL:
            self.seal_step(worker)
        else:
            self.compress_step(<Stream*>worker.stream)

    cdef void begin_file(self, Worker* worker, FileJob* job) noexcept nogil:
        cdef size_t got = 0
        cdef int fd
        if not self.equip(worker):
            self.fail_memory()
            return
        fd = self.open_job(job)
        if job.error == 0 and self.frames and job.path == NULL:
            self.begin_framed(worker, job, fd, True)
            return
        if job.error == 0:
            job.error = self.read_on(job, fd, worker.data, SMALL, &got)
        if job.error == 0:
            if self.frames and (got == SMALL or got > self.cuts_at.minimum):
                # What the system makes up as it is read has no size, or none to be trusted.
                self.begin_framed(worker, job, fd, job.facts.size < <long long>got)
                return
            self.count_read(got)
            if not self.frames and (got == SMALL or zstd.compress_bound(got) >= self.chunk_size):
                self.begin_stream(worker, job, fd, got)
                return
            self.seal_small(worker, job, got)
        pthread_mutex_lock(&self.lock)
        self.job_done(job, fd)
        pthread_mutex_unlock(&self.lock)
        if fd >= 0:
            c_close(fd)

    cdef void seal_small(self, Worker* worker, FileJob* job, size_t n) noexcept nogil:
        """A whole file that gives one padded chunk. Fed as pog feeds: what there is, then the end. (With nothing fed
        first, as for an empty file, zstd writes the content size, 0.)"""
        cdef Slab* slab = worker.own
        cdef ZBuffer data, out
        cdef size_t left = 0
        slab_begin(slab)
        data.data, data.size, data.pos = worker.data, n, 0
        out.data, out.size, out.pos = chunk_of(slab), zstd.compress_bound(SMALL), 0
        self.begin_frame(worker, n, True, False)
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
            if self.new_record(job) == 0:
                self.note_blob(job, 0, slab, n)
            else:
                self.end(NO_MEMORY)
            pthread_mutex_unlock(&self.lock)
        slab_end(slab)

# Large blobs go to the disk while they are made. One writer follows the workers, some megabytes behind, into drafts that
# have no name yet; when a chunk turns out to be one that is stored already, its draft is dropped. What is written gives
# most of its memory back: 60 MB less a worker, for 0.02 s of CPU time a GB.
#
# Writes go around the page cache where the file system lets them: a blob is not read again soon, copying it there costs
# a fifth of the CPU time of a run over random data, and the sync before the manifest would have to wait for it all.

cdef enum:
    WRITE_STEP = 1 << 20        # bytes of a blob that are worth a write
    HANDED = 8 << 20            # a blob of at most so many bytes is finished by the writer; a worker would wait for it
                                # for a third of the time that the next takes to make


cdef class _Writer(_Storer):
    cdef Cond to_write
    cdef Cond wrote
    cdef Slab* waiting          # slabs with enough for a write, oldest first
    cdef bint over
    cdef bint all_drafts        # no sink needs a blob in memory once it is in its drafts
    cdef bint hands_on          # whole blobs may be left to the writer: `settle` knows what to do then

    def __cinit__(self, *args, **kwargs):
        pthread_cond_init(&self.to_write, NULL)
        pthread_cond_init(&self.wrote, NULL)

    def __dealloc__(self):
        pthread_cond_destroy(&self.to_write)
        pthread_cond_destroy(&self.wrote)

    def start(self):
        cdef Py_ssize_t i, directories = 0
        if self.threads:
            return
        for i in range(self.sink_count):
            directories += self.directories[i] != NULL
        self.all_drafts = directories == self.sink_count
        super().start()
        if directories:
            thread = threading.Thread(target=self._write, name="pogfast-writer", daemon=True)
            thread.start()
            self.threads.append(thread)

    def stop(self):
        with nogil:
            pthread_mutex_lock(&self.lock)
            self.over = True
            pthread_cond_broadcast(&self.to_write)
            pthread_mutex_unlock(&self.lock)
        super().stop()
        self.empty_line()

    cdef void empty_line(self) noexcept:
        """What the writer left undone when the run ended early. Nobody else has the slabs that were handed on."""
        cdef Slab* slab
        while self.waiting != NULL:
            slab = self.waiting
            self.waiting = slab.writing.next
            slab.writing.state = NOT_WAITING
            if slab.state == HANDED_OVER:
                self.end_drafts(slab)
                slab_free(slab)

    # ---- the worker that makes a blob (without the lock) ----

    cdef void write_behind(self, Slab* slab) noexcept nogil:
        """Lets the writer have what is encrypted, once that is worth a write."""
        cdef size_t ready = self.keys.header + BOX + slab.sealing.sealed
        if slab.sealing.sealed == 0 or ready - slab.writing.ready < WRITE_STEP:
            return
        if slab.writing.drafts == NULL and not self.begin_drafts(slab):
            return
        pthread_mutex_lock(&self.lock)
        slab.writing.ready = ready
        self.line_up(slab)
        pthread_mutex_unlock(&self.lock)

    cdef bint begin_drafts(self, Slab* slab) noexcept nogil:
        """Where one cannot be begun there are none: the blob is stored when it is whole, and that says what is wrong."""
        cdef Draft* drafts = <Draft*>calloc(self.sink_count, sizeof(Draft))
        cdef Py_ssize_t i
        cdef int error = 0
        if drafts == NULL:
            return False
        for i in range(self.sink_count):
            drafts[i].fd = -1
        slab.writing.drafts = drafts
        for i in range(self.sink_count):
            if self.directories[i] != NULL and not load_int(&self.failed_sinks[i]) and error == 0:
                error = draft_begin(&drafts[i], self.directories[i].fd, self.directories[i].prefix, <size_t>slab,
                                    b"tmp", 0o666)
                drafts[i].direct = error == 0 and set_direct(drafts[i].fd, True) == 0
        slab.writing.written = PAGE
        if error:
            self.end_drafts(slab)
        return error == 0

    cdef void end_drafts(self, Slab* slab) noexcept nogil:
        """Drops the drafts that have not become blobs. The writer has let go of the slab."""
        cdef Draft* drafts = slab.writing.drafts
        cdef Py_ssize_t i
        slab.writing.ready = 0
        if drafts == NULL:
            return
        check(slab.writing.state == NOT_WAITING)
        for i in range(self.sink_count):
            draft_end(&drafts[i], False)
        free(drafts)
        slab.writing.drafts = NULL

    cdef void begin_again(self, Slab* slab) noexcept nogil:
        """The chunk is made anew."""
        if slab.writing.drafts != NULL:
            self.take_back(slab)
            self.end_drafts(slab)
        slab_begin(slab)

    cdef StoreResult finish(self, Slab* slab, Worker* worker) noexcept nogil:
        cdef StoreResult result = _Storer.finish(self, slab, worker)
        if result != HANDED_ON and slab.writing.drafts != NULL:
            self.take_back(slab)
            self.end_drafts(slab)
        return result

    cdef StoreResult put_all(self, Slab* slab) noexcept nogil:
        if slab.writing.drafts != NULL:
            if self.hand_on(slab):
                return HANDED_ON
            self.take_back(slab)
        return _Storer.put_all(self, slab)

    cdef bint hand_on(self, Slab* slab) noexcept nogil:
        """Leaves a sealed blob to the writer, if it is a small one and there is a writer to take it."""
        cdef bint taken
        if not self.hands_on or not self.all_drafts or slab.total > HANDED:
            return False
        pthread_mutex_lock(&self.lock)
        taken = not self.over
        if taken:
            slab_hand_over(slab)
            self.line_up(slab)
        pthread_mutex_unlock(&self.lock)
        return taken

    cdef void settle(self, Slab* slab, bint stored) noexcept nogil:
        """Learns what has become of a blob that was handed on, and has its slab again."""

    cdef void take_back(self, Slab* slab) noexcept nogil:
        pthread_mutex_lock(&self.lock)
        self.recall(slab)
        pthread_mutex_unlock(&self.lock)

    cdef int put_directory(self, Py_ssize_t sink, Slab* slab) noexcept nogil:
        cdef Draft* draft
        cdef int error
        if slab.writing.drafts == NULL:
            return _Storer.put_directory(self, sink, slab)
        check(slab.writing.state == NOT_WAITING)
        draft = &slab.writing.drafts[sink]
        error = draft.error or draft_fill(draft, blob_of(slab, &self.keys), blob_size(slab, &self.keys), slab.writing.written)
        if error == 0:
            error = blob_publish(self.directories[sink], slab.sealing.digest, draft)
        if error == 0:
            error = draft_end(draft, True)
            draft.fd = -1
        return error

    # ---- the writer ----

    def _write(self):
        with nogil:
            self.write_on()

    cdef void write_on(self) noexcept nogil:
        cdef Slab* slab
        cdef size_t start, end
        cdef bint stored
        pthread_mutex_lock(&self.lock)
        while not self.over:
            slab = self.waiting
            if slab == NULL:
                pthread_cond_wait(&self.to_write, &self.lock)
                continue
            self.waiting = slab.writing.next
            slab.writing.state = NOT_WAITING
            if slab.state == HANDED_OVER:
                pthread_mutex_unlock(&self.lock)
                stored = _Storer.put_all(self, slab) == STORED
                self.end_drafts(slab)
                self.settle(slab, stored)
                pthread_mutex_lock(&self.lock)
                continue
            slab.writing.state = BEING_WRITTEN
            start, end = slab.writing.written, slab.writing.ready // PAGE * PAGE
            pthread_mutex_unlock(&self.lock)
            self.write_drafts(slab, start, end)
            pthread_mutex_lock(&self.lock)
            slab.writing.state = NOT_WAITING
            slab.writing.written = end
            self.line_up(slab)
            pthread_cond_broadcast(&self.wrote)
        pthread_mutex_unlock(&self.lock)

    cdef void write_drafts(self, Slab* slab, size_t start, size_t end) noexcept nogil:
        """Bytes [start, end) of a blob into its drafts, both PAGE's multiples."""
        cdef u8* blob = blob_of(slab, &self.keys)
        cdef Draft* drafts = slab.writing.drafts
        cdef Py_ssize_t i
        for i in range(self.sink_count):
            if drafts[i].fd >= 0 and drafts[i].error == 0:
                drafts[i].error = draft_write(&drafts[i], blob + start, end - start, start)
        if self.all_drafts:
            slab_let_go(slab, blob + start, blob + end)

    # ---- with the lock ----

    cdef void line_up(self, Slab* slab) noexcept nogil:
        cdef Slab** last = &self.waiting
        if slab.writing.state != NOT_WAITING:
            return
        if slab.state != HANDED_OVER and slab.writing.ready < slab.writing.written + WRITE_STEP:
            return
        while last[0] != NULL:
            last = &last[0].writing.next
        last[0] = slab
        slab.writing.next = NULL
        slab.writing.state = WAITING
        pthread_cond_signal(&self.to_write)

    cdef void recall(self, Slab* slab) noexcept nogil:
        """Takes a slab back from the writer."""
        cdef Slab** at = &self.waiting
        slab.writing.ready = 0
        if slab.writing.state == WAITING:
            while at[0] != slab:
                at = &at[0].writing.next
            at[0] = slab.writing.next
            slab.writing.state = NOT_WAITING
        while slab.writing.state == BEING_WRITTEN:
            pthread_cond_wait(&self.wrote, &self.lock)

# Large blobs go to the disk while they are made (write-behind). One writer thread follows the workers, some megabytes
# behind, into drafts that have no name yet; when a chunk turns out to be stored already, its draft is dropped. Memory of a
# slab that is written is used again for what comes next: 60 MB less a worker (base/slab.pxi).
#
# Writes go around the page cache where the file system lets them: a blob is not read again soon, copying it there costs
# a fifth of the CPU time of a run over random data, and the sync before the manifest would have to wait for it all.

cdef enum:
    WRITE_STEP = 1 << 20        # bytes of a blob that are worth a write
    HANDED = 8 << 20            # a blob of at most so many bytes is finished by the writer; a worker would wait for it
                                # for a third of the time that the next takes to make


@cython.no_gc_clear             # a Sealer that is freed needs it for the drafts that are left
cdef class _Writer:
    """The list of slabs that wait for a write, and the drafts. The thread's loop is Sealer's, which also knows what to do
    with a blob that is stored."""
    cdef Mutex* lock            # the pool's
    cdef _Store store
    cdef bint all_drafts        # no sink needs a blob in memory once it is in its drafts; set before the threads start
    cdef bint over              # the thread takes nothing more; with the lock
    cdef Slab* waiting          # slabs with enough for a write, oldest first; with the lock
    cdef Cond to_write
    cdef Cond wrote

    def __cinit__(self, _Store store):
        pthread_cond_init(&self.to_write, NULL)
        pthread_cond_init(&self.wrote, NULL)
        self.store = store
        self.all_drafts = store.directory_count() == store.sink_count

    def __dealloc__(self):
        pthread_cond_destroy(&self.to_write)
        pthread_cond_destroy(&self.wrote)

    cdef void check_invariants(self) noexcept nogil:
        """As _Pool's. Called with the lock held."""
        cdef Slab* slab = self.waiting
        while slab != NULL:
            check(slab.writing.state == WAITING)
            check(slab.writing.drafts != NULL)
            slab = slab.writing.next

    # ---- for the worker that makes a blob (without the lock) ----

    cdef void follow(self, Slab* slab) noexcept nogil:
        """Lets the writer have what is encrypted, once that is worth a write. A blob that may yet be packed is left whole in
        its slab: one that has drafts is longer than any that is packed."""
        cdef size_t ready = self.store.keys.header + BOX + slab.sealing.sealed
        if slab.sealing.sealed == 0 or ready - slab.writing.ready < WRITE_STEP:
            return
        if slab.writing.drafts == NULL and (ready <= self.store.packed or not self.begin_drafts(slab)):
            return
        pthread_mutex_lock(self.lock)
        slab.writing.ready = ready
        self.line_up(slab)
        pthread_mutex_unlock(self.lock)

    cdef bint hand_over(self, Slab* slab) noexcept nogil:
        """Leaves a sealed blob to the writer, if it is a small one that was begun, and the writer goes on. Returns True if
        the writer has it."""
        cdef bint taken
        if slab.writing.drafts == NULL or not self.all_drafts or slab.total > HANDED:
            return False
        pthread_mutex_lock(self.lock)
        taken = not self.over
        if taken:
            slab_hand_over(slab)
            self.line_up(slab)
        pthread_mutex_unlock(self.lock)
        return taken

    cdef void take_back(self, Slab* slab) noexcept nogil:
        """Takes a slab back from the writer, after the write that is under way."""
        if slab.writing.drafts == NULL:
            return
        pthread_mutex_lock(self.lock)
        self.recall(slab)
        pthread_mutex_unlock(self.lock)

    cdef void discard(self, Slab* slab) noexcept nogil:
        """Takes a slab back, and drops the drafts that have not become blobs."""
        self.take_back(slab)
        self.end_drafts(slab)

    cdef bint begin_drafts(self, Slab* slab) noexcept nogil:
        """Begins a draft for each directory. Where one cannot be begun there are none: the blob is stored when it is whole,
        and that says what is wrong."""
        cdef Directory** directories = self.store.directories
        cdef Py_ssize_t count = self.store.sink_count
        cdef Draft* drafts = <Draft*>calloc(count, sizeof(Draft))
        cdef Py_ssize_t i
        cdef Errno error = 0
        if drafts == NULL:
            return False
        for i in range(count):
            drafts[i].fd = -1
        slab.writing.drafts = drafts
        for i in range(count):
            if directories[i] != NULL and not load_int(&self.store.failed_sinks[i]) and error == 0:
                error = draft_begin(&drafts[i], directories[i].fd, directories[i].prefix, <size_t>slab,
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
        for i in range(self.store.sink_count):
            draft_end(&drafts[i], False)
        free(drafts)
        slab.writing.drafts = NULL

    # ---- for the writer's thread ----

    cdef Slab* next_slab(self) noexcept nogil:
        """Waits for a slab and takes it off the list; NULL when the run is over. One that is HANDED_OVER is the caller's to
        store; of another `write` is to be called. Called with the lock held."""
        cdef Slab* slab
        while not self.over and self.waiting == NULL:
            pthread_cond_wait(&self.to_write, self.lock)
        if self.over:
            return NULL
        slab = self.waiting
        self.waiting = slab.writing.next
        slab.writing.state = NOT_WAITING
        return slab

    cdef void write(self, Slab* slab) noexcept nogil:
        """Writes what is ready of a blob into its drafts. Called with the lock held, which it leaves for the write."""
        cdef size_t start = slab.writing.written, end = slab.writing.ready // PAGE * PAGE
        slab.writing.state = BEING_WRITTEN
        pthread_mutex_unlock(self.lock)
        self.write_drafts(slab, start, end)
        pthread_mutex_lock(self.lock)
        slab.writing.state = NOT_WAITING
        slab.writing.written = end
        if self.all_drafts:
            area_let_go(slab, &slab.blob_area, blob_of(slab, &self.store.keys) + end)
        self.line_up(slab)
        pthread_cond_broadcast(&self.wrote)

    cdef void write_drafts(self, Slab* slab, size_t start, size_t end) noexcept nogil:
        """Writes bytes [start, end) of a blob into its drafts, both multiples of PAGE. Without the lock."""
        cdef u8* blob = blob_of(slab, &self.store.keys)
        cdef Draft* drafts = slab.writing.drafts
        cdef Py_ssize_t i
        for i in range(self.store.sink_count):
            if drafts[i].fd >= 0 and drafts[i].error == 0:
                drafts[i].error = draft_write(&drafts[i], blob + start, end - start, start)

    # ---- with the lock ----

    cdef void line_up(self, Slab* slab) noexcept nogil:
        """Adds a slab to the list, if it is not in it and there is enough for a write or a blob to store."""
        cdef Slab** last = &self.waiting
        check(holds_lock)
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
        """As take_back."""
        cdef Slab** at = &self.waiting
        check(holds_lock)
        slab.writing.ready = 0
        if slab.writing.state == WAITING:
            while at[0] != slab:
                at = &at[0].writing.next
            at[0] = slab.writing.next
            slab.writing.state = NOT_WAITING
        while slab.writing.state == BEING_WRITTEN:
            pthread_cond_wait(&self.wrote, self.lock)

    # ---- the end of a run ----

    cdef void close(self) noexcept nogil:
        """Makes the writer's thread leave."""
        pthread_mutex_lock(self.lock)
        self.over = True
        pthread_cond_broadcast(&self.to_write)
        pthread_mutex_unlock(self.lock)

    cdef void empty_line(self) noexcept:
        """Drops what was left to write when the run ended early, after the threads have left. Nobody else has the slabs that
        were handed over."""
        cdef Slab* slab
        while self.waiting != NULL:
            slab = self.waiting
            self.waiting = slab.writing.next
            slab.writing.state = NOT_WAITING
            if slab.state == HANDED_OVER:
                self.end_drafts(slab)
                slab_free(slab)

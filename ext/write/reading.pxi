# How files are read, in both layouts, and by how many workers at a time.

cdef enum:
    WAIT_MS = 200               # how long a pipe is waited for before looking whether the run has been stopped


cdef class _Reader:
    cdef Mutex* lock            # the pool's
    cdef const int* stopping    # the pool's
    cdef bint follow            # links to files are read as what they lead to
    cdef bint limited           # fewer may read at a time than there are workers
    cdef int readers            # how many may; these four are set before the workers start
    cdef int reading            # how many do; with the lock
    cdef Cond may_read

    def __cinit__(self, bint follow, int readers, int jobs):
        pthread_cond_init(&self.may_read, NULL)
        self.follow = follow
        self.readers = readers
        self.limited = readers < jobs

    def __dealloc__(self):
        pthread_cond_destroy(&self.may_read)

    cdef void check_invariants(self) noexcept nogil:
        """As _Pool's. Called with the lock held."""
        check(0 <= self.reading)
        check(self.reading <= self.readers)

    cdef int open_job(self, FileJob* job) noexcept nogil:
        """Opens a file. Returns its descriptor, or the one that the caller gave; -1 if it cannot be opened. Sets `error` then,
        and also to ENXIO, as the system does for sockets, if the file is not a regular one (EISDIR: it is a directory)."""
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

    cdef Errno read_on(self, const FileJob* job, int fd, u8* p, size_t n, size_t* got) noexcept nogil:
        """Reads the next `n` bytes of a file, fewer at its end. A descriptor that the caller gave may be a pipe: its bytes are
        waited for until the run is stopped (EINTR)."""
        cdef size_t some
        cdef Errno error
        got[0] = 0
        if job.path != NULL:
            self.begin_read()
            error = read_full(fd, p, n, got)
            self.end_read()
            return error
        while got[0] < n:
            while not has_bytes(fd, WAIT_MS):
                if load_int(self.stopping):
                    return EINTR
            error = read_some(fd, p + got[0], n - got[0], &some)
            if error or some == 0:
                return error
            got[0] += some
        return 0

    cdef void begin_read(self) noexcept nogil:
        """Waits until fewer than `readers` workers read."""
        if not self.limited:
            return
        pthread_mutex_lock(self.lock)
        while self.reading >= self.readers:
            pthread_cond_wait(&self.may_read, self.lock)
        self.reading += 1
        pthread_mutex_unlock(self.lock)

    cdef void end_read(self) noexcept nogil:
        if not self.limited:
            return
        pthread_mutex_lock(self.lock)
        self.reading -= 1
        pthread_cond_signal(&self.may_read)
        pthread_mutex_unlock(self.lock)

# What Sealer and Opener share: a pool of worker threads and their lock. A worker asks for a task and does it without the
# lock and without the GIL, again and again. Tasks are short (a piece, or a small file), so no thread waits long for another.

cdef extern from "<pthread.h>" nogil:
    ctypedef struct Mutex "pthread_mutex_t":
        pass
    ctypedef struct Cond "pthread_cond_t":
        pass
    ctypedef struct TimeSpec "struct timespec":
        long tv_sec
        long tv_nsec
    int pthread_mutex_init(Mutex*, void*)
    int pthread_mutex_destroy(Mutex*)
    int pthread_cond_init(Cond*, void*)
    int pthread_cond_destroy(Cond*)
    int pthread_cond_signal(Cond*)
    int pthread_cond_broadcast(Cond*)
    int pthread_cond_wait(Cond*, Mutex*)
    int pthread_cond_timedwait(Cond*, Mutex*, const TimeSpec*)

# The caller waits for the lock while it has the GIL. Whoever held the lock and waited for the GIL would never get it. So a
# debug build remembers of each thread whether it holds the lock, and stops where such a thread asks for the GIL.
cdef extern from *:
    """
    #ifdef NDEBUG
    #define pogfast_lock pthread_mutex_lock
    #define pogfast_unlock pthread_mutex_unlock
    #define POGFAST_DEBUG_BUILD 0
    #else
    #define POGFAST_DEBUG_BUILD 1
    #ifdef __linux__ /* not in memory of its own, which the linker frees unseen by a thread sanitizer */
    __attribute__((tls_model("initial-exec")))
    #endif
    static _Thread_local int pogfast_holds_lock;
    static int pogfast_lock(pthread_mutex_t *mutex) {
        int error;
        assert(!pogfast_holds_lock);
        error = pthread_mutex_lock(mutex);
        pogfast_holds_lock = 1;
        return error;
    }
    static int pogfast_unlock(pthread_mutex_t *mutex) {
        assert(pogfast_holds_lock);
        pogfast_holds_lock = 0;
        return pthread_mutex_unlock(mutex);
    }
    #define PyGILState_Ensure() (assert(!pogfast_holds_lock), PyGILState_Ensure())
    #define PyEval_RestoreThread(state) (assert(!pogfast_holds_lock), PyEval_RestoreThread(state))
    #endif
    """
    int pthread_mutex_lock "pogfast_lock"(Mutex*) nogil
    int pthread_mutex_unlock "pogfast_unlock"(Mutex*) nogil
    bint is_debug_build "POGFAST_DEBUG_BUILD"
    bint holds_lock "pogfast_holds_lock"                    # of this thread; in the debug build only, inside of check()

cdef extern from "<time.h>" nogil:
    int clock_gettime(int clock, TimeSpec* now)
    int CLOCK_REALTIME

cdef enum:
    POLL_NS = 20_000_000    # ns between two polls of the caller for events: shorter than a user notices, and cheap

cdef enum Task:
    NOTHING = 0             # there is none now: the worker waits
    LEAVE = 1               # all is done, or the pool stops: the worker ends
    PART = 2                # the next step of a large file. Sealer: seal `Worker.slab`, or where that is NULL compress
                            # `Worker.stream`; Opener: `Worker.blob` says which step
    FILE = 3                # a file of its own: `Worker.file`, of a Sealer `Worker.job`
    FRAME = 4               # a Sealer's chunk of `Worker.framed`, a file that is cut before it is compressed


cdef enum End:              # why the workers leave before all is done
    NOT_YET = 0
    STOPPED = 1             # `stop` was called, or there is a failure
    NO_MEMORY = 2


cdef struct Worker:         # the current task of a worker, set by `pick`, and its buffers, reused for every file
    Task task
    Py_ssize_t file         # of a FILE: its number, counted from 0
    FileJob* job            # of a Sealer's FILE
    Stream* stream          # of a Sealer's PART; the one that it compressed last is kept as long as it goes on with it
    Slab* slab              # of a Sealer's PART and FRAME
    size_t end              # of a PART: bytes of the slab's chunk that may be sealed (it grows while it is worked on)
    bint last               # of a PART: the chunk ends there
    FramedFile* framed      # of a FRAME
    long long at            # of a FRAME: where in the file the chunk begins
    size_t length           # of a FRAME: its plain bytes, 0 when reading them will tell
    FetchedBlob* blob       # of an Opener's PART
    Slab* own               # a slab for small files
    u8* data                # memory for 2 PIECEs of plain bytes
    void* context           # ZSTD_CCtx of a Sealer's worker, ZSTD_DCtx of an Opener's


def cores():
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


cdef class _Pool:
    """Worker threads, their lock, and the first failure, which stops them all."""
    cdef Mutex lock
    cdef Cond work              # there is a task, or the pool stops
    cdef Cond events            # there may be something to report
    cdef int jobs               # workers; set before they start
    cdef int idle               # workers that wait; with the lock, as the next five
    cdef int stopping           # an End; read without the lock, too, as next_file
    cdef Py_ssize_t count       # files to do, as far as they are known
    cdef bint more              # further files may come
    cdef Py_ssize_t next_file   # the first that no worker has begun
    cdef Py_ssize_t open_files  # begun and not done
    cdef object failure         # what `run` raises; with the GIL, as the rest
    cdef tuple outside          # sinks, or the source: told when the run ends early, if they have a method `abandon`
    cdef list threads

    def __cinit__(self, *args, **kwargs):
        pthread_mutex_init(&self.lock, NULL)
        pthread_cond_init(&self.work, NULL)
        pthread_cond_init(&self.events, NULL)
        self.threads = []
        self.outside = ()

    cdef void check_invariants(self) noexcept nogil:
        """Checks invariants in a debug build. Called with the lock held."""
        check(holds_lock)
        check(0 <= self.idle)
        check(self.idle <= self.jobs)
        check(0 <= self.open_files)
        check(0 <= self.next_file)
        check(self.next_file <= self.count)

    cdef void close(self) noexcept:
        pthread_mutex_destroy(&self.lock)
        pthread_cond_destroy(&self.work)
        pthread_cond_destroy(&self.events)

    # What a pool does is up to these six, which Sealer and Opener override.
    cdef Task pick(self, Worker* worker) noexcept nogil:
        """Chooses the next task. Called with the lock held."""
        return LEAVE

    cdef void do(self, Worker* worker) noexcept nogil:
        """Does the task that `pick` has chosen. Called without the lock."""

    cdef void let_go(self, Worker* worker) noexcept nogil:
        """Frees what a worker owns."""

    cdef bint has_events(self, Py_ssize_t file) noexcept nogil:
        """Returns True if there is something to report of a file. Called with the lock held."""
        return False

    cdef object report(self, Py_ssize_t file):
        """Returns an event with what is new of a file; its field `done` says whether it is the last. Called with the lock and
        the GIL held."""

    cdef int refill(self) except -1:
        """Gets further files from the caller, while `more`. Called with the GIL, without the lock."""
        return 0

    cdef Task take_file(self, Worker* worker) noexcept nogil:
        check(holds_lock)
        worker.file = self.next_file
        store_count(&self.next_file, self.next_file + 1)
        self.open_files += 1
        return FILE

    cdef Task wait_or_leave(self) noexcept nogil:
        return LEAVE if self.is_through() else NOTHING

    cdef bint is_through(self) noexcept nogil:
        return self.open_files == 0 and self.next_file == self.count and not self.more

    cdef void file_done(self) noexcept nogil:
        """Called with the lock held."""
        check(holds_lock)
        self.open_files -= 1
        if self.is_through():
            pthread_cond_broadcast(&self.work)
            pthread_cond_signal(&self.events)

    cdef void work_loop(self) noexcept nogil:
        cdef Worker worker
        memset(&worker, 0, sizeof(Worker))
        pthread_mutex_lock(&self.lock)
        while True:
            if is_debug_build:
                self.check_invariants()
            worker.task = LEAVE if self.stopping else self.pick(&worker)
            if worker.task == LEAVE:
                break
            if worker.task == NOTHING:
                self.idle += 1
                pthread_cond_wait(&self.work, &self.lock)
                self.idle -= 1
                continue
            if self.idle:       # a task was taken, so there may be one more
                pthread_cond_signal(&self.work)
            pthread_mutex_unlock(&self.lock)
            self.do(&worker)
            pthread_mutex_lock(&self.lock)
        pthread_cond_broadcast(&self.work)
        pthread_cond_signal(&self.events)
        pthread_mutex_unlock(&self.lock)
        self.let_go(&worker)

    def _work_loop(self):
        with nogil:
            self.work_loop()

    def start(self):
        """Starts the workers before `run` does. The caller then has to call `stop`, whatever happens."""
        if self.threads:
            return
        for number in range(self.jobs):
            thread = threading.Thread(target=self._work_loop, name=f"pogfast-{number}", daemon=True)
            thread.start()
            self.threads.append(thread)

    cdef bint is_stopping(self) noexcept nogil:
        return load_int(&self.stopping) != NOT_YET

    cdef void end(self, End why) noexcept nogil:
        """Makes the workers leave. The first reason given is kept. Called with the lock held."""
        check(holds_lock)
        if self.stopping == NOT_YET:
            store_int(&self.stopping, why)
        pthread_cond_broadcast(&self.work)
        pthread_cond_signal(&self.events)

    def stop(self):
        """Ends each worker after its current step, and waits for all. Does nothing if they have ended."""
        cdef bint through
        with nogil:
            pthread_mutex_lock(&self.lock)
            self.end(STOPPED)
            through = self.is_through()
            pthread_mutex_unlock(&self.lock)
        if not through or self.failure is not None:
            self.abandon()
        while self.threads:
            self.threads.pop().join()

    cdef int abandon(self) except -1:
        """Tells Python sinks and sources that the run ends early, so that no worker waits for one longer than it must."""
        for sink_or_source in self.outside:
            act = getattr(sink_or_source, "abandon", None)
            if act is not None:
                act()
        return 0

    cdef void fail(self, object error) noexcept:
        """Keeps the first failure and stops the pool. Called with the GIL, without the lock."""
        if self.failure is None:
            self.failure = error
        with nogil:
            pthread_mutex_lock(&self.lock)
            self.end(STOPPED)
            pthread_mutex_unlock(&self.lock)

    cdef void fail_memory(self) noexcept nogil:
        pthread_mutex_lock(&self.lock)
        self.end(NO_MEMORY)
        pthread_mutex_unlock(&self.lock)

    def run(self):
        """Yields events of the files in their order, until all are done: see _engine.pyi."""
        cdef Py_ssize_t file = 0
        self.start()
        try:
            self.refill()
            while file < self.count and (events := self._events(file)):
                for event in events:
                    file += event.done
                    yield event
                self.refill()
        finally:
            self.stop()

    def _events(self, Py_ssize_t file):
        cdef list events = []
        while not events and not (load_int(&self.stopping) == STOPPED and self.failure is None):
            with nogil:
                pthread_mutex_lock(&self.lock)
                if not self.stopping and not self.has_events(file):
                    self.look()
                pthread_mutex_unlock(&self.lock)
            PyErr_CheckSignals()
            self.refill()
            if self.failure is not None:
                raise self.failure
            if load_int(&self.stopping) == NO_MEMORY:
                raise MemoryError("there is no memory for a chunk: choose a smaller chunk size")
            # With the GIL: nobody who holds the lock waits for that. The other way round, this thread would hold the lock
            # and wait for the GIL, and all workers for this thread.
            pthread_mutex_lock(&self.lock)
            try:
                # A pool that is stopping may have failed, and the file that it failed at must not count as done.
                while not self.stopping and file < self.count and self.has_events(file):
                    event = self.report(file)
                    events.append(event)
                    if not event.done:
                        break
                    file += 1
            finally:
                pthread_mutex_unlock(&self.lock)
        return events

    cdef void look(self) noexcept nogil:
        """Waits for events, POLL_NS at most. Called with the lock held."""
        cdef TimeSpec until
        clock_gettime(CLOCK_REALTIME, &until)
        until.tv_nsec += POLL_NS
        if until.tv_nsec >= 1_000_000_000:
            until.tv_sec += 1
            until.tv_nsec -= 1_000_000_000
        pthread_cond_timedwait(&self.events, &self.lock, &until)

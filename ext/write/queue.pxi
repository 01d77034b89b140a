# The queue of files: what the caller wants to be archived, and what has become of each file.
#
# The caller's iterator is asked for files a few thousand ahead of the workers and no further, so that a tree of millions
# takes no more memory than one of thousands. A job exists from then until its last event is reported.

cdef enum:
    SMALL = 2 * PIECE           # a file that ends within so many bytes is one task
    FRESH = 2048                # files that wait for a worker: as many as the smallest ones done in POLL_NS, and more
    UNREPORTED = 65536          # files that may be done behind one that takes long

Sealed = collections.namedtuple(
    "Sealed",
    "file names stored sizes plain_names done error changed size atime_ns mtime_ns ctime_ns inode sparse",
    module="pogfast._engine",   # so that it can be pickled, as the next two
)

Known = collections.namedtuple(
    "Known", "path names stored sizes facts plain_names", defaults=[()], module="pogfast._engine"
)

FilePart = collections.namedtuple("FilePart", "path offset length facts", module="pogfast._engine")


cdef struct Record:             # one blob of a file
    u8[KEY] digest
    u64 stored                  # bytes of the blob
    u64 plain                   # bytes of the file in it; 0 where that is not known (streams)
    bint ready                  # it is stored
    bint empty                  # there is no such blob: the file had ended before it
    bint plain_named
    u8[KEY] plain_name          # see Chunk

cdef struct FileJob:
    char* path                  # NULL where the caller gave a descriptor
    int fd                      # a copy of that, until the file is begun; else -1
    Errno error
    bint done
    int changed                 # the file is no longer what it was when it was opened; set without the lock, never reset
    Facts facts                 # as it was opened
    u64 size                    # plain bytes that were read, or known. Of a stream written by its compressor, without the lock
    Record* records
    Py_ssize_t count            # blobs begun
    Py_ssize_t room
    Py_ssize_t reported         # records given to run()
    Record* known               # of its first chunks, if it still is as `expected`
    Py_ssize_t known_count
    Facts expected
    long long offset            # of the part that is wanted, if it has a length: of a file that is still as `expected`
    long long length
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
    """Fills the record of a blob that is in the store."""
    read_name(name, record.digest)
    record.stored, record.plain, record.ready = stored, plain, True
    return 0


cdef int name_record(Record* record, bytes plain_name) except -1:
    if plain_name:
        _check_key(plain_name)
        memcpy(record.plain_name, <const u8*>plain_name, KEY)
        record.plain_named = True
    return 0


cdef FileJob* new_job(item) except NULL:
    cdef FileJob* job = <FileJob*>calloc(1, sizeof(FileJob))
    if job == NULL:
        raise MemoryError
    job.fd = -1
    try:
        fill_job(job, item)
    except BaseException:
        free_job(job)
        raise
    return job


cdef int fill_job(FileJob* job, item) except -1:
    cdef object path = item if isinstance(item, (bytes, int)) else item.path
    if isinstance(path, int):
        job.fd = os.dup(path)
    else:
        fill_path(job, path)
    if path is item:
        return 0
    if isinstance(item, FilePart):
        return fill_file_part(job, item)
    if item.facts is not None:
        fill_known(job, item)
    if item.plain_names:
        fill_earlier(job, item)
    return 0


cdef int fill_path(FileJob* job, bytes path) except -1:
    if b"\0" in path:
        raise ValueError("a path with a NUL in it")
    job.path = <char*>malloc(len(path) + 1)
    if job.path == NULL:
        raise MemoryError
    memcpy(job.path, PyBytes_AsString(path), len(path) + 1)
    return 0


cdef int fill_known(FileJob* job, item) except -1:
    cdef Py_ssize_t i
    job.known_count = len(item.names)
    job.known = <Record*>calloc(max(job.known_count, 1), sizeof(Record))
    if job.known == NULL:
        raise MemoryError
    for i, (name, stored, plain) in enumerate(zip(item.names, item.stored, item.sizes, strict=True)):
        fill_record(&job.known[i], name, stored, plain)
        if item.plain_names:
            name_record(&job.known[i], item.plain_names[i])
    return fill_expected(job, item.facts)


cdef int fill_expected(FileJob* job, tuple facts) except -1:
    job.expected.size, job.expected.mtime_ns, job.expected.ctime_ns, job.expected.inode = facts
    return 0


cdef int fill_file_part(FileJob* job, item) except -1:
    fill_expected(job, item.facts)
    job.offset, job.length = item.offset, item.length
    if job.offset < 0 or job.length < 1 or job.offset > job.expected.size - job.length:
        raise ValueError("a part lies in its file, and is not empty")
    return 0


cdef int fill_earlier(FileJob* job, item) except -1:
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


cdef Py_ssize_t new_record(FileJob* job) noexcept nogil:
    """Makes room for one more blob of a file. Returns its index, or -1 when there is no memory. Called with the lock held."""
    cdef Record* records
    cdef Py_ssize_t room
    check(holds_lock)
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


cdef void note_blob(FileJob* job, Py_ssize_t index, Slab* slab, const Keys* keys, u64 plain) noexcept nogil:
    """Records that a blob is stored. Called with the lock held."""
    cdef Record* record = &job.records[index]
    check(holds_lock)
    check(index < job.count)
    memcpy(record.digest, slab.sealing.digest, KEY)
    record.stored = blob_size(slab, keys)
    record.plain = plain
    record.plain_named = slab.chunk.plain_named
    memcpy(record.plain_name, slab.chunk.plain_name, KEY)
    record.ready = True


cdef Py_ssize_t ready_count(const FileJob* job) noexcept nogil:
    """Returns how many of a file's blobs are stored, counted from its first. Called with the lock held."""
    cdef Py_ssize_t ready = job.reported
    while ready < job.count and job.records[ready].ready:
        ready += 1
    return ready


cdef class _Queue:
    """The files of a run, in their order. The caller's thread adds them and reports them, workers take them between."""
    cdef object source          # an iterator over what there is to archive
    cdef bint tells_plain_names # events have them: files are cut by content
    cdef FileJob* first         # the oldest that is not reported to its end; with the lock, as the rest
    cdef FileJob* fresh         # the oldest that no worker has taken
    cdef FileJob* newest
    cdef Py_ssize_t reported    # files reported to their end; written by the caller's thread alone

    def __cinit__(self, source, bint tells_plain_names):
        self.source = iter(source)
        self.tells_plain_names = tells_plain_names

    def __dealloc__(self):
        cdef FileJob* job
        while self.first != NULL:
            job = self.first
            self.first = job.next
            free_job(job)

    cdef void check_invariants(self) noexcept nogil:
        """As _Pool's, of the file that is reported next. Called with the lock held."""
        check(self.fresh == NULL or self.first != NULL)
        if self.first != NULL:
            check(self.first.reported <= self.first.count)
            check(self.first.count <= self.first.room)

    cdef void add(self, FileJob* job) noexcept nogil:
        """Called with the lock held."""
        check(holds_lock)
        if self.first == NULL:
            self.first = job
        else:
            self.newest.next = job
        self.newest = job
        if self.fresh == NULL:
            self.fresh = job

    cdef FileJob* take(self) noexcept nogil:
        """Returns the next file for a worker. Called with the lock held, while there is one."""
        cdef FileJob* job = self.fresh
        self.fresh = job.next
        return job

    cdef bint has_events(self) noexcept nogil:
        return self.first.done or ready_count(self.first) > self.first.reported

    cdef object report(self, Py_ssize_t file):
        """Returns what is new of the oldest file, which is forgotten when it is done. With the lock and the GIL."""
        cdef FileJob* job = self.first
        cdef Facts* facts = &job.facts
        cdef Py_ssize_t i, ready = ready_count(job)
        cdef list names = [], stored = [], sizes = [], plain_names = []
        cdef Record* record
        for i in range(job.reported, ready):
            record = &job.records[i]
            if not record.empty:
                names.append(name_of(record.digest))
                stored.append(record.stored)
                sizes.append(record.plain)
                if self.tells_plain_names:
                    plain_names.append(record.plain_name[:KEY] if record.plain_named else b"")
        job.reported = ready
        event = tuple.__new__(Sealed, (file, names, stored, sizes, plain_names, job.done, job.error,     # half the time
                                       load_int(&job.changed) != 0, job.size if job.done else 0,
                                       facts.atime_ns, facts.mtime_ns, facts.ctime_ns, facts.inode, facts.sparse))
        if job.done:
            self.first = job.next
            self.reported += 1
            free_job(job)
        return event

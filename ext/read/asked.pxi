# What a restore is asked for: Python's list of files, read once into arrays that workers use without the GIL.
#
# A file (OpenJob) has one BlobUse for each of its blobs. Where a blob is a zstd frame of its own, all uses of one blob,
# in this file and in others, form a ring: it is fetched once for as many of them as possible.

Wanted = collections.namedtuple(
    "Wanted", "directory leaf blobs sizes size atime_ns mtime_ns mode uid gid xattrs sparse replace start",
    defaults=(-1, -1, -1, (), False, True, -1), module="pogfast._engine",
)

cdef unsigned NOBODY = 0xFFFFFFFF       # for chown: left alone

cdef struct BlobUse:            # one blob of one file
    u8[KEY] digest
    long long at                # where its plain bytes begin in the file; -1 in a stream, where only writing it tells
    Py_ssize_t next             # the next use of this blob, in a ring; itself if there is no other, and in streams
    Py_ssize_t follow           # the next use that the same FetchedBlob serves, -1 behind the last
    int file
    bint taken                  # a FetchedBlob will serve it, or has

cdef struct Attribute:
    const char* name            # borrowed from _Asked.keep, as its value
    const char* value
    Py_ssize_t size

cdef struct OpenJob:            # a file to restore, or only to verify
    # As asked, never changed:
    const char* leaf            # borrowed from _Asked.keep
    Attribute* attributes
    Py_ssize_t attribute_count
    Py_ssize_t first            # its first use
    Py_ssize_t count            # of its uses
    long long size              # plain bytes, -1: not known
    long long atime_ns
    long long mtime_ns
    int directory               # borrowed descriptor, of a range that of the file; -1: it is only verified
    bint range                  # written into a file that others write to, too: it gets neither metadata nor a name
    long long start             # of the range in its file, else 0
    int mode                    # -1: the system's choice
    unsigned uid
    unsigned gid
    bint stream                 # its blobs are parts of one zstd frame
    bint sparse
    bint replace
    # How far it is, guarded by the lock of the Opener:
    RestoringFile* restoring    # while several tasks work on it
    Py_ssize_t left             # uses that are not served
    int working                 # workers in it, or on their way
    bint begun                  # counted in open_files
    bint done
    Py_ssize_t follow           # the next file that is made whole of the same FetchedBlob, -1 behind the last
    # What went wrong first, and with what:
    int verdict                 # GOOD if nothing did; also looked at without the lock
    Errno code                  # why, if the system said so
    Py_ssize_t bad              # which of its blobs
    long long offset            # where the plain bytes of that begin, -1: not known
    Errno soft                  # of the first metadata that could not be set


cdef void note_failure(OpenJob* job, Verdict verdict, Errno code, Py_ssize_t blob, long long offset) noexcept nogil:
    """Keeps the first thing that goes wrong with a file, if `verdict` is not GOOD. With the lock."""
    if job.verdict == GOOD:
        store_int(&job.verdict, verdict)
        job.code, job.bad = code, blob
        job.offset = offset if verdict not in (BAD_WRITE, NO_ROOM) else -1


cdef class _Asked:
    """The files of one Opener and the uses of their blobs."""
    cdef list keep              # what the structs borrow
    cdef OpenJob* files
    cdef Py_ssize_t count
    cdef BlobUse* uses
    cdef Py_ssize_t use_count

    def __cinit__(self, files):
        cdef Py_ssize_t file, uses = 0
        if len(files) >= 1 << 31:
            raise ValueError("too many files at a time")
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
        directory, leaf, names, sizes, size, atime_ns, mtime_ns, mode, uid, gid, xattrs, sparse, replace, start = wanted
        job.directory = directory
        job.leaf = PyBytes_AsString(leaf)
        self.keep.append(leaf)
        job.atime_ns, job.mtime_ns = atime_ns, mtime_ns
        job.mode, job.sparse, job.replace = mode, sparse, replace
        job.range, job.start = start >= 0, max(start, 0)
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
            note_failure(job, BAD_FRAME, 0, 0, -1)
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
        """Joins the uses of each blob, in the order of the files, with a hash table of the last use of each."""
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
        if self.files != NULL:
            for file in range(self.count):
                free(self.files[file].attributes)
        free(self.files)
        free(self.uses)

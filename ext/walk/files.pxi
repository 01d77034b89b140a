# Runs of plain files in a directory, and what a create does with each that has not changed: hold it against its row of the
# cache, and write its entry for the manifest. Python does the same for every other file, in pogfast/backup.

cdef extern from "Python.h":
    str PyUnicode_DecodeFSDefault(const char* name)
    char* PyOS_double_to_string(double value, char format, int precision, int flags, int* kind) except NULL
    void PyMem_Free(void* p)
    int Py_DTSF_ADD_DOT_0

cdef enum:
    PROOF = 16                  # bytes of a row's proof
    LENGTH = 8                  # bytes of a size in a row
    TICK_NS = 100_000_000       # cache_rows.TICK_NS


cdef long long MAX_NS = 9223372036854775807

cdef struct Text:               # that grows
    char* at
    size_t size
    size_t room


cdef char* text_room(Text* text, size_t n) except NULL:
    """Returns where the next `n` bytes go, which are counted as written."""
    cdef size_t room
    cdef char* more
    if text.size + n > text.room:
        room = 2 * (text.size + n) + 4096
        more = <char*>realloc(text.at, room)
        if more == NULL:
            raise MemoryError
        text.at, text.room = more, room
    text.size += n
    return text.at + text.size - n


cdef int text_add(Text* text, const char* p, size_t n) except -1:
    memcpy(text_room(text, n), p, n)
    return 0


cdef int text_number(Text* text, const char* before, long long value) except -1:
    cdef char[64] out
    return text_add(text, out, snprintf(out, 64, b"%s%lld", before, value))


cdef int text_seconds(Text* text, const char* before, long long seconds, int rest) except -1:
    """Writes a time as os.stat rounds it, in the fewest digits that give the same float."""
    cdef char* digits = PyOS_double_to_string(<double>seconds + rest * 1e-9, c'r', 0, Py_DTSF_ADD_DOT_0, NULL)
    try:
        text_add(text, before, strlen(before))
        return text_add(text, digits, strlen(digits))
    finally:
        PyMem_Free(digits)


cdef bint is_simple(const char* p, size_t n) noexcept nogil:
    """Returns True for ASCII that JSON shows as it is."""
    cdef size_t i
    for i in range(n):
        if not 0x20 <= <u8>p[i] < 0x7F or p[i] == c'"' or p[i] == c'\\':
            return False
    return True


cdef bint are_ordinary(const Listed* one) noexcept nogil:
    """Returns True if the times of a file are within the limits, and its ctime says more than whole seconds."""
    return (one.ctime_rest != 0 and -SECONDS < one.atime < SECONDS and -SECONDS < one.mtime < SECONDS
            and -SECONDS < one.ctime < SECONDS)


cdef enum FileState:
    FRESH_FILE                  # nothing is known of it
    DOUBTFUL                    # there is a row of it, but that does not say that it is unchanged
    UNCHANGED                   # as its row says
    READ                        # the engine has read and stored it


cdef struct RunFile:
    Listed is_                  # as it was listed, or as it was read
    FileState state
    u8[KEY] digest              # of its blob
    long long stored            # the bytes of that in a store
    bint plain_named
    u8[KEY] plain_name


cdef class FileRun:
    """Plain files that follow each other in a directory: see _engine.pyi."""
    cdef Listing listing
    cdef Py_ssize_t count
    cdef readonly str above         # what comes before their archived names
    cdef RunFile* files

    def __init__(self, Listing listing not None, Py_ssize_t first, Py_ssize_t last, str above not None):
        cdef Py_ssize_t i
        cdef const Listed* listed = listing.one(first)
        if not first < last <= listing.end:
            raise IndexError(last)
        self.listing, self.count, self.above = listing, last - first, above
        self.files = <RunFile*>calloc(self.count, sizeof(RunFile))
        if self.files == NULL:
            raise MemoryError
        for i in range(self.count):
            self.files[i].is_ = listed[i]

    def __dealloc__(self):
        free(self.files)

    def __len__(self):
        return self.count

    cdef RunFile* one(self, Py_ssize_t i) except NULL:
        if not 0 <= i < self.count:
            raise IndexError(i)
        return &self.files[i]

    # -- as they were found

    @property
    def path(self):
        """The directory, with a slash at its end."""
        return self.listing.path

    @property
    def device(self):
        return self.files[0].is_.device

    @property
    def newest_ns(self):
        """The latest ctime among them, in ns."""
        cdef const Listed* newest = &self.files[0].is_
        cdef Py_ssize_t i
        for i in range(self.count):
            if (self.files[i].is_.ctime, self.files[i].is_.ctime_rest) > (newest.ctime, newest.ctime_rest):
                newest = &self.files[i].is_
        return whole_ns(newest.ctime, newest.ctime_rest)

    def leaf(self, Py_ssize_t i):
        """Returns the name of a file in its directory."""
        return <bytes>self.one(i).is_.name

    def node(self, Py_ssize_t i):
        """Returns (path, archived name, lstat) of a file."""
        cdef const Listed* one = &self.one(i).is_
        cdef str leaf = PyUnicode_DecodeFSDefault(one.name)
        return os.fsdecode(self.listing.path) + leaf, self.above + leaf, stat_of(one)

    # -- what a cache knows

    def match(self, Py_ssize_t begin, dict rows not None, bytes until, bytes directory not None, set trusted not None,
              long long stale, bytes key not None, bytes cut not None, list seen not None):
        """Notes which files, from `begin` on, are as their rows say: see _engine.pyi."""
        cdef Py_ssize_t i
        cdef RunFile* file
        cdef bytes raw
        cdef tuple row
        if len(key) != KEY:
            raise ValueError("a key has 32 bytes")
        for i in range(begin, self.count):
            file = self.one(i)
            raw = directory + file.is_.name[: file.is_.length]
            if until is not None and raw > until:
                return i
            row = rows.get(raw)
            if row is None:
                continue
            file.state = DOUBTFUL
            if row[4] in trusted and are_ordinary(&file.is_) and matches(file, raw, row, key, cut):
                file.state = UNCHANGED
                if type(row[5]) is not int or row[5] <= stale:
                    seen.append(raw)
        return self.count

    def known(self):
        """Returns (number, name of the blob, its bytes in a store) of each file that is known to be unchanged."""
        return [(i, name_of(self.files[i].digest), self.files[i].stored) for i in range(self.count)
                if self.files[i].state == UNCHANGED]

    def doubt(self, Py_ssize_t i):
        """Makes a file doubtful: a store does not hold its blob."""
        self.one(i).state = DOUBTFUL

    def ordinary_until(self, Py_ssize_t begin):
        """Returns where the files that are not doubtful, from `begin` on, end."""
        cdef Py_ssize_t i = max(begin, 0)
        while i < self.count and self.files[i].state != DOUBTFUL:
            i += 1
        return i

    # -- what the engine reads

    def next_fresh(self, Py_ssize_t begin):
        """Returns the first file from `begin` on of which nothing is known; their number if there is none."""
        cdef Py_ssize_t i = max(begin, 0)
        while i < self.count and self.files[i].state != FRESH_FILE:
            i += 1
        return i

    def take(self, Py_ssize_t i, event not None):
        """Notes how the engine has read a file, and returns True; False if that is more than a run can keep."""
        if not isinstance(event, Sealed):
            raise TypeError("not a Sealer's event")
        cdef tuple sealed = <tuple>event
        cdef RunFile* file = self.one(i)
        cdef Listed* one = &file.is_
        cdef list names = sealed[1], plain_names = sealed[4]
        cdef bytes plain_name
        cdef long long atime_ns = sealed[9], mtime_ns = sealed[10], ctime_ns = sealed[11]
        if not sealed[5] or sealed[6] or sealed[7] or sealed[13] or len(names) != 1 or file.state != FRESH_FILE:
            return False
        if atime_ns < 0 or mtime_ns < 0 or ctime_ns < 0 or max(atime_ns, mtime_ns, ctime_ns) == MAX_NS:
            return False
        if sealed[12] != one.inode and ctime_ns != one.ctime * 1_000_000_000 + one.ctime_rest:
            return False    # another file has its name now: what was listed is not of that
        read_name(names[0], file.digest)
        file.stored = sealed[2][0]
        one.size, one.inode, one.blocks = sealed[8], sealed[12], MAX_NS // 512     # it has no holes
        one.atime, one.atime_rest = atime_ns // 1_000_000_000, <int>(atime_ns % 1_000_000_000)
        one.mtime, one.mtime_rest = mtime_ns // 1_000_000_000, <int>(mtime_ns % 1_000_000_000)
        one.ctime, one.ctime_rest = ctime_ns // 1_000_000_000, <int>(ctime_ns % 1_000_000_000)
        if plain_names:
            plain_name = plain_names[0]
            file.plain_named = len(plain_name) == KEY
            if file.plain_named:
                memcpy(file.plain_name, PyBytes_AS_STRING(plain_name), KEY)
        file.state = READ
        return True

    # -- what becomes of them

    def outcomes(self, Py_ssize_t begin, Py_ssize_t end):
        """Returns how many files were read and how many are unchanged, and the bytes of each kind: see _engine.pyi."""
        cdef Py_ssize_t i
        cdef long long[2] sizes = [0, 0], counts = [0, 0]
        for i in range(max(begin, 0), min(end, self.count)):
            counts[self.files[i].state == UNCHANGED] += 1
            sizes[self.files[i].state == UNCHANGED] += self.files[i].is_.size
        return counts[0], sizes[0], counts[1], sizes[1]

    def is_unchanged(self, Py_ssize_t i):
        return self.one(i).state == UNCHANGED

    def blobs(self, Py_ssize_t begin, Py_ssize_t end):
        """Returns the names of the blobs of some files, and the bytes of each in a store."""
        cdef Py_ssize_t i, first = max(begin, 0), last = min(end, self.count)
        return [name_of(self.files[i].digest) for i in range(first, last)], [self.files[i].stored for i in range(first, last)]

    def plain_names(self, Py_ssize_t i):
        """Returns the name of its uncompressed content in a list, which is empty if it has none."""
        cdef RunFile* file = self.one(i)
        return [file.plain_name[:KEY]] if file.plain_named else []

    def entries(self, Py_ssize_t begin, Py_ssize_t end, bytes above not None, dict owners not None, owner, encoded):
        """Returns the entries of some files for the manifest: see _engine.pyi."""
        cdef Text text
        cdef Py_ssize_t i
        memset(&text, 0, sizeof(Text))
        try:
            for i in range(max(begin, 0), min(end, self.count)):
                self._entry(&text, self.one(i), above, owners, owner, encoded)
            return PyBytes_FromStringAndSize(text.at, max(text.size, <size_t>1) - 1)     # without the last comma
        finally:
            free(text.at)

    cdef int _entry(self, Text* text, const RunFile* file, bytes above, dict owners, owner, encoded) except -1:
        cdef const Listed* one = &file.is_
        cdef char[NAME + 1] blob
        cdef bytes other
        cdef object key = (one.uid, one.gid)
        if file.state < UNCHANGED:
            raise ValueError("the blob of a file is not known")
        if is_simple(one.name, one.length):
            text_add(text, above, len(above))
            text_add(text, one.name, one.length)
            text_add(text, b'"', 1)
        else:
            other = encoded(self.above + PyUnicode_DecodeFSDefault(one.name))
            text_add(text, other, len(other))
        write_name(file.digest, blob)
        text_add(text, b':{"blobs":["', 12)
        text_add(text, blob, NAME)
        text_seconds(text, b'"],"atime":', one.atime, one.atime_rest)
        text_seconds(text, b',"mtime":', one.mtime, one.mtime_rest)
        text_number(text, b',"size":', one.size)
        text_number(text, b',"mode":', one.mode & 0o7777)
        text_number(text, b',"uid":', one.uid)
        text_number(text, b',"gid":', one.gid)
        text_number(text, b',"mtime_ns":', one.mtime * 1_000_000_000 + one.mtime_rest)
        text_number(text, b',"atime_ns":', one.atime * 1_000_000_000 + one.atime_rest)
        if key not in owners:
            owners[key] = owner(one.uid, one.gid)
        other = owners[key]
        text_add(text, other, len(other))
        if one.blocks * 512 < one.size:
            text_add(text, b',"sparse":true', 14)
        text_number(text, b',"stored":[', file.stored)
        return text_add(text, b"]},", 3)

    def rows(self, Py_ssize_t begin, Py_ssize_t end, bytes directory not None, long long run, bytes key not None,
             bytes cut not None, long long until_ns, bint by_content):
        """Returns rows of the cache for those of some files that were read, and which of these are too new: see
        _engine.pyi."""
        cdef Py_ssize_t i
        cdef RunFile* file
        cdef list rows = [], late = []
        cdef bytes raw
        if len(key) != KEY:
            raise ValueError("a key has 32 bytes")
        for i in range(max(begin, 0), min(end, self.count)):
            file = &self.files[i]
            if file.state != READ:
                continue
            if file.is_.ctime_rest == 0 or is_racy(&file.is_, until_ns):
                late.append(i)
                continue
            raw = directory + file.is_.name[: file.is_.length]
            rows.append(row_of(file, raw, run, key, cut, by_content))
        return rows, late


cdef bint is_racy(const Listed* one, long long until_ns) noexcept nogil:
    """The rule of backup/cache_rows.py, for times with fractions of a second."""
    cdef long long ctime_ns = one.ctime * 1_000_000_000 + one.ctime_rest
    cdef long long mtime_ns = one.mtime * 1_000_000_000 + one.mtime_rest
    return until_ns - ctime_ns < TICK_NS or 0 <= until_ns - mtime_ns < TICK_NS


cdef bint matches(RunFile* file, bytes raw, tuple row, bytes key, bytes cut) except -1:
    """Compares a file with its row, whose columns are as in the table, if that is complete and has one blob. Takes the
    blob from it if they match."""
    cdef object digests = row[1], sizes = row[2], proof = row[6]
    cdef u8[PROOF] right
    if type(digests) is not bytes or len(digests) != KEY or type(sizes) is not bytes or type(proof) is not bytes:
        return False
    if len(sizes) not in (LENGTH, 2 * LENGTH) or len(proof) != PROOF or row[3] != 1 or type(row[4]) is not int:
        return False
    prove(right, &file.is_, raw, digests, sizes, row[4], key, cut)
    if sodium.verify_16(right, <const u8*>PyBytes_AS_STRING(proof)):
        return False
    memcpy(file.digest, PyBytes_AS_STRING(digests), KEY)
    file.stored = <long long>read_le(<const u8*>PyBytes_AS_STRING(sizes), LENGTH)
    return True


cdef tuple row_of(const RunFile* file, bytes raw, long long run, bytes key, bytes cut, bint by_content):
    """Returns the columns of the table. `by_content`: with the uncompressed size, and the plain name if there is one."""
    cdef bytes digests = file.digest[:KEY], sizes, plain = b"", named
    cdef u8[2 * LENGTH] both
    cdef u8[PROOF] proof
    cdef char[128] head
    write_le(both, file.stored, LENGTH)
    write_le(both + LENGTH, file.is_.size, LENGTH)
    sizes = both[: 2 * LENGTH if by_content else LENGTH]
    if by_content and file.plain_named:
        named = file.plain_name[:KEY]
        keyed_hash(proof, head, snprintf(head, 128, b"plain %lld %d %zd %d\n", run, KEY, <Py_ssize_t>len(sizes), KEY),
                   (digests, sizes, named), key)
        plain = proof[:PROOF] + named
    prove(proof, &file.is_, raw, digests, sizes, run, key, cut)
    return raw, digests, sizes, 1, run, run, <bytes>proof[:PROOF], plain


cdef int prove(u8* proof, const Listed* one, bytes raw, bytes digests, bytes sizes, long long run, bytes key,
               bytes cut) except -1:
    """The keyed hash of a complete row, and of the file that it is valid for: backup/cache.py has the rule."""
    cdef char[256] head
    cdef int n = snprintf(head, 256, b"%lld %lld %lld %llu 1 %lld %zd %zd %zd ", one.size,
                          one.mtime * 1_000_000_000 + one.mtime_rest, one.ctime * 1_000_000_000 + one.ctime_rest,
                          one.inode, run, <Py_ssize_t>len(raw), <Py_ssize_t>len(digests), <Py_ssize_t>len(sizes))
    return keyed_hash(proof, head, n, (cut, b"\n", raw, digests, sizes), key)


cdef int keyed_hash(u8* out, const char* head, int n, tuple pieces, bytes key) except -1:
    """BLAKE2b with a key, as hashlib computes it, of everything together."""
    cdef Text text
    cdef bytes piece
    memset(&text, 0, sizeof(Text))
    try:
        text_add(&text, head, n)
        for piece in pieces:
            text_add(&text, piece, len(piece))
        if sodium.generichash(out, PROOF, <u8*>text.at, text.size, key, KEY):
            library_failed(b"BLAKE2b")
    finally:
        free(text.at)
    return 0


cdef class BlobSet:
    """A set of blobs by the first 8 bytes of their digests, which are evenly distributed: see _engine.pyi."""
    cdef u64* slots                 # 0: free
    cdef size_t room, count

    def __dealloc__(self):
        free(self.slots)

    def add(self, list names not None, list sizes not None):
        """Adds blobs, and returns the sum of the sizes of those that are new."""
        cdef u8[KEY] digest
        cdef Py_ssize_t i
        cdef long long new = 0
        if len(names) != len(sizes):
            raise ValueError("each blob has a size")
        for i in range(len(names)):
            if 4 * (self.count + 1) > 3 * self.room:
                self._grow()
            read_name(names[i], digest)
            if set_add(self.slots, self.room, read_le(digest, 8) | 1):
                self.count += 1
                new += sizes[i]
        return new

    cdef int _grow(self) except -1:
        cdef size_t i, room = max(2 * self.room, <size_t>64)
        cdef u64* slots = <u64*>calloc(room, sizeof(u64))
        if slots == NULL:
            raise MemoryError
        for i in range(self.room):
            if self.slots[i]:
                set_add(slots, room, self.slots[i])
        free(self.slots)
        self.slots, self.room = slots, room
        return 0


cdef bint set_add(u64* slots, size_t room, u64 value) noexcept nogil:
    """Returns True if the value is new."""
    cdef size_t i = (value >> 1) & (room - 1)
    while slots[i] and slots[i] != value:
        i = (i + 1) & (room - 1)
    if slots[i]:
        return False
    slots[i] = value
    return True

# Blobs under names in a directory, and in its packs. A blob appears under its name only when it is complete.

cdef enum:
    LARGE = 1 << 20             # bytes of a blob from which on the disk gets it at once; below, the sync does it


cdef struct Directory:          # of blobs: data/ab/NAME with `fan_out`, else NAME
    int fd
    bint fan_out
    const char* prefix          # begins the names of unfinished files
    u8* checked                 # a byte for each folder data/ab: 1 once it was seen to be no link
    long long loose_after       # ns since 1970: what was written after the one and before the other may have lost its
    long long loose_before      # bytes in a power cut, though its size is right
    const u8* doubted           # digests, sorted: what lies under these names counts as absent
    size_t doubts
    Index* packs                # where a reader looks first; NULL: there are none

cdef struct Extent:             # where the bytes of a blob are
    int fd
    long long start
    long long size

cdef struct Holder:             # what a blob was opened in
    bint in_pack
    u8[KEY] pack                # its raw name
    unsigned offset             # of the blob


cdef class BlobDirectory:
    """A directory of blobs for Sealer and Opener: see _engine.pyi."""
    cdef Directory at
    cdef u8[4096] checked
    cdef bytes temporary
    cdef bytes digests
    cdef PackIndex index
    cdef object refresh         # lists the packs again; None if there are none
    cdef readonly object path

    def __init__(self, int fd, bint fan_out, bytes temporary=b".pogfast-", path="."):
        if len(temporary) > 200:
            raise ValueError("the temporary name is too long")
        self.temporary = temporary
        self.path = path
        self.at.fd = fd
        self.at.fan_out = fan_out
        self.at.prefix = self.temporary
        self.at.checked = self.checked
        self.at.doubts = 0

    def doubt(self, names):
        """Makes these names count as absent: each later run stores what it needs of them anew. Not to be called during one."""
        self.digests = sorted_digests(names)
        self.at.doubted, self.at.doubts = self.digests, len(self.digests) // KEY

    def distrust(self, long long after, long long before):
        """Has blobs that were written between two times (ns since 1970) stored anew unless the key can tell that they
        are good."""
        self.at.loose_after, self.at.loose_before = after, before

    def read_packs(self, PackIndex index, refresh=None):
        """Has readers look for a blob in the packs of this directory first, as an index says: see _engine.pyi."""
        self.index, self.refresh = index, refresh
        self.at.packs = &index.at if index is not None else NULL

    def put(self, str name, const u8[::1] blob):
        """Stores one blob, complete or not at all, in place of any file that has its name."""
        cdef u8[KEY] digest
        cdef Errno error
        cdef const u8* p = &blob[0] if blob.shape[0] else NULL
        cdef size_t n = blob.shape[0]
        read_name(name, digest)
        with nogil:
            error = directory_put(&self.at, digest, p, n)
        if error:
            raise OSError(error, os.strerror(error), self.path)

    def sizes_of(self, names):
        """Returns the bytes of each blob; None for one that is missing, in doubt or suspect. Raises OSError."""
        cdef list wanted = list(names)
        cdef Py_ssize_t i, count = len(wanted)
        cdef Errno error = 0
        cdef u8* digests = <u8*>malloc(count * KEY + 1)
        cdef long long* sizes = <long long*>malloc((count + 1) * sizeof(long long))
        try:
            if digests == NULL or sizes == NULL:
                raise MemoryError
            for i in range(count):
                read_name(wanted[i], digests + i * KEY)
            with nogil:
                for i in range(count):
                    error = directory_size(&self.at, digests + i * KEY, &sizes[i])
                    if error:
                        break
            if error:
                raise OSError(error, os.strerror(error), self.path)
            return [sizes[i] if sizes[i] >= 0 else None for i in range(count)]
        finally:
            free(digests)
            free(sizes)


cdef Errno directory_size(const Directory* at, const u8* digest, long long* size) noexcept nogil:
    """Finds the `size` of a blob by itself; -1 if there is none, or one that is in doubt or suspect."""
    cdef char[PATH_ROOM] path
    cdef Facts facts
    cdef Errno error
    size[0] = -1
    if is_among(at.doubted, at.doubts, digest):
        return 0
    blob_path(at, digest, path)
    error = folder_check(at, digest, path, False)
    if error == 0 and facts_at(at.fd, path, &facts):
        error = errno
    if error == 0 and facts.regular and not at.loose_after < facts.mtime_ns < at.loose_before:
        size[0] = facts.size
    return 0 if error == ENOENT else error


cdef bytes sorted_digests(names):
    cdef u8[KEY] digest
    cdef set digests = set()
    for name in names:
        read_name(name, digest)
        digests.add((<u8*>digest)[:KEY])
    return b"".join(sorted(digests))


cdef bint is_among(const u8* digests, size_t count, const u8* digest) noexcept nogil:
    """Returns True if a digest is one of some that are sorted."""
    cdef size_t low = 0, high = count, middle
    cdef int order
    while low < high:
        middle = (low + high) // 2
        order = memcmp(digest, digests + middle * KEY, KEY)
        if order == 0:
            return True
        if order < 0:
            high = middle
        else:
            low = middle + 1
    return False


cdef void blob_path(const Directory* at, const u8* digest, char* path) noexcept nogil:
    cdef char[NAME + 1] name
    write_name(digest, name)
    if at.fan_out:
        snprintf(path, PATH_ROOM, b"data/%.2s/%s", <char*>name, <char*>name)
    else:
        snprintf(path, PATH_ROOM, b"%s", <char*>name)


cdef Errno make_folders(const Directory* at, const char* path) noexcept nogil:
    """Makes data/ and data/ab/ of data/ab/NAME."""
    cdef char[8] folder
    memcpy(folder, path, 7)
    folder[4] = folder[7] = 0
    if mkdirat(at.fd, folder, 0o777) and errno != EEXIST:
        return errno
    folder[4] = b"/"
    if mkdirat(at.fd, folder, 0o777) and errno != EEXIST:
        return errno
    return 0


cdef Errno directory_put(const Directory* at, const u8* digest, const u8* p, size_t n) noexcept nogil:
    """Stores a blob under its name, in place of any file that has it. If that fails, nothing has appeared."""
    cdef Draft draft
    cdef Errno error
    # No two workers write from one buffer at a time, so its address makes the temporary name unique in this process.
    error = draft_begin(&draft, at.fd, at.prefix, <size_t>p, b"tmp", 0o666)
    if error:
        return error
    if n < LARGE:
        error = write_full(draft.fd, p, n)
    else:
        draft.direct = set_direct(draft.fd, True) == 0
        error = draft_fill(&draft, p, n, PAGE)
    if error == 0:
        error = blob_publish(at, digest, &draft)
    draft_end(&draft, error == 0)
    return error


cdef Errno blob_publish(const Directory* at, const u8* digest, Draft* draft) noexcept nogil:
    """Gives a draft that is a complete blob its name."""
    cdef char[PATH_ROOM] path
    cdef Errno error
    blob_path(at, digest, path)
    error = folder_check(at, digest, path, True)
    if error == 0:
        error = draft_outlast(draft, at.fd, path)
    if error == ENOENT and at.fan_out:      # the folder was there a while ago
        error = make_folders(at, path)
        if error == 0:
            error = draft_outlast(draft, at.fd, path)
    return error


cdef Errno folder_check(const Directory* at, const u8* digest, const char* path, bint make) noexcept nogil:
    """Checks once that no part of data/ab/ of data/ab/NAME is a symbolic link; with `make` it is made if need be."""
    cdef u8* checked
    cdef char[8] folder
    cdef Facts facts
    cdef int fd
    cdef Errno error = 0
    if not at.fan_out:
        return 0
    checked = &at.checked[digest[0] << 4 | digest[1] >> 4]     # two letters are twelve bits
    if load_byte(checked):
        return 0
    memcpy(folder, path, 7)
    folder[7] = 0
    fd = open_below(at.fd, folder)
    if fd < 0 and errno == ENOENT and make:
        error = make_folders(at, path)
        fd = open_below(at.fd, folder) if error == 0 else -1
    if error == 0 and fd < 0:
        error = errno
    if error == 0 and (facts_of(fd, &facts) or not facts.directory):
        error = ENOTDIR
    if fd >= 0:
        c_close(fd)
    if error == 0:
        store_byte(checked, 1)
    return error


cdef int directory_get(const Directory* at, const u8* digest, long long* size) noexcept nogil:
    """Opens a blob that lies by itself. Returns a descriptor and its `size`; -1 and errno if there is none."""
    cdef char[PATH_ROOM] path
    blob_path(at, digest, path)
    return regular_open(at.fd, path, size)


cdef int regular_open(int directory, const char* path, long long* size) noexcept nogil:
    """Opens a regular file, of which no part is a symbolic link. Returns a descriptor and its `size`; -1 and errno."""
    cdef Facts facts
    cdef int fd = open_below(directory, path)
    if fd < 0:
        return -1
    memset(&facts, 0, sizeof(Facts))
    if facts_of(fd, &facts) or not facts.regular:
        c_close(fd)
        errno_set(EISDIR if facts.directory else EIO)
        return -1
    size[0] = facts.size
    return fd


cdef bint blob_open(const Directory* at, const u8* digest, Extent* extent, Holder* holder) noexcept nogil:
    """Opens a blob for reading, in any pack that can be opened or by itself, and says which it was. Returns False and
    sets errno if there is none: ENOENT only if nothing else is wrong with any of them."""
    cdef Errno error = ENOENT
    holder.in_pack = at.packs != NULL and packed_open(at, digest, extent, holder, &error)
    if holder.in_pack or plain_open(at, digest, extent):
        return True
    if errno == ENOENT:
        errno_set(error)
    return False


cdef bint packed_open(const Directory* at, const u8* digest, Extent* extent, Holder* holder,
                      Errno* error) noexcept nogil:
    """Opens a blob in the first pack that can be opened, of state PACK_THERE if possible. If none can, `error` is the
    first errno that is not ENOENT."""
    cdef IndexSearch search
    cdef Span span
    cdef bint found = False, others = False
    index_begin(at.packs, &search, digest)
    while not found and index_next(&search, &span):
        if span.state == PACK_THERE:
            found = holder_open(at, &span, extent, holder, error)
        else:
            others = True
    index_leave(at.packs)
    if found or not others:
        return found
    index_begin(at.packs, &search, digest)
    while not found and index_next(&search, &span):
        found = span.state != PACK_THERE and holder_open(at, &span, extent, holder, error)
    index_leave(at.packs)
    return found


cdef bint holder_open(const Directory* at, const Span* span, Extent* extent, Holder* holder,
                      Errno* error) noexcept nogil:
    if pack_open(at, span, extent):
        memcpy(holder.pack, span.pack_row, KEY)
        holder.offset = span.offset
        return True
    if error[0] == ENOENT:
        error[0] = errno
    return False


cdef bint is_held(const Holder* holder, const Span* span) noexcept nogil:
    """Returns True if this is the place where the blob was opened."""
    return holder.in_pack and holder.offset == span.offset and memcmp(holder.pack, span.pack_row, KEY) == 0


cdef bint plain_open(const Directory* at, const u8* digest, Extent* extent) noexcept nogil:
    """Opens a blob by itself. Returns False and sets errno if there is none."""
    extent.start = extent.size = 0
    extent.fd = directory_get(at, digest, &extent.size)
    return extent.fd >= 0


cdef bint pack_open(const Directory* at, const Span* span, Extent* extent) noexcept nogil:
    """Opens a pack at a blob. Returns False and sets errno if the pack is not there, or is too short for what the index
    says: then the blob is not (ENOENT)."""
    cdef char[PATH_ROOM] path
    cdef char[NAME + 1] name
    cdef unsigned day = <unsigned>read_le(span.pack_row + KEY + 8, 4)
    cdef long long size = 0
    write_name(span.pack_row, name)
    snprintf(path, PATH_ROOM, b"packs/%04u-%02u-%02u/%s", day // 10000, day // 100 % 100, day % 100, <char*>name)
    extent.fd = regular_open(at.fd, path, &size)
    if extent.fd >= 0 and <long long>span.offset + span.size > size:
        c_close(extent.fd)
        extent.fd = -1
        errno_set(ENOENT)
    extent.start, extent.size = span.offset, span.size
    return extent.fd >= 0


cdef size_t directory_has(const Directory* at, const u8* digest, const size_t* sizes, const Keys* keys,
                          u8* scratch) noexcept nogil:
    """Returns the bytes of the good blob of this name: it has one of three sizes and, if the key can open it, is authentic.
    0 if there is none, or one that is in doubt.

    `scratch` has PIECE bytes. With a public key alone only the size can be checked, and the time: after a power cut the
    size says nothing.
    """
    cdef Facts facts
    cdef long long there
    cdef Verdict verdict
    cdef Errno code
    cdef Extent extent
    cdef int fd = -1 if is_among(at.doubted, at.doubts, digest) else directory_get(at, digest, &there)
    if fd < 0:
        return 0
    extent.fd, extent.start, extent.size = fd, 0, there
    verdict = GOOD if <size_t>there in (sizes[0], sizes[1], sizes[2]) else BAD_BODY
    if verdict == GOOD and keys.can_open:
        verdict = authenticate(&extent, keys, scratch, &NEVER, &code)
    elif verdict == GOOD and (facts_of(fd, &facts) or at.loose_after < facts.mtime_ns < at.loose_before):
        verdict = BAD_BODY
    c_close(fd)
    return <size_t>there if verdict == GOOD else 0


cdef object directory_holds(const Directory* at, const u8* digest):
    """Returns the bytes of the file of this name, whatever is in it; None if there is none, or one that is in doubt."""
    cdef long long there
    cdef int fd = -1 if is_among(at.doubted, at.doubts, digest) else directory_get(at, digest, &there)
    if fd < 0:
        return None
    c_close(fd)
    return there


cdef Verdict authenticate(const Extent* extent, const Keys* keys, u8* scratch, const int* stop,
                          Errno* code) noexcept nogil:
    """Reads a blob from its beginning to its end without keeping it. With BAD_READ `code` is the errno. `scratch` has
    PIECE bytes."""
    cdef size_t got = 0, done, size = extent.size
    cdef OpenState state
    cdef Verdict verdict = GOOD
    memset(&state, 0, sizeof(OpenState))
    done = min(size, keys.header + BOX)
    code[0] = pread_full(extent.fd, scratch, done, extent.start, &got)
    if code[0]:
        return BAD_READ
    verdict = open_begin(&state, keys, scratch) if got == keys.header + BOX else BAD_BODY
    while verdict == GOOD and got:
        code[0] = pread_full(extent.fd, scratch, min(size - done, <size_t>PIECE), extent.start + done, &got)
        poly_add(&state.poly, scratch, got)
        done += got
        if code[0]:
            verdict = BAD_READ
        elif load_int(stop):
            verdict = BROKEN_OFF
    if verdict == GOOD:
        verdict = open_end(&state)
    open_forget(&state)
    return verdict

# Which blob lies where in packs. An index object is a sorted table that is searched where it lies, so memory does not grow
# with the store: in memory if it is small, else in a file.
#
#     header 32 | packs 48 each | superseded 32 each | fan-out 8 each
#     | names 32 each | pack numbers 4 each | offsets 4 each | lengths 4 each
#
# A file is read, not mapped: a fault can map 2 MiB for the 32 bytes of a name, and all of that counts as memory of the
# process. Of each name a byte stays in memory, so that a blob that is not there costs a read once in twelve times.
#
# Nothing that an index object says is believed. Its parts have to fit its length; a row counts only if its pack number
# and its span are possible, which is looked at whenever the row is used; and what is read there is authenticated like
# any blob. A row that cannot be read is none.

cdef enum:
    INDEX_HEADER = 32
    INDEX_PACK = 48             # raw name || u64 size || u32 day || u32 zero
    INDEX_NUMBERS = 12          # pack number, offset and length of a row
    PACK_ROW = 44               # of a pack's table: raw name || u32 length || first 8 bytes of sha256(blob)
    PACK_FOOTER = 48            # sha256(table) || u32 count || u16 version || u16 flags || 8 B magic
    MAX_FAN_BITS = 16
    IN_BUCKET = 32              # names behind one entry of the fan-out, as long as that has not MAX_FAN_BITS
    NO_PACK = 0xFFFFFFFFu
    NAMES_AT_ONCE = 2048        # names of a file that are read for a byte of each

cdef u64 MAX_PACK = 0xFFFFFFFF

cdef enum PackState:            # the byte of a pack beside its index object
    PACK_ABSENT = 0
    PACK_THERE = 1
    PACK_OTHER = 2              # there, with another size than the index says: read from, but never relied on

Place = collections.namedtuple("Place", "part pack offset size")
Row = collections.namedtuple("Row", "name pack offset size")

cdef struct Span:               # where a blob lies
    Py_ssize_t part             # which index object
    unsigned pack               # which of its packs
    PackState state
    unsigned offset
    unsigned size
    const u8* pack_row          # INDEX_PACK bytes, until the search ends

cdef struct IndexPart:          # one index object, and a byte for each of its packs; borrowed, and never changed
    const u8* start             # all of it, or of a file what is before the names
    const u8* packs
    const u8* superseded
    const u8* fan_out
    const u8* states
    size_t names                # where these begin, from the start of the object
    size_t numbers
    size_t offsets
    size_t lengths
    u64 count                   # rows
    unsigned pack_count
    unsigned superseded_count
    int bits                    # of a name, that the fan-out counts
    int fd                      # of the file, -1: all is in memory
    const u8* hints             # of a file: hint_of each name
    int* failed                 # of a file: 1 once it could not be read; set without a lock

cdef struct IndexParts:
    Py_ssize_t count
    IndexPart* parts
    IndexParts* older           # those that were replaced while a search might be in them

cdef struct Index:              # of a PackIndex: what is needed for a search without the GIL
    IndexParts* current         # replaced with the GIL, read without it
    Py_ssize_t version          # counts the replacements, after each
    Py_ssize_t searches         # between index_enter and index_leave

cdef struct IndexSearch:        # for one name, how far it has come
    const IndexParts* parts
    const u8* digest
    Py_ssize_t part
    Py_ssize_t end              # the last part + 1
    long long row               # the next row of that part, -1: the part has not been searched
    long long last              # the last row of that part that can have the name + 1


# ---- one index object ----

cdef const char* part_divide(IndexPart* part, const u8* p, size_t n) noexcept nogil:
    """Reads from its header how an index object of `n` bytes is divided. Returns what is wrong, or NULL."""
    cdef u64 packs, superseded, count, fans
    if n < INDEX_HEADER or memcmp(p, b"pogindx1", 8):
        return b"it is no index object"
    if read_le(p + 8, 4) != 1:
        return b"it is of a version that this pogfast does not know"
    packs, count, superseded = read_le(p + 12, 4), read_le(p + 16, 8), read_le(p + 24, 4)
    if read_le(p + 28, 4) > MAX_FAN_BITS or count > n:
        return b"its header is malformed"
    part.bits = <int>read_le(p + 28, 4)
    fans = (1 << part.bits) + 1
    if n != INDEX_HEADER + INDEX_PACK * packs + KEY * superseded + 8 * fans + (KEY + INDEX_NUMBERS) * count:
        return b"its length is not what its header says"
    part.count, part.pack_count, part.superseded_count = count, <unsigned>packs, <unsigned>superseded
    part_columns(part, INDEX_HEADER + INDEX_PACK * packs + KEY * superseded + 8 * fans)
    part.fd, part.hints, part.states, part.failed = -1, NULL, NULL, NULL
    return NULL


cdef void part_columns(IndexPart* part, size_t names) noexcept nogil:
    """Notes where the columns of `count` rows begin, the first one at `names`."""
    part.names = names
    part.numbers = part.names + KEY * part.count
    part.offsets = part.numbers + 4 * part.count
    part.lengths = part.offsets + 4 * part.count


cdef const char* part_begin(IndexPart* part, const u8* p) noexcept nogil:
    """Reads what is before the names, at `p`. Returns what is wrong, or NULL."""
    cdef u64 i, fans = (1 << part.bits) + 1
    part.start = p
    part.packs = p + INDEX_HEADER
    part.superseded = part.packs + INDEX_PACK * <size_t>part.pack_count
    part.fan_out = part.superseded + KEY * <size_t>part.superseded_count
    for i in range(fans - 1):
        if read_le(part.fan_out + 8 * i, 8) > read_le(part.fan_out + 8 * i + 8, 8):
            return b"its fan-out is not sorted"
    if read_le(part.fan_out, 8) or read_le(part.fan_out + 8 * (fans - 1), 8) != part.count:
        return b"its fan-out does not go from 0 to its count"
    return NULL


cdef const char* part_read(IndexPart* part, const u8* p, size_t n) noexcept nogil:
    """Reads how an index object in memory is divided. Returns what is wrong, or NULL; takes constant time but for the
    fan-out."""
    cdef const char* wrong = part_divide(part, p, n)
    return wrong if wrong != NULL else part_begin(part, p)


cdef inline const u8* name_at(const IndexPart* part, u64 row) noexcept nogil:
    """Returns a name of an index object in memory."""
    return part.start + part.names + KEY * row


cdef inline const u8* part_bytes(const IndexPart* part, size_t at, size_t n, u8* room) noexcept nogil:
    """Returns `n` bytes of the rows, where they lie or in `room`; NULL if they cannot be read, which is noted: what a
    search does not find may be there nevertheless."""
    cdef size_t got = 0
    if part.fd < 0:
        return part.start + at
    if pread_full(part.fd, room, n, <off_t>at, &got) == 0 and got == n:
        return room
    store_int(part.failed, 1)
    return NULL


cdef inline u64 bucket_of(const u8* digest, int bits) noexcept nogil:
    return (<unsigned>digest[0] << 8 | digest[1]) >> (MAX_FAN_BITS - bits)


cdef inline u8 hint_of(const u8* digest, int bits) noexcept nogil:
    """Returns the eight bits of a name after those that the fan-out counts."""
    return (<unsigned>digest[0] << 16 | <unsigned>digest[1] << 8 | digest[2]) >> (MAX_FAN_BITS - bits)


cdef u64 hint_search(const u8* hints, u64 low, u64 high, unsigned hint) noexcept nogil:
    """Returns the first of these rows whose hint is not below `hint`, else `high`."""
    cdef u64 middle
    while low < high:
        middle = low + (high - low) // 2
        if hints[middle] < hint:
            low = middle + 1
        else:
            high = middle
    return low


cdef int name_order(const IndexPart* part, u64 row, const u8* digest) noexcept nogil:
    """Compares the name of a row with `digest`; one that cannot be read comes after all others."""
    cdef u8[KEY] room
    cdef const u8* name = part_bytes(part, part.names + KEY * row, KEY, room)
    return memcmp(name, digest, KEY) if name != NULL else 1


cdef bint part_search(const IndexPart* part, IndexSearch* search) noexcept nogil:
    """Finds the first row whose name is not below that which is searched, as far as the rows are sorted. Returns True
    if it is that name."""
    cdef u64 bucket = bucket_of(search.digest, part.bits)
    cdef u64 low = min(read_le(part.fan_out + 8 * bucket, 8), part.count)
    cdef u64 high = min(read_le(part.fan_out + 8 * bucket + 8, 8), part.count)
    cdef u64 middle
    cdef int order
    cdef bint same = False
    if part.hints != NULL:
        low = hint_search(part.hints, low, high, hint_of(search.digest, part.bits))
        high = hint_search(part.hints, low, high, <unsigned>hint_of(search.digest, part.bits) + 1)
    search.last = high
    while low < high:
        middle = low + (high - low) // 2
        order = name_order(part, middle, search.digest)
        if order < 0:
            low = middle + 1
        else:
            high = middle
            same = order == 0
    search.row = low
    return same


cdef bint part_number(const IndexPart* part, size_t column, u64 row, unsigned* number) noexcept nogil:
    cdef u8[4] room
    cdef const u8* p = part_bytes(part, column + 4 * row, 4, room)
    if p != NULL:
        number[0] = <unsigned>read_le(p, 4)
    return p != NULL


cdef bint part_span(const IndexPart* part, u64 row, Span* span) noexcept nogil:
    """Reads where the blob of a row lies. Returns False if that cannot be, or cannot be read."""
    cdef u64 size
    if not part_number(part, part.numbers, row, &span.pack) or span.pack >= part.pack_count:
        return False
    if not (part_number(part, part.offsets, row, &span.offset) and part_number(part, part.lengths, row, &span.size)):
        return False
    span.pack_row = part.packs + INDEX_PACK * <size_t>span.pack
    size = read_le(span.pack_row + KEY, 8)
    return 0 < span.size and size <= MAX_PACK and <u64>span.offset + span.size + PACK_ROW + PACK_FOOTER <= size


# ---- a search in all of them ----

cdef Py_ssize_t index_version(Index* index) noexcept nogil:
    """Returns which list of index objects a search finds, or an earlier one: if the number is still the same after a
    search, and with the GIL, nothing has been replaced."""
    return load_count_in_order(&index.version) if index != NULL else 0


cdef const IndexParts* index_enter(Index* index) noexcept nogil:
    """Returns what is to be searched, which stays until index_leave. It counts the search before it looks: whoever
    replaces that and then counts none knows that each later search looks at the new."""
    add_in_order(&index.searches, 1)
    return <const IndexParts*>load_pointer_in_order(<void**>&index.current)


cdef void index_leave(Index* index) noexcept nogil:
    add_in_order(&index.searches, -1)


cdef void index_begin(Index* index, IndexSearch* search, const u8* digest) noexcept nogil:
    """Begins a search, which ends with index_leave. Any thread may search, while `index` is replaced as well."""
    search.parts = index_enter(index)
    search.digest = digest
    search.part, search.row = 0, -1
    search.end = search.parts.count if search.parts != NULL else 0


cdef bint index_next(IndexSearch* search, Span* span) noexcept nogil:
    """Finds the next place where the blob lies, in a pack that is there. Returns False if there is no other."""
    cdef const IndexPart* part
    cdef long long row
    cdef bint same
    while search.part < search.end:
        part = &search.parts.parts[search.part]
        same = part_search(part, search) if search.row < 0 else has_name(part, search)
        while same:
            row = search.row
            search.row += 1
            if part_span(part, row, span) and part.states[span.pack] in (PACK_THERE, PACK_OTHER):
                span.part, span.state = search.part, <PackState>part.states[span.pack]
                return True
            same = has_name(part, search)
        search.part, search.row = search.part + 1, -1
    return False


cdef bint has_name(const IndexPart* part, const IndexSearch* search) noexcept nogil:
    """Returns True if the next row has the name that is searched."""
    return search.row < search.last and name_order(part, search.row, search.digest) == 0


cdef bint search_best(IndexSearch* search, Span* span) noexcept nogil:
    """Finds a place where the blob lies, in a pack of state PACK_THERE if possible. Returns False if there is none."""
    cdef Span next
    cdef bint found = False
    while index_next(search, &next):
        if not found or next.state == PACK_THERE:
            span[0] = next
            found = True
        if next.state == PACK_THERE:
            break
    return found


cdef bint index_find(Index* index, const u8* digest, Span* span) noexcept nogil:
    """Finds a place as search_best does. `pack_row` is not to be used."""
    cdef IndexSearch search
    cdef bint found
    index_begin(index, &search, digest)
    found = search_best(&search, span)
    index_leave(index)
    return found


cdef struct NameSought:         # one of many
    u8[KEY] digest
    Py_ssize_t number
    Span span                   # `state` is PACK_ABSENT until one is found


cdef int compare_sought(const void* a, const void* b) noexcept nogil:
    return memcmp((<const NameSought*>a).digest, (<const NameSought*>b).digest, KEY)


cdef int compare_numbers(const void* a, const void* b) noexcept nogil:
    cdef Py_ssize_t one = (<const NameSought*>a).number, other = (<const NameSought*>b).number
    return -1 if one < other else one > other


cdef void index_find_many(Index* index, NameSought* names, Py_ssize_t count) noexcept nogil:
    """Looks for names in one part after the other, from its beginning to its end."""
    cdef const IndexParts* parts = index_enter(index)
    cdef IndexSearch search
    cdef Span span
    cdef Py_ssize_t part, i
    qsort(names, count, sizeof(NameSought), compare_sought)
    for part in range(parts.count if parts != NULL else 0):
        for i in range(count):
            search.parts, search.digest = parts, names[i].digest
            search.part, search.end, search.row = part, part + 1, -1
            if names[i].span.state != PACK_THERE and search_best(&search, &span) and (
                    span.state == PACK_THERE or names[i].span.state == PACK_ABSENT):
                names[i].span = span
    index_leave(index)
    qsort(names, count, sizeof(NameSought), compare_numbers)


cdef object place_of(const Span* span):
    return Place(span.part, span.pack, span.offset, span.size)


cdef class PackIndex:
    """Where blobs lie in packs: see _engine.pyi."""
    cdef Index at
    cdef list keep              # what the parts borrow

    def __cinit__(self):
        self.keep = []

    def __dealloc__(self):
        free_lists(self.at.current)

    def replace(self, parts):
        """Searches these index objects from now on."""
        cdef list kept = [(data if isinstance(data, IndexFile) else memoryview(data), memoryview(states))
                          for data, states in parts]
        cdef IndexParts* new = new_parts(kept)
        try:
            self.keep.append(kept)
        except BaseException:
            free_lists(new)
            raise
        new.older = self.at.current
        store_pointer_in_order(<void**>&self.at.current, new)
        add_in_order(&self.at.version, 1)
        if load_count_in_order(&self.at.searches) == 0:     # else the next replacement does it
            free_lists(new.older)
            new.older = NULL
            del self.keep[:len(self.keep) - 1]

    def find(self, str name):
        cdef u8[KEY] digest
        cdef Span span
        read_name(name, digest)
        return place_of(&span) if index_find(&self.at, digest, &span) else None

    def find_all(self, str name):
        cdef u8[KEY] digest
        cdef IndexSearch search
        cdef Span span
        cdef list found = []
        read_name(name, digest)
        index_begin(&self.at, &search, digest)
        try:
            while index_next(&search, &span):
                found.append(place_of(&span))
        finally:
            index_leave(&self.at)
        return found

    def find_many(self, names):
        cdef list wanted = list(names)
        cdef Py_ssize_t i, count = len(wanted)
        cdef NameSought* sought = <NameSought*>calloc(max(count, 1), sizeof(NameSought))
        if sought == NULL:
            raise MemoryError
        try:
            for i in range(count):
                read_name(wanted[i], sought[i].digest)
                sought[i].number = i
            with nogil:
                index_find_many(&self.at, sought, count)
            return [place_of(&sought[i].span) if sought[i].span.state != PACK_ABSENT else None for i in range(count)]
        finally:
            free(sought)

    def rows(self, Py_ssize_t part, long long start, long long stop):
        cdef const IndexParts* parts = index_enter(&self.at)
        try:
            if parts == NULL or not 0 <= part < parts.count:
                raise IndexError("no such index object")
            return part_rows(parts.parts[part], max(start, 0), stop)
        finally:
            index_leave(&self.at)


cdef list part_rows(IndexPart part, long long start, long long stop):
    """Returns rows [start, stop). Raises ValueError if one lies in no pack, OSError if one cannot be read."""
    cdef long long row, last = min(stop, <long long>part.count), first = start
    cdef bytearray room = part_piece(&part, &first, &last)
    cdef Span span
    cdef list found = []
    for row in range(first, last):
        if not part_span(&part, row, &span):
            raise ValueError(f"index object: its row {start - first + row} lies in no pack")
        found.append(Row(name_of(name_at(&part, row)), span.pack, span.offset, span.size))
    return found


cdef bytearray part_piece(IndexPart* part, long long* start, long long* stop):
    """Reads rows [start, stop) of a file, so that `part` is one of these rows in memory; one in memory stays. Returns
    what it borrows. Raises OSError if they cannot be read."""
    cdef u64 first = <u64>start[0]
    cdef IndexPart file = part[0]
    cdef bytearray room
    if part.fd < 0 or start[0] >= stop[0]:
        return None
    part.count = <u64>(stop[0] - start[0])
    room = PyByteArray_FromStringAndSize(NULL, (KEY + INDEX_NUMBERS) * part.count)
    part.start, part.fd = <const u8*>PyByteArray_AS_STRING(room), -1
    part_columns(part, 0)
    start[0], stop[0] = 0, <long long>part.count
    if not (part_copy(part, part.names, &file, file.names + KEY * first, KEY)
            and part_copy(part, part.numbers, &file, file.numbers + 4 * first, 4)
            and part_copy(part, part.offsets, &file, file.offsets + 4 * first, 4)
            and part_copy(part, part.lengths, &file, file.lengths + 4 * first, 4)):
        raise OSError(EIO, "index object: its file cannot be read")
    return room


cdef bint part_copy(const IndexPart* part, size_t to, const IndexPart* file, size_t at, size_t width) noexcept nogil:
    return part_bytes(file, at, width * part.count, <u8*>part.start + to) != NULL


cdef IndexParts* new_parts(list kept) except NULL:
    """Reads index objects. Raises ValueError if one is malformed."""
    cdef IndexParts* parts = <IndexParts*>calloc(1, sizeof(IndexParts))
    cdef Py_ssize_t i
    if parts != NULL:
        parts.count = len(kept)
        parts.parts = <IndexPart*>calloc(max(parts.count, 1), sizeof(IndexPart))
    try:
        if parts == NULL or parts.parts == NULL:
            raise MemoryError
        for i in range(parts.count):
            fill_part(&parts.parts[i], kept[i][0], kept[i][1])
    except BaseException:
        free_parts(parts)
        raise
    return parts


cdef void free_parts(IndexParts* parts) noexcept:
    if parts != NULL:
        free(parts.parts)
    free(parts)


cdef void free_lists(IndexParts* parts) noexcept:
    """Frees index objects, and those that they replaced."""
    cdef IndexParts* older
    while parts != NULL:
        older = parts.older
        free_parts(parts)
        parts = older


cdef int fill_part(IndexPart* part, object data, object states) except -1:
    cdef const u8[::1] bytes_, state_bytes = states
    if isinstance(data, IndexFile):
        part[0] = (<IndexFile>data).part
    else:
        bytes_ = data
        raise_wrong(part_read(part, first_byte(bytes_), bytes_.shape[0]))
    if state_bytes.shape[0] != part.pack_count:
        raise ValueError("as many states as packs")
    part.states = first_byte(state_bytes)
    return 0


cdef int raise_wrong(const char* wrong) except -1:
    if wrong != NULL:
        raise ValueError(f"index object: {wrong.decode()}")
    return 0


cdef inline const u8* first_byte(const u8[::1] data) noexcept:
    return &data[0] if data.shape[0] else NULL


# ---- one in a file ----

cdef class IndexFile:
    """An index object in a file: see _engine.pyi."""
    cdef IndexPart part
    cdef readonly bytes beginning
    cdef size_t size
    cdef int fd
    cdef int is_failed
    cdef u8* hints

    def __cinit__(self, int fd):
        cdef u8[INDEX_HEADER] header
        self.fd = -1
        self.fd = os.dup(fd)
        self.size = os.fstat(fd).st_size
        self.read_at(header, min(self.size, <size_t>INDEX_HEADER), 0)
        raise_wrong(part_divide(&self.part, header, self.size))
        self.beginning = PyBytes_FromStringAndSize(NULL, self.part.names)
        self.read_at(<u8*>PyBytes_AS_STRING(self.beginning), self.part.names, 0)
        if memcmp(PyBytes_AS_STRING(self.beginning), header, INDEX_HEADER):
            raise ValueError("index object: it has changed")
        raise_wrong(part_begin(&self.part, <const u8*>PyBytes_AS_STRING(self.beginning)))
        self.read_hints()
        self.part.fd, self.part.hints, self.part.failed = self.fd, self.hints, &self.is_failed

    def __dealloc__(self):
        free(self.hints)
        if self.fd >= 0:
            c_close(self.fd)

    def __len__(self):
        return self.size

    @property
    def failed(self):
        return load_int(&self.is_failed) != 0

    def read(self):
        cdef bytearray whole = PyByteArray_FromStringAndSize(NULL, self.size)
        self.read_at(<u8*>PyByteArray_AS_STRING(whole), self.size, 0)
        return whole

    cdef int read_at(self, u8* p, size_t n, size_t at) except -1:
        """Reads `n` bytes. Raises OSError if there are not as many."""
        cdef size_t got = 0
        cdef Errno error
        with nogil:
            error = pread_full(self.fd, p, n, <off_t>at, &got)
        if error or got != n:
            store_int(&self.is_failed, 1)
            raise OSError(error or EIO, "index object: its file cannot be read")
        return 0

    cdef int read_hints(self) except -1:
        cdef u8[NAMES_AT_ONCE * KEY] names
        cdef u64 row = 0, some, i
        self.hints = <u8*>malloc(max(self.part.count, 1u))
        if self.hints == NULL:
            raise MemoryError
        while row < self.part.count:
            some = min(self.part.count - row, <u64>NAMES_AT_ONCE)
            self.read_at(names, some * KEY, self.part.names + KEY * row)
            for i in range(some):
                self.hints[row + i] = hint_of(names + KEY * i, self.part.bits)
            row += some
        return 0


# ---- all that can be wrong with an index object ----

cdef struct Cover:              # of one pack, by the rows of the index
    u64 bytes                   # of all blobs
    u64 count
    u64 ends                    # see cover_add


cdef inline u64 mixed(u64 n, u64 salt) noexcept nogil:
    """Returns a number that looks random, another one for each `n` (the finalizer of splitmix64)."""
    n += salt
    n = (n ^ n >> 30) * 0xBF58476D1CE4E5B9u
    n = (n ^ n >> 27) * 0x94D049BB133111EBu
    return n ^ n >> 31


cdef void cover_add(Cover* cover, const Span* span, u64 salt) noexcept nogil:
    """Adds a row to what is known of its pack. Each begins where another one ends, but for the first and last: if so,
    all of `ends` cancels out but for two terms. It does not if two overlap or there is a gap, but by chance, once in
    2^64."""
    cover.bytes += span.size
    cover.count += 1
    cover.ends += mixed(span.offset, salt) - mixed(<u64>span.offset + span.size, salt)


cdef bint is_covered(const Cover* cover, const u8* pack, u64 salt) noexcept nogil:
    return (cover.count > 0 and cover.bytes + PACK_ROW * cover.count + PACK_FOOTER == read_le(pack + KEY, 8)
            and cover.ends == mixed(0, salt) - mixed(cover.bytes, salt))


cdef const char* packs_flaw(const IndexPart* part) noexcept nogil:
    cdef const u8* pack
    cdef u64 i, day
    for i in range(part.pack_count):
        pack = part.packs + INDEX_PACK * i
        day = read_le(pack + KEY + 8, 4)
        if i and memcmp(pack - INDEX_PACK, pack, KEY) >= 0:
            return b"its packs are not sorted"
        if read_le(pack + KEY, 8) > MAX_PACK or read_le(pack + KEY + 12, 4):
            return b"a pack is malformed"
        if not (1 <= day % 100 <= 31 and 1 <= day // 100 % 100 <= 12 and day // 10000 <= 9999):
            return b"the day of a pack is none"
    for i in range(1, part.superseded_count):
        if memcmp(part.superseded + KEY * (i - 1), part.superseded + KEY * i, KEY) >= 0:
            return b"what it supersedes is not sorted"
    return NULL


cdef inline bint is_before(const Span* one, const Span* other) noexcept nogil:
    return one.pack < other.pack or one.pack == other.pack and one.offset < other.offset


cdef const char* rows_flaw(const IndexPart* part, Cover* covers, u64 salt) noexcept nogil:
    cdef Span span, before
    cdef u64 row, bucket = 0, fans = 1 << part.bits
    cdef int order
    before.pack = before.offset = 0
    if part.bits != fan_bits(part.count):
        return b"its fan-out has another size than is right for its count"
    for row in range(part.count):
        while bucket < fans and read_le(part.fan_out + 8 * bucket + 8, 8) <= row:
            bucket += 1
        if bucket_of(name_at(part, row), part.bits) != bucket:
            return b"its fan-out is wrong, or its names are not sorted"
        if not part_span(part, row, &span):
            return b"a blob lies beyond its pack"
        if row:
            order = memcmp(name_at(part, row - 1), name_at(part, row), KEY)
            if order > 0 or order == 0 and not is_before(&before, &span):
                return b"its rows are not sorted"
        cover_add(&covers[span.pack], &span, salt)
        before = span
    for row in range(part.pack_count):
        if not is_covered(&covers[row], part.packs + INDEX_PACK * row, salt):
            return b"its blobs are not all that is in a pack, or overlap"
    return NULL


cdef int raise_flaw(const u8* p, size_t n) except -1:
    cdef IndexPart part
    cdef Cover* covers = NULL
    cdef u64 salt
    cdef const char* wrong = part_read(&part, p, n)
    if wrong == NULL:
        covers = <Cover*>calloc(max(part.pack_count, 1u), sizeof(Cover))
        if covers == NULL:
            raise MemoryError
        sodium.randombytes(&salt, sizeof(salt))
        with nogil:
            wrong = packs_flaw(&part)
            if wrong == NULL:
                wrong = rows_flaw(&part, covers, salt)
        free(covers)
    return raise_wrong(wrong)


def check_index(const u8[::1] data):
    """Raises ValueError if an index object is malformed: see _engine.pyi."""
    raise_flaw(first_byte(data), data.shape[0])


# ---- making one ----

cdef struct IndexRow:
    const u8* name
    unsigned pack
    unsigned offset
    unsigned length


cdef int fan_bits(u64 count) noexcept nogil:
    cdef int bits = 0
    while bits < MAX_FAN_BITS and count > <u64>IN_BUCKET << bits:
        bits += 1
    return bits


cdef int compare_rows(const void* a, const void* b) noexcept nogil:
    cdef const IndexRow* one = <const IndexRow*>a
    cdef const IndexRow* other = <const IndexRow*>b
    cdef int order = memcmp(one.name, other.name, KEY)
    if order:
        return order
    if one.pack != other.pack:
        return -1 if one.pack < other.pack else 1
    return -1 if one.offset < other.offset else one.offset > other.offset


cdef Errno sort_rows(IndexRow* rows, u64 count, u64* fans, int bits) noexcept nogil:
    """Sorts rows, and counts those before each bucket: `fans` has 2^bits + 1 numbers, which are 0."""
    cdef IndexRow* sorted = <IndexRow*>malloc(max(count, 1u) * sizeof(IndexRow))
    cdef u64 i, bucket, buckets = 1 << bits
    if sorted == NULL:
        return ENOMEM
    for i in range(count):
        fans[bucket_of(rows[i].name, bits) + 1] += 1
    for i in range(buckets):
        fans[i + 1] += fans[i]
    for i in range(count):          # each entry moves on to the start of the next
        bucket = bucket_of(rows[i].name, bits)
        sorted[fans[bucket]] = rows[i]
        fans[bucket] += 1
    for i in range(buckets, 0, -1):
        fans[i] = fans[i - 1]
    fans[0] = 0
    memcpy(rows, sorted, count * sizeof(IndexRow))
    free(sorted)
    for i in range(buckets):
        qsort(rows + fans[i], fans[i + 1] - fans[i], sizeof(IndexRow), compare_rows)
    return 0


cdef void write_rows(u8* out, const IndexRow* rows, u64 count) noexcept nogil:
    cdef u64 i
    for i in range(count):
        memcpy(out + KEY * i, rows[i].name, KEY)
        write_le(out + KEY * count + 4 * i, rows[i].pack, 4)
        write_le(out + (KEY + 4) * count + 4 * i, rows[i].offset, 4)
        write_le(out + (KEY + 8) * count + 4 * i, rows[i].length, 4)


cdef class _IndexBuilder:
    """An index object that is being made: `packs` (INDEX_PACK bytes each) and rows, in any order."""
    cdef IndexRow* rows
    cdef u64 count
    cdef bytes packs
    cdef bytes superseded

    def __cinit__(self, u64 room, bytes packs, supersedes):
        if len(packs) // INDEX_PACK >= NO_PACK:
            raise ValueError("too many packs")
        for name in supersedes:
            _check_key(name)
        self.packs = packs
        self.superseded = b"".join(sorted(set(supersedes)))
        self.rows = <IndexRow*>malloc(max(room, 1u) * sizeof(IndexRow))
        if self.rows == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.rows)

    cdef bytearray finish(self):
        """Returns the index object. Raises ValueError if the rows are not all that is in the packs."""
        cdef bytearray out = self.write()
        raise_flaw(<u8*>PyByteArray_AS_STRING(out), PyByteArray_GET_SIZE(out))
        return out

    cdef bytearray write(self):
        cdef int bits = fan_bits(self.count)
        cdef size_t fans = (1 << bits) + 1
        cdef size_t at = INDEX_HEADER + len(self.packs) + len(self.superseded)
        cdef bytearray out = PyByteArray_FromStringAndSize(NULL, at + 8 * fans + (KEY + INDEX_NUMBERS) * self.count)
        cdef u8* p = <u8*>PyByteArray_AS_STRING(out)
        cdef u64* counts = <u64*>calloc(fans, sizeof(u64))
        cdef Errno error = 0 if counts != NULL else ENOMEM
        cdef size_t i
        self.write_beginning(p, bits)
        if error == 0:
            with nogil:
                error = sort_rows(self.rows, self.count, counts, bits)
                for i in range(fans):
                    write_le(p + at + 8 * i, counts[i], 8)
                write_rows(p + at + 8 * fans, self.rows, self.count)
        free(counts)
        if error:
            raise MemoryError
        return out

    cdef void write_beginning(self, u8* p, int bits) noexcept:
        memcpy(p, b"pogindx1", 8)
        write_le(p + 8, 1, 4)
        write_le(p + 12, len(self.packs) // INDEX_PACK, 4)
        write_le(p + 16, self.count, 8)
        write_le(p + 24, len(self.superseded) // KEY, 4)
        write_le(p + 28, bits, 4)
        memcpy(p + INDEX_HEADER, PyBytes_AS_STRING(self.packs), len(self.packs))
        memcpy(p + INDEX_HEADER + len(self.packs), PyBytes_AS_STRING(self.superseded), len(self.superseded))

    cdef void add(self, const u8* name, unsigned pack, unsigned offset, unsigned length) noexcept nogil:
        cdef IndexRow* row = &self.rows[self.count]
        row.name, row.pack, row.offset, row.length = name, pack, offset, length
        self.count += 1

    cdef const char* add_table(self, unsigned pack, const u8* table, u64 count) noexcept nogil:
        """Adds the rows of a pack's table. Returns what is wrong, or NULL."""
        cdef u64 i, length, offset = 0
        for i in range(count):
            length = read_le(table + PACK_ROW * i + KEY, 4)
            if offset + length > MAX_PACK:
                return b"its blobs are longer than a pack"
            self.add(table + PACK_ROW * i, pack, <unsigned>offset, <unsigned>length)
            offset += length
        return NULL

    cdef const char* add_part(self, const IndexPart* part, const unsigned* numbers) noexcept nogil:
        """Adds the rows of an index object whose packs have a new number. Returns what is wrong, or NULL."""
        cdef Span span
        cdef u64 row
        for row in range(part.count):
            if not part_span(part, row, &span):
                return b"a blob lies beyond its pack"
            if numbers[span.pack] != NO_PACK:
                self.add(name_at(part, row), numbers[span.pack], span.offset, span.size)
        return NULL


cdef bytes pack_row(pack):
    cdef bytes name
    name, day, size = pack
    _check_key(name)
    return name + size.to_bytes(8, "little") + day.to_bytes(4, "little") + bytes(4)


def build_index(packs, tables, supersedes=()):
    """Returns the index object of packs: see _engine.pyi."""
    cdef const u8[::1] table
    cdef _IndexBuilder builder
    cdef const char* wrong
    cdef list views = [memoryview(each) for each in tables], order
    cdef unsigned number
    if len(packs) != len(views) or any(len(view) % PACK_ROW for view in views):
        raise ValueError("a table for each pack, of whole rows")
    order = sorted(range(len(packs)), key=lambda i: packs[i][0])
    builder = _IndexBuilder(sum(len(view) for view in views) // PACK_ROW,
                            b"".join([pack_row(packs[i]) for i in order]), supersedes)
    for number, i in enumerate(order):
        table = views[i]
        wrong = builder.add_table(number, first_byte(table), table.shape[0] // PACK_ROW)
        raise_wrong(wrong)
    return builder.finish()


def build_plain_index(blobs):
    """Returns an index object that says how long blobs are that lie in no pack: see _engine.pyi."""
    cdef list known = [(name, size) for name, size in blobs if size <= MAX_PACK - PACK_ROW - PACK_FOOTER]
    cdef bytearray digests = bytearray(KEY * len(known))
    cdef u8* digest = <u8*>PyByteArray_AS_STRING(digests)
    cdef _IndexBuilder builder = _IndexBuilder(len(known), pack_row((bytes(KEY), 10101, MAX_PACK)), ())
    for name, size in known:
        read_name(name, digest)
        builder.add(digest, 0, 0, size)
        digest += KEY
    return builder.write()


def merge_indexes(parts, supersedes):
    """Returns one index object for several: see _engine.pyi."""
    cdef list kept = [(memoryview(data), memoryview(states)) for data, states in parts]
    cdef IndexParts* read = new_parts(kept)
    try:
        return merged(read, supersedes)
    finally:
        free_parts(read)


cdef bytearray merged(const IndexParts* parts, supersedes):
    cdef dict found = {}        # raw name of a pack -> what is said of it, and which part says it
    cdef const IndexPart* part
    cdef const u8* pack
    cdef Py_ssize_t i
    cdef unsigned number
    cdef u64 room = 0
    for i in range(parts.count):
        part = &parts.parts[i]
        room += part.count
        for number in range(part.pack_count):
            if part.states[number] == PACK_THERE:
                pack = part.packs + INDEX_PACK * <size_t>number
                entry = (pack[:INDEX_PACK], i)
                found[entry[0][:KEY]] = min(entry, found.get(entry[0][:KEY], entry))
    names = sorted(found)
    builder = _IndexBuilder(room, b"".join([found[name][0] for name in names]), supersedes)
    add_parts(builder, parts, {name: (found[name][1], new) for new, name in enumerate(names)})
    return builder.finish()


cdef int add_parts(_IndexBuilder builder, const IndexParts* parts, dict chosen) except -1:
    """Adds the rows of each chosen pack, from the part chosen for it. `chosen`: raw name -> part, new number."""
    cdef const IndexPart* part
    cdef unsigned* numbers
    cdef const char* wrong
    cdef Py_ssize_t i
    cdef unsigned number
    for i in range(parts.count):
        part = &parts.parts[i]
        numbers = <unsigned*>malloc(max(part.pack_count, 1u) * sizeof(unsigned))
        if numbers == NULL:
            raise MemoryError
        try:
            for number in range(part.pack_count):
                from_part, new = chosen.get((part.packs + INDEX_PACK * <size_t>number)[:KEY], (-1, 0))
                numbers[number] = new if from_part == i else NO_PACK
            with nogil:
                wrong = builder.add_part(part, numbers)
        finally:
            free(numbers)
        raise_wrong(wrong)
    return 0

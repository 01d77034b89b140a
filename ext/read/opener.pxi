# Story 2 of the engine, the mirror of sealer.pxi: blobs into files, in both layouts of FORMAT.md, or only verified.
#
# A file of one small blob that no other file needs is one task. Of any other a Way is held while it comes back. A blob
# that is a frame of its own is opened once and goes to every place where it stands, in this file and in others: places
# of one blob form a ring, and who picks the blob promises it to as many of them as it can serve. Parts of files get
# its bytes while it is decompressed; files that it makes whole are then made of it by whoever is free. A stream has
# two kinds of steps: opening its next blob, which several workers do at once, and decompressing the opened ones in
# their order, which one does at a time. A file has no name, or a temporary one, until it is whole; nothing is
# decompressed that has not been authenticated.

Wanted = collections.namedtuple(
    "Wanted", "directory leaf blobs sizes size atime_ns mtime_ns mode uid gid xattrs sparse replace",
    defaults=(-1, -1, -1, (), False, True),
)
Opened = collections.namedtuple("Opened", "file done verdict blob errno offset soft")

cdef enum:
    SMALL_BLOB = 2 * PIECE      # a file of one blob of at most so many bytes is one task
    OPEN_AHEAD = 2              # blobs of a stream in memory: one being decompressed, one being opened
    MAX_WAYS = 224             # with one draft more for each worker that is at a small file, at most 256 on 32 cores
    SPARE_FDS = 16              # and four a worker: what is left of a process's descriptors by files begun early
    RESERVED = 1 << 20          # files of at least so many bytes get their room on the disk before they are written
    # Bytes that a blob may have beyond twice its plain ones (our own: a part of 256 and less than 1 KB; another writer may
    # cut frames into small blocks). Of unknown plain size, a longer one is authenticated before there is memory for it.
    UNPROVEN = 64 << 20

cdef unsigned NOBODY = 0xFFFFFFFF       # for chown: left alone

cdef struct Place:              # one blob of one file
    u8[KEY] digest
    long long at                # where its plain bytes begin in the file; -1 in a stream, where only writing it tells
    Py_ssize_t next             # the next place of this blob, in a ring; itself where there is no other, and in streams
    Py_ssize_t follow           # the next place that the same Load fills, -1 behind the last
    int file
    bint taken                  # a Load will fill it, or has

cdef struct Attribute:
    const char* name            # borrowed from Opener.keep, as its value
    const char* value
    Py_ssize_t size

cdef struct OpenJob:
    const char* leaf            # borrowed from Opener.keep
    Attribute* attributes
    Py_ssize_t attribute_count
    Py_ssize_t first            # its first place
    Py_ssize_t count            # of its places
    Py_ssize_t left             # places that are not filled
    Py_ssize_t follow           # the next file that is made whole of the same Load, -1 behind the last
    long long size              # plain bytes, -1: not known
    long long atime_ns
    long long mtime_ns
    Way* way                    # while it is held
    Py_ssize_t bad              # the blob that the first thing that went wrong was with
    long long offset            # where its plain bytes begin, -1: not known
    int verdict                 # what went wrong first, GOOD when nothing did
    int code                    # its errno
    int soft                    # errno of what it could not be given beyond its bytes
    int working                 # workers in it, or on their way
    int directory               # borrowed descriptor; -1: it is only verified
    int mode                    # -1: the system's choice
    unsigned uid
    unsigned gid
    bint stream
    bint sparse
    bint replace
    bint begun                  # counted in open_files
    bint done

cdef struct Way:
    Py_ssize_t file
    Draft draft                 # the unfinished file
    bint drafted
    Py_ssize_t next_open        # no place before it is left to be picked
    # Of a stream only:
    void* dctx
    size_t frame_left           # 0 when a frame has just ended
    long long written
    bint writing                # a worker decompresses
    Load* ready                 # opened, in no order
    int loads                   # held
    Way* next

cdef enum Step:
    TO_OPEN                     # and, where it is a frame of its own, to be decompressed to its places
    TO_DECOMPRESS               # a stream's next part
    TO_SHARE                    # opened; whole files are made of it

cdef struct Load:               # one blob in memory, and where it goes
    Step step
    Slab* slab
    Py_ssize_t place            # the one it was picked for
    Way* stream                 # that it belongs to, NULL when it is a frame of its own
    Py_ssize_t parts            # the first place that is filled while it is decompressed, -1: none
    Py_ssize_t last_part
    Py_ssize_t files            # the first file to be made of it, -1: none
    Py_ssize_t last_file
    int workers                 # that make files of it
    int verdict
    int code
    Load* next                  # in the list it is in
    Load* older                 # of all that there are


cdef class Opener(_Crew):
    """Turns blobs into files: see _engine.pyi."""
    cdef Ring ring
    cdef list keep              # what the jobs borrow
    cdef object source
    cdef Directory* directory   # of the source; NULL when it is a Python function
    cdef bytes temporary
    cdef const char* prefix
    cdef OpenJob* files
    cdef Place* places
    cdef Py_ssize_t place_count
    cdef Way* ways
    cdef int way_count
    cdef long last_fd           # the highest descriptor that a file begun early may have
    cdef Load* loads            # all
    cdef Load* spare
    cdef Load* shared           # those that files can be made of
    cdef int load_count
    cdef u64 brought            # plain bytes that are in their places
    cdef u64 fetched            # bytes of blobs that were read

    def __init__(self, bytes secret, bytes private, bint asymmetric, files, source, *, int jobs,
                 bytes temporary=b".pogfast-"):
        cdef Py_ssize_t file, places = 0
        fill_ring(&self.ring, secret, asymmetric, private)
        if not self.ring.can_open or jobs < 1:
            raise ValueError("needs a key that can open, and at least one worker")
        if len(files) >= 1 << 31:
            raise ValueError("too many files at a time")
        self.jobs = jobs
        self.source = source
        self.outside = (source,)
        if isinstance(source, BlobDirectory):
            self.directory = &(<BlobDirectory>source).at
        self.temporary = temporary
        self.prefix = self.temporary
        self.last_fd = os.sysconf("SC_OPEN_MAX") - 4 * jobs - SPARE_FDS
        self.keep = []
        for wanted in files:
            places += len(wanted[2])
        self.files = <OpenJob*>calloc(max(len(files), 1), sizeof(OpenJob))
        self.places = <Place*>malloc(max(places, 1) * sizeof(Place))
        if self.files == NULL or self.places == NULL:
            raise MemoryError
        self.count = len(files)
        for file, wanted in enumerate(files):
            self.read_job(file, wanted)
        self.join_rings()

    cdef int read_job(self, int file, wanted) except -1:
        cdef OpenJob* job = &self.files[file]
        cdef Place* place
        cdef long long at = 0
        directory, leaf, names, sizes, size, atime_ns, mtime_ns, mode, uid, gid, xattrs, sparse, replace = wanted
        job.directory = directory
        job.leaf = PyBytes_AsString(leaf)
        self.keep.append(leaf)
        job.atime_ns, job.mtime_ns = atime_ns, mtime_ns
        job.mode, job.sparse, job.replace = mode, sparse, replace
        job.uid, job.gid = NOBODY if uid < 0 else uid, NOBODY if gid < 0 else gid
        job.size = max(size, -1)
        job.offset = -1
        job.first, job.count, job.left = self.place_count, len(names), len(names)
        job.stream = job.count > 1 and sizes is None
        for name in names:
            place = &self.places[self.place_count]
            read_name(name, place.digest)
            place.file, place.at, place.taken = file, -1 if job.stream else 0, False
            self.place_count += 1
        if sizes is not None:
            self.read_sizes(job, sizes)
        if xattrs:
            self.read_attributes(job, xattrs)
        return 0

    cdef int read_sizes(self, OpenJob* job, sizes) except -1:
        cdef Py_ssize_t place = job.first
        cdef long long at = 0
        if len(sizes) != job.count or sum(sizes) >= 1 << 63:
            raise ValueError("as many sizes as names, of a file that can be")
        for size in sizes:
            if size < 0:
                raise ValueError("a size is negative")
            self.places[place].at = at
            at += size
            place += 1
        if job.size >= 0 and job.size != at:
            self.note(job, BAD_FRAME, 0, 0, -1)
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

    cdef int join_rings(self) except -1:
        """Joins the places of each blob, in the order of the files, by a table of the last place of each."""
        cdef size_t mask = 1, slot
        cdef Py_ssize_t at
        cdef Py_ssize_t* last
        cdef Place* place
        while mask < 2 * <size_t>self.place_count:
            mask *= 2
        last = <Py_ssize_t*>calloc(mask, sizeof(Py_ssize_t))
        if last == NULL:
            raise MemoryError
        mask -= 1
        with nogil:
            for at in range(self.place_count):
                place = &self.places[at]
                place.next = at
                if place.at < 0:
                    continue
                memcpy(&slot, place.digest, sizeof(size_t))
                slot &= mask
                while last[slot] and memcmp(self.places[last[slot] - 1].digest, place.digest, KEY):
                    slot = (slot + 1) & mask
                if last[slot]:
                    place.next = self.places[last[slot] - 1].next
                    self.places[last[slot] - 1].next = at
                last[slot] = at + 1
        free(last)
        return 0

    def __dealloc__(self):
        cdef Py_ssize_t file
        cdef Load* load
        while self.loads != NULL:
            load = self.loads
            self.loads = load.older
            slab_free(load.slab)
            free(load)
        if self.files != NULL:
            for file in range(self.count):
                free(self.files[file].attributes)
        free(self.files)
        free(self.places)
        sodium.memzero(&self.ring, sizeof(Ring))
        self.close()

    # ---- who does what (with the lock) ----

    cdef Task pick(self, Hand* hand) noexcept nogil:
        cdef Way* way = self.ways
        if self.shared != NULL:
            return self.pick_share(hand)
        while way != NULL:
            if self.pick_step(way, hand):
                return PART
            way = way.next
        return self.pick_file(hand)

    cdef Task pick_share(self, Hand* hand) noexcept nogil:
        cdef Load* load = self.shared
        hand.stream = load
        hand.file = load.files
        load.workers += 1
        load.files = self.files[hand.file].follow
        if load.files < 0:
            self.shared = load.next
        return PART

    cdef Task pick_file(self, Hand* hand) noexcept nogil:
        """The next file that has not begun. A new one begins where the others leave nothing to do."""
        cdef OpenJob* job
        cdef int verdict, code = 0
        while self.next_file < self.count:
            job = &self.files[self.next_file]
            if not (job.begun or job.done):
                if self.way_count >= MAX_WAYS or (self.way_count >= self.jobs and not self.has_load()):
                    break
                if self.is_lone(job):
                    job.begun = True
                    return self.take_file(hand)
                verdict = self.begin_way(self.next_file, &code) if job.verdict == GOOD else job.verdict
                self.note(job, verdict, code, 0, -1)
                self.begin(job)
                self.end_if_over(job)
            store_count(&self.next_file, self.next_file + 1)
            if job.way != NULL and self.pick_step(job.way, hand):
                return PART
        return self.wait_or_leave()

    cdef bint is_lone(self, OpenJob* job) noexcept nogil:
        """Whether a file may be one task: one blob that nothing else needs, or none. Its size is seen then."""
        return job.count == 0 or (job.count == 1 and self.directory != NULL and
                                  self.places[job.first].next == job.first)

    cdef bint pick_step(self, Way* way, Hand* hand) noexcept nogil:
        cdef OpenJob* job = &self.files[way.file]
        cdef Load* load = NULL
        if job.verdict == GOOD:
            load = self.pick_stream(way, job) if job.stream else self.pick_place(way, job)
        hand.stream = load
        return load != NULL

    cdef Load* pick_stream(self, Way* way, OpenJob* job) noexcept nogil:
        """The next step of a stream: decompressing before opening, so that little is in flight."""
        cdef Load** at = &way.ready
        cdef Load* load
        if not way.writing:
            while at[0] != NULL and at[0].place != job.first + job.count - job.left:
                at = &at[0].next
            if at[0] != NULL:
                load = at[0]
                at[0] = load.next
                load.step = TO_DECOMPRESS
                way.writing = True
                job.working += 1
                return load
        if way.next_open == job.count or way.loads == OPEN_AHEAD:
            return NULL
        load = self.take_load(job.first + way.next_open)
        if load != NULL:
            load.stream = way
            way.loads += 1
            way.next_open += 1
            job.working += 1
        return load

    cdef Load* pick_place(self, Way* way, OpenJob* job) noexcept nogil:
        """The next blob of a file that nobody has picked, promised to every place of it that can be served."""
        cdef Load* load
        cdef Py_ssize_t first, at
        while way.next_open < job.count and self.places[job.first + way.next_open].taken:
            way.next_open += 1
        if way.next_open == job.count:
            return NULL
        first = at = job.first + way.next_open
        load = self.take_load(first)
        if load == NULL:
            return NULL
        while self.places[at].taken or self.promise(load, at):
            at = self.places[at].next
            if at == first:
                break
        return load

    cdef bint promise(self, Load* load, Py_ssize_t at) noexcept nogil:
        """Whether a place can be served. If not, it would take one more draft: its file fetches the blob again."""
        cdef Place* place = &self.places[at]
        cdef OpenJob* job = &self.files[place.file]
        cdef int code
        if job.verdict != GOOD:
            return True
        if job.count > 1 and job.directory >= 0 and job.way == NULL:
            if self.way_count >= MAX_WAYS or self.begin_way(place.file, &code):
                return False
            if job.way.draft.fd > self.last_fd:     # the lowest that is free is taken, so few are left
                self.end_way(job.way, False)
                return False
            self.begin(job)
        place.taken = True
        job.working += 1
        if job.directory >= 0 and job.count == 1:
            self.begin(job)
            job.follow = -1
            if load.files < 0:
                load.files = place.file
            else:
                self.files[load.last_file].follow = place.file
            load.last_file = place.file
        else:
            place.follow = -1
            if load.parts < 0:
                load.parts = at
            else:
                self.places[load.last_part].follow = at
            load.last_part = at
        return True

    cdef bint has_load(self) noexcept nogil:
        return self.spare != NULL or self.load_count <= self.jobs

    cdef Load* take_load(self, Py_ssize_t place) noexcept nogil:
        cdef Load* load = self.spare
        if load != NULL:
            self.spare = load.next
        elif self.load_count <= self.jobs:
            load = self.new_load()
        if load != NULL:
            load.step = TO_OPEN
            load.place = place
            load.stream = NULL
            load.parts = load.files = -1
        return load

    cdef Load* new_load(self) noexcept nogil:
        cdef Load* load = <Load*>calloc(1, sizeof(Load))
        if load != NULL:
            load.slab = slab_new(CHUNK_AT)
        if load == NULL or load.slab == NULL:
            free(load)
            self.end(NO_MEMORY)
            return NULL
        load.older = self.loads
        self.loads = load
        self.load_count += 1
        return load

    cdef void give_back(self, Load* load) noexcept nogil:
        load.next = self.spare
        self.spare = load
        if load.stream != NULL:
            load.stream.loads -= 1

    cdef void begin(self, OpenJob* job) noexcept nogil:
        if not job.begun:
            job.begun = True
            self.open_files += 1

    cdef int begin_way(self, Py_ssize_t file, int* code) noexcept nogil:
        """Holds a file, with its draft where it is written in parts. A Verdict."""
        cdef OpenJob* job = &self.files[file]
        cdef Way* way = <Way*>calloc(1, sizeof(Way))
        cdef Way** last = &self.ways
        cdef int verdict = GOOD
        if way != NULL and job.stream:
            way.dctx = zstd.create_dctx()
        if way == NULL or (job.stream and way.dctx == NULL):
            self.end(NO_MEMORY)
            verdict, code[0] = BAD_WRITE, ENOMEM
        elif job.directory >= 0 and job.count > 1:
            verdict = self.begin_draft(&way.draft, file, code)
            way.drafted = verdict == GOOD
        if verdict != GOOD:
            if way != NULL:
                zstd.free_dctx(way.dctx)
            free(way)
            return verdict
        way.file = file
        while last[0] != NULL:
            last = &last[0].next
        last[0] = way
        self.way_count += 1
        job.way = way
        return GOOD

    cdef void end_way(self, Way* way, bint keep) noexcept nogil:
        """Lets a file go, without its name unless it was finished."""
        cdef Way** at = &self.ways
        cdef Load* load
        while way.ready != NULL:
            load = way.ready
            way.ready = load.next
            self.give_back(load)
        while at[0] != way:
            at = &at[0].next
        at[0] = way.next
        self.way_count -= 1
        self.files[way.file].way = NULL
        if way.drafted:
            draft_end(&way.draft, keep)
        zstd.free_dctx(way.dctx)
        free(way)

    cdef void note(self, OpenJob* job, int verdict, int code, Py_ssize_t blob, long long offset) noexcept nogil:
        if job.verdict == GOOD:
            store_int(&job.verdict, verdict)
            job.code, job.bad = code, blob
            job.offset = offset if verdict not in (BAD_WRITE, NO_ROOM) else -1

    cdef void end_if_over(self, OpenJob* job) noexcept nogil:
        """Ends a file that nobody works in when it is whole, or beyond help. Leaves the lock while it gets its name."""
        cdef int verdict, code = 0
        cdef bint named = False
        check(job.working >= 0 and job.left >= 0 and not job.done)
        if job.working or (job.verdict == GOOD and job.left):
            return
        if job.verdict == GOOD and job.way != NULL and job.way.drafted:
            pthread_mutex_unlock(&self.lock)
            verdict = self.settle(&job.way.draft, job, job.way.written if job.stream else job.size, &code)
            pthread_mutex_lock(&self.lock)
            if verdict != GOOD:
                self.note(job, verdict, code, job.count - 1, -1)
            named = verdict == GOOD
        if job.way != NULL:
            self.end_way(job.way, named)
        job.done = True
        if job.begun:
            self.file_done()

    # ---- the work (without the lock) ----

    cdef void do(self, Hand* hand) noexcept nogil:
        cdef Load* load = <Load*>hand.stream
        if hand.own == NULL:
            hand.own = slab_new(CHUNK_AT)
        if hand.data == NULL:
            hand.data = <u8*>malloc(2 * PIECE)
        if hand.context == NULL:
            hand.context = zstd.create_dctx()
        if hand.own == NULL or hand.data == NULL or hand.context == NULL:
            self.fail_memory()
        elif hand.task == FILE:
            self.do_file(hand)
        elif load.step == TO_DECOMPRESS:
            self.decompress_step(hand, load)
        elif load.step == TO_SHARE:
            self.share_step(hand, load)
        else:
            self.open_step(hand, load)

    cdef void let_go(self, Hand* hand) noexcept nogil:
        slab_free(hand.own)
        free(hand.data)
        if hand.context != NULL:
            zstd.free_dctx(hand.context)

    cdef void do_file(self, Hand* hand) noexcept nogil:
        """A file of one small blob or none, from beginning to end. It becomes a way when the blob is large."""
        cdef OpenJob* job = &self.files[hand.file]
        cdef long long size = 0
        cdef int fd = -1, verdict = job.verdict, code = 0
        cdef Slab* slab = NULL
        if verdict == GOOD and job.count:
            fd = directory_get(self.directory, self.places[job.first].digest, &size)
            if fd < 0:
                code = errno
                verdict = NOT_THERE if code == ENOENT else <int>BAD_READ
        if verdict == GOOD and size <= SMALL_BLOB:
            if job.count:
                slab = hand.own
                verdict = self.load(slab, fd, size, self.places[job.first].digest, &code)
            if verdict == GOOD:
                verdict = self.make_file(hand, slab, &code)
        if fd >= 0:
            c_close(fd)
        if verdict == BROKEN_OFF:
            return
        pthread_mutex_lock(&self.lock)
        if verdict == GOOD and size > SMALL_BLOB:
            verdict = self.begin_way(hand.file, &code)
        else:
            job.left = 0
        if verdict != GOOD:
            self.note(job, verdict, code, 0, 0)
        self.end_if_over(job)
        pthread_mutex_unlock(&self.lock)

    cdef int make_file(self, Hand* hand, Slab* slab, int* code) noexcept nogil:
        """A file of one opened blob, or with NULL of none, from its draft to its name; or only looked at."""
        cdef OpenJob* job = &self.files[hand.file]
        cdef size_t left = 0
        cdef long long written = 0
        cdef int verdict = GOOD
        cdef Draft draft
        draft.fd = -1
        if job.directory >= 0:
            verdict = self.begin_draft(&draft, hand.file, code)
            if verdict != GOOD:
                return verdict
        if slab != NULL:
            unzstd_reset(hand.context)
            verdict = self.decompress(hand, hand.context, slab, job, draft.fd, &left, &written, code)
        if verdict == GOOD and (left or (job.size >= 0 and written != job.size)):
            verdict = BAD_FRAME
        if job.directory >= 0:
            if verdict == GOOD:
                verdict = self.settle(&draft, job, written, code)
            draft_end(&draft, verdict == GOOD)
        return verdict

    cdef void open_step(self, Hand* hand, Load* load) noexcept nogil:
        load.code = 0
        load.verdict = self.fetch(hand, load)
        if load.verdict == GOOD and load.parts >= 0:
            self.spread(hand, load)
        if load.verdict == BROKEN_OFF:
            return
        pthread_mutex_lock(&self.lock)
        if load.stream != NULL:
            self.queue(load)
        else:
            self.end_parts(load)
            self.share(load)
        pthread_mutex_unlock(&self.lock)

    cdef void queue(self, Load* load) noexcept nogil:
        """A stream's blob waits for those before it, a bad one too, so that it is known where its bytes would begin.
        With the lock."""
        cdef Way* way = load.stream
        if load.verdict != GOOD:
            way.next_open = self.files[way.file].count
        load.next = way.ready
        way.ready = load
        self.files[way.file].working -= 1
        self.end_if_over(&self.files[way.file])

    cdef void end_parts(self, Load* load) noexcept nogil:
        """With the lock."""
        cdef Py_ssize_t at = load.parts
        cdef Place* place
        cdef OpenJob* job
        while at >= 0:
            place = &self.places[at]
            job = &self.files[place.file]
            if load.verdict != GOOD:
                self.note(job, load.verdict, load.code, at - job.first, place.at)
            at = place.follow
            job.working -= 1
            job.left -= 1
            self.end_if_over(job)

    cdef void share(self, Load* load) noexcept nogil:
        """Offers an opened blob to whoever is free, to make files of it. With the lock."""
        cdef Py_ssize_t file = load.files
        cdef OpenJob* job
        if load.verdict == GOOD and file >= 0:
            load.step = TO_SHARE
            load.next = self.shared
            self.shared = load
            return
        while file >= 0:
            job = &self.files[file]
            self.note(job, load.verdict, load.code, 0, 0)
            job.working -= 1
            self.end_if_over(job)
            file = job.follow
        self.give_back(load)

    cdef void share_step(self, Hand* hand, Load* load) noexcept nogil:
        """Makes one file of an opened blob."""
        cdef OpenJob* job = &self.files[hand.file]
        cdef int code = 0
        cdef int verdict = self.make_file(hand, load.slab, &code)
        if verdict == BROKEN_OFF:
            return
        pthread_mutex_lock(&self.lock)
        if verdict != GOOD:
            self.note(job, verdict, code, 0, 0)
        job.left = 0
        job.working -= 1
        self.end_if_over(job)
        load.workers -= 1
        if load.files < 0 and load.workers == 0:
            self.give_back(load)
        pthread_mutex_unlock(&self.lock)

    cdef void decompress_step(self, Hand* hand, Load* load) noexcept nogil:
        """Decompresses an opened blob to the end of a stream."""
        cdef Way* way = load.stream
        cdef OpenJob* job = &self.files[way.file]
        cdef long long offset = way.written
        cdef int verdict = load.verdict, code = load.code
        if verdict == GOOD:
            verdict = self.decompress(hand, way.dctx, load.slab, job, way.draft.fd if way.drafted else -1,
                                      &way.frame_left, &way.written, &code)
        if verdict == GOOD and job.left == 1 and (way.frame_left or (job.size >= 0 and way.written != job.size)):
            verdict = BAD_FRAME
        if verdict == BROKEN_OFF:
            return
        pthread_mutex_lock(&self.lock)
        if verdict != GOOD:
            self.note(job, verdict, code, load.place - job.first, offset)
        way.writing = False
        self.give_back(load)
        job.working -= 1
        job.left -= 1
        self.end_if_over(job)
        pthread_mutex_unlock(&self.lock)

    # ---- a blob, from where it lies to its plain bytes ----

    cdef int fetch(self, Hand* hand, Load* load) noexcept nogil:
        """The blob of a load, opened, in its slab. What is longer than it can be is damaged, and no memory is asked for."""
        cdef const u8* digest = self.places[load.place].digest
        cdef long long size = 0, most = self.most_of(load)
        cdef int fd, verdict = GOOD
        if self.directory == NULL:
            with gil:
                return self.load_from_call(load.slab, digest, most_blob if most < 0 else most, &load.code)
        fd = directory_get(self.directory, digest, &size)
        if fd < 0:
            load.code = errno
            return NOT_THERE if load.code == ENOENT else <int>BAD_READ
        if size > (most_blob if most < 0 else most):
            verdict = BAD_BODY
        elif most < 0 and size > UNPROVEN:
            verdict = authenticate(fd, &self.ring, hand.data, &self.stopping, &load.code)
        if verdict == GOOD:
            verdict = self.load(load.slab, fd, size, digest, &load.code)
        c_close(fd)
        return verdict

    cdef long long most_of(self, Load* load) noexcept nogil:
        """The most bytes that the blob of a load can have, going by its plain bytes; -1 where these are not known."""
        cdef long long plain = 0, length
        cdef Py_ssize_t at = load.parts, file = load.files
        if load.stream != NULL:
            return -1
        while at >= 0:
            length = self.length_of(at)
            plain = max(plain, length) if length >= 0 else most_blob
            at = self.places[at].follow
        while file >= 0:
            length = self.files[file].size
            plain = max(plain, length) if length >= 0 else most_blob
            file = self.files[file].follow
        return 2 * plain + UNPROVEN if plain < most_blob else -1

    cdef int load(self, Slab* slab, int fd, long long size, const u8* digest, int* code) noexcept nogil:
        """As read_blob. What is damaged is read once more, from the disk if it can be: memory and cables err, too."""
        cdef int verdict = self.read_blob(slab, fd, size, digest, code)
        if is_damage(verdict):
            forget_cached(fd)
            c_lseek(fd, 0, SEEK_SET)
            verdict = self.read_blob(slab, fd, size, digest, code)
        return verdict

    cdef int read_blob(self, Slab* slab, int fd, long long size, const u8* digest, int* code) noexcept nogil:
        """Reads a blob into a buffer, authenticating each piece while it is warm; then decrypts it and checks that it
        is the one that its name says."""
        cdef Lock lock
        cdef size_t head = self.ring.header + BOX, at = 0, got = 0
        cdef u8* blob
        cdef int verdict
        if size < <long long>head:
            return BAD_BODY
        slab.total = size - head
        if slab_reserve(slab, slab.total):
            code[0] = ENOMEM
            return BAD_READ
        blob = blob_of(slab, &self.ring)
        check(<size_t>blob % PAGE >= 64)        # see CHUNK_AT
        code[0] = read_full(fd, blob, min(head + slab.total, <size_t>PIECE), &got)
        if code[0]:
            return BAD_READ
        self.count_fetched(got)
        verdict = lock_begin(&lock, &self.ring, blob) if got >= head else <int>BAD_BODY
        got -= head
        while verdict == GOOD:
            poly_add(poly_of_lock(&lock), chunk_of(slab) + at, got)
            at += got
            if at == slab.total:
                break
            code[0] = read_full(fd, chunk_of(slab) + at, min(slab.total - at, <size_t>PIECE), &got)
            self.count_fetched(got)
            if code[0]:
                verdict = BAD_READ
            elif got == 0:
                verdict = BAD_BODY
            elif self.is_stopping():
                verdict = BROKEN_OFF
        if verdict == GOOD:
            verdict = lock_end(&lock)
        if verdict == GOOD and size > SMALL_BLOB:
            self.read_ahead()
        if verdict == GOOD:
            verdict = slab_unlock(slab, &lock, &self.ring, digest, &self.stopping)
        sodium.memzero(&lock, sizeof(Lock))
        return verdict

    cdef void read_ahead(self) noexcept nogil:
        """Asks the system for the blob that is picked next: the disk has nothing to do while blobs are decrypted. A tenth
        less time where none is in the page cache."""
        cdef u8[KEY] digest
        cdef long long size
        cdef bint found = False
        cdef OpenJob* job
        cdef Way* way
        cdef Py_ssize_t at
        cdef int fd
        pthread_mutex_lock(&self.lock)
        way = self.ways
        while way != NULL and not found:
            job = &self.files[way.file]
            at = way.next_open
            while at < job.count and self.places[job.first + at].taken:
                at += 1
            found = job.verdict == GOOD and at < job.count
            if found:
                memcpy(digest, self.places[job.first + at].digest, KEY)
            way = way.next
        pthread_mutex_unlock(&self.lock)
        fd = directory_get(self.directory, digest, &size) if found else -1
        if fd >= 0:
            will_need(fd)
            c_close(fd)

    cdef int load_from_call(self, Slab* slab, const u8* digest, long long most, int* code) noexcept:
        """The same for a source that is a Python function. What seems damaged is asked for once more: that may have
        happened on the way."""
        cdef int attempt, verdict = BROKEN_OFF
        for attempt in range(2):
            try:
                verdict = self.open_from_call(slab, digest, most)
            except MissingBlob:
                return NOT_THERE
            except CorruptBlob:     # found before all of it was fetched
                verdict = BAD_BODY
            except MemoryError:     # this one is too large
                code[0] = ENOMEM
                return BAD_READ
            except BaseException as error:
                self.fail(error)
                return BROKEN_OFF
            if not is_damage(verdict):
                break
        return verdict

    cdef int open_from_call(self, Slab* slab, const u8* digest, long long most) except -1:
        cdef const u8[::1] blob = self.source(name_of(digest))
        cdef size_t size = blob.shape[0]
        cdef const u8* p = &blob[0] if size else NULL
        cdef int verdict
        if size > <size_t>most:
            return BAD_BODY
        if slab_reserve(slab, size):
            raise MemoryError
        with nogil:
            self.count_fetched(size)
            verdict = slab_open(slab, &self.ring, p, size, digest, &self.stopping)
        return verdict

    cdef Py_ssize_t next_piece(self, void* dctx, ZBuffer* data, ZBuffer* out, size_t* left) noexcept nogil:
        """Plain bytes of what is left of `data`: how many lie in `out` now. 0 behind the last, -1 when malformed."""
        # A full buffer may mean that there is more behind it, unless the frame has just ended.
        while data.pos < data.size or (out.pos == out.size and left[0]):
            out.pos = 0
            left[0] = zstd.decompress_stream(dctx, out, data)
            if zstd.is_error(left[0]):
                return -1
            if out.pos:
                return out.pos
        return 0

    cdef int decompress(self, Hand* hand, void* dctx, Slab* slab, OpenJob* job, int fd, size_t* left,
                        long long* written, int* code) noexcept nogil:
        """Decompresses an opened chunk to the end of a file, or nowhere when there is no descriptor."""
        cdef ZBuffer data, out
        cdef Py_ssize_t n
        data.data, data.size, data.pos = chunk_of(slab), slab.length, 0
        out.data, out.size, out.pos = hand.data, 2 * PIECE, 0
        while True:
            n = self.next_piece(dctx, &data, &out, left)
            if n <= 0:
                return BAD_FRAME if n else GOOD
            if self.is_stopping():
                return BROKEN_OFF
            if job.size >= 0 and n > job.size - written[0]:
                return BAD_FRAME
            if fd >= 0:
                code[0] = (pwrite_sparse if job.sparse else pwrite_full)(fd, out.data, n, written[0])
                if code[0]:
                    return BAD_WRITE
            written[0] += n
            self.count_brought(n)

    cdef void count_brought(self, size_t n) noexcept nogil:
        pthread_mutex_lock(&self.lock)
        self.brought += n
        pthread_mutex_unlock(&self.lock)

    cdef void count_fetched(self, size_t n) noexcept nogil:
        pthread_mutex_lock(&self.lock)
        self.fetched += n
        pthread_mutex_unlock(&self.lock)

    cdef void spread(self, Hand* hand, Load* load) noexcept nogil:
        """Decompresses an opened chunk once, to every part that waits for it. What is wrong with one alone, its length
        or its file, is noted with it."""
        cdef ZBuffer data, out
        cdef size_t left = 0
        cdef long long written = 0
        cdef Py_ssize_t n, at
        cdef bint zero, wanted = True
        data.data, data.size, data.pos = chunk_of(load.slab), load.slab.length, 0
        out.data, out.size, out.pos = hand.data, 2 * PIECE, 0
        unzstd_reset(hand.context)
        while wanted:
            n = self.next_piece(hand.context, &data, &out, &left)
            if n <= 0:
                break
            zero, wanted = is_zero(out.data, n), False
            at = load.parts
            while at >= 0:
                if self.is_stopping():
                    load.verdict = BROKEN_OFF
                    return
                wanted |= self.put_part(at, out.data, n, written, zero)
                at = self.places[at].follow
            written += n
        if wanted and (n < 0 or left):
            load.verdict = BAD_FRAME
            return
        at = load.parts
        while at >= 0:
            if self.length_of(at) >= 0 and self.length_of(at) != written:
                self.note_part(at, BAD_FRAME, 0)
            at = self.places[at].follow

    cdef bint put_part(self, Py_ssize_t at, const u8* p, size_t n, long long written, bint zero) noexcept nogil:
        """Writes a piece of a blob to one of its places. Whether that wants the next piece, too."""
        cdef OpenJob* job = &self.files[self.places[at].file]
        cdef long long length = self.length_of(at)
        cdef int fd, code
        if load_int(&job.verdict) != GOOD:
            return False
        if length >= 0 and <long long>n > length - written:
            self.note_part(at, BAD_FRAME, 0)
            return False
        self.count_brought(n)
        if job.directory < 0 or (zero and job.sparse):
            return True
        fd = job.way.draft.fd
        code = (pwrite_sparse if job.sparse else pwrite_full)(fd, p, n, self.places[at].at + written)
        if code:
            self.note_part(at, BAD_WRITE, code)
        return code == 0

    cdef long long length_of(self, Py_ssize_t at) noexcept nogil:
        """The plain bytes of a blob that is a frame of its own, -1 where that is not known."""
        cdef OpenJob* job = &self.files[self.places[at].file]
        if job.size < 0:
            return -1
        return (self.places[at + 1].at if at + 1 < job.first + job.count else job.size) - self.places[at].at

    cdef void note_part(self, Py_ssize_t at, int verdict, int code) noexcept nogil:
        cdef OpenJob* job = &self.files[self.places[at].file]
        pthread_mutex_lock(&self.lock)
        self.note(job, verdict, code, at - job.first, self.places[at].at)
        pthread_mutex_unlock(&self.lock)

    # ---- the file: unfinished under a temporary name or none, then whole under its own ----

    cdef int begin_draft(self, Draft* draft, Py_ssize_t file, int* code) noexcept nogil:
        cdef OpenJob* job = &self.files[file]
        code[0] = draft_begin(draft, job.directory, self.prefix, file, b"part", 0o600 if job.mode >= 0 else 0o666)
        if code[0]:
            return BAD_WRITE
        if job.size >= RESERVED and not job.sparse:
            code[0] = give_room(draft.fd, job.size)
        if code[0]:
            draft_end(draft, False)
        # The size is what an archive says. It may be nonsense, and then there is room for all other files.
        return NO_ROOM if code[0] == ENOSPC else BAD_WRITE if code[0] else GOOD

    cdef int settle(self, Draft* draft, OpenJob* job, long long size, int* code) noexcept nogil:
        """What a whole file of `size` bytes is beyond them, then its name. A link of that name is never followed."""
        code[0] = errno if job.sparse and ftruncate(draft.fd, size) else 0
        if code[0] == 0:
            code[0] = self.dress_and_publish(draft, job)
        if code[0] == DRAFT_MOVED:
            code[0] = self.dress_and_publish(draft, job)
        return BAD_WRITE if code[0] else GOOD

    cdef int dress_and_publish(self, Draft* draft, OpenJob* job) noexcept nogil:
        """As draft_publish."""
        self.dress(draft.fd, job)
        if set_times(draft.fd, job.atime_ns, job.mtime_ns):
            job.soft = job.soft or errno
        return draft_publish(draft, job.directory, job.leaf, job.replace)

    cdef void dress(self, int fd, OpenJob* job) noexcept nogil:
        """Owner, attributes and permissions, in this order: a change of owner takes capabilities away, and whoever may
        not write to a file cannot give it attributes. Without its owner a file is not to run as somebody else."""
        cdef int mode = job.mode
        cdef Py_ssize_t i
        if (job.uid != NOBODY or job.gid != NOBODY) and fchown(fd, job.uid, job.gid):
            job.soft = errno
            mode &= 0o1777
        if job.mode >= 0 and remove_acl(fd):
            job.soft = job.soft or errno
        for i in range(job.attribute_count):
            if set_xattr(fd, job.attributes[i].name, job.attributes[i].value, job.attributes[i].size):
                job.soft = job.soft or errno
        if job.mode >= 0 and fchmod(fd, mode):
            job.soft = job.soft or errno

    # ---- the caller ----

    def written(self):
        """Plain bytes that are in their places so far, in unfinished files as well: see _engine.pyi."""
        cdef u64 now
        with nogil:
            pthread_mutex_lock(&self.lock)
            now = self.brought
            pthread_mutex_unlock(&self.lock)
        return now

    def stop(self):
        """Ends the workers, and takes away the files that are not finished."""
        _Crew.stop(self)
        while self.ways != NULL:
            self.end_way(self.ways, False)

    cdef bint has_news(self, Py_ssize_t file) noexcept nogil:
        return self.files[file].done

    cdef object tell(self, Py_ssize_t file):
        cdef OpenJob* job = &self.files[file]
        return Opened(file, True, job.verdict, job.bad, job.code, job.offset, job.soft)

    def read(self):
        """Bytes of blobs that were read so far: see _engine.pyi."""
        cdef u64 now
        with nogil:
            pthread_mutex_lock(&self.lock)
            now = self.fetched
            pthread_mutex_unlock(&self.lock)
        return now

# Which step of which file a worker takes next, and the memory for it. All of this is done with the lock of the Opener.
#
# A file of one small blob that no other file needs is one task. For any other, a RestoringFile is kept while several
# tasks work on it. A blob that is a zstd frame of its own is fetched once and serves all of its uses: the worker that
# picks it reserves it for as many of them as it can. Parts of files get its bytes while it is decompressed; files that
# consist of it alone are then written from it by any idle worker. A stream has two kinds of steps: opening its next
# blob, which several workers do at once, and decompressing the opened ones in order, which one worker does at a time.

cdef enum:
    OPEN_AHEAD = 2              # blobs of a stream in memory: one being decompressed, one being opened
    MAX_RESTORING = 224         # with one draft more for each worker that is at a small file, at most 256 on 32 cores
    SPARE_FDS = 16              # and four a worker: what is left of a process's descriptors by files begun early
    # Bytes that a blob may have beyond twice its plain ones (our own: a part of 256 and less than 1 KB; another writer may
    # cut frames into small blocks). Of unknown plain size, a longer one is authenticated before there is memory for it.
    UNPROVEN = 64 << 20

cdef struct Output:             # a file that is being written, or only verified
    Draft draft                 # fd is -1 if it is only verified
    void* context               # of zstd
    size_t frame_left           # 0 when a frame has just ended
    long long written           # plain bytes

cdef struct RestoringFile:      # a file that several tasks work on
    Py_ssize_t file
    Output output
    Py_ssize_t next_open        # no use before it is left to be picked
    # Of a stream only:
    bint decompressing          # a worker decompresses
    FetchedBlob* ready          # opened, in no order
    int blobs                   # held
    RestoringFile* next

cdef enum Step:
    TO_OPEN                     # and, where it is a frame of its own, to be decompressed to its parts
    TO_DECOMPRESS               # a stream's next blob
    TO_SHARE                    # opened; whole files are made of it

cdef struct FetchedBlob:        # one blob in memory, and where it goes
    Step step
    Slab* slab
    Py_ssize_t use              # the one it was picked for
    RestoringFile* stream       # that it belongs to, NULL when it is a frame of its own
    Py_ssize_t parts            # the first use that is served while it is decompressed, -1: none
    Py_ssize_t last_part
    Py_ssize_t files            # the first file to be made of it, -1: none
    Py_ssize_t last_file
    int workers                 # that make files of it
    Verdict verdict
    Errno code
    FetchedBlob* next           # in the list it is in
    FetchedBlob* older          # of all that there are

cdef struct Plan:               # what all parts of an Opener share
    # Set before the workers start, then never changed:
    OpenJob* files
    BlobUse* uses
    int jobs
    const char* prefix          # begins the names of unfinished files
    long last_fd                # the highest descriptor that a file begun early may have
    Mutex* lock
    const int* stopping         # an End; looked at without the lock
    # Guarded by the lock:
    RestoringFile* in_progress  # in the order in which they began
    int in_progress_count
    FetchedBlob* blobs          # all
    FetchedBlob* spare
    FetchedBlob* shared         # those that files can be made of
    int blob_count
    Py_ssize_t begun            # files begun because they share a blob; the pool has yet to count them
    bint no_memory              # the pool has yet to end
    u64 written                 # plain bytes that are in their files, or verified
    u64 fetched                 # bytes of blobs that were read


cdef inline bint is_ending(const Plan* plan) noexcept nogil:
    return load_int(plan.stopping) != NOT_YET


cdef bint pick_shared(Plan* plan, Worker* worker) noexcept nogil:
    """Takes one file that an opened blob is to become."""
    cdef FetchedBlob* blob = plan.shared
    if blob == NULL:
        return False
    worker.blob = blob
    worker.file = blob.files
    blob.workers += 1
    blob.files = plan.files[worker.file].follow
    if blob.files < 0:
        plan.shared = blob.next
    return True


cdef bint pick_in_progress(Plan* plan, Worker* worker) noexcept nogil:
    """Takes the next step of the oldest file that has one."""
    cdef RestoringFile* restoring = plan.in_progress
    while restoring != NULL:
        if pick_step(plan, restoring, worker):
            return True
        restoring = restoring.next
    return False


cdef bint pick_step(Plan* plan, RestoringFile* restoring, Worker* worker) noexcept nogil:
    cdef OpenJob* job = &plan.files[restoring.file]
    cdef FetchedBlob* blob = NULL
    if job.verdict == GOOD:
        blob = pick_of_stream(plan, restoring, job) if job.stream else pick_frame(plan, restoring, job)
    worker.blob = blob
    return blob != NULL


cdef FetchedBlob* pick_of_stream(Plan* plan, RestoringFile* restoring, OpenJob* job) noexcept nogil:
    """Returns the next step of a stream: decompressing before opening, so that few blobs are in memory."""
    cdef FetchedBlob** at = &restoring.ready
    cdef FetchedBlob* blob
    if not restoring.decompressing:
        while at[0] != NULL and at[0].use != job.first + job.count - job.left:
            at = &at[0].next
        if at[0] != NULL:
            blob = at[0]
            at[0] = blob.next
            blob.step = TO_DECOMPRESS
            restoring.decompressing = True
            job.working += 1
            return blob
    if restoring.next_open == job.count or restoring.blobs == OPEN_AHEAD:
        return NULL
    blob = take_blob(plan, job.first + restoring.next_open)
    if blob != NULL:
        blob.stream = restoring
        restoring.blobs += 1
        restoring.next_open += 1
        job.working += 1
    return blob


cdef FetchedBlob* pick_frame(Plan* plan, RestoringFile* restoring, OpenJob* job) noexcept nogil:
    """Returns the next blob of a file that no worker has picked, reserved for every use of it that can be served."""
    cdef FetchedBlob* blob
    cdef Py_ssize_t first, at
    while restoring.next_open < job.count and plan.uses[job.first + restoring.next_open].taken:
        restoring.next_open += 1
    if restoring.next_open == job.count:
        return NULL
    first = at = job.first + restoring.next_open
    blob = take_blob(plan, first)
    if blob == NULL:
        return NULL
    while plan.uses[at].taken or reserve(plan, blob, at):
        at = plan.uses[at].next
        if at == first:
            break
    return blob


cdef bint reserve(Plan* plan, FetchedBlob* blob, Py_ssize_t at) noexcept nogil:
    """Reserves a blob for one of its uses. Returns False if that would take one draft too many: then the file of that use
    fetches the blob again later."""
    cdef BlobUse* use = &plan.uses[at]
    cdef OpenJob* job = &plan.files[use.file]
    if job.verdict != GOOD:
        return True
    if job.count > 1 and job.directory >= 0 and job.restoring == NULL and not begin_early(plan, use.file):
        return False
    use.taken = True
    job.working += 1
    if job.directory >= 0 and job.count == 1:
        count_begun(plan, job)
        add_file(plan, blob, use.file)
    else:
        add_part(plan, blob, at)
    return True


cdef bint begin_early(Plan* plan, Py_ssize_t file) noexcept nogil:
    """Begins a file because a blob of it is fetched for another one. Returns False if there is no room for its draft."""
    cdef OpenJob* job = &plan.files[file]
    cdef Errno code
    if plan.in_progress_count >= MAX_RESTORING or begin_restoring(plan, file, &code) != GOOD:
        return False
    if job.restoring.output.draft.fd > plan.last_fd:  # the lowest that is free is taken, so few are left
        end_restoring(plan, job.restoring, False)
        return False
    count_begun(plan, job)
    return True


cdef void count_begun(Plan* plan, OpenJob* job) noexcept nogil:
    if not job.begun:
        job.begun = True
        plan.begun += 1


cdef void add_file(Plan* plan, FetchedBlob* blob, int file) noexcept nogil:
    plan.files[file].follow = -1
    if blob.files < 0:
        blob.files = file
    else:
        plan.files[blob.last_file].follow = file
    blob.last_file = file


cdef void add_part(Plan* plan, FetchedBlob* blob, Py_ssize_t at) noexcept nogil:
    plan.uses[at].follow = -1
    if blob.parts < 0:
        blob.parts = at
    else:
        plan.uses[blob.last_part].follow = at
    blob.last_part = at


cdef bint next_to_fetch(const Plan* plan, u8* digest) noexcept nogil:
    """Finds the blob that will be picked next, as far as files in progress tell."""
    cdef RestoringFile* restoring = plan.in_progress
    cdef OpenJob* job
    cdef Py_ssize_t at
    while restoring != NULL:
        job = &plan.files[restoring.file]
        at = restoring.next_open
        while at < job.count and plan.uses[job.first + at].taken:
            at += 1
        if job.verdict == GOOD and at < job.count:
            memcpy(digest, plan.uses[job.first + at].digest, KEY)
            return True
        restoring = restoring.next
    return False


# ---- blobs in memory: one more than there are workers -------------------------------------------------------------

cdef bint has_blob(const Plan* plan) noexcept nogil:
    return plan.spare != NULL or plan.blob_count <= plan.jobs


cdef FetchedBlob* take_blob(Plan* plan, Py_ssize_t use) noexcept nogil:
    """Returns memory for the blob of a use, NULL if all of it is in use."""
    cdef FetchedBlob* blob = plan.spare
    if blob != NULL:
        plan.spare = blob.next
    elif plan.blob_count <= plan.jobs:
        blob = new_blob(plan)
    if blob != NULL:
        blob.step = TO_OPEN
        blob.use = use
        blob.stream = NULL
        blob.parts = blob.files = -1
    return blob


cdef FetchedBlob* new_blob(Plan* plan) noexcept nogil:
    cdef FetchedBlob* blob = <FetchedBlob*>calloc(1, sizeof(FetchedBlob))
    if blob != NULL:
        blob.slab = slab_new(CHUNK_AT)
    if blob == NULL or blob.slab == NULL:
        free(blob)
        plan.no_memory = True
        return NULL
    blob.older = plan.blobs
    plan.blobs = blob
    plan.blob_count += 1
    return blob


cdef void return_blob(Plan* plan, FetchedBlob* blob) noexcept nogil:
    blob.next = plan.spare
    plan.spare = blob
    if blob.stream != NULL:
        blob.stream.blobs -= 1


cdef void free_blobs(Plan* plan) noexcept nogil:
    cdef FetchedBlob* blob
    while plan.blobs != NULL:
        blob = plan.blobs
        plan.blobs = blob.older
        slab_free(blob.slab)
        free(blob)


cdef long long length_of(const Plan* plan, Py_ssize_t at) noexcept nogil:
    """Returns the plain bytes of a blob that is a frame of its own, -1 if that is not known."""
    cdef const OpenJob* job = &plan.files[plan.uses[at].file]
    if job.size < 0:
        return -1
    return (plan.uses[at + 1].at if at + 1 < job.first + job.count else job.size) - plan.uses[at].at


cdef long long max_size_of(const Plan* plan, const FetchedBlob* blob) noexcept nogil:
    """Returns the most bytes that a blob can have, going by its plain bytes; -1 if these are not known."""
    cdef long long plain = 0, length
    cdef Py_ssize_t at = blob.parts, file = blob.files
    if blob.stream != NULL:
        return -1
    while at >= 0:
        length = length_of(plan, at)
        plain = max(plain, length) if length >= 0 else max_blob
        at = plan.uses[at].follow
    while file >= 0:
        length = plan.files[file].size
        plain = max(plain, length) if length >= 0 else max_blob
        file = plan.files[file].follow
    return 2 * plain + UNPROVEN if plain < max_blob else -1


# ---- files in progress --------------------------------------------------------------------------------------------

cdef Verdict begin_restoring(Plan* plan, Py_ssize_t file, Errno* code) noexcept nogil:
    """Makes a RestoringFile, with its draft if it is written in parts. Returns GOOD, or why not."""
    cdef OpenJob* job = &plan.files[file]
    cdef RestoringFile* restoring = <RestoringFile*>calloc(1, sizeof(RestoringFile))
    cdef RestoringFile** last = &plan.in_progress
    cdef Verdict verdict = GOOD
    if restoring != NULL:
        restoring.output.draft.fd = -1
        if job.stream:
            restoring.output.context = zstd.create_dctx()
    if restoring == NULL or (job.stream and restoring.output.context == NULL):
        plan.no_memory = True
        verdict, code[0] = BAD_WRITE, ENOMEM
    elif job.directory >= 0 and job.count > 1:
        verdict = begin_draft(&restoring.output.draft, job, plan.prefix, file, code)
    if verdict != GOOD:
        if restoring != NULL:
            zstd.free_dctx(restoring.output.context)
        free(restoring)
        return verdict
    restoring.file = file
    while last[0] != NULL:
        last = &last[0].next
    last[0] = restoring
    plan.in_progress_count += 1
    job.restoring = restoring
    return GOOD


cdef void end_restoring(Plan* plan, RestoringFile* restoring, bint published) noexcept nogil:
    """Frees a RestoringFile; its draft is gone if it was not published."""
    cdef RestoringFile** at = &plan.in_progress
    cdef FetchedBlob* blob
    while restoring.ready != NULL:
        blob = restoring.ready
        restoring.ready = blob.next
        return_blob(plan, blob)
    while at[0] != restoring:
        at = &at[0].next
    at[0] = restoring.next
    plan.in_progress_count -= 1
    plan.files[restoring.file].restoring = NULL
    draft_end(&restoring.output.draft, published)
    zstd.free_dctx(restoring.output.context)
    free(restoring)

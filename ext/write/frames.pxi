# A large file in the `frames` layout. It is cut first, and each chunk is one task: an idle worker reads, compresses, hashes
# and encrypts it piece by piece, so that a piece never leaves the cache of a core. Where a chunk can only begin when the end
# of the one before is known (a pipe, or cuts by content), one worker reads it while the others work on those before.
#
# All functions that take the Sealer use its fields `framed_files` and `zero`, which are theirs.

cdef enum:
    PROBE = PIECE               # bytes of a chunk: if these do not compress, the rest is not expected to
    RAW_BLOCK = 128 << 10       # the most that zstd allows in one of its blocks
    RAW_HEADER = 14
    TRIAL = 16 * RAW_BLOCK      # every so many bytes, a chunk that did not compress at first is tried again
    BEHIND = LOOKS_BACK + 2 * PIECE     # bytes before those that zstd has taken which it may still need, in a tuned frame
    STEP_ROOM = 2 * PIECE       # bytes that a step of a chunk adds to its blob, at most: a piece, and a block before it


cdef enum FrameMode:            # how a chunk becomes a frame
    # All of it is kept in memory, and zstd finds matches in it without copying what it reads into a ring of its own,
    # whose seam costs it a fifth of its speed.
    STEADY
    TRYING                      # the same, to be given up when its beginning does not compress
    STREAMED                    # read piece by piece: half the memory
    RAW                         # it does not compress: a frame of raw blocks, at the speed of hashing and encrypting


cdef enum Packing:              # what became of one try to make a frame
    PACKED
    AGAIN                       # the chunk is to be made anew, in another mode or of fewer bytes
    NOT_PACKED                  # an errno says why

cdef struct FramedFile:         # a large file in the `frames` layout
    FileJob* job                # as the next five, set when the file is begun
    int fd                      # owned
    long long size              # bytes, when it was opened
    long long until             # where the part that is wanted ends
    bint streamed               # it is read to its end, whatever `size` says
    bint in_order               # no chunk begins before the one before it is read
    long long at                # byte at which the next chunk begins; with the lock
    bint reading                # a worker reads the next chunk, in order; with the lock
    u8* carry                   # what was read behind the last chunk's end, and belongs to the next. Of the worker that
    size_t carried              # reads, as the number of these bytes
    bint drained                # nothing is left to read; with the lock, as the rest
    bint ended                  # no further chunk begins
    int working                 # chunks that are not stored or given up
    FramedFile* next


cdef inline bint keeps_plain(FrameMode mode) noexcept nogil:
    return mode == STEADY or mode == TRYING


# A frame of raw blocks, RFC 8878: no checksum, since the plain bytes themselves are authenticated, and level 3's window.

cdef size_t raw_header(u8* out, size_t n) noexcept nogil:
    """Writes the header of a frame of `n` bytes. Returns RAW_HEADER."""
    cdef int i
    memcpy(out, b"\x28\xb5\x2f\xfd\xc0\x58", 6)
    for i in range(8):
        out[6 + i] = <u8>(<u64>n >> 8 * i)
    return RAW_HEADER


cdef u8* raw_block(u8* out, size_t n, bint last) noexcept nogil:
    """Writes the header of a block of `n` bytes. Returns where these go."""
    cdef size_t head = n << 3 | last
    out[0], out[1], out[2] = <u8>head, <u8>(head >> 8), <u8>(head >> 16)
    return out + 3


cdef bint compresses(Worker* worker, const u8* p, size_t n) noexcept nogil:
    """Returns True if zstd makes `n` bytes shorter by 1/32 or more."""
    return n >= RAW_BLOCK and not zstd.is_error(zstd.compress2(worker.context, worker.data, n - n // 32, p, n))


# ---- who does what (with the lock) ----

cdef bint pick_chunk(Sealer sealer, FramedFile* file, Worker* worker) noexcept nogil:
    """Chooses the next chunk of a file. Returns False if there is none now."""
    cdef Slab* slab
    if file.ended or file.reading:
        return False
    slab = sealer.take_slab(file.job)
    if slab == NULL:
        return False
    slab.chunk.framed = file
    worker.framed = file
    worker.slab = slab
    worker.at = file.at
    worker.length = 0
    if file.in_order:
        file.reading = True
    else:
        worker.length = <size_t>min(<long long>sealer.chunk_size, file.until - file.at)
        file.ended = file.at + <long long>worker.length >= file.until
        file.at += worker.length
    file.working += 1
    return True


cdef void accept_known(FramedFile* file) noexcept nogil:
    """Takes the chunks that an earlier run has stored over without reading them, if the file is what it was then."""
    cdef FileJob* job = file.job
    cdef u64 size = 0
    cdef Py_ssize_t i
    if job.known == NULL or not same_facts(&job.facts, &job.expected):
        return
    for i in range(job.known_count):
        size += job.known[i].plain
    if <long long>size >= file.size:
        return      # the last chunk is shorter than the caller says
    job.records, job.known = job.known, NULL
    job.count = job.room = job.known_count
    job.size = size
    file.at = size


cdef void leave_framed(Sealer sealer, FramedFile* file) noexcept nogil:
    """Counts a chunk as done, and ends the file if that was the last one."""
    check(holds_lock)
    check(file.working > 0)
    file.working -= 1
    if file.working or not file.ended:
        return
    sealer.job_done(file.job, file.fd)
    end_framed(sealer, file)


cdef void end_framed(Sealer sealer, FramedFile* file) noexcept nogil:
    cdef FramedFile** at = &sealer.framed_files
    while at[0] != file:
        at = &at[0].next
    at[0] = file.next
    sealer.large -= 1
    c_close(file.fd)
    free(file.carry)
    free(file)


# ---- the work (without the lock) ----

cdef void begin_framed(Sealer sealer, Worker* worker, FileJob* job, int fd, bint streamed) noexcept nogil:
    """Begins a file. `streamed`: it is read to its end, as it has no size, or none to be trusted."""
    cdef FramedFile* file = <FramedFile*>calloc(1, sizeof(FramedFile))
    cdef FramedFile** last = &sealer.framed_files
    cdef bint in_order = streamed or sealer.cuts_at.by_content
    if file != NULL and in_order:
        file.carry = <u8*>malloc(PIECE)
    if file == NULL or (in_order and file.carry == NULL):
        free(file)
        c_close(fd)
        sealer.fail_memory()
        return
    file.job = job
    file.fd = fd
    file.size = job.facts.size
    file.at = job.offset
    file.until = job.offset + job.length if job.length else file.size
    file.streamed = streamed
    file.in_order = in_order
    if streamed and job.path != NULL:
        c_lseek(fd, 0, SEEK_SET)
    pthread_mutex_lock(&sealer.lock)
    while last[0] != NULL:
        last = &last[0].next
    last[0] = file
    sealer.large += 1
    file.working = 1
    if not streamed:
        accept_known(file)
    leave_framed(sealer, file)
    pthread_mutex_unlock(&sealer.lock)


cdef void frame_step(Sealer sealer, Worker* worker) noexcept nogil:
    """Makes one chunk, from the file to the stores."""
    cdef FramedFile* file = worker.framed
    cdef FileJob* job = file.job
    cdef Slab* slab = worker.slab
    cdef size_t n = worker.length
    cdef StoreResult result
    cdef bint alone = not file.in_order and file.size <= <long long>sealer.chunk_size
    cdef bint hole = False, empty
    cdef Errno error = 0
    if not equip_frame(sealer, worker, slab):
        sealer.fail_memory()
        end_chunk(sealer, slab, False)
        return
    slab.chunk.have = 0
    if file.in_order:
        area_claim(slab, slab.plain_area.first, slab.plain_area.last)
        error = read_in_order(sealer, worker, file, &n, &alone, &hole)
    elif n == sealer.chunk_size and not alone:
        hole = in_hole(sealer, file, worker.at)
    if hole and take_zero(sealer, job, slab) or error == 0 and not alone and take_earlier(sealer, worker, job, n):
        end_chunk(sealer, slab, False)
        return
    empty = n == 0 and slab.chunk.index > 0
    if error == 0 and not empty:
        error = pack(sealer, worker, file, &n, alone)
        empty = n == 0 and not alone
    slab.chunk.plain_size, slab.chunk.hole = n, hole
    pthread_mutex_lock(&sealer.lock)
    job.size += n
    if error:
        job.error = error
        file.ended = True
    elif empty:
        job.records[slab.chunk.index].ready = job.records[slab.chunk.index].empty = True
    else:
        slab_complete(slab)
        slab_take(slab)
    pthread_mutex_unlock(&sealer.lock)
    result = sealer.finish(slab, worker) if error == 0 and not empty else FAILED
    if result != LEFT_TO_WRITER:
        end_chunk(sealer, slab, result == STORED)


cdef void end_chunk(Sealer sealer, Slab* slab, bint stored) noexcept nogil:
    """Ends a chunk: records its blob if that is `stored`, and gives its slab back."""
    cdef FramedFile* file = slab.chunk.framed
    pthread_mutex_lock(&sealer.lock)
    if stored:
        note_blob(file.job, slab.chunk.index, slab, &sealer.store.keys, slab.chunk.plain_size)
        if slab.chunk.hole:
            sealer.zero = file.job.records[slab.chunk.index]
    sealer.give_back(slab)
    leave_framed(sealer, file)
    if sealer.idle:
        pthread_cond_signal(&sealer.work)
    pthread_mutex_unlock(&sealer.lock)


cdef bint in_hole(Sealer sealer, const FramedFile* file, long long at) noexcept nogil:
    """Returns True if a full chunk that begins at `at` lies in a hole of the file."""
    cdef long long end = at + <long long>sealer.chunk_size
    return file.job.facts.sparse and end <= file.size and next_data(file.fd, at, file.size) >= end


cdef bint take_zero(Sealer sealer, FileJob* job, Slab* slab) noexcept nogil:
    """Records the blob of a chunk that lies in a hole, which is the same each time. Returns False if it is not stored yet."""
    cdef bint there
    pthread_mutex_lock(&sealer.lock)
    there = sealer.zero.ready
    if there:
        job.records[slab.chunk.index] = sealer.zero
        job.size += sealer.zero.plain
    pthread_mutex_unlock(&sealer.lock)
    return there


cdef bint take_earlier(Sealer sealer, Worker* worker, FileJob* job, size_t n) noexcept nogil:
    """Records the blob of a chunk whose plain bytes an earlier version of the file had, too, if every sink has that blob.
    Returns True if so."""
    cdef Slab* slab = worker.slab
    cdef Record wanted
    cdef Record* found
    if job.earlier_count == 0 or n == 0 or slab.chunk.have < n:
        return False
    name_plain(slab, &sealer.store.keys, n)
    memcpy(wanted.plain_name, slab.chunk.plain_name, KEY)
    found = <Record*>bsearch(&wanted, job.earlier, job.earlier_count, sizeof(Record), compare_plain)
    if found == NULL or found.stored < sealer.store.keys.header + BOX:
        return False
    memcpy(slab.sealing.digest, found.digest, KEY)
    slab.total = found.stored - sealer.store.keys.header - BOX
    if not sealer.store.all_have(slab, worker.data) or not sealer.stores_go_on():
        return False
    sealer.store.count_found(slab.sealing.digest)
    pthread_mutex_lock(&sealer.lock)
    note_blob(job, slab.chunk.index, slab, &sealer.store.keys, n)
    job.size += n
    pthread_mutex_unlock(&sealer.lock)
    return True


cdef void name_plain(Slab* slab, const Keys* keys, size_t n) noexcept nogil:
    sha256(slab.chunk.plain, n, slab.chunk.plain_name)
    name_digest(keys.name_secret, slab.chunk.plain_name)
    slab.chunk.plain_named = True


cdef bint equip_frame(Sealer sealer, Worker* worker, Slab* slab) noexcept nogil:
    """Gives a worker and a slab their memory. Returns False when there is none."""
    if slab.chunk.plain == NULL:
        slab.chunk.plain_room = sealer.chunk_size + PIECE
        slab.chunk.plain = map_memory(slab.chunk.plain_room)
        area_begin(&slab.plain_area, slab.chunk.plain, slab.chunk.plain_room, PROBE)
    return (slab.chunk.plain != NULL and sealer.equip(worker)
            and not slab_reserve(slab, evened(zstd.compress_bound(sealer.chunk_size))))


cdef Errno read_in_order(Sealer sealer, Worker* worker, FramedFile* file, size_t* n, bint* alone, bint* hole) noexcept nogil:
    """Reads the next chunk of a file that is read in order into its slab: sets `n` to its bytes, `alone` if the file has no
    other, and `hole` if it lies in one and was not read. Bytes that were read behind its end are carried to the next chunk;
    only if there are any, or more can be read, there is one."""
    cdef u8* plain = worker.slab.chunk.plain
    cdef size_t have = file.carried, got = 0
    cdef long long next_at = -1
    cdef bint drained = file.drained, ended
    cdef Scan scan
    cdef Errno error = 0
    memset(&scan, 0, sizeof(Scan))
    n[0] = 0
    hole[0] = not file.streamed and in_hole(sealer, file, worker.at)
    if hole[0]:
        n[0] = sealer.chunk_size
        have = 0
        drained = worker.at + <long long>n[0] == file.size
    else:
        memcpy(plain, file.carry, have)
        while True:
            if n[0] == 0:
                n[0] = chunk_end(&sealer.cuts_at, &scan, plain, have)
            if 0 < n[0] < have or drained:
                break
            error = read_next(sealer, file, plain + have, worker.at + <long long>have, &next_at, &got, &drained)
            if error or sealer.is_stopping():
                break
            have += got
        n[0] = n[0] or have
        worker.slab.chunk.have = n[0]
        have -= n[0]
        memcpy(file.carry, plain + n[0], have)
    ended = drained and have == 0
    alone[0] = ended and worker.slab.chunk.index == 0
    pthread_mutex_lock(&sealer.lock)
    file.at += n[0]
    file.carried = have
    file.drained = drained
    file.ended = file.ended or ended or error != 0
    file.reading = False
    if sealer.idle:
        pthread_cond_signal(&sealer.work)
    pthread_mutex_unlock(&sealer.lock)
    return error or (EINTR if sealer.is_stopping() else 0)


cdef Errno read_next(Sealer sealer, const FramedFile* file, u8* p, long long at, long long* next_at, size_t* got,
                   bint* drained) noexcept nogil:
    """Reads the next piece of a file that is read in order; sets `drained` behind the last."""
    cdef size_t piece
    cdef Errno error
    if file.streamed:
        error = sealer.reader.read_on(file.job, file.fd, p, PIECE, got)
        sealer.store.count_read(got[0])
        drained[0] = got[0] < PIECE
        return error
    piece = <size_t>min(<long long>PIECE, file.size - at)
    error = read_piece(sealer, file, p, piece, at, next_at, got)
    if got[0] < piece:
        store_int(&file.job.changed, True)
    drained[0] = got[0] < piece or at + <long long>piece == file.size
    return error


cdef Errno read_piece(Sealer sealer, const FramedFile* file, u8* p, size_t n, long long at, long long* data,
                    size_t* got) noexcept nogil:
    """Reads `n` bytes from offset `at` on, fewer at the file's end, and none in holes. `data` is where the next bytes outside
    of a hole lie, as far as that is known."""
    cdef Errno error
    if file.job.facts.sparse:
        if data[0] < at + <long long>n:
            data[0] = next_data(file.fd, at, file.size)
        if data[0] >= at + <long long>n:
            memset(p, 0, n)
            got[0] = n
            return 0
    sealer.reader.begin_read()
    error = pread_full(file.fd, p, n, at, got)
    sealer.reader.end_read()
    sealer.store.count_read(got[0])
    return error


cdef Errno pack(Sealer sealer, Worker* worker, FramedFile* file, size_t* n, bint alone) noexcept nogil:
    """Compresses the chunk of `n` bytes into its slab, hashing and encrypting what comes out. `alone`: the file has one chunk,
    which becomes the frame that pog makes; other chunks become frames that say their length. When the file turns out to be
    shorter, `n` becomes the number of bytes that were there."""
    cdef FrameMode mode = STREAMED if alone else TRYING
    cdef Slab* slab = worker.slab
    cdef Errno error = 0
    cdef Packing packing
    make_room(slab, file, mode)
    packing = pack_frame(sealer, worker, file, n, alone, &mode, &error)
    while packing == AGAIN and n[0]:
        sealer.begin_again(slab)
        make_room(slab, file, mode)
        if mode == RAW:
            packing = pack_raw(sealer, worker, file, n, &mode, &error)
        else:
            packing = pack_frame(sealer, worker, file, n, alone, &mode, &error)
    # What did not compress is as quickly made again as recognized.
    if packing == PACKED and sealer.cuts_at.by_content and mode != RAW and not alone and not slab.chunk.plain_named \
            and slab.chunk.have >= n[0]:
        name_plain(slab, &sealer.store.keys, n[0])
    return error


cdef void make_room(Slab* slab, const FramedFile* file, FrameMode mode) noexcept nogil:
    """Gives memory back that this mode does not need: a slab has it for all plain bytes or for all of the blob, not both."""
    if not (keeps_plain(mode) or file.in_order):
        give_back_beyond(slab.chunk.plain, slab.chunk.plain_room, PROBE)
    elif not slab.moves:
        give_back_beyond(slab.base, slab.room, KEPT)


cdef Packing pack_frame(Sealer sealer, Worker* worker, FramedFile* file, size_t* n, bint alone, FrameMode* mode,
                        Errno* error) noexcept nogil:
    """Tries once to compress a chunk. Returns AGAIN when `n` or `mode` turned out to be wrong, and corrects them: a frame
    says its length at its beginning."""
    cdef bint steady = keeps_plain(mode[0])
    cdef Slab* slab = worker.slab
    cdef bint rolling = slab.moves and steady and not file.in_order and is_tuned(sealer.level, n[0], alone)
    cdef ZBuffer data, out
    cdef size_t at = 0, got, piece, left = 0
    cdef long long next_at = -1
    cdef u8* place
    if steady and not rolling:
        area_claim(slab, slab.plain_area.first, slab.plain_area.last)
    out.data, out.size, out.pos = chunk_of(slab), zstd.compress_bound(sealer.chunk_size), 0
    data.data, data.size, data.pos = slab.chunk.plain, 0, 0
    begin_frame(worker.context, sealer.level, n[0], alone, steady)
    while at < n[0]:
        if sealer.is_stopping():
            error[0] = EINTR
            return NOT_PACKED
        piece = min(n[0] - at, <size_t>PIECE)
        place = slab.chunk.plain + at if steady or at < slab.chunk.have else worker.data
        if rolling and data.pos > BEHIND:
            slab.chunk.have = 0     # not from the beginning on
            pthread_mutex_lock(&sealer.lock)
            area_let_go(slab, &slab.plain_area, slab.chunk.plain + data.pos - BEHIND)
            pthread_mutex_unlock(&sealer.lock)
        if rolling:
            area_reach(slab, &slab.plain_area, place + piece, &sealer.lock)
        area_reach(slab, &slab.blob_area, chunk_of(slab) + slab.length + STEP_ROOM, &sealer.lock)
        if at >= slab.chunk.have:
            error[0] = read_piece(sealer, file, place, piece, worker.at + <long long>at, &next_at, &got)
            if error[0]:
                return NOT_PACKED
            if got < piece:
                store_int(&file.job.changed, True)
                n[0] = at + got
                if not alone:
                    return AGAIN
                piece = got
        at += piece
        if steady:
            if slab.plain_area.gone == slab.plain_area.first:
                slab.chunk.have = max(slab.chunk.have, at)
            data.size = at
        else:
            data.data, data.size, data.pos = place, piece, 0
        left = zstd.compress_stream(worker.context, &out, &data, ZSTD_E_CONTINUE)
        if zstd.is_error(left):
            error[0] = ENOMEM
            return NOT_PACKED
        if mode[0] == TRYING and n[0] >= TRIAL and at == PROBE and out.pos > PROBE - PROBE // 32:
            mode[0] = RAW
            return AGAIN
        slab.length = out.pos
        follow_up(sealer, slab, PIECE)
    left = zstd.compress_stream(worker.context, &out, &data, ZSTD_E_END)
    if left or data.pos < data.size:
        error[0] = ENOMEM
        return NOT_PACKED
    slab.length = out.pos
    follow_up(sealer, slab, 1)
    return PACKED


cdef Packing pack_raw(Sealer sealer, Worker* worker, FramedFile* file, size_t* n, FrameMode* mode,
                      Errno* error) noexcept nogil:
    """Tries once to make a frame of raw blocks, reading each to where it is encrypted. Returns AGAIN as pack_frame, and when
    some of the bytes would compress."""
    cdef Slab* slab = worker.slab
    cdef size_t at = 0, got, block
    cdef long long next_at = -1
    cdef u8* place
    begin_frame(worker.context, sealer.level, n[0], False, False)    # what is tried is tried at the run's level
    slab.length = raw_header(chunk_of(slab), n[0])
    while at < n[0]:
        if sealer.is_stopping():
            error[0] = EINTR
            return NOT_PACKED
        block = min(n[0] - at, <size_t>RAW_BLOCK)
        area_reach(slab, &slab.blob_area, chunk_of(slab) + slab.length + STEP_ROOM, &sealer.lock)
        place = raw_block(chunk_of(slab) + slab.length, block, at + block == n[0])
        if at + block <= slab.chunk.have:
            memcpy(place, slab.chunk.plain + at, block)
        else:
            error[0] = read_piece(sealer, file, place, block, worker.at + <long long>at, &next_at, &got)
            if error[0]:
                return NOT_PACKED
            if got < block:
                store_int(&file.job.changed, True)
                n[0] = at + got
                return AGAIN
        if at and at % TRIAL == 0 and compresses(worker, place, block):
            mode[0] = STEADY
            return AGAIN
        at += block
        slab.length = place + block - chunk_of(slab)
        follow_up(sealer, slab, PIECE)
    follow_up(sealer, slab, 1)
    return PACKED


cdef void follow_up(Sealer sealer, Slab* slab, size_t minimum) noexcept nogil:
    """Hashes and encrypts what the compressor has written since the last call, if that is `minimum` bytes or more."""
    if slab.length - slab.sealing.hashed < minimum:
        return
    while slab.sealing.hashed < slab.length:
        slab_hash(slab, min(slab.length, slab.sealing.hashed + PIECE))
        if not slab.sealing.encrypt_late and slab_encrypt(slab, &sealer.store.keys, False):
            sealer.bad_key()
            return
    sealer.writer.follow(slab)

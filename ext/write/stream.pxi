# A large file in the `stream` layout. There are two roles, each held by one worker at a time and given up after every piece:
# the compressor fills a slab, the sealer follows it, hashing and encrypting while the bytes are still in the cache. When
# sealing is the slower part, the compressor runs ahead into a second slab, and then seals that one itself.
#
# All functions take the Sealer; its fields `streams` and `to_seal` are theirs.

cdef enum:
    AHEAD = 2                   # slabs that one stream may hold: one being filled, one being sealed
    STEP = 16                   # pieces read at most in one turn as compressor, when hardly anything comes out


cdef struct Stream:             # a large file in the `stream` layout
    FileJob* job
    int fd                      # owned
    void* cctx                  # its ZSTD_CCtx, as the next four the compressor's
    u8* data                    # SMALL bytes of memory for what was read
    size_t at                   # bytes of `data` that are compressed
    size_t end                  # bytes in `data`
    bint eof                    # nothing is left to read
    bint ended                  # the frame is complete, or cannot be completed; with the lock, as the rest
    bint busy                   # a worker compresses
    Slab* slab                  # being filled; NULL between two chunks
    int slabs                   # slabs it has, this one included
    Stream* next


# ---- who does what (with the lock) ----

cdef bint pick_stream(Sealer sealer, Worker* worker) noexcept nogil:
    """Chooses the next turn of one of the two roles, sealing before compressing. Returns False if there is none."""
    cdef Slab* slab = sealer.to_seal
    cdef Stream* stream = sealer.streams
    if keep_stream(sealer, worker):
        return True
    while slab != NULL:
        if slab.state == WHOLE or (slab.state == FILLING and slab.length - slab.sealing.hashed >= PIECE):
            slab_take(slab)
            worker.slab = slab
            worker.end = slab.length
            worker.last = slab.state == SEALING
            return True
        slab = slab.next
    while stream != NULL:
        if not stream.busy and not stream.ended and has_room(sealer, stream):
            stream.busy = True
            worker.stream = stream
            worker.slab = NULL
            return True
        stream = stream.next
    return False


cdef bint keep_stream(Sealer sealer, Worker* worker) noexcept nogil:
    """Lets a worker that has just compressed go on with its stream, if another worker can seal behind it: its core has the
    compressor's tables in its cache, and no other has to be woken for the slowest step. Returns True if it goes on."""
    cdef Stream* stream = sealer.streams
    while stream != NULL and stream != worker.stream:
        stream = stream.next
    worker.stream = NULL
    if stream == NULL or stream.busy or stream.ended:
        return False
    if not sealer.idle and (stream.slab == NULL or stream.slab.state != FOLLOWED):
        return False
    if not has_room(sealer, stream):
        return False
    stream.busy = True
    worker.stream = stream
    worker.slab = NULL
    return True


cdef bint has_room(Sealer sealer, Stream* stream) noexcept nogil:
    """Gives the stream a slab to fill if it has none. Returns False if there is none to give. A pool of n workers has n + 1
    slabs, so that with every worker in a file of its own one chunk can still be sealed while the next is compressed."""
    cdef Slab* slab
    cdef Slab** last = &sealer.to_seal
    if stream.slab != NULL:
        return True
    if stream.slabs == AHEAD:
        return False
    slab = sealer.take_slab(stream.job)
    if slab == NULL:
        return False
    slab.chunk.stream = stream
    while last[0] != NULL:
        last = &last[0].next
    last[0] = slab
    stream.slab = slab
    stream.slabs += 1
    return True


cdef void drop_slab(Sealer sealer, Slab* slab) noexcept nogil:
    """Takes a slab out of `to_seal` and gives it back; ends its stream if that was the last one."""
    cdef Slab** at = &sealer.to_seal
    cdef Stream* stream = slab.chunk.stream
    while at[0] != slab:
        at = &at[0].next
        check(at[0] != NULL)
    at[0] = slab.next
    sealer.give_back(slab)
    stream.slabs -= 1
    if stream.ended and not stream.slabs and not stream.busy:
        sealer.job_done(stream.job, stream.fd)
        end_stream(sealer, stream)


cdef void end_stream(Sealer sealer, Stream* stream) noexcept nogil:
    cdef Stream** at = &sealer.streams
    while at[0] != stream:
        at = &at[0].next
    at[0] = stream.next
    sealer.large -= 1
    c_close(stream.fd)
    zstd.free_cctx(stream.cctx)
    free(stream.data)
    free(stream)


# ---- the work (without the lock) ----

cdef void begin_stream(Sealer sealer, Worker* worker, FileJob* job, int fd, size_t got) noexcept nogil:
    """Begins a stream. The worker's buffer and context become the stream's: the `got` bytes that were read stay in place."""
    cdef Stream* stream = <Stream*>calloc(1, sizeof(Stream))
    cdef Stream** last = &sealer.streams
    if stream == NULL:
        c_close(fd)
        sealer.fail_memory()
        return
    sequential(fd)
    stream.job = job
    stream.fd = fd
    stream.data = worker.data
    stream.cctx = worker.context
    stream.end = got
    job.size = got
    worker.data = NULL
    worker.context = NULL
    zstd_reset(stream.cctx)
    pthread_mutex_lock(&sealer.lock)
    while last[0] != NULL:
        last = &last[0].next
    last[0] = stream
    sealer.large += 1
    pthread_mutex_unlock(&sealer.lock)


cdef void compress_step(Sealer sealer, Stream* stream) noexcept nogil:
    """Takes one turn as compressor: until the slab has a piece more or is full, or the file ends."""
    cdef Slab* slab = stream.slab
    cdef FileJob* job = stream.job
    cdef ZBuffer data, out
    cdef size_t left, goal
    cdef int reads = 0
    cdef Errno error = 0
    cdef bint ended = False
    if slab_reserve(slab, evened(sealer.chunk_size)):
        sealer.fail_memory()
        return
    out.data, out.size, out.pos = chunk_of(slab), sealer.chunk_size, slab.length
    goal = min(sealer.chunk_size, slab.length + PIECE)
    while out.pos < goal and reads < STEP and not ended:
        if stream.at == stream.end and not stream.eof:
            error = sealer.reader.read_on(job, stream.fd, stream.data, PIECE, &stream.end)
            sealer.store.count_read(stream.end)
            job.size += stream.end
            stream.at = 0
            stream.eof = stream.end == 0
            reads += 1
            if error:
                break
        data.data, data.size, data.pos = stream.data, stream.end, stream.at
        left = zstd.compress_stream(stream.cctx, &out, &data, ZSTD_E_END if stream.eof else ZSTD_E_CONTINUE)
        stream.at = data.pos
        if zstd.is_error(left):
            error = ENOMEM
            break
        ended = stream.eof and left == 0
    check(out.pos <= sealer.chunk_size)
    pthread_mutex_lock(&sealer.lock)
    check(stream.busy)
    check(stream.slab == slab)
    stream.busy = False
    slab.length = out.pos
    if error:
        job.error = error
        break_off(sealer, stream)
    else:
        stream.ended = ended
        if ended or out.pos == sealer.chunk_size:
            slab_complete(slab)
            stream.slab = NULL
            if slab.length == 0:        # the frame had ended with the last full chunk
                job.count -= 1
                drop_slab(sealer, slab)
    pthread_mutex_unlock(&sealer.lock)


cdef void break_off(Sealer sealer, Stream* stream) noexcept nogil:
    """Ends a file that cannot be read further. The chunk in its slab is dropped, by the worker that is sealing it if there is
    one. Called with the lock held."""
    cdef Slab* slab = stream.slab
    stream.ended = True
    stream.slab = NULL
    if slab.state == FOLLOWED:
        slab_abandon(slab)
    else:
        drop_slab(sealer, slab)


cdef void seal_step(Sealer sealer, Worker* worker) noexcept nogil:
    """Takes one turn as sealer: hashes and encrypts a few pieces of what is there, and finishes the blob with the last."""
    cdef Slab* slab = worker.slab
    cdef Stream* stream = slab.chunk.stream
    cdef size_t end = min(worker.end, slab.sealing.hashed + 4 * <size_t>PIECE)
    cdef bint last = worker.last and end == worker.end
    cdef bint stored = False
    while slab.sealing.hashed < end:
        slab_hash(slab, min(end, slab.sealing.hashed + PIECE))
        if not slab.sealing.encrypt_late and slab_encrypt(slab, &sealer.store.keys, False):
            sealer.bad_key()
            return
    sealer.writer.follow(slab)
    if last:
        stored = sealer.finish(slab, worker) == STORED
    pthread_mutex_lock(&sealer.lock)
    if last or slab.state == ABANDONED:
        if stored:
            note_blob(stream.job, slab.chunk.index, slab, &sealer.store.keys, 0)
        drop_slab(sealer, slab)
    else:
        slab_leave(slab)
    pthread_mutex_unlock(&sealer.lock)

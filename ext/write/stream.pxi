# A large file in the `stream` layout: two roles, each held by one worker at a time and given up after every piece. The
# compressor fills a slab, the sealer hashes and encrypts behind it while the bytes are warm. When sealing is the slower
# part, the compressor runs ahead into a second slab, and then seals that one itself.

cdef enum:
    AHEAD = 2                   # slabs that one stream may hold: one being filled, one being sealed
    STEP = 16                   # pieces read at most in one turn as compressor, when hardly anything comes out


cdef struct Stream:             # a large file in the `stream` layout
    FileJob* job
    int fd
    void* cctx
    u8* data
    size_t at
    size_t end
    bint eof
    bint ended                  # the frame is finished, or broken off
    bint busy
    Slab* slab                  # being filled
    int slabs                   # held, this one included
    Stream* next


# ---- who does what (with the lock) ----

cdef bint pick_stream(Sealer sealer, Worker* worker) noexcept nogil:
    """The next turn of one of the two roles: sealing before compressing."""
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
    """Whether a worker that has just compressed goes on with its stream: when another can seal behind it. Its
    core has the compressor's tables in its cache, and nobody need be woken for the slowest part of the road."""
    cdef Stream* stream = sealer.streams
    while stream != NULL and stream != worker.stream:
        stream = stream.next
    worker.stream = NULL
    if stream == NULL or stream.busy or stream.ended or not (sealer.idle or (stream.slab != NULL and stream.slab.state == FOLLOWED)):
        return False
    if not has_room(sealer, stream):
        return False
    stream.busy = True
    worker.stream = stream
    worker.slab = NULL
    return True


cdef bint has_room(Sealer sealer, Stream* stream) noexcept nogil:
    """Gives the stream a slab to fill if it has none. A pool of n holds n + 1 slabs, so that with every worker in
    a file of its own one chunk can still be sealed while the next is compressed."""
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
    """Takes a slab out of the list of those being sealed, and gives its stream one less."""
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
    """The worker's buffer and context become the stream's: the bytes that are read already stay where they are."""
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
    """One turn as compressor: until a piece more is in the slab, or the slab is full, or the file ends."""
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
    """A file that cannot be read further: what is in its open slab is dropped, unless a worker is in it."""
    cdef Slab* slab = stream.slab
    stream.ended = True
    stream.slab = NULL
    if slab.state == FOLLOWED:
        slab_abandon(slab)
    else:
        drop_slab(sealer, slab)


cdef void seal_step(Sealer sealer, Worker* worker) noexcept nogil:
    """One turn as sealer: hashes and encrypts what is there, a few pieces; finishes the blob when that is all."""
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

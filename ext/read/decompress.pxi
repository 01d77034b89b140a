# An opened chunk into files: decompressed once, to the end of one file or to every part that needs it. All of it is done
# without the lock.

cdef enum:
    STRETCH = 8 << 20           # bytes of a file whose way to the disk begins when they have been written


cdef void count_written(Plan* plan, size_t n) noexcept nogil:
    pthread_mutex_lock(plan.lock)
    plan.written += n
    pthread_mutex_unlock(plan.lock)


cdef Py_ssize_t next_piece(void* context, ZBuffer* data, ZBuffer* out, size_t* left) noexcept nogil:
    """Decompresses the next piece of `data` to the beginning of `out`. Returns its bytes, 0 behind the last, -1 if the
    frame is malformed."""
    # A full buffer may mean that there is more behind it, unless the frame has just ended.
    while data.pos < data.size or (out.pos == out.size and left[0]):
        out.pos = 0
        left[0] = zstd.decompress_stream(context, out, data)
        if zstd.is_error(left[0]):
            return -1
        if out.pos:
            return out.pos
    return 0


cdef Errno write_piece(int fd, const OpenJob* job, const u8* p, size_t n, long long at) noexcept nogil:
    """Writes a piece. The disk begins on each stretch when its end is written, so that the sync finds little to do."""
    cdef Errno code
    cdef long long begin, end
    at += job.start
    begin, end = at - at % STRETCH, at + <long long>n
    code = pwrite_sparse(fd, p, n, at) if job.sparse else pwrite_full(fd, p, n, at)
    if code == 0 and end - begin >= STRETCH:
        start_writeback(fd, begin, end - end % STRETCH - begin)
    return code


cdef Verdict decompress_to(Plan* plan, Output* output, Slab* slab, const OpenJob* job, u8* pieces, Errno* code) noexcept nogil:
    """Decompresses an opened chunk to the end of a file. `pieces` has room for two."""
    cdef ZBuffer data, out
    cdef Py_ssize_t n
    data.data, data.size, data.pos = chunk_of(slab), slab.length, 0
    out.data, out.size, out.pos = pieces, 2 * PIECE, 0
    while True:
        n = next_piece(output.context, &data, &out, &output.frame_left)
        if n <= 0:
            return BAD_FRAME if n else GOOD
        if is_ending(plan):
            return BROKEN_OFF
        if job.size >= 0 and n > job.size - output.written:
            return BAD_FRAME
        if output.draft.fd >= 0:
            code[0] = write_piece(output.draft.fd, job, out.data, n, output.written)
            if code[0]:
                return BAD_WRITE
        output.written += n
        count_written(plan, n)


cdef bint is_complete(const Output* output, const OpenJob* job) noexcept nogil:
    """Returns True if a file ends where its frame ends, and has the size that was asked for."""
    return not output.frame_left and (job.size < 0 or output.written == job.size)


cdef void decompress_to_parts(Plan* plan, FetchedBlob* blob, void* context, u8* pieces) noexcept nogil:
    """Decompresses an opened chunk once, to every part that waits for it. What is wrong with one part alone, its length or
    its file, is noted there; `blob.verdict` becomes what is wrong with all."""
    cdef ZBuffer data, out
    cdef size_t left = 0
    cdef long long written = 0
    cdef Py_ssize_t n, at
    cdef bint zero, wanted = True
    data.data, data.size, data.pos = chunk_of(blob.slab), blob.slab.length, 0
    out.data, out.size, out.pos = pieces, 2 * PIECE, 0
    unzstd_reset(context)
    while wanted:
        n = next_piece(context, &data, &out, &left)
        if n <= 0:
            break
        zero, wanted = is_zero(out.data, n), False
        at = blob.parts
        while at >= 0:
            if is_ending(plan):
                blob.verdict = BROKEN_OFF
                return
            wanted |= write_part(plan, at, out.data, n, written, zero)
            at = plan.uses[at].follow
        written += n
    if wanted and (n < 0 or left):
        blob.verdict = BAD_FRAME
        return
    at = blob.parts
    while at >= 0:
        if length_of(plan, at) >= 0 and length_of(plan, at) != written:
            note_part(plan, at, BAD_FRAME, 0)
        at = plan.uses[at].follow


cdef bint write_part(Plan* plan, Py_ssize_t at, const u8* p, size_t n, long long written, bint zero) noexcept nogil:
    """Writes a piece of a blob to one of its uses. Returns True if that needs the next piece, too."""
    cdef OpenJob* job = &plan.files[plan.uses[at].file]
    cdef long long length = length_of(plan, at)
    cdef Errno code
    if load_int(&job.verdict) != GOOD:
        return False
    if length >= 0 and <long long>n > length - written:
        note_part(plan, at, BAD_FRAME, 0)
        return False
    count_written(plan, n)
    if job.directory < 0 or (zero and job.sparse):
        return True
    code = write_piece(job.restoring.output.draft.fd, job, p, n, plan.uses[at].at + written)
    if code:
        note_part(plan, at, BAD_WRITE, code)
    return code == 0


cdef void note_part(Plan* plan, Py_ssize_t at, Verdict verdict, Errno code) noexcept nogil:
    cdef OpenJob* job = &plan.files[plan.uses[at].file]
    pthread_mutex_lock(plan.lock)
    note_failure(job, verdict, code, at - job.first, plan.uses[at].at)
    pthread_mutex_unlock(plan.lock)

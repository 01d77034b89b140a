# A large file in the `frames` layout: it is cut first, and each chunk is one task. Whoever is free reads, compresses,
# hashes and encrypts it piece by piece, so that a piece never leaves its core's cache. What cannot be read at any place
# (a pipe) is read in order, a chunk at a time, by one worker while the others work on the chunks before.

cdef enum:
    PROBE = 4 * PIECE           # of a chunk: what does not compress here is not expected to further on
    WORTH = 64 * PIECE          # larger chunks are worth the trial, for the memory that it spares
    AGAIN = -1                  # no errno: a chunk is to be made anew


cdef struct Cut:                # a large file in the `frames` layout
    FileJob* job
    int fd
    long long size              # when it was opened
    long long at                # where the next chunk begins
    bint in_order               # it is read to its end, whatever `size` says
    bint reading                # by a worker, in order
    bint carried                # `carry` is the next chunk's first byte: it was read to learn that there is one
    u8 carry
    bint ended                  # no further chunk begins
    int working                 # workers in it
    Cut* next


cdef class _Cutter(_Streamer):
    cdef Cut* cuts
    cdef Record zero            # the blob of a chunk of zeros, once there is one: holes need no work

    # ---- who does what (with the lock) ----

    cdef bint pick_chunk(self, Cut* cut, Hand* hand) noexcept nogil:
        cdef Slab* slab
        if cut.ended or cut.reading:
            return False
        slab = self.take_slab(cut, cut.job)
        if slab == NULL:
            return False
        hand.stream = cut
        hand.slab = slab
        hand.at = cut.at
        hand.length = self.chunk_size
        if cut.in_order:
            cut.reading = True
        else:
            hand.length = <size_t>min(<long long>self.chunk_size, cut.size - cut.at)
            cut.ended = cut.at + <long long>hand.length >= cut.size
        cut.at += hand.length
        cut.working += 1
        return True

    cdef void accept_known(self, Cut* cut) noexcept nogil:
        """Chunks that an earlier run has stored are not read again, if the file is what it was then. With the lock."""
        cdef FileJob* job = cut.job
        if job.known == NULL or not same_facts(&job.facts, &job.expected):
            return
        if job.known_count * <long long>self.chunk_size >= cut.size:
            return      # the last chunk is shorter than the caller says
        job.records, job.known = job.known, NULL
        job.count = job.room = job.known_count
        job.size = job.count * self.chunk_size
        cut.at = job.size

    cdef void chunk_done(self, Cut* cut) noexcept nogil:
        """A worker leaves a file; the last one of a file that is through ends it. Called with the lock held."""
        check(cut.working > 0)
        cut.working -= 1
        if cut.working or not cut.ended:
            return
        self.job_done(cut.job, cut.fd)
        self.end_cut(cut)

    cdef void end_cut(self, Cut* cut) noexcept nogil:
        cdef Cut** at = &self.cuts
        while at[0] != cut:
            at = &at[0].next
        at[0] = cut.next
        self.large -= 1
        c_close(cut.fd)
        free(cut)

    # ---- the work (without the lock) ----

    cdef void begin_cut(self, Hand* hand, FileJob* job, int fd, bint in_order) noexcept nogil:
        cdef Cut* cut = <Cut*>calloc(1, sizeof(Cut))
        cdef Cut** last = &self.cuts
        if cut == NULL:
            c_close(fd)
            self.fail_memory()
            return
        cut.job = job
        cut.fd = fd
        cut.size = job.facts.size
        cut.in_order = in_order
        if in_order and job.path != NULL:
            c_lseek(fd, 0, SEEK_SET)
        pthread_mutex_lock(&self.lock)
        while last[0] != NULL:
            last = &last[0].next
        last[0] = cut
        self.large += 1
        cut.working = 1
        if not in_order:
            self.accept_known(cut)
        self.chunk_done(cut)
        pthread_mutex_unlock(&self.lock)

    cdef void cut_step(self, Hand* hand) noexcept nogil:
        """One chunk, from the file to the sinks."""
        cdef Cut* cut = <Cut*>hand.stream
        cdef FileJob* job = cut.job
        cdef Slab* slab = hand.slab
        cdef size_t n = hand.length
        cdef bint alone = not cut.in_order and cut.size <= <long long>self.chunk_size
        cdef bint hole = False, stored = False, empty
        cdef int error = 0
        if not self.equip_cut(hand, slab):
            self.fail_memory()
            self.leave_cut(cut, slab)
            return
        slab.have = 0
        if cut.in_order:
            error = self.read_chunk(hand, cut, &n, &alone)
        elif job.facts.sparse and n == self.chunk_size and not alone:
            hole = next_data(cut.fd, hand.at, cut.size) >= hand.at + <long long>n
            if hole and self.take_zero(job, slab):
                self.leave_cut(cut, slab)
                return
        empty = n == 0 and slab.index > 0
        if error == 0 and not empty:
            error = self.pack(hand, cut, &n, alone)
            empty = n == 0 and not alone
        if error == 0 and not empty:
            stored = self.finish(slab, hand)
        pthread_mutex_lock(&self.lock)
        job.size += n
        if stored:
            self.note_blob(job, slab.index, slab, n)
            if hole:
                self.zero = job.records[slab.index]
        elif error == 0 and empty:
            job.records[slab.index].ready = job.records[slab.index].empty = True
        elif error:
            job.error = error
            cut.ended = True
        pthread_mutex_unlock(&self.lock)
        self.leave_cut(cut, slab)

    cdef bint take_zero(self, FileJob* job, Slab* slab) noexcept nogil:
        """A chunk that lies in a hole is the same blob each time."""
        cdef bint there
        pthread_mutex_lock(&self.lock)
        there = self.zero.ready
        if there:
            job.records[slab.index] = self.zero
            job.size += self.zero.plain
        pthread_mutex_unlock(&self.lock)
        return there

    cdef void leave_cut(self, Cut* cut, Slab* slab) noexcept nogil:
        # Beside its plain bytes a chunk that hardly compressed is more than a chunk should take for long.
        if slab.have > self.chunk_size // 2 and slab.length > self.chunk_size // 2:
            slab_trim(slab, self.chunk_size // 2)
        pthread_mutex_lock(&self.lock)
        self.give_back(slab)
        self.chunk_done(cut)
        pthread_mutex_unlock(&self.lock)

    cdef bint equip_cut(self, Hand* hand, Slab* slab) noexcept nogil:
        if slab.plain == NULL:
            slab.plain = map_memory(self.chunk_size)
            slab.plain_room = self.chunk_size
        return slab.plain != NULL and self.equip(hand) and not slab_reserve(slab, zstd.compress_bound(self.chunk_size))

    cdef int read_chunk(self, Hand* hand, Cut* cut, size_t* n, bint* alone) noexcept nogil:
        """The next chunk of what is read in order, into its slab's memory. 0 or an errno."""
        cdef Slab* slab = hand.slab
        cdef size_t got = 0, one = 0
        cdef int error = 0
        cdef bint ended
        if cut.carried:
            slab.plain[0] = cut.carry
        error = self.read_on(cut.job, cut.fd, slab.plain + cut.carried, self.chunk_size - cut.carried, &got)
        self.count_read(got)
        n[0] = slab.have = got + cut.carried
        ended = n[0] < self.chunk_size
        if error == 0 and not ended:
            error = self.read_on(cut.job, cut.fd, &cut.carry, 1, &one)
            ended = one == 0
        alone[0] = ended and hand.slab.index == 0
        pthread_mutex_lock(&self.lock)
        cut.carried = one == 1
        cut.ended = cut.ended or ended or error != 0
        cut.reading = False
        if self.idle:
            pthread_cond_signal(&self.work)
        pthread_mutex_unlock(&self.lock)
        return error

    cdef int read_piece(self, const Cut* cut, u8* p, size_t n, long long at, long long* data, size_t* got) noexcept nogil:
        """`n` bytes from offset `at` on; holes are not read. `data` is where the next bytes outside of one lie, as far as
        that is known. 0 or an errno."""
        cdef int error
        if cut.job.facts.sparse:
            if data[0] < at + <long long>n:
                data[0] = next_data(cut.fd, at, cut.size)
            if data[0] >= at + <long long>n:
                memset(p, 0, n)
                got[0] = n
                return 0
        self.begin_read()
        error = pread_full(cut.fd, p, n, at, got)
        self.end_read()
        self.count_read(got[0])
        return error

    cdef int pack(self, Hand* hand, Cut* cut, size_t* n, bint alone) noexcept nogil:
        """Compresses the chunk of `n` bytes into its slab; hashes and encrypts behind. A file of one chunk as pog does,
        others to frames that stand alone. When the file turns out to be shorter `n` becomes what was there, 0 when that
        is nothing. 0 or an errno."""
        cdef bint steady = not alone
        cdef int error = self.pack_frame(hand, cut, n, alone, &steady)
        while error == AGAIN and n[0]:
            slab_begin(hand.slab)
            error = self.pack_frame(hand, cut, n, alone, &steady)
        return 0 if error == AGAIN else error

    cdef int pack_frame(self, Hand* hand, Cut* cut, size_t* n, bint alone, bint* steady) noexcept nogil:
        """One try of `pack`. AGAIN when `n` or `steady` were not what they should be, and are now: a frame says its length
        up front, and what does not compress needs not be `steady`.

        `steady`: all of the chunk is kept in memory, and zstd finds matches in it without copying what it reads into a
        ring of its own, whose seam costs it a fifth of its speed. Otherwise a chunk needs half the memory."""
        cdef Slab* slab = hand.slab
        cdef ZBuffer data, out
        cdef size_t at = 0, got, piece, left = 0
        cdef long long next_at = -1
        cdef u8* place
        cdef int error
        slab.later = self.mostly_known
        out.data, out.size, out.pos = chunk_of(slab), zstd.compress_bound(self.chunk_size), 0
        data.data, data.size, data.pos = slab.plain, 0, 0
        self.begin_frame(hand, n[0], alone, steady[0])
        while at < n[0]:
            if self.stopping:
                return EINTR
            piece = min(n[0] - at, <size_t>PIECE)
            place = slab.plain + at if steady[0] or at < slab.have else hand.data
            if at >= slab.have:
                error = self.read_piece(cut, place, piece, hand.at + <long long>at, &next_at, &got)
                if error:
                    return error
                if got < piece:
                    cut.job.changed = True
                    n[0] = at + got
                    if not alone:
                        return AGAIN
                    piece = got
            at += piece
            if steady[0]:
                slab.have = max(slab.have, at)
                data.size = at
            else:
                data.data, data.size, data.pos = place, piece, 0
            left = zstd.compress_stream(hand.context, &out, &data, ZSTD_E_CONTINUE)
            if zstd.is_error(left):
                return ENOMEM
            if steady[0] and n[0] > WORTH and at == PROBE and out.pos > PROBE - PROBE // 32:
                steady[0] = False
                return AGAIN
            slab.length = out.pos
            self.follow_up(slab, PIECE)
        left = zstd.compress_stream(hand.context, &out, &data, ZSTD_E_END)
        if left or data.pos < data.size:
            return ENOMEM
        slab.length = out.pos
        self.follow_up(slab, 1)
        return 0

    cdef void follow_up(self, Slab* slab, size_t least) noexcept nogil:
        """Hashes and encrypts what the compressor has written since, when it is at least so much."""
        if slab.length - slab.hashed < least:
            return
        while slab.hashed < slab.length:
            slab_hash(slab, min(slab.length, slab.hashed + PIECE))
            if not slab.later and slab_encrypt(slab, &self.ring, False):
                self.bad_key()
                return

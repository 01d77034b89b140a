# A blob, from the directory or function where it lies into memory: authenticated, decrypted, held against its name. Nothing
# is decompressed that has not been authenticated.

cdef class _Fetcher:
    """Fetches the blobs of one Opener. All of it is done without the lock."""
    cdef Keys keys
    cdef object source
    cdef Directory* directory   # of the source; NULL when it is a Python function
    cdef object refresh         # lists the packs of the directory again; None if it has none
    cdef Plan* plan             # of the Opener that this belongs to

    cdef void fetch(self, FetchedBlob* blob, u8* scratch) noexcept nogil:
        """Opens a blob of the directory in its slab. If what holds it is damaged, other packs may hold it as well."""
        cdef const u8* digest = self.plan.uses[blob.use].digest
        cdef Extent extent
        cdef Holder holder
        blob.verdict = self.open(digest, &extent, &holder, &blob.code)
        if blob.verdict != GOOD:
            return
        self.take(blob, &extent, digest, scratch)
        if self.directory.packs != NULL and is_bad(blob.verdict, blob.code):
            self.fetch_elsewhere(blob, &holder, digest, scratch)

    cdef void take(self, FetchedBlob* blob, const Extent* extent, const u8* digest, u8* scratch) noexcept nogil:
        """Opens a blob in its slab, and closes where it lies. One that is longer than it can be is damaged, and gets no
        memory."""
        cdef long long maximum = max_size_of(self.plan, blob)
        blob.verdict, blob.code = GOOD, 0
        if extent.size > (max_blob if maximum < 0 else maximum):
            blob.verdict = BAD_BODY
        elif maximum < 0 and extent.size > UNPROVEN:
            blob.verdict = authenticate(extent, &self.keys, scratch, self.plan.stopping, &blob.code)
        if blob.verdict == GOOD:
            blob.verdict = self.load(blob.slab, extent, digest, &blob.code)
        c_close(extent.fd)

    cdef void fetch_elsewhere(self, FetchedBlob* blob, const Holder* holder, const u8* digest,
                              u8* scratch) noexcept nogil:
        """Opens the first good copy of a blob that is damaged in `holder`, in another pack or by itself, if there is
        one."""
        cdef IndexSearch search
        cdef Span span
        cdef Extent extent
        index_begin(self.directory.packs, &search, digest)
        while is_bad(blob.verdict, blob.code) and index_next(&search, &span):
            if not is_held(holder, &span) and pack_open(self.directory, &span, &extent):
                self.take(blob, &extent, digest, scratch)
        index_leave(self.directory.packs)
        if holder.in_pack and is_bad(blob.verdict, blob.code) and plain_open(self.directory, digest, &extent):
            self.take(blob, &extent, digest, scratch)

    cdef Verdict open(self, const u8* digest, Extent* extent, Holder* holder, Errno* code) noexcept nogil:
        """Opens where a blob lies. A prune may have moved it to another pack since these were listed: that is looked for
        once."""
        cdef Py_ssize_t version = index_version(self.directory.packs)
        cdef bint found = blob_open(self.directory, digest, extent, holder)
        code[0] = 0 if found else errno
        if not found and self.directory.packs != NULL and self.look_again(version):
            found = blob_open(self.directory, digest, extent, holder)
            code[0] = 0 if found else errno
        return GOOD if found else NOT_THERE if code[0] == ENOENT else BAD_READ

    cdef bint look_again(self, Py_ssize_t version) noexcept nogil:
        """Has the packs listed again, unless the index is another one than the `version` that was searched: of several
        workers that miss a pack one lists. Returns True if the blob may be elsewhere by now."""
        cdef bint listed
        with gil:
            if index_version(self.directory.packs) != version:
                return True
            try:
                listed = self.refresh is not None and self.refresh()
            except Exception:       # what cannot be listed is not there
                listed = False
            return listed or index_version(self.directory.packs) != version

    cdef Verdict load(self, Slab* slab, const Extent* extent, const u8* digest, Errno* code) noexcept nogil:
        """As read_blob. What is damaged is read once more, from the disk if possible: memory and cables err, too."""
        cdef Verdict verdict = self.read_blob(slab, extent, digest, code)
        if is_damage(verdict):
            forget_cached(extent.fd, extent.start, extent.size)
            verdict = self.read_blob(slab, extent, digest, code)
        return verdict

    cdef Verdict read_blob(self, Slab* slab, const Extent* extent, const u8* digest, Errno* code) noexcept nogil:
        """Reads a blob into a slab and opens it there."""
        cdef OpenState state
        cdef size_t head = self.keys.header + BOX
        cdef Verdict verdict
        if extent.size < <long long>head:
            return BAD_BODY
        memset(&state, 0, sizeof(OpenState))
        slab.total = extent.size - head
        if slab_reserve(slab, slab.total):
            code[0] = ENOMEM
            return BAD_READ
        verdict = self.read_pieces(&state, slab, extent, code)
        if verdict == GOOD:
            verdict = open_end(&state)
        if verdict == GOOD and extent.size > SMALL_BLOB:
            self.read_ahead()
        if verdict == GOOD:
            verdict = slab_unlock(slab, &state, &self.keys, digest, self.plan.stopping)
        open_forget(&state)
        return verdict

    cdef Verdict read_pieces(self, OpenState* state, Slab* slab, const Extent* extent, Errno* code) noexcept nogil:
        """Reads a blob, adding each piece to its tag while it is warm."""
        cdef size_t head = self.keys.header + BOX, at = 0, got = 0
        cdef u8* blob = blob_of(slab, &self.keys)
        cdef Verdict verdict
        check(<size_t>blob % PAGE >= 64)        # see CHUNK_AT
        code[0] = pread_full(extent.fd, blob, min(head + slab.total, <size_t>PIECE), extent.start, &got)
        if code[0]:
            return BAD_READ
        count_fetched(self.plan, got)
        if got < head:
            return BAD_BODY
        verdict = open_begin(state, &self.keys, blob)
        got -= head
        while verdict == GOOD:
            poly_add(&state.poly, chunk_of(slab) + at, got)
            at += got
            if at == slab.total:
                break
            code[0] = pread_full(extent.fd, chunk_of(slab) + at, min(slab.total - at, <size_t>PIECE),
                                 extent.start + head + at, &got)
            count_fetched(self.plan, got)
            if code[0]:
                verdict = BAD_READ
            elif got == 0:
                verdict = BAD_BODY
            elif is_ending(self.plan):
                verdict = BROKEN_OFF
        return verdict

    cdef void read_ahead(self) noexcept nogil:
        """Asks the system for the blob that will be picked next: the disk has nothing to do while blobs are decrypted. A
        tenth less time if none is in the page cache."""
        cdef u8[KEY] digest
        cdef Extent extent
        cdef Holder holder
        cdef bint found
        pthread_mutex_lock(self.plan.lock)
        found = next_to_fetch(self.plan, digest)
        pthread_mutex_unlock(self.plan.lock)
        if found and blob_open(self.directory, digest, &extent, &holder):
            will_need(extent.fd, extent.start, extent.size)
            c_close(extent.fd)

    cdef int fetch_from_call(self, FetchedBlob* blob) except -1:
        """As fetch, for a source that is a Python function. What seems damaged is asked for once more: it may have been
        damaged on its way. Raises what the function raises, unless that says something of this blob alone."""
        cdef str name = name_of(self.plan.uses[blob.use].digest)
        cdef int attempt
        for attempt in range(2):
            try:
                self.open_bytes(blob, self.source(name))
            except MissingBlob:
                blob.verdict = NOT_THERE
            except CorruptBlob:     # found before all of it was fetched
                blob.verdict = BAD_BODY
            except MemoryError:     # this one is too large
                blob.verdict, blob.code = BAD_READ, ENOMEM
            if not is_damage(blob.verdict):
                return 0
        for other in getattr(self.source, "copies", no_copies)(name):
            self.open_bytes(blob, other)
            if not is_damage(blob.verdict):
                break
        return 0

    cdef int open_bytes(self, FetchedBlob* blob, const u8[::1] data) except -1:
        cdef const u8* digest = self.plan.uses[blob.use].digest
        cdef size_t size = data.shape[0]
        cdef const u8* p = &data[0] if size else NULL
        cdef long long maximum = max_size_of(self.plan, blob)
        if size > <size_t>(max_blob if maximum < 0 else maximum):
            blob.verdict = BAD_BODY
            return 0
        if slab_reserve(blob.slab, size):
            raise MemoryError
        with nogil:
            count_fetched(self.plan, size)
            blob.verdict = slab_open(blob.slab, &self.keys, p, size, digest, self.plan.stopping)
        return 0

    def __dealloc__(self):
        sodium.memzero(&self.keys, sizeof(Keys))


def no_copies(name):
    """The other copies of a blob in a source that has one of each."""
    return ()


cdef inline bint is_bad(Verdict verdict, Errno code) noexcept nogil:
    """Returns True if another copy of a blob may be better."""
    return is_damage(verdict) or (verdict == BAD_READ and code != ENOMEM)


cdef void count_fetched(Plan* plan, size_t n) noexcept nogil:
    pthread_mutex_lock(plan.lock)
    plan.fetched += n
    pthread_mutex_unlock(plan.lock)

# One blob at a time: what Sealer and Opener do with many. For tests, benchmarks and manifests.

def blob_name(bytes secret, const u8[::1] chunk):
    """Returns the name of the blob that holds `chunk`, 44 characters. FORMAT.md, "A file's bytes"."""
    cdef Keys keys
    cdef u8[KEY] digest
    cdef const u8* p = &chunk[0] if chunk.shape[0] else NULL
    cdef size_t n = chunk.shape[0]
    fill_keys(&keys, secret, False, None)
    with nogil:
        sha256(p, n, digest)
        name_digest(keys.name_secret, digest)
    return name_of(digest)


def seal_blob(bytes secret, bint asymmetric, const u8[::1] chunk, size_t chunk_size, bint even=False):
    """Seals one chunk. Returns (name, blob). Padded if it is shorter than `chunk_size`; `even`: so that its size is hidden."""
    cdef Keys keys
    cdef Slab* slab = slab_new(CHUNK_AT)
    cdef int failed
    if slab == NULL or slab_reserve(slab, evened(chunk.shape[0])):
        slab_free(slab)
        raise MemoryError
    try:
        fill_keys(&keys, secret, asymmetric, None)
        slab_begin(slab)
        if chunk.shape[0]:
            memcpy(chunk_of(slab), &chunk[0], chunk.shape[0])
        slab.length = chunk.shape[0]
        with nogil:
            slab_hash(slab, slab.length)
            slab_name(slab, &keys)
            if even and slab.length < chunk_size:
                pad_evenly(slab)
            else:
                pad(slab, chunk_size)
            failed = slab_encrypt(slab, &keys, True)
        if failed:
            raise ValueError("not a public key: it is a point of low order")
        return name_of(slab.sealing.digest), blob_of(slab, &keys)[:blob_size(slab, &keys)]
    finally:
        slab_free(slab)


cdef dict VERDICTS = {
    BAD_HEADER: (WrongKey, "this key does not open {}, or its header is damaged"),
    BAD_BODY: (CorruptBlob, "blob {} is damaged or cut short"),
    BAD_NAME: (WrongBlob, "blob {} holds another blob's content"),
}


cdef class _OpenedBlob:
    """The chunk in a blob, in a buffer of its own. Raises WrongKey if the header does not unwrap, CorruptBlob if the blob
    does not authenticate, WrongBlob if `name` is given and is that of other content."""
    cdef Slab* slab

    def __cinit__(self, bytes secret, bytes private, const u8[::1] blob, str name):
        cdef Keys keys
        cdef u8[KEY] digest
        cdef Verdict verdict
        cdef const u8* p = &blob[0] if blob.shape[0] else NULL
        cdef size_t size = blob.shape[0]
        cdef const u8* wanted = NULL
        fill_keys(&keys, secret, private is not None, private)
        if name is not None:
            read_name(name, digest)
            wanted = digest
        self.slab = slab_new(CHUNK_AT)
        if self.slab == NULL or slab_reserve(self.slab, size):
            raise MemoryError
        with nogil:
            verdict = slab_open(self.slab, &keys, p, size, wanted, &NEVER)
        sodium.memzero(&keys, sizeof(Keys))
        if verdict != GOOD:
            kind, text = VERDICTS[verdict]
            raise kind(text.format(name or "the blob"))

    def __dealloc__(self):
        slab_free(self.slab)


def open_blob(bytes secret, bytes private, const u8[::1] blob, str name=None):
    """Returns the chunk in a blob. Raises as _OpenedBlob does."""
    cdef _OpenedBlob opened = _OpenedBlob(secret, private, blob, name)
    return chunk_of(opened.slab)[:opened.slab.length]


def read_chunk(bytes secret, bytes private, const u8[::1] blob, str name, long long size):
    """Returns the plain bytes of a blob that is a frame of its own, exactly `size` of them (-1: not known). Raises as
    _OpenedBlob does; CorruptBlob, too, if the chunk does not decompress to that length."""
    cdef _OpenedBlob opened = _OpenedBlob(secret, private, blob, name)
    try:
        return decompressed(chunk_of(opened.slab), opened.slab.length, size)
    except ValueError as error:
        raise CorruptBlob(f"blob {name}: {error}") from error

# Poly1305 is OpenSSL's, which is three to five times as fast as libsodium's; without it (1.1.1, FIPS) libsodium's.

cdef enum:
    SPARE_MACS = 16             # contexts that are kept for the next tags: making one takes longer than a tag of 1 kB

ctypedef void* Mac              # EVP_MAC_CTX
cdef Mac[SPARE_MACS] spare_macs

cdef struct Poly:               # a tag that is being made. All zeros before poly_begin
    Mac mac                     # NULL where libsodium's is used
    u8[POLY_STATE + 16] room    # libsodium's state, somewhere in it, if there is no `mac`


cdef inline void* poly_state(Poly* poly) noexcept nogil:
    return <void*>((<size_t>&poly.room[0] + 15) & ~<size_t>15)      # libsodium wants it aligned to 16


cdef Mac take_mac() noexcept nogil:
    cdef Mac mac
    cdef int i
    for i in range(SPARE_MACS):
        mac = take_pointer(&spare_macs[i])
        if mac != NULL:
            return mac
    return crypto.mac_new(POLY1305_MAC)


cdef void poly_begin(Poly* poly, const u8* key) noexcept nogil:
    if POLY1305_MAC == NULL:
        if sodium.poly_init(poly_state(poly), key):
            library_failed(b"Poly1305")
        return
    if poly.mac == NULL:
        poly.mac = take_mac()
    if poly.mac == NULL or crypto.mac_init(poly.mac, key, KEY, NULL) != 1:
        library_failed(b"Poly1305")


cdef inline void poly_add(Poly* poly, const u8* m, u64 n) noexcept nogil:
    if crypto.mac_update(poly.mac, m, n) != 1 if poly.mac != NULL else sodium.poly_update(poly_state(poly), m, n) != 0:
        library_failed(b"Poly1305")


cdef void poly_end(Poly* poly, u8* tag) noexcept nogil:
    cdef size_t n = TAG
    if poly.mac == NULL:
        if sodium.poly_final(poly_state(poly), tag):
            library_failed(b"Poly1305")
    elif crypto.mac_final(poly.mac, tag, &n, TAG) != 1 or n != TAG:
        library_failed(b"Poly1305")
    poly_forget(poly)


cdef void poly_forget(Poly* poly) noexcept nogil:
    """Forgets the key of a tag, finished or not."""
    cdef u8[KEY] zeros
    cdef int i
    if poly.mac != NULL:
        memset(zeros, 0, KEY)
        if crypto.mac_init(poly.mac, zeros, KEY, NULL) != 1:
            library_failed(b"Poly1305")
        for i in range(SPARE_MACS):
            if poly.mac != NULL and give_pointer(&spare_macs[i], poly.mac):
                poly.mac = NULL
        if poly.mac != NULL:
            crypto.mac_free(poly.mac)
    sodium.memzero(poly, sizeof(Poly))

# Names of blobs: sha256(name secret || sha256(chunk)), as 44 letters of urlsafe base64. FORMAT.md, "A file's bytes".

cdef extern from "Python.h":
    bint PyUnicode_IS_ASCII(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    const u8* PyUnicode_1BYTE_DATA(object text)


cdef void sha256(const u8* m, size_t n, u8* out) noexcept nogil:
    cdef void* ctx = crypto.ctx_new()
    sha_begin(ctx)
    sha_update(ctx, m, n)
    sha_end(ctx, out)
    crypto.ctx_free(ctx)


cdef void name_digest(const u8* name_secret, u8* digest) noexcept nogil:
    """Turns the sha256 of a chunk into that of its name, in place: sha256(name secret || sha256(chunk))."""
    cdef u8[2 * KEY] both
    memcpy(both, name_secret, KEY)
    memcpy(both + KEY, digest, KEY)
    sha256(both, 2 * KEY, digest)


cdef bint is_name(const Keys* keys, const u8* content, const u8* name) noexcept nogil:
    """Returns True if `name` is that of a chunk whose sha256 is `content`: by the rule of today, or by that of releases before
    0.1.1, which used S in place of the name secret."""
    cdef u8[KEY] digest
    memcpy(digest, content, KEY)
    name_digest(keys.name_secret, digest)
    if memcmp(digest, name, KEY) == 0:
        return True
    memcpy(digest, content, KEY)
    name_digest(keys.secret, digest)
    return memcmp(digest, name, KEY) == 0


cdef str name_of(const u8* digest):
    cdef char[NAME + 1] letters
    write_name(digest, letters)
    return letters[:NAME].decode("ascii")


cdef int letter_bits(u8 c) noexcept nogil:
    """Returns the six bits of a letter of urlsafe base64, -1 if it is not one."""
    if c'A' <= c <= c'Z':
        return c - c'A'
    if c'a' <= c <= c'z':
        return c - c'a' + 26
    if c'0' <= c <= c'9':
        return c - c'0' + 52
    return 62 if c == c'-' else 63 if c == c'_' else -1


cdef signed char[256] BITS      # of each letter, for lists of a million names

cdef void fill_bits() noexcept:
    cdef int c
    for c in range(256):
        BITS[c] = letter_bits(<u8>c)

fill_bits()


cdef int read_name(str name, u8* digest) except -1:
    """Reads the sha256 in a blob's name. Raises ValueError if it is not such a name. Faster than the module base64: lists of
    a million names are read."""
    cdef Py_ssize_t n = 0, i
    cdef const char* letters = PyUnicode_AsUTF8AndSize(name, &n)
    cdef unsigned bits = 0
    cdef int six, left = 0
    if n != NAME or letters[NAME - 1] != c'=':
        raise ValueError("not a blob's name")
    for i in range(NAME - 1):
        six = BITS[<u8>letters[i]]
        if six < 0:
            raise ValueError("not a blob's name")
        bits, left = bits << 6 | six, left + 6
        if left >= 8:
            left -= 8
            digest[0] = <u8>(bits >> left)
            digest += 1
    return 0


def are_blob_names(list values not None):
    """Returns True if all are blobs' names: the last letter before the = carries four bits, so that each has one name only."""
    cdef object value
    cdef const u8* letters
    cdef int i
    for value in values:
        if type(value) is not str or not PyUnicode_IS_ASCII(value) or PyUnicode_GET_LENGTH(value) != NAME:
            return False
        letters = PyUnicode_1BYTE_DATA(value)
        for i in range(NAME - 1):
            if BITS[letters[i]] < 0:
                return False
        if BITS[letters[NAME - 2]] & 3 or letters[NAME - 1] != c'=':
            return False
    return True


cdef void write_name(const u8* digest, char* out) noexcept nogil:
    """Writes the 44 characters of a blob's name, and a NUL."""
    cdef const char* letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    cdef unsigned bits
    cdef int i, j = 0
    for i in range(0, 30, 3):
        bits = (digest[i] << 16) | (digest[i + 1] << 8) | digest[i + 2]
        out[j] = letters[bits >> 18]
        out[j + 1] = letters[(bits >> 12) & 63]
        out[j + 2] = letters[(bits >> 6) & 63]
        out[j + 3] = letters[bits & 63]
        j += 4
    bits = (digest[30] << 8) | digest[31]
    out[40] = letters[bits >> 10]
    out[41] = letters[(bits >> 4) & 63]
    out[42] = letters[(bits << 2) & 63]
    out[43] = b"="
    out[44] = 0

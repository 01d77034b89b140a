# Where libsodium, libzstd and libcrypto come from. The only file that knows.
#
# libsodium and libzstd are the copies inside the PyNaCl and zstandard wheels, libcrypto is the one that Python's own
# hashlib is linked with. All three are opened with dlopen and asked for their public functions by name, once, at
# import: no header and no -dev package is needed to build, and a call costs one indirect jump, without the GIL.
# The zstd release decides the names of blobs (FORMAT.md), so it must be pogcli's, which is that of the wheel.
# sha256 and Poly1305 belong to OpenSSL: it uses the CPU's SHA and vector instructions, where libsodium's are portable C
# (1100 against 360 MB/s) and SSE2.

cdef extern from "<dlfcn.h>" nogil:
    void* dlopen(const char* path, int flags)
    void* dlsym(void* handle, const char* name)
    int RTLD_NOW
    int RTLD_LOCAL

cdef extern from "<stdlib.h>" nogil:
    void abort()

ctypedef unsigned char u8
ctypedef unsigned long long u64

cdef struct ZBuffer:            # ZSTD_inBuffer and ZSTD_outBuffer have this one shape
    u8* data
    size_t size
    size_t pos

cdef struct Sodium:
    int (*init)() noexcept nogil
    void (*randombytes)(void* buf, size_t n) noexcept nogil
    void (*memzero)(void* p, size_t n) noexcept nogil
    int (*secretbox)(u8* c, const u8* m, u64 n, const u8* nonce, const u8* key) noexcept nogil
    int (*secretbox_open)(u8* m, const u8* c, u64 n, const u8* nonce, const u8* key) noexcept nogil
    int (*box_seal)(u8* c, const u8* m, u64 n, const u8* public) noexcept nogil
    int (*box_seal_open)(u8* m, const u8* c, u64 n, const u8* public, const u8* private) noexcept nogil
    int (*scalarmult_base)(u8* public, const u8* private) noexcept nogil
    int (*is_valid_point)(const u8* point) noexcept nogil
    int (*xor_ic)(u8* c, const u8* m, u64 n, const u8* nonce, u64 block, const u8* key) noexcept nogil
    int (*poly_init)(void* state, const u8* key) noexcept nogil
    int (*poly_update)(void* state, const u8* m, u64 n) noexcept nogil
    int (*poly_final)(void* state, u8* tag) noexcept nogil
    size_t (*poly_state)() noexcept nogil
    int (*generichash)(u8* out, size_t room, const u8* m, u64 n, const u8* key, size_t key_size) noexcept nogil
    int (*verify_16)(const u8* a, const u8* b) noexcept nogil

cdef struct Zstd:
    unsigned (*version)() noexcept nogil
    unsigned (*is_error)(size_t code) noexcept nogil
    const char* (*error_name)(size_t code) noexcept nogil
    void* (*create_cctx)() noexcept nogil
    size_t (*free_cctx)(void* cctx) noexcept nogil
    size_t (*cctx_set)(void* cctx, int parameter, int value) noexcept nogil
    size_t (*cctx_reset)(void* cctx, int directive) noexcept nogil
    size_t (*cctx_pledge)(void* cctx, u64 n) noexcept nogil
    size_t (*compress_stream)(void* cctx, ZBuffer* out, ZBuffer* data, int end) noexcept nogil
    size_t (*compress2)(void* cctx, void* dst, size_t capacity, const void* src, size_t n) noexcept nogil
    size_t (*compress_bound)(size_t n) noexcept nogil
    unsigned long long (*frame_size)(const void* src, size_t n) noexcept nogil
    void* (*create_dctx)() noexcept nogil
    size_t (*free_dctx)(void* dctx) noexcept nogil
    size_t (*dctx_reset)(void* dctx, int directive) noexcept nogil
    size_t (*decompress_stream)(void* dctx, ZBuffer* out, ZBuffer* data) noexcept nogil

cdef struct Crypto:
    const void* (*sha256)() noexcept nogil
    void* (*md_fetch)(void* library, const char* name, const char* properties) noexcept nogil
    void* (*library_new)() noexcept nogil
    void* (*provider_load)(void* library, const char* name) noexcept nogil
    void* (*ctx_new)() noexcept nogil
    void (*ctx_free)(void* ctx) noexcept nogil
    int (*init)(void* ctx, const void* md, void* engine) noexcept nogil
    int (*update)(void* ctx, const void* m, size_t n) noexcept nogil
    int (*final)(void* ctx, u8* digest, unsigned* n) noexcept nogil
    int (*ctx_copy)(void* to, const void* source) noexcept nogil
    void* (*mac_fetch)(void* library, const char* name, const char* properties) noexcept nogil
    void* (*mac_new)(void* mac) noexcept nogil
    void (*mac_free)(void* ctx) noexcept nogil
    int (*mac_init)(void* ctx, const u8* key, size_t n, const void* parameters) noexcept nogil
    int (*mac_update)(void* ctx, const u8* m, size_t n) noexcept nogil
    int (*mac_final)(void* ctx, u8* tag, size_t* n, size_t room) noexcept nogil

cdef Sodium sodium
cdef Zstd zstd
cdef Crypto crypto
cdef const void* SHA256_MD
cdef void* POLY1305_MAC         # NULL: libsodium's is used


cdef void* _open(path) except? NULL:
    """Opens the shared library at `path`, or the program itself if that is None. Returns NULL if there is none."""
    if path is None:
        return dlopen(NULL, RTLD_NOW | RTLD_LOCAL)
    cdef bytes name = os.fsencode(path)
    return dlopen(name, RTLD_NOW | RTLD_LOCAL)


cdef class _Library:
    """An open shared library. `take` reads the address of a function, and raises ImportError if it has none of that name."""
    cdef void* handle
    cdef str package

    def __cinit__(self, str package, list paths):
        self.package = package
        for path in paths:
            self.handle = _open(path)
            if self.handle != NULL:
                return
        raise ImportError(f"pogfast needs {package}, which is not installed or cannot be loaded: {_cure(package)}")

    cdef int take(self, const char* name, void** function) except -1:
        function[0] = dlsym(self.handle, name)
        if function[0] == NULL:
            raise ImportError(f"{_release(self.package)} lacks the function {name.decode()}: {_cure(self.package)}")
        return 0

    cdef bint has(self, const char* name):
        return dlsym(self.handle, name) != NULL


_NEEDED = {"PyNaCl": "PyNaCl>=1.5,<2", "zstandard": "zstandard>=0.22,<0.26"}


def _cure(package):
    if package in _NEEDED:
        return f"pip install '{_NEEDED[package]}'"
    return "install OpenSSL's libcrypto, 1.1.1 or later (Debian: libssl3, macOS: brew install openssl@3)"


def _release(package):
    if package not in _NEEDED:
        return package
    from importlib.metadata import PackageNotFoundError, version
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return package


def _inside(package, *beginnings):
    """Returns the shared objects of an installed package whose names begin so, without importing it (importing zstandard
    takes 40 ms)."""
    spec = importlib.util.find_spec(package)
    places = spec.submodule_search_locations if spec and spec.submodule_search_locations else []
    return [
        os.path.join(place, name)
        for place in places for beginning in beginnings for name in sorted(os.listdir(place))
        if name.startswith(beginning) and name.endswith(".so")
    ]


def _libcrypto():
    """Returns where hashlib's libcrypto can be opened: through its module (dlsym searches what that is linked with), in the
    program itself if Python is linked with it statically, else by the names that systems give it."""
    cdef void* handle
    spec = importlib.util.find_spec("_hashlib")
    module = [spec.origin if spec.has_location else None] if spec else []
    for path in [*module, "libcrypto.so.3", "libcrypto.3.dylib", "libcrypto.so.1.1", "libcrypto.1.1.dylib"]:
        handle = _open(path)
        if handle != NULL and dlsym(handle, "EVP_DigestUpdate") != NULL:
            return [path]
    return []


cdef int _load_libraries() except -1:
    global SHA256_MD, POLY1305_MAC
    cdef _Library lib = _Library("PyNaCl", _inside("nacl", "_sodium"))
    lib.take("sodium_init", <void**>&sodium.init)
    lib.take("randombytes_buf", <void**>&sodium.randombytes)
    lib.take("sodium_memzero", <void**>&sodium.memzero)
    lib.take("crypto_secretbox_easy", <void**>&sodium.secretbox)
    lib.take("crypto_secretbox_open_easy", <void**>&sodium.secretbox_open)
    lib.take("crypto_box_seal", <void**>&sodium.box_seal)
    lib.take("crypto_box_seal_open", <void**>&sodium.box_seal_open)
    lib.take("crypto_scalarmult_base", <void**>&sodium.scalarmult_base)
    lib.take("crypto_core_ed25519_is_valid_point", <void**>&sodium.is_valid_point)
    lib.take("crypto_stream_xsalsa20_xor_ic", <void**>&sodium.xor_ic)
    lib.take("crypto_onetimeauth_poly1305_init", <void**>&sodium.poly_init)
    lib.take("crypto_onetimeauth_poly1305_update", <void**>&sodium.poly_update)
    lib.take("crypto_onetimeauth_poly1305_final", <void**>&sodium.poly_final)
    lib.take("crypto_onetimeauth_poly1305_statebytes", <void**>&sodium.poly_state)
    lib.take("crypto_generichash", <void**>&sodium.generichash)
    lib.take("crypto_verify_16", <void**>&sodium.verify_16)
    if sodium.init() < 0:
        raise ImportError("libsodium cannot start: the system gives no random numbers")
    if sodium.poly_state() > POLY_STATE:
        raise ImportError(f"{_release('PyNaCl')} has a larger Poly1305 state than pogfast knows: {_cure('PyNaCl')}")

    lib = _Library("zstandard", _inside("zstandard", "_cffi", "backend_c"))
    lib.take("ZSTD_versionNumber", <void**>&zstd.version)
    lib.take("ZSTD_isError", <void**>&zstd.is_error)
    lib.take("ZSTD_getErrorName", <void**>&zstd.error_name)
    lib.take("ZSTD_createCCtx", <void**>&zstd.create_cctx)
    lib.take("ZSTD_freeCCtx", <void**>&zstd.free_cctx)
    lib.take("ZSTD_CCtx_setParameter", <void**>&zstd.cctx_set)
    lib.take("ZSTD_CCtx_reset", <void**>&zstd.cctx_reset)
    lib.take("ZSTD_CCtx_setPledgedSrcSize", <void**>&zstd.cctx_pledge)
    lib.take("ZSTD_compressStream2", <void**>&zstd.compress_stream)
    lib.take("ZSTD_compress2", <void**>&zstd.compress2)
    lib.take("ZSTD_compressBound", <void**>&zstd.compress_bound)
    lib.take("ZSTD_getFrameContentSize", <void**>&zstd.frame_size)
    lib.take("ZSTD_createDCtx", <void**>&zstd.create_dctx)
    lib.take("ZSTD_freeDCtx", <void**>&zstd.free_dctx)
    lib.take("ZSTD_DCtx_reset", <void**>&zstd.dctx_reset)
    lib.take("ZSTD_decompressStream", <void**>&zstd.decompress_stream)

    lib = _Library("OpenSSL", _libcrypto())
    lib.take("EVP_sha256", <void**>&crypto.sha256)
    lib.take("EVP_MD_CTX_new", <void**>&crypto.ctx_new)
    lib.take("EVP_MD_CTX_free", <void**>&crypto.ctx_free)
    lib.take("EVP_DigestInit_ex", <void**>&crypto.init)
    lib.take("EVP_DigestUpdate", <void**>&crypto.update)
    lib.take("EVP_DigestFinal_ex", <void**>&crypto.final)
    lib.take("EVP_MD_CTX_copy_ex", <void**>&crypto.ctx_copy)
    SHA256_MD = crypto.sha256()
    if lib.has("EVP_MD_fetch"):     # OpenSSL 3: fetched once here, or looked up anew for each small file
        lib.take("EVP_MD_fetch", <void**>&crypto.md_fetch)
        lib.take("OSSL_LIB_CTX_new", <void**>&crypto.library_new)
        lib.take("OSSL_PROVIDER_load", <void**>&crypto.provider_load)
        SHA256_MD = _fetch_sha256()
    if SHA256_MD == NULL:
        raise ImportError("OpenSSL has no SHA-256: check openssl.cnf, and the variables OPENSSL_CONF and OPENSSL_MODULES")
    if lib.has("EVP_MAC_fetch"):
        lib.take("EVP_MAC_fetch", <void**>&crypto.mac_fetch)
        lib.take("EVP_MAC_CTX_new", <void**>&crypto.mac_new)
        lib.take("EVP_MAC_CTX_free", <void**>&crypto.mac_free)
        lib.take("EVP_MAC_init", <void**>&crypto.mac_init)
        lib.take("EVP_MAC_update", <void**>&crypto.mac_update)
        lib.take("EVP_MAC_final", <void**>&crypto.mac_final)
        POLY1305_MAC = crypto.mac_fetch(NULL, "POLY1305", NULL)
    return 0


cdef void* _fetch_sha256() noexcept:
    """SHA-256 as the system's openssl.cnf provides it. Where that activates no provider that has it (`legacy` without
    `default` is a common mistake), from the default provider in a library context of our own. NULL if there is none."""
    cdef void* found = crypto.md_fetch(NULL, "SHA256", NULL)
    cdef void* library
    if found == NULL:
        library = crypto.library_new()
        if library != NULL and crypto.provider_load(library, "default") != NULL:
            found = crypto.md_fetch(library, "SHA256", NULL)
    return found


# ---- a library call that fails -------------------------------------------------------------------------------------
#
# Each kernel has given its known answers (answers.pxi) before the first of these calls. One that fails all the same
# leaves wrong bytes where a name, a tag or a frame should be, and its caller has nothing to go on with. So the process
# ends at once, as libsodium's own sodium_misuse does: what has no name in a store yet never gets one.

cdef void library_failed(const char* what) noexcept nogil:
    cdef char[200] line
    cdef int n = snprintf(line, 200, b"pogfast: %s failed inside its library: nothing more is written\n", what)
    c_write(2, line, n)
    abort()


cdef inline void sha_begin(void* ctx) noexcept nogil:
    if ctx == NULL or crypto.init(ctx, SHA256_MD, NULL) != 1:
        library_failed(b"SHA-256")


cdef inline void sha_update(void* ctx, const u8* m, size_t n) noexcept nogil:
    if crypto.update(ctx, m, n) != 1:
        library_failed(b"SHA-256")


cdef inline void sha_end(void* ctx, u8* digest) noexcept nogil:
    cdef unsigned n = 0
    if crypto.final(ctx, digest, &n) != 1 or n != KEY:
        library_failed(b"SHA-256")


cdef inline void sha_copy(void* to, const void* source) noexcept nogil:
    if to == NULL or crypto.ctx_copy(to, source) != 1:
        library_failed(b"SHA-256")


cdef inline void salsa_xor(u8* c, const u8* m, u64 n, const u8* nonce, u64 block, const u8* key) noexcept nogil:
    if sodium.xor_ic(c, m, n, nonce, block, key):
        library_failed(b"XSalsa20")


cdef inline void zstd_set(void* cctx, int parameter, int value) noexcept nogil:
    if zstd.is_error(zstd.cctx_set(cctx, parameter, value)):
        library_failed(b"zstd")


cdef inline void zstd_reset(void* cctx) noexcept nogil:
    if zstd.is_error(zstd.cctx_reset(cctx, ZSTD_RESET_SESSION)):
        library_failed(b"zstd")


cdef inline void unzstd_reset(void* dctx) noexcept nogil:
    if zstd.is_error(zstd.dctx_reset(dctx, ZSTD_RESET_SESSION)):
        library_failed(b"zstd")


_load_libraries()

# Every number of FORMAT.md, once.

cdef enum:
    KEY = 32                    # S, a file key, a public or private key, a sha256
    NONCE = 24
    TAG = 16
    BOX = 40                    # what a secretbox adds: its nonce and its tag
    SEAL = 48                   # what a sealed box adds
    HEADER_SECRET = 72          # secretbox(S, file key)
    HEADER_PUBLIC = 80          # sealedbox(public, file key)
    PREFIX = 120                # bytes before a chunk, at most: HEADER_PUBLIC + BOX
    PAD_FRAME = 8               # the magic and length of the skippable frame that pads
    MAX_PADDING = 263           # PAD_FRAME and at most 255 random bytes
    PAD_EVEN = 16               # the same frame where it hides sizes: at least its header and the chunk's length, a u64
    NAME = 44                   # urlsafe base64 of a sha256, '=' kept
    POLY_STATE = 256            # sizeof(crypto_onetimeauth_poly1305_state)
    SALSA_BLOCK = 64            # bytes of keystream in a block; the first 32 of block 0 key the tag

cdef enum:                      # libzstd's own, from zstd.h
    ZSTD_E_CONTINUE = 0
    ZSTD_E_END = 2
    ZSTD_RESET_SESSION = 1
    ZSTD_C_LEVEL = 100
    ZSTD_C_WINDOW = 101
    ZSTD_C_CHAIN = 103
    ZSTD_C_CHECKSUM = 201
    ZSTD_C_STABLE_IN = 1006     # the input stays where it is, so it is not copied; an experimental parameter since 1.4
    ZSTD_C_SPLITTER = 1017      # how hard it looks for where a block should end; since 1.5.7
    MAX_RATIO = 32768           # plain bytes that one byte of a frame makes, at most: a block of 128 KiB takes four

cdef u8[4] PAD_MAGIC = [0x50, 0x2A, 0x4D, 0x18]

LEVELS = (-131072, 22)          # what libzstd accepts

# Blobs under names in a directory, and the few system calls that everything here is made of. No GIL, no policy.
# A file appears under its name only when it is whole.

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <errno.h>
    #include <fcntl.h>
    #include <poll.h>
    #include <pthread.h>
    #include <stdio.h>
    #include <string.h>
    #include <sys/stat.h>
    #include <sys/statvfs.h>
    #include <time.h>
    #include <unistd.h>
    #ifdef __linux__
    #include <sys/syscall.h>
    #endif
    #if defined(__linux__) || defined(__APPLE__)
    #include <sys/xattr.h>
    #endif
    #ifdef __APPLE__
    #define POGFAST_ATIME(s) ((s)->st_atimespec)
    #define POGFAST_MTIME(s) ((s)->st_mtimespec)
    #define POGFAST_CTIME(s) ((s)->st_ctimespec)
    #else
    #define POGFAST_ATIME(s) ((s)->st_atim)
    #define POGFAST_MTIME(s) ((s)->st_mtim)
    #define POGFAST_CTIME(s) ((s)->st_ctim)
    #endif
    static void pogfast_errno_set(int code) { errno = code; }
    #ifndef O_NOATIME
    #define O_NOATIME 0
    #endif
    typedef struct {
        long long size, atime_ns, mtime_ns, ctime_ns;
        unsigned long long inode;
        int regular, directory, sparse;
    } pogfast_facts;
    static long long pogfast_ns(struct timespec t) {
        if (t.tv_sec > 9223372035LL) return 9223372036854775807LL;  /* metadata.py cuts times so, too */
        if (t.tv_sec < -9223372036LL) return -9223372036854775807LL;
        return t.tv_sec * 1000000000LL + t.tv_nsec;
    }
    static void pogfast_fill(struct stat *s, pogfast_facts *f) {
        f->size = s->st_size;
        f->atime_ns = pogfast_ns(POGFAST_ATIME(s));
        f->mtime_ns = pogfast_ns(POGFAST_MTIME(s));
        f->ctime_ns = pogfast_ns(POGFAST_CTIME(s));
        f->inode = s->st_ino;
        f->sparse = S_ISREG(s->st_mode) && (long long)s->st_blocks * 512 < (long long)s->st_size;
        f->regular = S_ISREG(s->st_mode);
        f->directory = S_ISDIR(s->st_mode);
    }
    static int pogfast_facts_of(int fd, pogfast_facts *f) {
        struct stat s;
        if (fstat(fd, &s)) return -1;
        pogfast_fill(&s, f);
        return 0;
    }
    static int pogfast_set_times(int fd, long long atime_ns, long long mtime_ns) {
        struct timespec t[2];
        t[0].tv_sec = atime_ns / 1000000000LL; t[0].tv_nsec = atime_ns % 1000000000LL;
        t[1].tv_sec = mtime_ns / 1000000000LL; t[1].tv_nsec = mtime_ns % 1000000000LL;
        if (t[0].tv_nsec < 0) { t[0].tv_sec--; t[0].tv_nsec += 1000000000LL; }
        if (t[1].tv_nsec < 0) { t[1].tv_sec--; t[1].tv_nsec += 1000000000LL; }
        return futimens(fd, t);
    }
    /* Starts writing a finished file back, so that the one sync before the manifest finds little to do. */
    static void pogfast_start_writeback(int fd, long long offset, long long n) {
    #ifdef __linux__
        sync_file_range(fd, offset, n, SYNC_FILE_RANGE_WRITE);
    #else
        (void)fd; (void)offset; (void)n;
    #endif
    }
    /* Makes writes go around the page cache, or not. -1 where there is no such thing. */
    static int pogfast_direct(int fd, int on) {
    #ifdef O_DIRECT
        int flags = fcntl(fd, F_GETFL);
        return flags < 0 ? -1 : fcntl(fd, F_SETFL, on ? flags | O_DIRECT : flags & ~O_DIRECT);
    #else
        (void)fd; (void)on;
        return -1;
    #endif
    }
    static int pogfast_sync_fs(int fd) {
    #ifdef __linux__
        return syncfs(fd);
    #else
        sync();
        return fsync(fd);
    #endif
    }
    /* A file without a name, on the file system of a directory; -1 where there is no such thing. */
    static int pogfast_open_nameless(int dir, int mode) {
    #ifdef O_TMPFILE
        return openat(dir, ".", O_WRONLY | O_TMPFILE | O_CLOEXEC, mode);
    #else
        (void)dir; (void)mode;
        return -1;
    #endif
    }
    /* Opens a path below a directory to read it; no symbolic link in any part of it is followed, and nothing is waited
       for. Linux does so in one call since 5.6; elsewhere folder by folder. */
    static int pogfast_open_below(int dir, const char *path) {
        const int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW;
        int at = dir, next = -1;
        const char *slash;
        char part[256];
    #ifdef SYS_openat2
        static int lacks_openat2;
        struct { unsigned long long flags, mode, resolve; } how = { flags, 0, 0x04 /* RESOLVE_NO_SYMLINKS */ };
        if (!__atomic_load_n(&lacks_openat2, __ATOMIC_RELAXED)) {
            next = (int)syscall(SYS_openat2, dir, path, &how, sizeof how);
            if (next >= 0 || (errno != ENOSYS && errno != EPERM)) return next;
            if (errno == ENOSYS) __atomic_store_n(&lacks_openat2, 1, __ATOMIC_RELAXED);
        }
    #endif
        for (; (slash = strchr(path, '/')); path = slash + 1) {
            size_t n = (size_t)(slash - path);
            if (n >= sizeof part) { errno = ENAMETOOLONG; next = -1; }
            else {
                memcpy(part, path, n);
                part[n] = 0;
                next = openat(at, part, flags | O_DIRECTORY);
            }
            if (at != dir) { int kept = errno; close(at); errno = kept; }
            if (next < 0) return -1;
            at = next;
        }
        next = openat(at, path, flags);
        if (at != dir) { int kept = errno; close(at); errno = kept; }
        return next;
    }
    /* Gives a file another name, unless that name is taken: then EEXIST. Where the file system cannot do both in one
       step (NFS, many FUSE file systems) it looks first. 0 or an errno. */
    static int pogfast_rename_new(int from_dir, const char *source, int to_dir, const char *to) {
        struct stat s;
    #if defined(SYS_renameat2)
        if (syscall(SYS_renameat2, from_dir, source, to_dir, to, 1 /* RENAME_NOREPLACE */) == 0) return 0;
        if (errno != EINVAL && errno != ENOSYS && errno != EPERM && errno != EOPNOTSUPP) return errno;
    #elif defined(__APPLE__) && defined(RENAME_EXCL)
        if (renameatx_np(from_dir, source, to_dir, to, RENAME_EXCL) == 0) return 0;
        if (errno != EINVAL && errno != ENOTSUP) return errno;
    #endif
        if (fstatat(to_dir, to, &s, AT_SYMLINK_NOFOLLOW) == 0) return EEXIST;
        if (errno != ENOENT) return errno;
        return renameat(from_dir, source, to_dir, to) ? errno : 0;
    }
    /* Whether a link failed because there are no hard links here: FAT, SMB, many FUSE file systems, some policies. */
    static int pogfast_lacks_links(int error) {
        return error == EPERM || error == EACCES || error == ENOSYS || error == EOPNOTSUPP || error == ENOTSUP
            || error == EMLINK || error == EINVAL;
    }
    /* Where the next bytes at or behind `at` lie that are not in a hole; `end` when there are none. */
    static long long pogfast_next_data(int fd, long long at, long long end) {
    #ifdef SEEK_DATA
        long long data = lseek(fd, at, SEEK_DATA);
        if (data >= 0) return data;
        return errno == ENXIO ? end : at;
    #else
        (void)fd; (void)end;
        return at;
    #endif
    }
    /* Room for a file before it is written. 0 or an errno; where a file system cannot, it is done without. One that has
       not so much must be asked first: it would be filled to the last byte before it says so, for all to see. */
    static int pogfast_give_room(int fd, long long size) {
    #ifdef __linux__
        struct statvfs s;
        int error;
        /* A file system of 0 blocks does not say how large it is. */
        if (fstatvfs(fd, &s) == 0 && s.f_frsize && s.f_blocks && size / (long long)s.f_frsize > (long long)s.f_bavail)
            return ENOSPC;
        do error = fallocate(fd, 0, 0, size) ? errno : 0; while (error == EINTR);
        return error == EOPNOTSUPP || error == ENOSYS || error == EINVAL ? 0 : error;
    #else
        (void)fd; (void)size;
        return 0;
    #endif
    }
    static int pogfast_set_xattr(int fd, const char *name, const void *value, size_t n) {
    #ifdef __linux__
        return fsetxattr(fd, name, value, n, 0);
    #elif defined(__APPLE__)
        return fsetxattr(fd, name, value, n, 0, 0);
    #else
        (void)fd; (void)name; (void)value; (void)n;
        errno = ENOTSUP;
        return -1;
    #endif
    }
    /* Removes an ACL that a new file has from its directory; there may be none, or none on this file system. Returns -1,
       and errno, if there may still be one. */
    static int pogfast_remove_acl(int fd) {
    #ifdef __linux__
        if (!fremovexattr(fd, "system.posix_acl_access")) return 0;
        return errno == ENODATA || errno == EOPNOTSUPP || errno == ENOSYS ? 0 : -1;
    #else
        (void)fd;
        return 0;
    #endif
    }
    /* Whether a descriptor has bytes or an end to read, waiting for it `ms` at most. */
    static int pogfast_has_bytes(int fd, int ms) {
        struct pollfd p = { fd, POLLIN, 0 };
        return poll(&p, 1, ms) != 0;
    }
    /* Asks the system to read a file, all of it; it goes on when the descriptor is closed. */
    static void pogfast_will_need(int fd) {
    #ifdef POSIX_FADV_WILLNEED
        posix_fadvise(fd, 0, 0, POSIX_FADV_WILLNEED);
    #else
        (void)fd;
    #endif
    }
    /* The next read of a file comes from the disk, as far as the system can do that. */
    static void pogfast_forget_cached(int fd) {
    #ifdef POSIX_FADV_DONTNEED
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    #else
        (void)fd;
    #endif
    }
    static void pogfast_sequential(int fd) {
    #ifdef POSIX_FADV_SEQUENTIAL
        posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    #else
        (void)fd;
    #endif
    }
    """
    void errno_set "pogfast_errno_set"(int code) nogil
    ctypedef struct Facts "pogfast_facts":
        long long size, atime_ns, mtime_ns, ctime_ns
        u64 inode
        bint regular, directory, sparse     # sparse: it has holes, or the file system packs it
    int facts_of "pogfast_facts_of"(int fd, Facts* facts) nogil
    int set_times "pogfast_set_times"(int fd, long long atime_ns, long long mtime_ns) nogil
    void start_writeback "pogfast_start_writeback"(int fd, long long offset, long long n) nogil
    int set_direct "pogfast_direct"(int fd, bint on) nogil
    int sync_fs "pogfast_sync_fs"(int fd) nogil
    int open_nameless "pogfast_open_nameless"(int dir, int mode) nogil
    int give_room "pogfast_give_room"(int fd, long long size) nogil
    int set_xattr "pogfast_set_xattr"(int fd, const char* name, const void* value, size_t n) nogil
    int remove_acl "pogfast_remove_acl"(int fd) nogil
    int fchown(int fd, unsigned uid, unsigned gid) nogil
    int fchmod(int fd, mode_t mode) nogil
    int ftruncate(int fd, off_t size) nogil
    long long next_data "pogfast_next_data"(int fd, long long at, long long end) nogil
    bint has_bytes "pogfast_has_bytes"(int fd, int ms) nogil
    void will_need "pogfast_will_need"(int fd) nogil
    void forget_cached "pogfast_forget_cached"(int fd) nogil
    void sequential "pogfast_sequential"(int fd) nogil
    int c_open "open"(const char* path, int flags, ...) nogil
    int c_openat "openat"(int dir, const char* path, int flags, ...) nogil
    int c_close "close"(int fd) nogil
    Py_ssize_t c_read "read"(int fd, void* p, size_t n) nogil
    Py_ssize_t c_pread "pread"(int fd, void* p, size_t n, off_t at) nogil
    Py_ssize_t c_write "write"(int fd, const void* p, size_t n) nogil
    Py_ssize_t c_pwrite "pwrite"(int fd, const void* p, size_t n, off_t at) nogil
    off_t c_lseek "lseek"(int fd, off_t at, int whence) nogil
    int open_below "pogfast_open_below"(int dir, const char* path) nogil
    int rename_new "pogfast_rename_new"(int from_dir, const char* source, int to_dir, const char* to) nogil
    bint lacks_links "pogfast_lacks_links"(int error) nogil
    int renameat(int from_dir, const char* source, int to_dir, const char* to) nogil
    int linkat(int from_dir, const char* source, int to_dir, const char* to, int flags) nogil
    int unlinkat(int dir, const char* path, int flags) nogil
    int mkdirat(int dir, const char* path, mode_t mode) nogil
    int c_fsync "fsync"(int fd) nogil
    int snprintf(char* out, size_t n, const char* format, ...) nogil
    int AT_FDCWD, AT_SYMLINK_FOLLOW, SEEK_SET
    int O_RDONLY, O_WRONLY, O_CREAT, O_EXCL, O_CLOEXEC, O_NONBLOCK, O_NOFOLLOW, O_NOATIME

cdef enum:
    LARGE = 1 << 20             # bytes of a blob from which on the disk gets it at once; below, the sync does it
    PATH_ROOM = 512             # bytes for the paths that are made here


cdef int read_some(int fd, u8* p, size_t n, size_t* got) noexcept nogil:
    """What one read gives: at least a byte, or nothing at the end. 0 or an errno."""
    cdef Py_ssize_t r = c_read(fd, p, n)
    while r < 0 and errno == EINTR:
        r = c_read(fd, p, n)
    got[0] = r if r > 0 else 0
    return errno if r < 0 else 0


cdef int read_full(int fd, u8* p, size_t n, size_t* got) noexcept nogil:
    """Reads until `n` bytes are there or the file ends. 0 or an errno."""
    cdef size_t some = 1
    cdef int error = 0
    got[0] = 0
    while got[0] < n and some and error == 0:
        error = read_some(fd, p + got[0], n - got[0], &some)
        got[0] += some
    return error


cdef int pread_full(int fd, u8* p, size_t n, off_t at, size_t* got) noexcept nogil:
    """Reads until `n` bytes from offset `at` on are there or the file ends. 0 or an errno."""
    cdef Py_ssize_t r
    got[0] = 0
    while got[0] < n:
        r = c_pread(fd, p + got[0], n - got[0], at + <off_t>got[0])
        if r == 0:
            return 0
        if r < 0:
            if errno == EINTR:
                continue
            return errno
        got[0] += r
    return 0


cdef int open_source(const char* path, bint follow) noexcept nogil:
    """Opens a file to be read, its access time left alone where that is allowed. A descriptor, or -1 with errno."""
    cdef int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | (0 if follow else O_NOFOLLOW)
    cdef int fd = c_open(path, flags | O_NOATIME)
    if fd < 0 and errno == EPERM:
        fd = c_open(path, flags)
    return fd


cdef int write_full(int fd, const u8* p, size_t n) noexcept nogil:
    """0 or an errno."""
    cdef Py_ssize_t r
    while n:
        r = c_write(fd, p, n)
        if r < 0:
            if errno == EINTR:
                continue
            return errno
        p += r
        n -= r
    return 0


cdef int pwrite_full(int fd, const u8* p, size_t n, off_t at) noexcept nogil:
    """0 or an errno."""
    cdef Py_ssize_t r
    while n:
        r = c_pwrite(fd, p, n, at)
        if r < 0:
            if errno == EINTR:
                continue
            return errno
        p += r
        n -= r
        at += r
    return 0


cdef void write_name(const u8* digest, char* out) noexcept nogil:
    """The 44 characters of a blob's name, and a NUL."""
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


def sync_file_system(int fd):
    """Waits until all that was written to the file system of `fd` is on the disk. OSError when it could not be."""
    cdef int failed
    with nogil:
        failed = sync_fs(fd)
    if failed:
        raise OSError(errno, os.strerror(errno))


# ---- files that appear whole ---------------------------------------------------------------------------------------

# Linux can make a file that has no name until it is whole: nothing is left of it when the process is killed, and the
# directory is changed once, not twice (a third less time for small files). Elsewhere, and on file systems that cannot,
# it has a temporary name.
cdef bint HAS_NAMELESS = os.path.isdir("/proc/self/fd")


def use_nameless_files(bint wanted):
    """Switches them off, and on again where the system has them. Returns whether they are on now. For tests."""
    global HAS_NAMELESS
    HAS_NAMELESS = wanted and os.path.isdir("/proc/self/fd")
    return HAS_NAMELESS


cdef enum:
    DRAFT_MOVED = -1            # beside the errnos of draft_publish


cdef struct Draft:
    int fd
    int dir                     # borrowed: where its temporary name lies
    bint nameless
    bint direct                 # written around the page cache
    int mode                    # permissions that it is made with, less the umask
    int error                   # an errno, when it could not be written
    char[PATH_ROOM] path        # its temporary name, when it has or needs one


cdef int draft_begin(Draft* draft, int dir, const char* prefix, size_t number, const char* suffix,
                     int mode) noexcept nogil:
    """An empty file without its name. `prefix`, `number` and `suffix` make one that nobody else uses. 0 or an errno."""
    draft.dir = dir
    draft.mode = mode
    draft.direct = False
    draft.error = 0
    draft.fd = open_nameless(dir, mode) if HAS_NAMELESS else -1
    draft.nameless = draft.fd >= 0
    snprintf(draft.path, PATH_ROOM, b"%s%zx.%s", prefix, number, suffix)
    if not draft.nameless:
        draft.fd = c_openat(dir, draft.path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode)
    return 0 if draft.fd >= 0 else errno


cdef int draft_write(Draft* draft, const u8* p, size_t n, off_t at) noexcept nogil:
    """Bytes of a large draft, by whole pages and from memory that is as well aligned. 0 or an errno."""
    cdef int error
    if draft.direct:
        error = pwrite_full(draft.fd, p, n, at)
        if error != EINVAL:
            return error
        draft_go_through_cache(draft)      # not on this file system
    error = pwrite_full(draft.fd, p, n, at)
    if error == 0:
        start_writeback(draft.fd, at, n)
    return error


cdef void draft_go_through_cache(Draft* draft) noexcept nogil:
    if draft.direct:
        set_direct(draft.fd, False)
        draft.direct = False


cdef int draft_fill(Draft* draft, const u8* p, size_t n, size_t written) noexcept nogil:
    """The rest of a large draft of `n` bytes: the first page, and what lies behind `written`, a multiple of it."""
    cdef size_t whole = n // PAGE * PAGE
    cdef int error = 0
    if written < whole:
        error = draft_write(draft, p + written, whole - written, written)
    if error == 0:
        error = draft_write(draft, p, PAGE, 0)
    draft_go_through_cache(draft)
    return error or pwrite_full(draft.fd, p + whole, n - whole, whole)


cdef int draft_publish(Draft* draft, int dir, const char* path, bint replace) noexcept nogil:
    """Gives a draft its name, with `replace` in place of a file or link that has it. 0 or an errno; then it can be tried
    again. DRAFT_MOVED: this file system gives no name to a file without one, so the bytes are in another file now, which
    has a temporary name and no owner, attributes, permissions or times yet: try again when it has."""
    cdef int error
    if draft.nameless:
        error = link_nameless(draft, dir, path)
        if error == EEXIST and replace:
            # Only a rename replaces a file, and only what has a name can be renamed.
            error = link_nameless(draft, draft.dir, draft.path)
            draft.nameless = error != 0
        elif error == 0:
            return 0
        if error:
            return draft_move(draft) if lacks_links(error) else error
    if replace:
        return errno if renameat(draft.dir, draft.path, dir, path) else 0
    if linkat(draft.dir, draft.path, dir, path, 0) == 0:
        unlinkat(draft.dir, draft.path, 0)
        return 0
    error = errno
    return rename_new(draft.dir, draft.path, dir, path) if lacks_links(error) else error


cdef int link_nameless(Draft* draft, int dir, const char* path) noexcept nogil:
    """0 or an errno."""
    cdef char[64] source
    snprintf(source, 64, b"/proc/self/fd/%d", draft.fd)
    return errno if linkat(AT_FDCWD, source, dir, path, AT_SYMLINK_FOLLOW) else 0


cdef int draft_move(Draft* draft) noexcept nogil:
    """Copies a draft without a name to a file with a temporary one. DRAFT_MOVED or an errno. It is done for few: the
    drafts that are made from now on have names."""
    global HAS_NAMELESS
    cdef char[64] path
    cdef u8* piece
    cdef size_t got = 1
    cdef off_t at = 0
    cdef int error = 0, source, to = -1
    HAS_NAMELESS = False
    snprintf(path, 64, b"/proc/self/fd/%d", draft.fd)
    source = c_open(path, O_RDONLY | O_CLOEXEC)
    if source < 0:
        return errno
    piece = <u8*>malloc(PIECE)
    if piece == NULL:
        error = ENOMEM
    else:
        to = c_openat(draft.dir, draft.path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, draft.mode)
        error = errno if to < 0 else 0
    while error == 0 and got:
        error = pread_full(source, piece, PIECE, at, &got)
        if error == 0 and got:
            error = pwrite_sparse(to, piece, got, at)
            at += got
    if error == 0 and ftruncate(to, at):
        error = errno
    free(piece)
    c_close(source)
    if error:
        if to >= 0:
            c_close(to)
            unlinkat(draft.dir, draft.path, 0)
        return error
    c_close(draft.fd)
    draft.fd, draft.nameless, draft.direct = to, False, False
    return DRAFT_MOVED


cdef int draft_end(Draft* draft, bint published) noexcept nogil:
    """Closes a draft; one that got no name is gone. 0 or an errno."""
    cdef int error = 0
    if draft.fd < 0:            # one that was never meant to be a file
        return 0
    error = errno if c_close(draft.fd) else 0
    if not published and not draft.nameless:
        unlinkat(draft.dir, draft.path, 0)
    return error


# ---- blobs under names ---------------------------------------------------------------------------------------------

cdef struct Directory:          # of blobs: data/ab/NAME with `fan_out`, else NAME
    int fd
    bint fan_out
    const char* prefix          # begins the names of unfinished files
    u8* checked                 # a byte for each folder data/ab: 1 once it was seen to be no link
    long long loose_after       # ns since 1970: what was written after the one and before the other may have lost its
    long long loose_before      # bytes in a power cut, though its size is right
    const u8* doubted           # digests, sorted: what lies under these names counts as absent
    size_t doubts


cdef class BlobDirectory:
    """A directory of blobs for Sealer and Opener: see _engine.pyi."""
    cdef Directory at
    cdef u8[4096] checked
    cdef bytes temporary
    cdef bytes digests
    cdef readonly object path

    def __init__(self, int fd, bint fan_out, bytes temporary=b".pogfast-", path="."):
        if len(temporary) > 200:
            raise ValueError("the temporary name is too long")
        self.temporary = temporary
        self.path = path
        self.at.fd = fd
        self.at.fan_out = fan_out
        self.at.prefix = self.temporary
        self.at.checked = self.checked
        self.at.doubts = 0

    def doubt(self, names):
        """From now on these count as absent: each run stores what it needs of them anew. Not while one goes on."""
        cdef u8[KEY] digest
        cdef set digests = set()
        for name in names:
            read_name(name, digest)
            digests.add((<u8*>digest)[:KEY])
        self.digests = b"".join(sorted(digests))
        self.at.doubted, self.at.doubts = self.digests, len(digests)

    def distrust(self, long long after, long long before):
        """Has blobs that were written between two times (ns since 1970) stored anew unless the key can tell that they
        are good."""
        self.at.loose_after, self.at.loose_before = after, before

    def put(self, str name, const u8[::1] blob):
        """Stores one blob, whole or not at all, in place of what may lie there."""
        cdef u8[KEY] digest
        cdef int error
        cdef const u8* p = &blob[0] if blob.shape[0] else NULL
        cdef size_t n = blob.shape[0]
        read_name(name, digest)
        with nogil:
            error = directory_put(&self.at, digest, p, n)
        if error:
            raise OSError(error, os.strerror(error), self.path)


cdef bint is_doubted(const Directory* at, const u8* digest) noexcept nogil:
    """Whether what lies under a name counts as absent."""
    cdef size_t low = 0, high = at.doubts, middle
    cdef int order
    while low < high:
        middle = (low + high) // 2
        order = memcmp(digest, at.doubted + middle * KEY, KEY)
        if order == 0:
            return True
        if order < 0:
            high = middle
        else:
            low = middle + 1
    return False


cdef void blob_path(const Directory* at, const u8* digest, char* path) noexcept nogil:
    cdef char[NAME + 1] name
    write_name(digest, name)
    if at.fan_out:
        snprintf(path, PATH_ROOM, b"data/%.2s/%s", <char*>name, <char*>name)
    else:
        snprintf(path, PATH_ROOM, b"%s", <char*>name)


cdef int make_folders(const Directory* at, const char* path) noexcept nogil:
    """data/ and data/ab/ of data/ab/NAME. 0 or an errno."""
    cdef char[8] folder
    memcpy(folder, path, 7)
    folder[4] = folder[7] = 0
    if mkdirat(at.fd, folder, 0o777) and errno != EEXIST:
        return errno
    folder[4] = b"/"
    if mkdirat(at.fd, folder, 0o777) and errno != EEXIST:
        return errno
    return 0


cdef int directory_put(const Directory* at, const u8* digest, const u8* p, size_t n) noexcept nogil:
    """Stores a blob under its name, in place of what may lie there. 0 or an errno; then nothing has appeared."""
    cdef Draft draft
    cdef int error
    # No two workers write from one buffer at a time, so its address makes the temporary name unique in this process.
    error = draft_begin(&draft, at.fd, at.prefix, <size_t>p, b"tmp", 0o666)
    if error:
        return error
    if n < LARGE:
        error = write_full(draft.fd, p, n)
    else:
        draft.direct = set_direct(draft.fd, True) == 0
        error = draft_fill(&draft, p, n, PAGE)
    if error == 0:
        error = blob_publish(at, digest, &draft)
    draft_end(&draft, error == 0)
    return error


cdef int blob_publish(const Directory* at, const u8* digest, Draft* draft) noexcept nogil:
    """Gives a draft that is a whole blob its name. 0 or an errno."""
    cdef char[PATH_ROOM] path
    cdef int error
    blob_path(at, digest, path)
    error = folder_check(at, digest, path)
    if error == 0:
        error = draft_outlast(draft, at.fd, path)
    if error == ENOENT and at.fan_out:      # the folder was there a while ago
        error = make_folders(at, path)
        if error == 0:
            error = draft_outlast(draft, at.fd, path)
    return error


cdef int draft_outlast(Draft* draft, int dir, const char* path) noexcept nogil:
    """Publishes a draft in place of what may have its name, which it replaces only when it is on the disk: archives may
    rely on that blob, and after a power cut a file that was renamed may be empty. 0 or an errno."""
    cdef int error = draft_publish(draft, dir, path, False)
    if error == DRAFT_MOVED:
        error = draft_publish(draft, dir, path, False)
    if error != EEXIST:
        return error
    if c_fsync(draft.fd):
        return errno
    error = draft_publish(draft, dir, path, True)
    if error != DRAFT_MOVED:
        return error
    return errno if c_fsync(draft.fd) else draft_publish(draft, dir, path, True)


cdef int folder_check(const Directory* at, const u8* digest, const char* path) noexcept nogil:
    """Makes data/ab/ of data/ab/NAME, and looks once that neither part is a symbolic link. 0 or an errno."""
    cdef u8* checked
    cdef char[8] folder
    cdef Facts facts
    cdef int fd, error = 0
    if not at.fan_out:
        return 0
    checked = &at.checked[digest[0] << 4 | digest[1] >> 4]     # two letters are twelve bits
    if load_byte(checked):
        return 0
    memcpy(folder, path, 7)
    folder[7] = 0
    fd = open_below(at.fd, folder)
    if fd < 0 and errno == ENOENT:
        error = make_folders(at, path)
        fd = open_below(at.fd, folder) if error == 0 else -1
    if error == 0 and fd < 0:
        error = errno
    if error == 0 and (facts_of(fd, &facts) or not facts.directory):
        error = ENOTDIR
    if fd >= 0:
        c_close(fd)
    if error == 0:
        store_byte(checked, 1)
    return error


cdef int directory_get(const Directory* at, const u8* digest, long long* size) noexcept nogil:
    """A descriptor that reads the blob, and its size; -1 with errno set when there is none."""
    cdef char[PATH_ROOM] path
    cdef Facts facts
    cdef int fd
    blob_path(at, digest, path)
    fd = open_below(at.fd, path)
    if fd < 0:
        return -1
    memset(&facts, 0, sizeof(Facts))
    if facts_of(fd, &facts) or not facts.regular:
        c_close(fd)
        errno_set(EISDIR if facts.directory else EIO)
        return -1
    size[0] = facts.size
    return fd


cdef size_t directory_has(const Directory* at, const u8* digest, const size_t* sizes, const Ring* ring,
                          u8* scratch) noexcept nogil:
    """Bytes of the good blob under this name, of one of three sizes and, where the key can tell, authentic; 0 if there is
    none, or one that is in doubt.

    `scratch` has PIECE bytes. With a public key alone only the size can be checked, and the time: after a power cut the
    size says nothing.
    """
    cdef Facts facts
    cdef long long there
    cdef int verdict, code
    cdef int fd = -1 if is_doubted(at, digest) else directory_get(at, digest, &there)
    if fd < 0:
        return 0
    verdict = GOOD if <size_t>there in (sizes[0], sizes[1], sizes[2]) else BAD_BODY
    if verdict == GOOD and ring.can_open:
        verdict = authenticate(fd, ring, scratch, &NEVER, &code)
    elif verdict == GOOD and (facts_of(fd, &facts) or at.loose_after < facts.mtime_ns < at.loose_before):
        verdict = BAD_BODY
    c_close(fd)
    return <size_t>there if verdict == GOOD else 0


cdef int authenticate(int fd, const Ring* ring, u8* scratch, const int* stop, int* code) noexcept nogil:
    """Reads a blob from its beginning to its end, without keeping it, and goes back. A Verdict; with BAD_READ `code` is
    the errno. `scratch` has PIECE bytes."""
    cdef size_t got = 0
    cdef Lock lock
    cdef int verdict = GOOD
    code[0] = read_full(fd, scratch, ring.header + BOX, &got)
    if code[0]:
        return BAD_READ
    verdict = lock_begin(&lock, ring, scratch) if got == ring.header + BOX else <int>BAD_BODY
    while verdict == GOOD and got:
        code[0] = read_full(fd, scratch, PIECE, &got)
        poly_add(poly_of_lock(&lock), scratch, got)
        if code[0]:
            verdict = BAD_READ
        elif load_int(stop):
            verdict = BROKEN_OFF
    if verdict == GOOD:
        verdict = lock_end(&lock)
    sodium.memzero(&lock, sizeof(Lock))
    c_lseek(fd, 0, SEEK_SET)
    return verdict


# ---- files that are restored: their room, their holes, and what they are beyond their bytes ------------------------

cdef enum:
    BLOCK = 4096                # what a hole is made of: the block of most file systems


cdef bint is_zero(const u8* p, size_t n) noexcept nogil:
    """Whether `n` bytes, at least one, are all zero."""
    return p[0] == 0 and memcmp(p, p + 1, n - 1) == 0


cdef int pwrite_sparse(int fd, const u8* p, size_t n, off_t at) noexcept nogil:
    """As pwrite_full into a file that was never written there: what is zero from one BLOCK's edge to the next is left
    out. The two ends of a block that lies across two calls are left out each by itself, so it is a hole all the same."""
    cdef size_t start = 0, end = 0, next
    cdef int error
    while end < n:
        next = min(n, end + BLOCK - <size_t>(at + end) % BLOCK)
        if is_zero(p + end, next - end):
            if end > start:
                error = pwrite_full(fd, p + start, end - start, at + start)
                if error:
                    return error
            start = next
        end = next
    return pwrite_full(fd, p + start, end - start, at + start)

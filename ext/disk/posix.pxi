# The system calls that everything here is made of: reading and writing to the end, holes, metadata. No GIL, no policy.
#
# Functions of the type Errno return that. All others, those that return a descriptor too, return -1 and set errno if they
# fail, as the system does.

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
    #ifdef __GLIBC__
    #include <malloc.h>
    #endif
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
    static int pogfast_facts_at(int dir, const char *path, pogfast_facts *f) {
        struct stat s;
        if (fstatat(dir, path, &s, AT_SYMLINK_NOFOLLOW)) return -1;
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
    static int pogfast_duplicate(int fd) {
        return fcntl(fd, F_DUPFD_CLOEXEC, 0);
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
    /* Has the C library map each large buffer by itself, so that all of it is returned when it is freed. glibc would put
       those behind the first into its arenas, which keep what they had. */
    static void pogfast_map_large_buffers(void) {
    #ifdef __GLIBC__
        mallopt(M_MMAP_THRESHOLD, 1 << 20);
        mallopt(M_TRIM_THRESHOLD, 4 << 20);
    #endif
    }
    /* Whether a descriptor has bytes or an end to read, waiting for it `ms` at most. */
    static int pogfast_has_bytes(int fd, int ms) {
        struct pollfd p = { fd, POLLIN, 0 };
        return poll(&p, 1, ms) != 0;
    }
    /* Asks the system to read a part of a file; it goes on when the descriptor is closed. */
    static void pogfast_will_need(int fd, long long start, long long size) {
    #ifdef POSIX_FADV_WILLNEED
        posix_fadvise(fd, start, size, POSIX_FADV_WILLNEED);
    #else
        (void)fd; (void)start; (void)size;
    #endif
    }
    /* The next read of a part of a file comes from the disk, as far as the system can do that. Linux forgets only whole
       folios, which may have 2 MiB, so those at both ends are included. */
    static void pogfast_forget_cached(int fd, long long start, long long size) {
    #ifdef POSIX_FADV_DONTNEED
        const long long folio = 2 << 20;
        long long first = start - start % folio, end = start + size + folio - 1;
        posix_fadvise(fd, first, end - end % folio - first, POSIX_FADV_DONTNEED);
    #else
        (void)fd; (void)start; (void)size;
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
    int facts_at "pogfast_facts_at"(int dir, const char* path, Facts* facts) nogil
    int set_times "pogfast_set_times"(int fd, long long atime_ns, long long mtime_ns) nogil
    void start_writeback "pogfast_start_writeback"(int fd, long long offset, long long n) nogil
    int set_direct "pogfast_direct"(int fd, bint on) nogil
    int duplicate "pogfast_duplicate"(int fd) nogil
    int sync_fs "pogfast_sync_fs"(int fd) nogil
    int open_nameless "pogfast_open_nameless"(int dir, int mode) nogil
    Errno give_room "pogfast_give_room"(int fd, long long size) nogil
    int set_xattr "pogfast_set_xattr"(int fd, const char* name, const void* value, size_t n) nogil
    int remove_acl "pogfast_remove_acl"(int fd) nogil
    int fchown(int fd, unsigned uid, unsigned gid) nogil
    int fchmod(int fd, mode_t mode) nogil
    int ftruncate(int fd, off_t size) nogil
    long long next_data "pogfast_next_data"(int fd, long long at, long long end) nogil
    void map_large "pogfast_map_large_buffers"() nogil
    bint has_bytes "pogfast_has_bytes"(int fd, int ms) nogil
    void will_need "pogfast_will_need"(int fd, long long start, long long size) nogil
    void forget_cached "pogfast_forget_cached"(int fd, long long start, long long size) nogil
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
    Errno rename_new "pogfast_rename_new"(int from_dir, const char* source, int to_dir, const char* to) nogil
    bint lacks_links "pogfast_lacks_links"(int error) nogil
    int renameat(int from_dir, const char* source, int to_dir, const char* to) nogil
    int linkat(int from_dir, const char* source, int to_dir, const char* to, int flags) nogil
    int unlinkat(int dir, const char* path, int flags) nogil
    int mkdirat(int dir, const char* path, mode_t mode) nogil
    int c_fsync "fsync"(int fd) nogil
    int snprintf(char* out, size_t n, const char* format, ...) nogil
    int AT_FDCWD, AT_SYMLINK_FOLLOW, SEEK_SET
    int O_RDONLY, O_WRONLY, O_CREAT, O_EXCL, O_CLOEXEC, O_NONBLOCK, O_NOFOLLOW, O_NOATIME


def map_large_buffers():
    """Has memory of large buffers returned to the system as soon as they are freed: see _engine.pyi."""
    map_large()


cdef Errno read_some(int fd, u8* p, size_t n, size_t* got) noexcept nogil:
    """Reads once: at least a byte, or nothing at the end."""
    cdef Py_ssize_t r = c_read(fd, p, n)
    while r < 0 and errno == EINTR:
        r = c_read(fd, p, n)
    got[0] = r if r > 0 else 0
    return errno if r < 0 else 0


cdef Errno read_full(int fd, u8* p, size_t n, size_t* got) noexcept nogil:
    """Reads until `n` bytes are there or the file ends."""
    cdef size_t some = 1
    cdef Errno error = 0
    got[0] = 0
    while got[0] < n and some and error == 0:
        error = read_some(fd, p + got[0], n - got[0], &some)
        got[0] += some
    return error


cdef Errno pread_full(int fd, u8* p, size_t n, off_t at, size_t* got) noexcept nogil:
    """Reads until `n` bytes from offset `at` on are there or the file ends."""
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
    """Opens a file for reading, without a change of its access time where that is allowed."""
    cdef int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | (0 if follow else O_NOFOLLOW)
    cdef int fd = c_open(path, flags | O_NOATIME)
    if fd < 0 and errno == EPERM:
        fd = c_open(path, flags)
    return fd


cdef Errno write_full(int fd, const u8* p, size_t n) noexcept nogil:
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


cdef Errno pwrite_full(int fd, const u8* p, size_t n, off_t at) noexcept nogil:
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


def sync_file_system(int fd):
    """Waits until all that was written to the file system of `fd` is on the disk. Raises OSError if that fails."""
    cdef int failed
    with nogil:
        failed = sync_fs(fd)
    if failed:
        raise OSError(errno, os.strerror(errno))


cdef enum:
    BLOCK = 4096                # what a hole is made of: the block of most file systems


cdef bint is_zero(const u8* p, size_t n) noexcept nogil:
    """Returns True if `n` bytes, at least one, are all zero."""
    return p[0] == 0 and memcmp(p, p + 1, n - 1) == 0


cdef Errno pwrite_sparse(int fd, const u8* p, size_t n, off_t at) noexcept nogil:
    """As pwrite_full, into a file that was never written there: blocks of zeros, aligned to BLOCK, are left out. If a block
    lies across two calls, each call leaves its part out, so it becomes a hole all the same."""
    cdef size_t start = 0, end = 0, next
    cdef Errno error
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

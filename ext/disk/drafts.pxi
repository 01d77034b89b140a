# Files that appear under their names only when they are complete.
#
# Linux can make a file that has no name until it is complete: nothing is left of it when the process is killed, and the
# directory is changed once, not twice (a third less time for small files). Elsewhere, and on file systems that cannot,
# it has a temporary name.

cdef enum:
    PATH_ROOM = 512             # bytes for the paths that are made here

cdef enum Published:            # what draft_publish has done
    DRAFT_PUBLISHED
    # This file system gives no name to a file without one, so the bytes are in another file now. That has a temporary
    # name, and no owner, attributes, permissions or times yet: publish it again when it has.
    DRAFT_MOVED
    DRAFT_REFUSED               # Draft.error says why

cdef bint HAS_NAMELESS = os.path.isdir("/proc/self/fd")


def use_nameless_files(bint wanted):
    """Switches nameless files off, or on where the system has them. Returns whether they are on now. For tests."""
    global HAS_NAMELESS
    HAS_NAMELESS = wanted and os.path.isdir("/proc/self/fd")
    return HAS_NAMELESS


cdef struct Draft:
    int fd
    int dir                     # borrowed: where its temporary name lies
    bint nameless
    bint direct                 # written around the page cache
    int mode                    # permissions that it is made with, less the umask
    Errno error                 # why it could not be written or published
    char[PATH_ROOM] path        # its temporary name, when it has or needs one


cdef Errno draft_begin(Draft* draft, int dir, const char* prefix, size_t number, const char* suffix,
                     int mode) noexcept nogil:
    """Makes an empty file without its name. `prefix`, `number` and `suffix` make up a temporary one that nobody else uses."""
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


cdef void draft_adopt(Draft* draft, int fd, int dir, const char* path) noexcept nogil:
    """Takes an open file with a temporary name for a draft."""
    memset(draft, 0, sizeof(Draft))
    draft.fd, draft.dir = fd, dir
    snprintf(draft.path, PATH_ROOM, b"%s", path)


cdef Errno draft_borrow(Draft* draft, int fd) noexcept nogil:
    """Writes to an open file by a descriptor of its own. draft_end closes that, and leaves the file's name alone."""
    memset(draft, 0, sizeof(Draft))
    draft.fd, draft.nameless = duplicate(fd), True
    return 0 if draft.fd >= 0 else errno


cdef Errno draft_write(Draft* draft, const u8* p, size_t n, off_t at) noexcept nogil:
    """Writes bytes of a large draft: whole pages, from memory that is aligned to pages, too."""
    cdef Errno error
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


cdef Errno draft_fill(Draft* draft, const u8* p, size_t n, size_t written) noexcept nogil:
    """Writes the rest of a large draft of `n` bytes: the first page, and all behind `written`, a multiple of PAGE."""
    cdef size_t whole = n // PAGE * PAGE
    cdef Errno error = 0
    if written < whole:
        error = draft_write(draft, p + written, whole - written, written)
    if error == 0:
        error = draft_write(draft, p, PAGE, 0)
    draft_go_through_cache(draft)
    return error or pwrite_full(draft.fd, p + whole, n - whole, whole)


cdef Published draft_publish(Draft* draft, int dir, const char* path, bint replace) noexcept nogil:
    """Gives a draft its name, with `replace` in place of a file or link that has it. If that fails it can be tried again."""
    draft.error = give_name(draft, dir, path, replace)
    if draft.error == 0:
        return DRAFT_PUBLISHED
    if draft.nameless and lacks_links(draft.error):
        draft.error = draft_move(draft)
        return DRAFT_REFUSED if draft.error else DRAFT_MOVED
    return DRAFT_REFUSED


cdef Errno give_name(Draft* draft, int dir, const char* path, bint replace) noexcept nogil:
    cdef Errno error
    if draft.nameless:
        error = link_nameless(draft, dir, path)
        if error != EEXIST or not replace:
            return error
        # Only a rename replaces a file, and only a file with a name can be renamed.
        error = link_nameless(draft, draft.dir, draft.path)
        if error:
            return error
        draft.nameless = False
    if replace:
        return errno if renameat(draft.dir, draft.path, dir, path) else 0
    if linkat(draft.dir, draft.path, dir, path, 0) == 0:
        unlinkat(draft.dir, draft.path, 0)
        return 0
    error = errno
    return rename_new(draft.dir, draft.path, dir, path) if lacks_links(error) else error


cdef Errno link_nameless(Draft* draft, int dir, const char* path) noexcept nogil:
    cdef char[64] source
    snprintf(source, 64, b"/proc/self/fd/%d", draft.fd)
    return errno if linkat(AT_FDCWD, source, dir, path, AT_SYMLINK_FOLLOW) else 0


cdef Errno draft_move(Draft* draft) noexcept nogil:
    """Copies a draft without a name to a file with a temporary one, which is the draft from then on. Only a few drafts are
    copied: all that are made from now on have temporary names."""
    global HAS_NAMELESS
    cdef char[64] path
    cdef u8* piece
    cdef size_t got = 1
    cdef off_t at = 0
    cdef int source, to = -1
    cdef Errno error = 0
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
    return 0


cdef Errno draft_end(Draft* draft, bint published) noexcept nogil:
    """Closes a draft, and removes it if it was not published."""
    cdef Errno error = 0
    if draft.fd < 0:            # one that was never meant to be a file
        return 0
    error = errno if c_close(draft.fd) else 0
    if not published and not draft.nameless:
        unlinkat(draft.dir, draft.path, 0)
    return error


cdef Errno draft_outlast(Draft* draft, int dir, const char* path) noexcept nogil:
    """Publishes a draft. A file that has its name already is replaced only when the draft is on the disk: archives may rely
    on that blob, and after a power cut a file that was renamed may be empty."""
    cdef Published result = draft_publish(draft, dir, path, False)
    if result == DRAFT_MOVED:
        result = draft_publish(draft, dir, path, False)
    if result == DRAFT_REFUSED and draft.error == EEXIST:
        if c_fsync(draft.fd):
            return errno
        result = draft_publish(draft, dir, path, True)
        if result == DRAFT_MOVED:
            if c_fsync(draft.fd):
                return errno
            result = draft_publish(draft, dir, path, True)
    return 0 if result == DRAFT_PUBLISHED else draft.error

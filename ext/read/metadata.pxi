# The file: a draft until it is whole, then it gets its metadata and, last, its name.

cdef enum:
    PREALLOCATED = 1 << 20      # files of at least so many bytes get their room on the disk before they are written


cdef Verdict begin_draft(Draft* draft, const OpenJob* job, const char* prefix, size_t number, Errno* code) noexcept nogil:
    """Makes the draft of a file, with room on the disk. `number` is one that no other file of this run has."""
    if job.range:
        code[0] = draft_borrow(draft, job.directory)
        return BAD_WRITE if code[0] else GOOD
    code[0] = draft_begin(draft, job.directory, prefix, number, b"part", 0o600 if job.mode >= 0 else 0o666)
    if code[0]:
        return BAD_WRITE
    if job.size >= PREALLOCATED and not job.sparse:
        code[0] = give_room(draft.fd, job.size)
    if code[0]:
        draft_end(draft, False)
        draft.fd = -1
    # The size is what an archive says. It may be nonsense, and then there is room for all other files.
    return NO_ROOM if code[0] == ENOSPC else BAD_WRITE if code[0] else GOOD


cdef Verdict publish_file(Draft* draft, OpenJob* job, long long size, Errno* code) noexcept nogil:
    """Gives a complete file of `size` bytes its metadata and its name. A symbolic link of that name is never followed."""
    cdef Published result
    if job.range:
        return GOOD
    if job.sparse and ftruncate(draft.fd, size):
        code[0] = errno
        return BAD_WRITE
    result = publish_with_metadata(draft, job)
    if result == DRAFT_MOVED:       # the new file has no metadata yet
        result = publish_with_metadata(draft, job)
    code[0] = draft.error
    return GOOD if result == DRAFT_PUBLISHED else BAD_WRITE


cdef Published publish_with_metadata(Draft* draft, OpenJob* job) noexcept nogil:
    apply_metadata(draft.fd, job)
    if set_times(draft.fd, job.atime_ns, job.mtime_ns):
        job.soft = job.soft or errno
    return draft_publish(draft, job.directory, job.leaf, job.replace)


cdef void apply_metadata(int fd, OpenJob* job) noexcept nogil:
    """Sets owner, attributes and permissions, in this order: a change of owner takes capabilities away, and whoever may
    not write to a file cannot give it attributes. Without its owner a file is not to run as somebody else."""
    cdef int mode = job.mode
    cdef Py_ssize_t i
    if (job.uid != NOBODY or job.gid != NOBODY) and fchown(fd, job.uid, job.gid):
        job.soft = errno
        mode &= 0o1777
    if job.mode >= 0 and remove_acl(fd):
        job.soft = job.soft or errno
    for i in range(job.attribute_count):
        if set_xattr(fd, job.attributes[i].name, job.attributes[i].value, job.attributes[i].size):
            job.soft = job.soft or errno
    if job.mode >= 0 and fchmod(fd, mode):
        job.soft = job.soft or errno


# ---- a file that is written in ranges: its draft is made and published by whoever has it written ------------------

def give_room_to(int fd, long long size):
    """Gives a file its room on the disk, before it is written: see _engine.pyi."""
    cdef Errno code
    with nogil:
        code = give_room(fd, size)
    if code:
        raise OSError(code, os.strerror(code))


def publish_written(wanted, int fd, bytes name):
    """Gives an unfinished file its metadata and its name: see _engine.pyi."""
    cdef _Asked asked = _Asked([wanted])
    cdef OpenJob* job = &asked.files[0]
    cdef Draft draft
    cdef Errno code = 0
    cdef Verdict verdict
    draft_adopt(&draft, fd, job.directory, name)
    with nogil:
        verdict = publish_file(&draft, job, job.size, &code)
    return Opened(0, True, verdict, 0, code, -1, job.soft)

# The entries of a directory: their names, sorted, and what lstat says of each, asked for some thousand at a time. Read
# without the GIL, by a descriptor of the directory; only attributes are asked for by path, as no call takes both.

cdef extern from *:
    """
    #include <dirent.h>
    #include <stdlib.h>
    typedef struct {
        const char *name;
        size_t length;
        int error;                              /* errno of lstat; then nothing else is known */
        int attributes;                         /* whether it has extended attributes of its own, or may have some */
        unsigned mode, uid, gid;
        unsigned long long device, inode, links;
        long long size, blocks;
        long long atime, mtime, ctime;          /* seconds */
        int atime_rest, mtime_rest, ctime_rest; /* nanoseconds */
    } pogfast_listed;
    typedef struct {
        char *text;                             /* the names, each with a NUL */
        size_t size, room, count;
        char **names;
    } pogfast_names;

    static int pogfast_names_add(pogfast_names *list, const char *name) {
        size_t n = strlen(name) + 1;
        if (list->size + n > list->room) {
            size_t room = 2 * list->room + n + 1024;
            char *more = (char *)realloc(list->text, room);
            if (!more) return ENOMEM;
            list->text = more;
            list->room = room;
        }
        memcpy(list->text + list->size, name, n);
        list->size += n;
        list->count++;
        return 0;
    }
    static int pogfast_ranked(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }
    /* Reads the names in a directory but `.` and `..`, and sorts them by their bytes. 0 or an errno. */
    static int pogfast_names_read(pogfast_names *list, const char *path) {
        int error = 0;
        size_t i, at;
        DIR *directory = opendir(path);
        if (!directory) return errno;
        while (!error) {
            errno = 0;
            struct dirent *entry = readdir(directory);
            if (!entry) { error = errno; break; }
            if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..")) error = pogfast_names_add(list, entry->d_name);
        }
        closedir(directory);
        if (error) return error;
        list->names = (char **)malloc((list->count + 1) * sizeof *list->names);
        if (!list->names) return ENOMEM;
        for (i = at = 0; i < list->count; at += strlen(list->text + at) + 1) list->names[i++] = list->text + at;
        qsort(list->names, list->count, sizeof *list->names, pogfast_ranked);
        return 0;
    }
    /* Whether a list of attributes has one that belongs to the file: the labels of this machine do not. */
    static int pogfast_has_own(const char *names, long n) {
        static const char *const foreign[] = { "security.selinux", "security.SMACK64", "security.ima", "security.evm" };
        long at;
        size_t i;
        for (at = 0; at < n; at += (long)strlen(names + at) + 1) {
            for (i = 0; i < 4 && strcmp(names + at, foreign[i]); i++);
            if (i == 4) return 1;
        }
        return 0;
    }
    /* Asks for extended attributes, where Python can read them. */
    static int pogfast_may_have_attributes(const char *path) {
    #ifdef __linux__
        char names[1024];
        long n = llistxattr(path, names, sizeof names);
        return n < 0 ? errno != ENOTSUP && errno != EOPNOTSUPP && errno != ENOSYS : pogfast_has_own(names, n);
    #else
        (void)path;
        return 0;
    #endif
    }
    /* lstat of some names. `path` is that of the directory, with room for a name at its `end`. */
    static void pogfast_look(char *path, size_t end, char *const *names, pogfast_listed *all, size_t count) {
        struct stat s;
        size_t i;
        path[end] = 0;
        int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), error = errno;
        for (i = 0; i < count; i++) {
            pogfast_listed *one = &all[i];
            memset(one, 0, sizeof *one);
            one->name = names[i];
            one->length = strlen(names[i]);
            if (directory < 0) { one->error = error; continue; }
            if (fstatat(directory, names[i], &s, AT_SYMLINK_NOFOLLOW)) { one->error = errno; continue; }
            one->mode = s.st_mode; one->uid = s.st_uid; one->gid = s.st_gid;
            one->device = s.st_dev; one->inode = s.st_ino; one->links = s.st_nlink;
            one->size = s.st_size; one->blocks = s.st_blocks;
            one->atime = POGFAST_ATIME(&s).tv_sec; one->atime_rest = (int)POGFAST_ATIME(&s).tv_nsec;
            one->mtime = POGFAST_MTIME(&s).tv_sec; one->mtime_rest = (int)POGFAST_MTIME(&s).tv_nsec;
            one->ctime = POGFAST_CTIME(&s).tv_sec; one->ctime_rest = (int)POGFAST_CTIME(&s).tv_nsec;
            if (S_ISREG(s.st_mode)) {
                memcpy(path + end, names[i], one->length + 1);
                one->attributes = pogfast_may_have_attributes(path);
            }
        }
        if (directory >= 0) close(directory);
    }
    """
    ctypedef struct Listed "pogfast_listed":
        const char* name
        size_t length
        Errno error
        bint attributes
        unsigned mode, uid, gid
        u64 device, inode, links
        long long size, blocks, atime, mtime, ctime
        int atime_rest, mtime_rest, ctime_rest
    ctypedef struct Names "pogfast_names":
        char* text
        size_t count
        char** names
    Errno names_read "pogfast_names_read"(Names* list, const char* path) nogil
    void look "pogfast_look"(char* path, size_t end, char** names, Listed* all, size_t count) nogil
    unsigned S_IFMT, S_IFREG

cdef enum:
    LOOKED = 4096               # names that are asked for at a time: in a wide directory nothing is known of the others
    LEAF_ROOM = 4096            # a name has 255 bytes, in some systems a few times as many


cdef class Listing:
    """The entries of a directory, sorted by the bytes of their names: see _engine.pyi."""
    cdef Names at
    cdef Listed* looked         # from `begin` to `end`
    cdef Py_ssize_t begin, end
    cdef readonly bytes path    # of the directory, with a slash at its end
    cdef bytearray room         # for the path of an entry

    def __init__(self, bytes path not None):
        cdef Errno error
        cdef const char* directory = path
        if 0 in path:
            raise ValueError("embedded null byte")
        with nogil:
            error = names_read(&self.at, directory)
        if error:
            raise OSError(error, os.strerror(error), os.fsdecode(path))
        self.path = path if path.endswith(b"/") else path + b"/"
        self.room = bytearray(self.path) + bytearray(LEAF_ROOM)
        self.looked = <Listed*>malloc((min(self.at.count, <size_t>LOOKED) + 1) * sizeof(Listed))
        if self.looked == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.at.text)
        free(self.at.names)
        free(self.looked)

    def __len__(self):
        return self.at.count

    cpdef str name(self, Py_ssize_t i):
        if not 0 <= i < len(self):
            raise IndexError(i)
        return PyUnicode_DecodeFSDefault(self.at.names[i])

    def position(self, bytes name not None):
        """Returns how many names are less than this one."""
        cdef Py_ssize_t low = 0, high = len(self), middle
        cdef const char* wanted = name
        while low < high:
            middle = (low + high) // 2
            if strcmp(self.at.names[middle], wanted) < 0:
                low = middle + 1
            else:
                high = middle
        return low

    def stat(self, Py_ssize_t i):
        """Returns what lstat says of an entry. Raises OSError."""
        cdef Listed* one = self.one(i)
        if one.error:
            raise OSError(one.error, os.strerror(one.error), os.fsdecode(self.path) + self.name(i))
        return stat_of(one)

    def end_of_files(self, Py_ssize_t first, long long largest):
        """Returns where a run of plain files ends that begins at `first`: see _engine.pyi."""
        cdef Py_ssize_t i = first
        cdef const Listed* one = self.one(first)
        cdef u64 device = one.device
        while one.error == 0 and (one.mode & S_IFMT) == S_IFREG and one.links == 1 and not one.attributes:
            if one.device != device or one.size > largest:
                break
            i += 1
            if i == self.end:
                break
            one = &self.looked[i - self.begin]
        return i

    cdef Listed* one(self, Py_ssize_t i) except NULL:
        cdef char* path = PyByteArray_AS_STRING(self.room)
        cdef size_t end = len(self.path)
        if not 0 <= i < <Py_ssize_t>self.at.count:
            raise IndexError(i)
        if not self.begin <= i < self.end:
            self.begin, self.end = i, min(i + LOOKED, <Py_ssize_t>self.at.count)
            with nogil:
                look(path, end, self.at.names + self.begin, self.looked, self.end - self.begin)
        return &self.looked[i - self.begin]


@cython.freelist(64)
cdef class Stat:
    """What lstat says of a file: the fields of os.stat_result that an archive needs."""
    cdef readonly unsigned st_mode, st_uid, st_gid
    cdef readonly u64 st_dev, st_ino, st_nlink
    cdef readonly long long st_size, st_blocks
    cdef long long atime, mtime, ctime
    cdef int atime_rest, mtime_rest, ctime_rest

    @property
    def st_atime_ns(self):
        return whole_ns(self.atime, self.atime_rest)

    @property
    def st_mtime_ns(self):
        return whole_ns(self.mtime, self.mtime_rest)

    @property
    def st_ctime_ns(self):
        return whole_ns(self.ctime, self.ctime_rest)


cdef long long SECONDS = 9223372035         # since 1970, before and after, that nanoseconds in 64 bits can count


cdef object whole_ns(long long seconds, int rest):
    if -SECONDS < seconds < SECONDS:
        return seconds * 1_000_000_000 + rest
    return int(seconds) * 10**9 + rest


cdef Stat stat_of(const Listed* one):
    cdef Stat stat = Stat.__new__(Stat)
    stat.st_mode, stat.st_uid, stat.st_gid = one.mode, one.uid, one.gid
    stat.st_dev, stat.st_ino, stat.st_nlink = one.device, one.inode, one.links
    stat.st_size, stat.st_blocks = one.size, one.blocks
    stat.atime, stat.mtime, stat.ctime = one.atime, one.mtime, one.ctime
    stat.atime_rest, stat.mtime_rest, stat.ctime_rest = one.atime_rest, one.mtime_rest, one.ctime_rest
    return stat

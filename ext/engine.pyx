# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=False
"""pogfast._engine: bytes into blobs and back, on every core, without the GIL.

A blob, as it lies in one buffer from the compressor to the disk (format.pxi has the numbers, FORMAT.md the reasons):

    ... | header 72 or 80 | nonce 24 | tag 16 | chunk ........ | padding <= 263 | ...
          ^ the view that is handed out begins here              ^ only behind a chunk that is not full

The parts, in the order in which a byte meets them:

    libs.pxi     where libsodium, libzstd and libcrypto come from
    atomics.pxi  what is looked at without the lock
    format.pxi   the numbers
    box.pxi      small secrets: boxes for manifests and headers
    buffer.pxi   one aligned, reused buffer a chunk, and the view of a blob in it
    seal.pxi     chunk -> name -> padding -> encrypted in place; and the way back: authenticated, decrypted, name checked
    files.pxi    blobs under names in a directory, and files that appear whole
    crew.pxi     what Sealer and Opener share: worker threads, a lock, the first error, news in order
    store.pxi    the end of the road: a whole chunk is named, sealed to its end and put into every sink
    behind.pxi   large blobs are written while they are made
    jobs.pxi     files as they come, what has become of each, how they are read
    chunk.pxi    where a file is cut: every so many bytes, or by its content
    stream.pxi   a large file in the `stream` layout: compress -> cut -> seal behind
    cut.pxi      a large file in the `frames` layout: cut -> compress and seal each chunk, side by side
    sealer.pxi   many files, many workers, both layouts; small files
    opener.pxi   the mirror: get -> open -> decompress -> write -> rename
    answers.pxi  a known answer for each kernel, before anything is done with it

The engine knows blobs and files. It knows no manifest and no path policy, and prints nothing.
"""

import base64
import collections
import importlib.util
import os
import threading

from pogfast.errors import CorruptBlob, MissingBlob, StoreError, WrongBlob, WrongKey

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_AsString, PyBytes_FromStringAndSize
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EEXIST, EINTR, EINVAL, EIO, EISDIR, ELOOP, ENOENT, ENOMEM, ENOSPC, ENOTDIR, ENXIO, EPERM, errno
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdlib cimport bsearch, calloc, free, malloc, qsort, realloc
from libc.string cimport memcmp, memcpy, memset
from posix.types cimport mode_t, off_t

cdef extern from "<assert.h>" nogil:
    void check "assert"(bint right)     # in the debug build only

include "libs.pxi"
include "atomics.pxi"
include "format.pxi"
include "box.pxi"
include "buffer.pxi"
include "seal.pxi"
include "files.pxi"
include "crew.pxi"
include "store.pxi"
include "behind.pxi"
include "chunk.pxi"
include "jobs.pxi"
include "stream.pxi"
include "cut.pxi"
include "sealer.pxi"
include "opener.pxi"
include "answers.pxi"

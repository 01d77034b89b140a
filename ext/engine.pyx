# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=False
"""pogfast._engine: bytes into blobs and back, on every core, without the GIL.

A blob, as it lies in one buffer from the compressor to the disk (base/format.pxi has the numbers, FORMAT.md the reasons):

    ... | header 72 or 80 | nonce 24 | tag 16 | chunk ........ | padding <= 263 | ...
          ^ the view that is handed out begins here              ^ only after a chunk that is not full

The engine knows blobs and files. It knows no manifest and no path policy, and prints nothing. After the imports follow its
files, in the order in which they build on each other.

Threads
    The caller's thread iterates over `run`: it asks the source for further files (`refill`), waits for events, 20 ms at a
    time, and yields them. Worker threads, as many as `jobs` says, repeat two steps: choose a task with the lock (`pick`),
    and do it without the lock and without the GIL (`do`). A task is a small file, or one step of a larger one. A Sealer
    with a directory among its sinks has one more thread, the writer. Python sinks, and a function that an Opener fetches
    blobs from, are called by workers, which take the GIL for the call. The first failure stops all threads after their
    current step.

Locks
    Each Sealer and each Opener has one mutex, that of its pool. It guards the lists and counters of its files, streams and
    slabs, and has conditions for workers without a task (`work`), the caller (`events`), the writer (`to_write`), workers
    that need a slab which the writer is in (`wrote`), and workers that wait for their turn to read (`may_read`). The
    caller waits for it while it has the GIL, so nobody may ask for the GIL while holding the lock; a debug build
    (`POGFAST_DEBUG=1`) asserts that, and checks the invariants of pool, queue, reader, store and writer whenever a worker
    asks for a task. A few values are read without the lock, relaxed (base/atomics.pxi): whether to stop, which sinks have
    failed, what went wrong with a file. A Packer has a mutex for the pack that is open. No thread holds two of these, and
    a PackIndex is searched without any.

Parts of a Sealer
    A Sealer is a pool and has a queue, a reader, a store and a writer. These know the pool's lock, but neither the Sealer
    nor each other, except that the writer has the store. What they find out they return, and the Sealer decides:
    write/sealer.pxi has the way of a chunk from top to bottom.

Slabs
    A slab is the buffer of one chunk and of the blob that it becomes. Each worker has one of its own, for small files. Those
    for larger files are in the list of spare slabs or with one worker, with two exceptions. In the `stream` layout one
    worker compresses into a slab while another hashes and encrypts: the compressor publishes `length` with the lock, and
    the sealer stays below it. And the writer writes the bytes from `written` up to `ready`, which are encrypted and final; a
    worker that is done with the slab takes it back (`take_back`), and waits for a write that is under way. A small blob in
    the `frames` layout is left to the writer, which returns the slab. A Python sink gets a view of the slab's memory; if it
    keeps the view, the memory is the view's from then on, and the slab gets other memory. A Packer copies a small blob
    into its pack, so the slab has to be whole: a blob that may be packed has no drafts.

    The life of a Sealer's slab (`SlabState` in base/slab.pxi has a word on each, and the functions for the transitions):

        FREE -> FILLING -> WHOLE -> SEALING -> FREE         one worker at a time: small files, and the `frames` layout
                                    SEALING -> HANDED_OVER -> FREE      the writer stores it
                FILLING <-> FOLLOWED -> SEALING <-> WHOLE   two workers: the `stream` layout
                            FOLLOWED -> ABANDONED -> FREE   the file cannot be read further

Drafts
    No file appears under its name before it is complete, neither a blob nor a restored file. Until then it is a draft: a
    file without a name where the system has those (nothing remains if the process is killed), else one under a temporary
    name. `draft_begin` makes it, `draft_publish` gives it its name, `draft_end` closes it and removes what got no name. A
    large blob has one draft for each directory that it goes to, written while the blob is made; the first page is written
    last, since the tag in it is known last.
"""

import collections
import importlib.util
import os
import threading

from pogfast.errors import CorruptBlob, MissingBlob, StoreError, WrongBlob, WrongKey

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_AsString, PyBytes_FromStringAndSize
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EEXIST, EINTR, EINVAL, EIO, EISDIR, ELOOP, ENOENT, ENOMEM, ENOSPC, ENOTDIR, ENXIO, EPERM, errno
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdlib cimport bsearch, calloc, free, malloc, qsort, realloc
from libc.string cimport memcmp, memcpy, memset, strcmp, strlen
from posix.types cimport mode_t, off_t

cdef extern from "<assert.h>" nogil:
    void check "assert"(bint right)     # in the debug build only

# The ground that the rest stands on
include "base/libs.pxi"           # where libsodium, libzstd and libcrypto come from
include "base/results.pxi"        # what an int means that a function returns
include "base/atomics.pxi"        # what is looked at without the lock
include "base/format.pxi"         # the numbers of FORMAT.md
include "base/poly.pxi"           # tags, by libcrypto or libsodium
include "base/keys.pxi"           # what a key is here; unwrapping a header
include "base/names.pxi"          # a chunk's hash, a blob's name, and its 44 letters
include "base/slab.pxi"           # one aligned, reused buffer a chunk, and the view of a blob in it
include "base/pool.pxi"           # what Sealer and Opener share: workers, a lock, the first error, events in order

# One blob
include "blob/box.pxi"            # boxes for manifests and headers; whole zstd frames
include "blob/seal.pxi"           # chunk -> name -> padding -> encrypted in place
include "blob/open.pxi"           # the way back: authenticated, decrypted, name checked
include "blob/kernels.pxi"        # both for one blob at a time

# Packs: many blobs in one object
include "packs/index.pxi"         # where blobs lie in packs: searched where it lies, checked, made and merged

# Files and directories
include "disk/posix.pxi"          # the system calls
include "disk/drafts.pxi"         # files that appear when they are complete
include "disk/directory.pxi"      # blobs under names in a directory
include "packs/packer.pxi"        # small blobs into packs, larger ones into a sink

# Files as a walk finds them
include "walk/listing.pxi"        # the names in a directory, and lstat of each
include "walk/files.pxi"          # runs of files in it: those that a cache knows, and their entries in a manifest

# Files into blobs
include "write/store.pxi"         # the sinks: which have a blob, which have failed, what was stored
include "write/writer.pxi"        # write-behind: large blobs are written while they are made
include "write/fastcdc.pxi"       # where a file is cut: every so many bytes, or by its content
include "write/queue.pxi"         # files as they come, and what has become of each
include "write/reading.pxi"       # how files are read
include "write/compressor.pxi"    # zstd's parameters
include "write/stream.pxi"        # a large file in the `stream` layout: compress -> cut -> seal, by two workers
include "write/frames.pxi"        # a large file in the `frames` layout: cut -> compress and seal each chunk, in parallel
include "write/sealer.pxi"        # many files, many workers; the way of a chunk, from its last byte to the stores

# Blobs into files
include "read/asked.pxi"          # what Python asks for: files, and the uses of their blobs
include "read/plan.pxi"           # which step of which file is next, and the memory for it
include "read/fetch.pxi"          # a blob into memory: read -> authenticate -> decrypt -> hold against its name
include "read/decompress.pxi"     # an opened chunk into its files
include "read/metadata.pxi"       # a file: draft -> metadata -> name
include "read/opener.pxi"         # the steps put together, in the order in which a blob passes through them

# Before anything is done
include "blob/answers.pxi"        # a known answer for each kernel; if one is wrong the import fails

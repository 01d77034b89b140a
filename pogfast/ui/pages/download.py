"""Downloads: one file, or directories as .tar or .zip, made while they are sent; and previews.

Only the blobs that are needed are read, and nothing is written to a disk. If a blob turns out to be damaged, the
connection is cut, so that the browser reports a failed download rather than keep half a file as a whole one.
"""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from datetime import datetime
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from pogfast.archives.listing import Item
from pogfast.archives.tree import Tree
from pogfast.console import visible
from pogfast.errors import NoSuchEntry, PogfastError, UnsafePath, UsageError
from pogfast.files.paths import basename, parent_of, safe_path
from pogfast.ui.site import Site, archive_of, form_of, path_of, session_of, store_of
from pogfast.ui.words import moment_of

MAX_PREVIEW = 1 << 20  # bytes
# What a picture begins with, and its type. SVG is not among them: it is a document with scripts.
PICTURES = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
}
LEFT_OUT = "NOT-INCLUDED.txt"
SANDBOX = "sandbox; default-src 'none'; img-src 'self'; frame-ancestors 'self'"
EARLIEST, LATEST = datetime(1980, 1, 1), datetime(2107, 12, 31)  # what a .zip can say


def download(request: Request) -> Response:
    """Sends a file as it is, or what is below `path`, else what is ticked, as `tar` or `zip`."""
    site, store, archive, form = Site.of(request), store_of(request), archive_of(request), form_of(request)
    how = form.choice("as", ("file", "tar", "zip"))
    key = site.key(request, store)
    with ExitStack() as stack:
        tree = stack.enter_context(site.trees.opened(store, archive, key))
        path = path_of(form)
        if how == "file":
            item = tree.item(path)
            if item.kind != "file":
                raise UsageError(f"{path} is not a file", hint="directories can be downloaded as .tar or .zip")
            return _streamed(_file(stack.pop_all(), tree, item), basename(path), item.size)
        tops = list(session_of(request).ticked(store.name, archive)) if form.on("ticked") else [path]
        if not tops:
            raise UsageError("nothing is ticked")
        for top in tops:
            if top:
                tree.item(top)
        name = f"{basename(tops[0]) or archive.removesuffix('.mfn')}.{how}"
        members, left_out = _members(tree, tops)
        pack = _tar if how == "tar" else _zip
        return _streamed(_packed(stack.pop_all(), pack(tree, members, left_out)), name, None)


def _streamed(body: Iterator[bytes], name: str, size: int | None) -> Response:
    """Returns an answer that browsers save under a name."""
    try:
        first = next(body, b"")  # damage of the first blob becomes a message instead of a download that breaks off
    except BaseException:
        body.close()  # type: ignore[attr-defined]
        raise
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\/' else "_" for c in name) or "file"
    headers = {
        "Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(visible(name), safe='')}",
    }
    if size is not None:
        headers["Content-Length"] = str(size)
    return StreamingResponse(_chain(first, body), headers=headers, media_type="application/octet-stream")


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield first
        yield from rest
    finally:
        rest.close()  # type: ignore[attr-defined]


def _file(held: ExitStack, tree: Tree, item: Item) -> Iterator[bytes]:
    with held:
        for piece in tree.archive.read(item.name):
            yield bytes(piece)


def _packed(held: ExitStack, pieces: Iterable[bytes]) -> Iterator[bytes]:
    with held:
        yield from pieces


# ---- directories -----------------------------------------------------------------------------------------------------


def _members(tree: Tree, tops: Iterable[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Returns (path, name in the download) of everything below some paths, and why entries are left out. Names begin
    with the last part of the path that was asked for."""
    members: dict[str, tuple[str, str]] = {}
    left_out: list[str] = []
    for top in tops:
        above = parent_of(top)
        for path in tree.walk(top):
            try:
                safe_path(path)
            except UnsafePath as error:
                left_out.append(str(error))
                continue
            members.setdefault(path, (path, path[len(above) :].lstrip("/")))
    return list(members.values()), left_out


def _tar(tree: Tree, members: Iterable[tuple[str, str]], left_out: list[str]) -> Iterator[bytes]:
    """Yields a .tar in the format of POSIX.1-2001, with permissions, owners, times and links."""
    for path, name in members:
        item = _item(tree, path, left_out)
        if item is None:
            continue
        head = _head(item, name)
        pieces: Iterable[memoryview] = ()
        if item.kind == "file":
            head.size = _size(tree, item)
            pieces = tree.archive.read(item.name)
        yield head.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        sent = 0
        for piece in pieces:
            sent += len(piece)
            yield bytes(piece)
        if sent != head.size:
            raise PogfastError(f"{item.name}: {sent} bytes where the archive says {head.size}")
        yield b"\0" * (-sent % tarfile.BLOCKSIZE)
    if left_out:
        text = _text(left_out)
        head = tarfile.TarInfo(LEFT_OUT)
        head.size = len(text)
        yield head.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        yield text + b"\0" * (-len(text) % tarfile.BLOCKSIZE)
    yield b"\0" * (2 * tarfile.BLOCKSIZE)


def _size(tree: Tree, item: Item) -> int:
    """Returns the bytes of a file; if the archive does not say, as pog's, reads it to find out."""
    if item.size is not None:
        return item.size
    with tree.archive.open(item.name) as opened:
        return opened.seek(0, io.SEEK_END)


def _head(item: Item, name: str) -> tarfile.TarInfo:
    head = tarfile.TarInfo(name)
    kinds = {"directory": tarfile.DIRTYPE, "link": tarfile.SYMTYPE, "fifo": tarfile.FIFOTYPE}
    head.type = kinds.get(item.kind, tarfile.REGTYPE)
    usual = 0o755 if item.kind == "directory" else 0o644
    head.mode = (usual if item.mode is None else item.mode) & 0o777  # no set-id bits: the archive may be forged
    head.uid, head.gid = max(0, item.uid or 0), max(0, item.gid or 0)
    head.uname, head.gname = item.user or "", item.group or ""
    head.mtime = (item.mtime_ns or 0) / 1e9
    head.linkname = item.target or ""
    return head


def _zip(tree: Tree, members: Iterable[tuple[str, str]], left_out: list[str]) -> Iterator[bytes]:
    """Yields a .zip of files and directories, uncompressed. Links and FIFOs are left out, and named in a file."""
    sink = _Sink()
    taken: set[str] = set()
    with zipfile.ZipFile(sink, "w") as archive:
        for path, name in members:
            item = _item(tree, path, left_out)
            if item is None:
                continue
            # What is not UTF-8 cannot be named in a .zip, and Windows takes backslashes for slashes.
            shown = visible(name).replace("\\", "_")
            if item.kind not in ("file", "directory"):
                left_out.append(f"{item.name}: a {item.kind}, which a .zip cannot hold")
            elif shown in taken:
                left_out.append(f"{item.name}: another entry has this name in the .zip")
            else:
                taken.add(shown)
                yield from _zipped(tree, item, shown, archive, sink)
        if left_out:
            archive.writestr(LEFT_OUT, _text(left_out))
    yield sink.take()


def _zipped(tree: Tree, item: Item, name: str, archive: zipfile.ZipFile, sink: _Sink) -> Iterator[bytes]:
    modified = moment_of(item)
    moment = min(max(modified.replace(tzinfo=None) if modified else EARLIEST, EARLIEST), LATEST)
    head = zipfile.ZipInfo(name + "/" * (item.kind == "directory"), moment.timetuple()[:6])
    mode = (0o755 if item.kind == "directory" else 0o644) if item.mode is None else item.mode & 0o777
    head.external_attr = (mode | (0o040000 if item.kind == "directory" else 0o100000)) << 16
    if item.kind == "directory":
        archive.writestr(head, b"")
        return
    with archive.open(head, "w", force_zip64=True) as file:
        for piece in tree.archive.read(item.name):
            file.write(piece)
            yield sink.take()
    yield sink.take()


class _Sink:
    """A file that cannot seek: what is written to it is taken out and sent."""

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def write(self, piece: bytes) -> int:
        self._written.append(bytes(piece))
        return len(piece)

    def close(self) -> None:
        """Does nothing, as `flush`."""

    def flush(self) -> None:
        """Does nothing: all that was written can be taken."""

    def take(self) -> bytes:
        taken, self._written = b"".join(self._written), []
        return taken


def _item(tree: Tree, path: str, left_out: list[str]) -> Item | None:
    try:
        return tree.item(path)
    except PogfastError as error:
        left_out.append(str(error))
        return None


def _text(left_out: list[str]) -> bytes:
    return (
        "These entries of the archive are not in this download:\n" + "\n".join(map(visible, left_out)) + "\n"
    ).encode()


# ---- previews --------------------------------------------------------------------------------------------------------


def previews(item: Item) -> bool:
    """Returns True if a file is small enough to be shown in its page."""
    return item.kind == "file" and item.size is not None and 0 < item.size <= MAX_PREVIEW


def preview(request: Request) -> Response:
    """Sends a small file as plain text or a picture, for a frame that can run nothing."""
    site, store, archive = Site.of(request), store_of(request), archive_of(request)
    path = path_of(form_of(request))
    with site.trees.opened(store, archive, site.key(request, store)) as tree:
        item = tree.item(path)
        if not previews(item):
            raise NoSuchEntry(f"{path}: no preview: it is not a file of at most 1 MB")
        content = b"".join(map(bytes, tree.archive.read(item.name, 0, MAX_PREVIEW)))
    kind = next((kind for start, kind in PICTURES.items() if content.startswith(start)), "")
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        kind = "image/webp"
    if not kind and b"\0" in content:
        content = b"This file is neither text nor a picture that can be shown here."
    return Response(
        content, media_type=kind or "text/plain; charset=utf-8", headers={"Content-Security-Policy": SANDBOX}
    )

"""What is fuzzed: a function for each way by which bytes of others come in. Each takes bytes and raises what is wrong.

Stores, manifests and blobs are sealed with the right keys, so that what is hostile in them is reached; raw bytes go in
as well. What must hold: only our own errors are raised, what is read agrees with python-zstandard, a restore touches
nothing outside of its directory, and one bad file costs no other.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import stat
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import zstandard
from drawing import ENTRY_WORDS, NUMBERS, Draw, dumps, members

from pogfast import cli, manifest
from pogfast._engine import (
    VERDICT,
    BlobDirectory,
    Opener,
    PackIndex,
    Wanted,
    blob_name,
    build_index,
    check_index,
    compress,
    merge_indexes,
    open_blob,
    public_key,
    read_chunk,
    seal_blob,
    secretbox,
)
from pogfast.archives import catalog
from pogfast.archives.catalog_file import CatalogFile
from pogfast.archives.members import Member
from pogfast.backup.cache import Cache
from pogfast.backup.cache_rows import KnownBlobs, StatData
from pogfast.cli.output import Output
from pogfast.errors import CorruptBlob, CorruptManifest, CorruptPack, PogfastError, StoreError, WrongBlob, WrongKey
from pogfast.keys import Key
from pogfast.stores import service as service_module
from pogfast.stores.packs import layout

MANIFEST = "2026-01-02T03:04:05.000000.mfn"
CHUNK_SIZE = 1 << 16
PRIVATE = bytes(range(32, 64))
KEYS = (Key("keyfile", bytes(range(32))), Key("x25519", public_key(PRIVATE), PRIVATE))
OTHER = Key("keyfile", bytes(32))
MAX_PLAIN = 1 << 26  # bytes of a file that are compared


@cache
def sandbox() -> Path:
    """A directory of this process, deep in another: names that lead out of the former stay in the latter."""
    place = Path(tempfile.mkdtemp(prefix="pogfast-fuzz-", dir=os.environ.get("POGFAST_FUZZ_SANDBOX"))) / "1/2/3/4/5"
    place.mkdir(parents=True)
    return place


def clear(path: Path) -> Path:
    """An empty directory in the sandbox."""
    if path.exists():
        os.chmod(path, 0o700)
        shutil.rmtree(path)
    path.mkdir(parents=True)
    return path


# ---- blobs -----------------------------------------------------------------------------------------------------------


class Stored:
    """The blobs of an archive while it is made up."""

    def __init__(self, key: Key) -> None:
        self.key = key
        self.blobs: dict[str, bytes] = {}
        self.chunks: dict[str, bytes] = {}  # of those that belong to their names

    def add(self, chunk: bytes) -> str:
        name, blob = seal_blob(self.key.secret, self.key.asymmetric, chunk, CHUNK_SIZE)
        self.blobs[name], self.chunks[name] = blob, chunk
        return name

    def add_hostile(self, draw: Draw, chunk: bytes) -> str:
        """A blob of which something is wrong; its name."""
        kind = draw.below(6)
        if kind == 0:  # of another payload: wrong padding, other content
            name, file_key = blob_name(self.key.secret, chunk), draw.byte().to_bytes(1, "big") * 32
            self.blobs[name] = self.key.wrap(file_key) + secretbox(file_key, draw.bent(chunk))
            self.chunks.pop(name, None)
            return name
        name = self.add(chunk)
        if kind == 1:
            del self.blobs[name]
        else:
            self.blobs[name] = draw.bent(self.blobs[name])
        del self.chunks[name]
        return name


def chunk_of(draw: Draw) -> bytes:
    """A chunk: a frame, several, a bent one, or anything."""
    kind = draw.below(8)
    if kind == 7:
        return draw.piece()
    content = draw.piece() * (1 + (draw.byte() if draw.below(8) == 7 else 0))
    frames = draw.frame(content)
    return frames if kind < 4 else draw.bent(frames) if kind < 6 else frames + draw.frame(draw.piece())


def plain(chunks: list[bytes], piece: int = MAX_PLAIN) -> bytes | None:
    """What chunks decompress to, as python-zstandard has it, in pieces of so many bytes; None where they do not.

    libzstd takes a frame with an empty last block that is shorter than its header says, unless there is room for all.
    """
    reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(b"".join(chunks)), read_across_frames=True)
    try:
        content = b"".join(iter(lambda: reader.read(piece), b"")) if piece < MAX_PLAIN else reader.read(MAX_PLAIN)
        return content if len(content) < MAX_PLAIN else None
    except zstandard.ZstdError:
        return None


def blob(data: bytes) -> None:
    """Bytes of a blob, or of its chunk, in the functions that open one, and in an Opener."""
    draw = Draw(data)
    key = draw.pick(KEYS)
    stored = Stored(key)
    names: list[str] = []
    for _ in range(1 + draw.below(3)):
        kind = draw.below(4)
        chunk = chunk_of(draw)
        names.append(stored.add(chunk) if kind else stored.add_hostile(draw, chunk))
    if draw.below(4) == 3:
        stored.blobs[names[0]] = draw.piece()
        stored.chunks.pop(names[0], None)
    for name in names:
        _open_alone(stored, name, draw)
    _open_together(stored, names, draw)


def _open_alone(stored: Stored, name: str, draw: Draw) -> None:
    key, found = stored.key, stored.blobs.get(name, b"")
    chunk = stored.chunks.get(name)
    with contextlib.suppress(WrongKey, CorruptBlob):
        open_blob(OTHER.secret, None, found, name)
        raise AssertionError("another key opens it")
    try:
        opened = open_blob(key.secret, key.private, found, name)
        assert chunk is None or opened == chunk, "not the chunk that was sealed"
        assert blob_name(key.secret, opened) == name, "not what its name says"
    except (WrongKey, CorruptBlob, WrongBlob):
        assert chunk is None, "refused, and nothing is wrong with it"
    size = draw.number()
    with contextlib.suppress(WrongKey, CorruptBlob, WrongBlob, OverflowError):
        content = read_chunk(key.secret, key.private, found, name, size)
        assert chunk is None or content in (plain([chunk]), plain([chunk], 1)), "read otherwise than python-zstandard"
        assert size < 0 or len(content) == size, "not of the size that was asked for"


def _open_together(stored: Stored, names: list[str], draw: Draw) -> None:
    """The same in an Opener, as a stream or as frames, into files or only looked at, from a directory or a function."""
    place = clear(sandbox() / "blobs")
    chunks = [stored.chunks[name] for name in names if name in stored.chunks]
    content = plain(chunks) if len(chunks) == len(names) else None
    lengths = [len(plain([stored.chunks[name]]) or b"") if name in stored.chunks else 0 for name in names]
    kind = draw.below(4)
    sizes = None if kind == 0 else lengths if kind < 3 else [abs(draw.number()) % (1 << 63) for _ in names]
    size = -1 if draw.below(3) else draw.number() if draw.below(3) == 2 else sum(lengths)
    if not -1 <= size < 1 << 63 or sum(sizes or ()) >= 1 << 63 or (sizes or [0])[0] >= 1 << 63:
        return
    source: Any = lambda name: stored.blobs[name] if name in stored.blobs else _missing(name)  # noqa: E731
    directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if draw.below(2):
            source = BlobDirectory(directory, False)
            for name, found in stored.blobs.items():
                (place / name).write_bytes(found)
        out = directory if draw.below(3) else -1
        leaf = b"file" if out >= 0 else b""
        one = Wanted(out, leaf, names, sizes, size, 0, 0, sparse=bool(draw.below(2)))
        wanted = [one, one._replace(leaf=b"again" if out >= 0 else b"", blobs=names[:1], sizes=None, size=-1)]
        opener = Opener(stored.key.secret, stored.key.private, stored.key.asymmetric, wanted, source, jobs=2)
        with contextlib.closing(opener.run()) as run:
            opened = list(run)
        assert [result.file for result in opened] == [0, 1]
        for result, name in zip(opened, ("file", "again"), strict=True):
            there = out >= 0 and (place / name).exists()
            assert result.verdict in VERDICT.values(), result
            assert there == (out >= 0 and result.verdict == VERDICT["good"]), (result, there)
        if opened[0].verdict == VERDICT["good"] and out >= 0:
            assert content is None or (place / "file").read_bytes() == content, "restored otherwise"
        elif kind < 2 and content is not None and size in (-1, len(content)) and _is_whole(stored, names, kind):
            assert opened[0].verdict == VERDICT["good"], f"refused, and nothing is wrong with it: {opened[0]}"
    finally:
        os.close(directory)


def _missing(name: str) -> bytes:
    from pogfast.errors import MissingBlob

    raise MissingBlob(name)


def _is_whole(stored: Stored, names: list[str], kind: int) -> bool:
    """Whether python-zstandard takes each frame for ended: of frames each by itself, of a stream all in a row."""
    chunks = [stored.chunks[name] for name in names]
    return all(map(_ends, chunks if kind else [b"".join(chunks)]))


def _ends(frames: bytes) -> bool:
    """Whether these are whole frames to the last byte."""
    while frames:
        if frames[1:4] == b"\x2a\x4d\x18" and frames[0] >> 4 == 5:
            end = 8 + int.from_bytes(frames[4:8], "little")
            if len(frames) < max(8, end):
                return False
            frames = frames[end:]
            continue
        reader = zstandard.ZstdDecompressor().decompressobj()
        try:
            reader.decompress(frames)
        except zstandard.ZstdError:
            return False
        if not reader.eof:
            return False
        frames = reader.unused_data
    return True


# ---- manifests -------------------------------------------------------------------------------------------------------


class MadeUp:
    """A store with an archive of two honest files and hostile others."""

    def __init__(self, draw: Draw) -> None:
        self.key = draw.pick(KEYS)
        self.stored = Stored(self.key)
        self.members: list[tuple[str, Any]] = [
            ("kept", self.entry([compress(b"kept")], [4])),
            ("d/parts", self.entry([compress(b"one, "), compress(b"two")], [5, 3])),
        ]
        for _ in range(draw.below(5)):
            self.members.insert(draw.below(len(self.members) + 1), (draw.name(), self.hostile(draw)))
        self.trailer = draw.trailer()
        self.manifest = sealed_manifest(self, draw)

    def entry(self, chunks: list[bytes], sizes: list[int]) -> dict[str, Any]:
        names = [self.stored.add(chunk) for chunk in chunks]
        facts = {"blobs": names, "atime": 1.0, "mtime": 2.0, "size": sum(sizes)}
        return facts | ({"sizes": sizes} if len(sizes) > 1 else {})

    def hostile(self, draw: Draw) -> Any:
        if draw.below(16) == 15:
            return draw.value()
        names = []
        for _ in range(draw.below(4)):
            kind = draw.below(8)
            if kind < 4:
                names.append(draw.pick([*self.stored.blobs]))
            else:
                chunk = chunk_of(draw)
                names.append(self.stored.add(chunk) if kind < 6 else self.stored.add_hostile(draw, chunk))
        entry = {"blobs": names, "atime": 1.0, "mtime": 2.0}
        if draw.below(3) == 2:
            entry["hardlink"] = draw.name() if draw.below(2) else "kept"
        return draw.changed(entry, ENTRY_WORDS)

    def store(self, place: Path) -> Path:
        for name, found in self.stored.blobs.items():
            folder = place / "data" / name[:2]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(found)
        (place / MANIFEST).write_bytes(self.manifest)
        return place


def sealed_manifest(made: MadeUp, draw: Draw) -> bytes:
    """The bytes of a manifest's file, sealed with the right key. At most one of its parts is bent."""
    key, where = made.key, draw.below(16)

    def bent(part: int, data: bytes) -> bytes:
        return draw.bent(data) if part == where else data

    text = bent(1, members(made.members))
    content = bent(2, draw.frame(bent(3, dumps(made.trailer))))
    frames = bent(4, draw.frame(text)) + b"\x5e\x2a\x4d\x18" + len(content).to_bytes(4, "little") + content
    full = bent(5, key.wrap(bytes(32)) + secretbox(bytes(32), bent(6, frames)))
    if not key.asymmetric:
        return full
    names: Any = sorted(
        name for _, entry in made.members if isinstance(entry, dict) for name in _strings(entry.get("blobs"))
    )
    stored: Any = [1] * len(names)
    if where == 7:
        names = draw.value()
    elif where == 8:
        stored = draw.value()
    payload = bent(9, draw.frame(bent(10, dumps(names))))
    content = compress(dumps({"stored": stored}))
    payload += b"\x5e\x2a\x4d\x18" + len(content).to_bytes(4, "little") + content
    box = secretbox(bytes(32), bent(11, payload))
    length = draw.pick(NUMBERS) % (1 << 32) if where == 12 else len(box)
    return secretbox(key.secret, length.to_bytes(4, "big") + bytes(32)) + box + full


def _strings(value: Any) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def sealed(data: bytes) -> None:
    """Manifests that are sealed with the right key, in every function that opens one."""
    made = MadeUp(Draw(data))
    _open_manifest(made.manifest, made.key)


def raw(data: bytes) -> None:
    """Any bytes as a manifest; and as the frames, the entries, the trailer and the index of a sealed one."""
    draw = Draw(data)
    key, kind = draw.pick(KEYS), draw.below(5)
    found = draw.rest()
    if kind:
        content = compress(found)
        trailer = b"\x5e\x2a\x4d\x18" + len(content).to_bytes(4, "little") + content
        frames = (found, content, compress(b"{}") + trailer, compress(b"{}"))[kind - 1]
        listed = secretbox(bytes(32), content if kind == 4 else compress(b"[]"))
        index = secretbox(key.secret, len(listed).to_bytes(4, "big") + bytes(32)) + listed
        found = (index if key.asymmetric else b"") + key.wrap(bytes(32)) + secretbox(bytes(32), frames)
    _open_manifest(found, key)


def _open_manifest(found: bytes, key: Key) -> None:
    """Opens one in every way, and holds the answers against each other."""
    public = Key(key.kind, key.secret)
    said = {
        act.__name__: _answer(act, found, key)
        for act in (manifest.open, manifest.open_trailer, manifest.open_facts, manifest.blob_names)
    }
    for act in (manifest.open_index, manifest.open_sizes) if key.asymmetric else ():
        assert _answer(act, found, public) == _answer(act, found, key)
    opened, trailer, facts = said["open"], said["open_trailer"], said["open_facts"]
    if isinstance(trailer, dict) and isinstance(facts, dict):
        for word, value in facts.items():
            assert value is None or repr(value) == repr(trailer.get(word)), f"two readers of {word} disagree"
    if opened is None:
        return
    names: list[str] | None = []
    for name in opened.entries:
        entry = _look_at(opened, name)
        names = names + entry.blobs if entry is not None and names is not None else None
    if said["blob_names"] is not None and names is not None:
        assert said["blob_names"] == names, "two readers of the blobs' names disagree"


def _answer(act: Callable[[bytes, Key, str], Any], found: bytes, key: Key) -> Any:
    try:
        return act(found, key, "m")
    except (CorruptManifest, WrongKey):
        return None


def _look_at(opened: manifest.Manifest, name: str) -> manifest.Entry | None:
    """All that is asked of an entry."""
    with contextlib.suppress(CorruptManifest):
        size, hardlink = manifest.outline(opened.entries, name)
        assert size is None or 0 <= size <= manifest.MAX_SIZE
        assert isinstance(hardlink, str)
    try:
        entry = opened.entries[name]
    except CorruptManifest:
        return None
    for word in ("size", "sizes", "stored", "mtime_ns", "atime_ns"):
        with contextlib.suppress(CorruptManifest):
            getattr(entry, word)
    return entry


# ---- archives --------------------------------------------------------------------------------------------------------


class Heard:
    """What a restore reports."""

    def __init__(self) -> None:
        self.restored: list[str] = []
        self.problems: list[PogfastError] = []

    def started(self, progress: Callable[[], Any]) -> None:
        progress()

    def entry(self, name: str, outcome: str, size: int) -> None:
        if outcome == "restored":
            self.restored.append(name)

    def warning(self, text: str) -> None: ...

    def problem(self, error: PogfastError) -> None:
        assert isinstance(error, PogfastError)
        self.problems.append(error)


def seen(top: Path) -> dict[str, tuple[Any, ...]]:
    """All that lies below a directory, and what it is."""
    found: dict[str, tuple[Any, ...]] = {}
    for folder, directories, files in os.walk(top):
        for name in [*directories, *files]:
            path = os.path.join(folder, name)
            facts = os.lstat(path)
            found[path] = (facts.st_mode, facts.st_uid, facts.st_size, facts.st_mtime_ns, facts.st_ino)
    return found


def restore(data: bytes) -> None:
    """A restore of an archive into a directory, twice, as pogfast and as pog do it."""
    from pogfast import recovery
    from pogfast.pog import restore as pog_restore

    draw = Draw(data)
    made = MadeUp(draw)
    place = clear(sandbox() / "restore")
    outside, into = place / "outside", place / "out" / "inside"
    outside.mkdir()
    (outside / "kept").write_bytes(b"untouched")
    into.mkdir(parents=True)
    store = made.store(clear(place / "store"))
    if draw.below(4) == 3:  # what lies there before
        (into / "a").symlink_to(outside)
        (into / "d").symlink_to(outside / "kept")
    before = _outside()
    options = recovery.Options(
        overwrite=draw.pick(("never", "if-changed", "always")),
        delete=bool(draw.below(4) == 3),
        strip_components=draw.pick((0, 0, 0, 1)),
        numeric_owner=bool(draw.below(2)),
        jobs=2,
    )
    for _ in range(1 + draw.below(2)):
        heard = Heard()
        with _only_ours():
            recovery.restore(f"{store}/{MANIFEST}", made.key, str(into), report=heard, options=options)
            _compare(made, into, heard)
    if draw.below(4) == 3:
        with _only_ours():
            pog_restore.restore(
                f"local:{store}/{MANIFEST}", made.key, str(into), names=None, consume=False, jobs=2, report=_Pog()
            )
    after = _outside()
    assert before == after, {path for path in before | after if before.get(path) != after.get(path)}


class _Pog(Heard):
    def file(self, index: int, total: int, name: str) -> None: ...


@contextlib.contextmanager
def _only_ours() -> Iterator[None]:
    """An archive may be refused as a whole, but nothing in it is a failure of the store or of the disk."""
    try:
        yield
    except StoreError as error:
        raise AssertionError(f"an archive ends the restore of all: {error}") from error
    except PogfastError:
        return


def _compare(made: MadeUp, into: Path, heard: Heard) -> None:
    """What was restored is what its blobs hold."""
    opened = manifest.open(made.manifest, made.key, "m")
    for name in heard.restored:
        if name not in opened.entries or "/" in name or heard.restored.count(name) > 1:
            continue
        path = into / name
        chunks = [made.stored.chunks.get(blob) for blob in opened.entries[name].blobs]
        if None in chunks or not os.path.lexists(path) or not stat.S_ISREG(os.lstat(path).st_mode):
            continue
        content = plain([chunk for chunk in chunks if chunk is not None])
        assert content is None or path.read_bytes() == content, f"{name!r} is restored otherwise"


def verbs(data: bytes) -> None:
    """The commands, on a store with a hostile archive and odd names."""
    draw = Draw(data)
    made = MadeUp(draw)
    place = clear(sandbox() / "verbs")
    store = made.store(clear(place / "store"))
    for _ in range(draw.below(3)):
        _plant(draw, store)
    keyfile = place / "key"
    keyfile.write_bytes(PRIVATE if made.key.asymmetric else b"")
    words = ["--json"] if draw.below(3) == 2 else ["-v"] if draw.below(2) else []
    archive = f"{store}/{MANIFEST}" if draw.below(2) else f"{store}/latest"
    verb = draw.pick(
        (
            ("list", str(store)),
            ("ls", "-l", archive),
            ("info", archive),
            ("stats", str(store)),
            ("find", str(store), draw.pick(("*", "a", "**/b", "kept"))),
            ("diff", archive, f"{store}/{MANIFEST}"),
            ("check", "--read-data", str(store)),
            ("check", archive, "--against", str(clear(place / "against"))),
            ("cat", archive, draw.pick(("kept", "d/parts", "a", "a/b"))),
            ("copy", str(store), str(place / "copy")),
            ("prune", str(store), "--keep-last", "1", *draw.pick(((), ("--yes",), ("--yes", "--grace", "0")))),
            ("create", str(store / MANIFEST), "--to", str(store), "--no-cache"),
            ("list", "--partial", str(store)),
            ("undelete", str(store)),
            ("rewrite", archive, "--exclude", "a"),
        )
    )
    shutil.rmtree(place / "copy", ignore_errors=True)
    with patch("pogfast.keys.from_options", lambda **more: made.key):
        said = _run([*verb, *words, "--keyfile", str(keyfile)])
    if "--json" not in words and verb[0] != "cat":
        _check_terminal(said)


def pog(data: bytes) -> None:
    """The commands of pog that read, on the same; a restore touches nothing outside of the working directory."""
    from pogfast import pog as command

    draw = Draw(data)
    made = MadeUp(draw)
    place = clear(sandbox() / "pog")
    store = made.store(clear(place / "data" / "store"))
    for _ in range(draw.below(3)):
        _plant(draw, store)
    into = clear(place / "inside")
    archive = f"local:{store}/{MANIFEST}"
    words = draw.pick((["--dump-manifest"], ["--dump-manifest-index"], ["--decrypt"], ["--decrypt", "--consume"], []))
    before = _outside()
    with patch("pogfast.pog._key", lambda *_, **more: made.key), contextlib.chdir(into):
        if words:
            said = _said(lambda: command._pog(command.PogConsole("pog"), ["--keyfile=k", *words, archive]))
        else:
            said = _said(lambda: command._cleanup(command.PogConsole("pog-cleanup"), [f"--backup=local:{store}"]))
    _check_terminal(said)
    assert before == _outside()


def _check_terminal(said: bytes) -> None:
    assert not any(byte in said for byte in (b"\x1b", b"\r", b"\x07")), f"a terminal obeys this: {said!r}"


def _outside() -> dict[str, tuple[Any, ...]]:
    """What lies in the sandbox, but for directories that are called `inside`, whose own facts may change."""
    found = seen(sandbox().parents[4])
    return {path: facts for path, facts in found.items() if "/inside/" not in path and not path.endswith("/inside")}


class _Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


def _run(arguments: list[str]) -> bytes:
    """What `pogfast` says on a terminal, in this process. Raises what it raises, but for our own errors."""

    make = partial(cli.group.make_context, "pogfast", arguments)

    def act() -> None:
        with contextlib.suppress(click.exceptions.Exit), make(obj=Output()) as context:
            cli.group.invoke(context)

    return _said(act)


def _said(act: Callable[[], None]) -> bytes:
    """What is said on a terminal."""
    kept, raw_out, raw_err = (sys.stdout, sys.stderr), _Terminal(), io.BytesIO()
    sys.stdout = io.TextIOWrapper(raw_out, "utf-8", "surrogateescape", write_through=True)
    sys.stderr = io.TextIOWrapper(raw_err, "utf-8", "backslashreplace", write_through=True)
    try:
        with contextlib.suppress(PogfastError):
            act()
        return raw_out.getvalue() + raw_err.getvalue()
    finally:
        sys.stdout.detach()
        sys.stderr.detach()
        sys.stdout, sys.stderr = kept


def _plant(draw: Draw, store: Path) -> None:
    """Something in a store that is not ours, or looks as if it were."""
    marks = ("sweep.running-", "sweep.done-x", "condemned-", f"{MANIFEST}.removed", f"{MANIFEST}.partial")
    manifests = (".mfn", "x.mfn", "9999-12-31T23:59:59.mfn", "\udcff.mfn", "\x1b[2J.mfn", "a\nb.mfn")
    name = draw.pick((*marks, *manifests, "a", "data/zz", "data/a", "data/ab/" + "A" * 43 + "="))
    path = store / name
    if path.exists() or path.is_symlink():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = draw.below(5)
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        path.symlink_to(store / MANIFEST)
    elif kind == 2:
        os.mkfifo(path)
    else:
        path.write_bytes((store / MANIFEST).read_bytes() if kind == 3 else draw.piece())
    os.utime(path, (0, 0), follow_symlinks=False)  # old: nobody waits for a sweep that seems to run


# ---- what is remembered ----------------------------------------------------------------------------------------------


class _Held:
    """A store with one good archive, in memory."""

    identity = "fuzz"
    parallel = 1

    def __init__(self) -> None:
        self.key = KEYS[0]
        entry = manifest.Entry([blob_name(self.key.secret, b"")], 1.0, 2.0, {"size": 0})
        self.data = manifest.seal(manifest.Manifest({"a": entry}, {"host": "h"}), self.key)

    def get_manifest(self, name: str) -> bytes:
        return self.data


def _members(draw: Draw, archives: int) -> bytes:
    """The box of the catalog with what is in archives."""
    import msgspec

    entry = {"blobs": [blob_name(KEYS[0].secret, b"")], "atime": 1.0, "mtime": 2.0, "size": 0}
    rows = [
        [
            draw.below(6),
            draw.pick((b"a", b"\xff", draw.piece())),
            dumps(entry | draw.facts() if draw.below(2) else draw.value()) if draw.below(8) else draw.piece(),
        ]
        for _ in range(1 + draw.below(3))
    ]
    numbers = [
        draw.pick((None, [bytes(32), draw.pick((bytes(4), b"\0\0\0\0\1\0\0\0", b"\xff" * 4, b"\0", b""))]))
        for _ in range(archives if draw.below(8) else archives + 1)
    ]
    return draw.bent(zstandard.compress(draw.bent(msgspec.msgpack.encode([rows, numbers])), 1))


def remembered(data: bytes) -> None:
    """The catalog of a store's archives, sealed with the right key: a store is looked at all the same."""
    import msgspec

    from pogfast.stores import Stored as InStore

    draw = Draw(data)
    held = _Held()
    os.environ["POGFAST_CACHE_DIR"] = str(clear(sandbox() / "cache"))
    there = [InStore(f"{number}.mfn", len(held.data), 1.0) for number in range(2)]
    file = CatalogFile(held.identity, held.key)
    second = b""
    if draw.below(4) == 3:
        content = draw.rest()
    else:
        rows = [
            [
                stored.name.encode() if draw.below(8) else draw.piece(),
                stored.size if draw.below(8) else draw.number() % (1 << 63),
                stored.modified,
                "",
                dumps(draw.value() if draw.below(2) else {"host": "h", "totals": {"files": 1, "stored": 1}}),
                draw.pick((None, b"\0\0\0\0", b"\0\0\0\0\1\0\0\0", b"\0", draw.piece())),
            ]
            for stored in there
        ]
        version, names = draw.pick((2, 2, 2, 1)), draw.pick((bytes(32), bytes(64), b"a"))
        second = secretbox(file.sealing, _members(draw, len(rows)))
        known = [version, names, hashlib.sha256(second).digest(), rows]
        content = draw.bent(zstandard.compress(draw.bent(msgspec.msgpack.encode(known)), 1))
    os.makedirs(os.path.dirname(file.path), exist_ok=True)
    first = secretbox(file.sealing, content)
    Path(file.path).write_bytes(len(first).to_bytes(8, "little") + first + second)
    for asked in ({}, {"blobs": True}, {"members": True}):
        with catalog.Catalog(held, held.key) as known:
            for stored, found in zip(there, known.read(there, **asked), strict=True):
                for number in found.members or ():
                    with contextlib.suppress(CorruptManifest):
                        assert isinstance(known.members[number].parsed("m"), Member)
                assert found.problem is None, found.problem
                assert found.name == stored.name
                assert isinstance(found.trailer.words, dict)
                assert "blobs" not in asked or (
                    found.blobs is not None and all(map(manifest.is_blob_name, found.blobs))
                )


def cached(data: bytes) -> None:
    """The cache of files, bent: nothing is found that was not remembered, and nothing raised."""
    draw = Draw(data)
    directory = clear(sandbox() / "cached")
    database = directory / os.path.basename(_a_cache(directory))
    content = database.read_bytes()
    for _ in range(1 + draw.below(8)):
        content = draw.bent(content)
    database.write_bytes(content[: 1 << 20])
    with contextlib.closing(Cache.open(str(directory), "fuzz", KEYS[0])) as cache:
        for number in range(4):
            for found in (cache.find(f"/{number}", StatData(number, 1, 1, 1), "cut"), cache.find_earlier(f"/{number}")):
                assert found is None or found[:2] == REMEMBERED[:2], found
        cache.remember("/new", StatData(5, 1, 1, 1), "cut", REMEMBERED, read_at_ns=10**18)
        cache.save(False)


REMEMBERED = KnownBlobs([blob_name(bytes(32), b"")], [166], True, [5], [bytes(range(32))])


def _a_cache(directory: Path) -> str:
    """The path of a good one."""
    with contextlib.closing(Cache.open(str(directory), "fuzz", KEYS[0])) as cache:
        for number in range(3):
            facts = StatData(number, 1, 1, 1)
            cache.remember(f"/{number}", facts, "cut", REMEMBERED, read_at_ns=10**18)
        return cache._path


# ---- packs -----------------------------------------------------------------------------------------------------------

DAY = 20260131
MAX_PACKS = 1000  # in an index object, that are tried


def packs(data: bytes) -> None:
    """Packs, index objects and `pogfast.store`, bent: what is read of them fits together, or is refused."""
    draw = Draw(data)
    draw.pick((_read_pack, _read_index, _read_settings))(draw)


def _table(draw: Draw, blobs: list[bytes]) -> bytes:
    """The table of some blobs. Names are few, so that some occur twice."""
    checks = [hashlib.sha256(each).digest()[:8] for each in blobs]
    names = [hashlib.sha256(bytes([draw.below(40)])).digest() for _ in blobs]
    return b"".join(
        name + struct.pack("<I", len(each)) + check for name, each, check in zip(names, blobs, checks, strict=True)
    )


def _footer(table: bytes) -> bytes:
    return hashlib.sha256(table).digest() + struct.pack("<IHH", len(table) // layout.TABLE_ROW, 1, 0) + b"pogpack1"


def _read_pack(draw: Draw) -> None:
    """A pack of which something is bent, before or after it is signed."""
    blobs = [draw.piece() + b"x" for _ in range(1 + draw.below(6))]
    table = _table(draw, blobs)
    bent = draw.bent(table)
    pack = draw.bent(b"".join(map(draw.bent, blobs)) + bent + draw.bent(_footer(bent)))
    honest = pack == b"".join(blobs) + table + _footer(table)
    raw = hashlib.sha256(pack).digest()
    found = layout.check_pack(pack, layout.pack_path(raw, DAY))
    assert not found.problem or not honest, found.problem
    with contextlib.suppress(CorruptPack):
        layout.read_table(draw.bent(pack), len(pack), "a pack")
    if not found.rows:
        assert found.problem, "nothing is wrong with it, and nothing in it"
        return
    rows = layout.read_table(pack, len(pack), "a pack")
    assert rows == found.rows
    assert sum(row.size for row in rows) == len(pack) - len(rows) * layout.TABLE_ROW - layout.FOOTER
    for row in rows:
        content = pack[row.offset : row.offset + row.size]
        is_good = hashlib.sha256(content).digest()[:8] == row.check
        assert len(content) == row.size > 0, "beyond its pack"
        assert is_good == (row not in found.damaged), "a damaged blob passes"
    index = build_index([(raw, DAY, len(pack))], [layout.raw_table(pack, len(pack), "a pack")])
    check_index(index)
    assert layout.read_header(index) == ([(layout.pack_path(raw, DAY), len(pack))], [], len(rows))
    _search(index, b"\x01", [row.name for row in rows])


def _read_index(draw: Draw) -> None:
    """Index objects that are bent, in all that reads them."""
    tables = [_table(draw, [draw.piece() + b"x" for _ in range(1 + draw.below(40))]) for _ in range(draw.below(4))]
    listed = [
        (bytes([draw.below(6), number]) * 16, DAY, sum(_lengths(table)) + len(table) + layout.FOOTER)
        for number, table in enumerate(tables)
    ]
    index = bytes(build_index(listed, tables, draw.few(2, lambda: bytes([draw.below(4)]) * 32)))
    assert layout.read_header(index).blobs == sum(map(len, tables)) // layout.TABLE_ROW
    check_index(index)
    bent = draw.bent(draw.bent(index))
    _judge(bent)
    count = int.from_bytes(bent[12:16], "little")
    states = bytes(draw.below(4) for _ in range(count if count < MAX_PACKS else draw.below(4)))
    names = [layout.name_of(hashlib.sha256(bytes([number])).digest()) for number in range(40)]
    with contextlib.suppress(ValueError):
        _search(bent, states, names)
    with contextlib.suppress(ValueError):
        _merge(index, b"\x01" * len(listed), bent, states, names)


def _merge(index: bytes, there: bytes, bent: bytes, states: bytes, names: list[str]) -> None:
    """Merges an index object, all of whose packs are there, with one that is bent. Raises ValueError."""
    merged = merge_indexes([(index, there), (bent, states)], [bytes(32)])
    check_index(merged)
    listed = slice(32, 32 + 48 * len(there))
    if bent[listed] == index[listed]:  # else a pack may be taken from the bent one, which says something else of it
        every = b"\x01" * int.from_bytes(merged[12:16], "little")
        lost = [name for name in names if _finds(index, there, name) and not _finds(merged, every, name)]
        assert not lost, "a merged index finds less"


def _lengths(table: bytes) -> list[int]:
    return [int.from_bytes(table[at + 32 : at + 36], "little") for at in range(0, len(table), layout.TABLE_ROW)]


def _finds(index: bytes | bytearray, states: bytes, name: str) -> bool:
    searched = PackIndex()
    searched.replace([(index, states)])
    return searched.find(name) is not None


def _judge(index: bytes) -> None:
    """The engine and layout.py have the same opinion of an index object, as far as they look at the same."""
    try:
        check_index(index)
    except ValueError:
        with contextlib.suppress(CorruptPack):
            layout.read_header(index)
        return
    try:
        header = layout.read_header(index)
    except CorruptPack as error:
        assert "day" in str(error) or "year" in str(error), error  # the engine has no calendar
        return
    _search(index, b"\x01" * len(header.packs), [])
    searched = PackIndex()
    searched.replace([(index, b"\x01" * len(header.packs))])
    rows = searched.rows(0, 0, header.blobs + 1)
    assert len(rows) == header.blobs
    assert all(searched.find(row.name) is not None for row in rows[:100])


def _search(index: bytes | bytearray, states: bytes, names: list[str]) -> None:
    """Looks for names in an index object: what is found lies within a pack that is there. Raises ValueError."""
    searched = PackIndex()
    searched.replace([(index, states)])
    places = searched.find_many(names)
    for name, place in zip(names, places, strict=True):
        every = searched.find_all(name)
        one = searched.find(name)
        assert (one is None) == (place is None) == (not every), "one search finds what another does not"
        best = [each for each in every if states[each.pack] == 1] or every
        assert one is None or (one in best and place in best), "not the best place"
        for each in every:
            at = 32 + 48 * each.pack + 32
            size = int.from_bytes(index[at : at + 8], "little")
            assert states[each.pack] in (1, 2), "in a pack that is not there"
            assert each.offset + each.size + layout.TABLE_ROW + layout.FOOTER <= size, "beyond its pack"
    searched.rows(0, 0, 1000)


def _read_settings(draw: Draw) -> None:
    """Text of `pogfast.store`."""
    inner = draw.changed(
        {"size": draw.pick((1 << 20, 32 << 20, 1 << 30)), "limit": draw.number()}, ("size", "limit", "x")
    )
    words = {"layout": 1, "requires": ["packs1"], "packs": inner if draw.below(4) else None}
    text = draw.bent(dumps(draw.changed(words, ("layout", "requires", "packs", "x"))))
    with contextlib.suppress(CorruptPack, StoreError):
        settings = layout.StoreSettings.parse(text, "fuzz")
        assert layout.MIN_SIZE <= settings.size <= layout.MAX_SIZE
        assert 0 <= settings.limit <= settings.size
        for each in (settings, settings.packing(1 << 20), settings.not_packing()):
            written = each.serialize()
            assert layout.StoreSettings.parse(written, "fuzz").serialize() == written, "written otherwise than read"


# ---- words -----------------------------------------------------------------------------------------------------------


def words(data: bytes) -> None:
    """Text that people write: sizes, times, chunkers, patterns, addresses, profiles, policies, pog's options."""
    from pogfast import pog, sizes
    from pogfast.backup import chunker, profiles
    from pogfast.files import patterns
    from pogfast.files.paths import safe_path
    from pogfast.pog.addresses import check_targets
    from pogfast.stores import addresses, check_stores, settings
    from pogfast.upkeep import checking, retention

    draw = Draw(data)
    kind = draw.byte()
    text = draw.rest().decode("utf-8", "surrogateescape")
    profile = sandbox() / "profile.toml"

    def match() -> None:
        given, _, name = text.partition("\n")
        for ignore_case in (False, True):
            patterns.Patterns(given.split("\t"), ignore_case=ignore_case).matches(name)

    def load() -> None:
        profile.write_bytes(os.fsencode(text))
        profiles.load(str(profile))

    def span() -> None:
        from datetime import UTC, datetime

        retention.Span.parse(text).before(datetime(2026, 3, 31, tzinfo=UTC))

    def service() -> None:
        place = addresses.parse_service(f"{('s3', 'b2')[kind // 16 % 2]}://{text}")
        assert isinstance(place.label, str)

    acts: list[Callable[[], Any]] = [
        lambda: sizes.parse_size("-x", text),
        lambda: sizes.parse_seconds("-x", text, bare=kind > 127),
        lambda: chunker.Chunker.parse(text, 4096).check(),
        match,
        load,
        span,
        service,
        lambda: addresses.check_directory(text),
        lambda: check_stores(text),
        lambda: check_targets(text),
        lambda: settings.Lock.parse(text),
        lambda: settings.Settings.of({"POGFAST_PARALLEL": text, "POGFAST_RETRY_FOR": text}),
        lambda: safe_path(text),
        lambda: pog.parse(text.split("\0")),
        lambda: pog.parse_size(text),
        lambda: checking.Subset.parse(text),
        lambda: service_module.extent(text.partition("\n")[0], text.partition("\n")[2] or None, kind),
        lambda: service_module.http_time(text),
        lambda: service_module.seconds_to_wait(text),
    ]
    with contextlib.suppress(PogfastError):
        acts[kind % len(acts)]()


TARGETS: dict[str, Callable[[bytes], None]] = {
    act.__name__: act for act in (blob, raw, sealed, restore, verbs, pog, remembered, cached, packs, words)
}

"""Makes the kit of broken archives beside it, always the same bytes: `python make.py`; needs PyNaCl and zstandard.

Each NAME.json is a small archive that is broken in one way: its stored files in base64, what is broken, and what a
reader must say. FORMAT.md, "Broken archives", describes the words. `python make.py --pogcli PYTHON` runs pogcli 0.1.4
on each with that interpreter and writes down what it answers.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nacl.bindings
import nacl.secret
import zstandard

HERE = Path(__file__).parent
MANIFEST = "2026-01-02T03:04:05.000000.mfn"
KEYFILE = b"the keyfile of the broken archives\n"
SECRET = hashlib.sha256(KEYFILE).digest()
PRIVATE = hashlib.sha256(b"the private key of the broken archives").digest()
PUBLIC = nacl.bindings.crypto_scalarmult_base(PRIVATE)
FILES = {"a.txt": b"the first file\n", "b.txt": b"the second file\n", "c.txt": b"one, " * 20 + b"two, " * 20 + b"three"}
PARTS = {"c.txt": [100, 100, 5]}


class Source:
    """Bytes that look random and are the same in every run."""

    def __init__(self, name: str) -> None:
        self.name, self.drawn = name, 0

    def __call__(self, n: int) -> bytes:
        self.drawn += 1
        return hashlib.shake_256(f"{self.name} {self.drawn}".encode()).digest(n)


class Kit:
    """One archive while it is made: what is stored, by name."""

    def __init__(self, name: str, x25519: bool) -> None:
        self.random, self.x25519 = Source(name), x25519
        self.secret = PUBLIC if x25519 else SECRET
        self.stored: dict[str, bytes] = {}
        self.entries: dict[str, Any] = {}
        self.trailer: dict[str, Any] | None = {"program": "the kit of broken archives", "host": "h"}
        self.text: bytes | None = None  # in place of the entries
        self.frames: bytes | None = None  # in place of all frames
        self.trailer_text: bytes | None = None
        self.index: Any = None  # in place of the names
        for file, content in FILES.items():
            self.add(file, content)

    def box(self, key: bytes, message: bytes) -> bytes:
        return bytes(nacl.secret.SecretBox(key).encrypt(message, self.random(24)))

    def wrap(self, file_key: bytes) -> bytes:
        if not self.x25519:
            return self.box(SECRET, file_key)
        private = self.random(32)
        public = nacl.bindings.crypto_scalarmult_base(private)
        nonce = hashlib.blake2b(public + PUBLIC, digest_size=24).digest()
        return public + nacl.bindings.crypto_box(file_key, nonce, PUBLIC, private)

    def seal(self, payload: bytes) -> bytes:
        file_key = self.random(32)
        return self.wrap(file_key) + self.box(file_key, payload)

    def pad(self, chunk: bytes) -> bytes:
        n = len(chunk) % 256
        return chunk + bytes.fromhex("502a4d18") + struct.pack("<I", n) + self.random(n)

    def name(self, chunk: bytes, *, old: bool = False) -> str:
        outer = self.secret if old else hashlib.sha256(self.secret).digest()
        return base64.urlsafe_b64encode(hashlib.sha256(outer + hashlib.sha256(chunk).digest()).digest()).decode()

    def put(self, chunk: bytes, payload: bytes | None = None, *, old: bool = False) -> str:
        """A blob with the name of `chunk`; with a `payload` of its own."""
        name = self.name(chunk, old=old)
        self.stored[name] = self.seal(self.pad(chunk) if payload is None else payload)
        return name

    def add(self, file: str, content: bytes, **more: Any) -> list[str]:
        """A file of one blob, or of the parts that PARTS says."""
        pieces, at = [], 0
        for length in PARTS.get(file, [len(content)]):
            pieces.append(content[at : at + length])
            at += length
        names = [self.put(compress(piece)) for piece in pieces]
        sizes = {"sizes": [len(piece) for piece in pieces]} if len(pieces) > 1 else {}
        facts = {"blobs": names, "atime": 1.0, "mtime": 2.0, "size": len(content), **sizes}
        self.entries[file] = {**facts, "stored": [len(self.stored[name]) for name in names], **more}
        return names

    def blob(self, file: str) -> str:
        return str(self.entries[file]["blobs"][0])

    def files(self) -> dict[str, bytes]:
        """All that is stored, the manifest as well."""
        text = json.dumps(self.entries).encode() if self.text is None else self.text
        frames = compress(text) if self.frames is None else self.frames
        trailer = json.dumps(self.trailer).encode() if self.trailer_text is None else self.trailer_text
        content = compress(trailer)
        frames += bytes.fromhex("5e2a4d18") + struct.pack("<I", len(content)) + content
        full = self.seal(self.pad(frames))
        return {**self.stored, MANIFEST: (self.sealed_index() if self.x25519 else b"") + full}

    def sealed_index(self) -> bytes:
        names = sorted(name for entry in self.entries.values() for name in entry["blobs"])
        file_key = self.random(32)
        box = self.box(file_key, self.pad(compress(json.dumps(names if self.index is None else self.index).encode())))
        return self.box(PUBLIC, struct.pack(">I", len(box)) + file_key) + box


def compress(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=3).compress(data)


EITHER = "wrong key or damaged"

Break = Callable[[Kit], dict[str, bytes]]
# name -> (what is broken, X25519, what makes it, what a reader must say)
VECTORS: dict[str, tuple[str, bool, Break, dict[str, Any]]] = {}


def vector(about: str, *, x25519: bool = False, **must: Any) -> Callable[[Break], Break]:
    """`must`: open, check and public as FORMAT.md has them; files that are not "good"."""

    def keep(make: Break) -> Break:
        files = dict.fromkeys(FILES, "good") | must.pop("files", {})
        damage = any(verdict not in ("good", "unsafe") for verdict in files.values())
        said = {"open": "good", "check": "damaged" if damage else "good", "files": files, **must}
        if said["open"] != "good":
            said |= {"check": said["open"], "files": {}}
        VECTORS[make.__name__.replace("_", "-")] = (about, x25519, make, said)
        return make

    return keep


def flip(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def spoiled(kit: Kit, spoil: Callable[[bytes], bytes | None], name: str = "") -> dict[str, bytes]:
    """The archive with one stored file changed; None: gone."""
    files = kit.files()
    name = name or kit.blob("b.txt")
    changed = spoil(files.pop(name))
    return files if changed is None else {**files, name: changed}


# ---- blobs -----------------------------------------------------------------------------------------------------------


@vector("nothing is broken")
def sound(kit: Kit) -> dict[str, bytes]:
    return kit.files()


@vector("nothing is broken, in X25519 mode", x25519=True, public="good")
def sound_x25519(kit: Kit) -> dict[str, bytes]:
    return kit.files()


@vector("a bit of a blob's header is flipped", files={"b.txt": "damaged"})
def blob_header_bit(kit: Kit) -> dict[str, bytes]:
    return spoiled(kit, lambda blob: flip(blob, 30))


@vector("a bit of a blob's header is flipped, in X25519 mode", x25519=True, public="good", files={"b.txt": "damaged"})
def blob_header_bit_x25519(kit: Kit) -> dict[str, bytes]:
    return spoiled(kit, lambda blob: flip(blob, 30))


@vector("a bit of a blob's payload is flipped", files={"b.txt": "damaged"})
def blob_payload_bit(kit: Kit) -> dict[str, bytes]:
    return spoiled(kit, lambda blob: flip(blob, 120))


@vector("the last bit of a blob, in its padding, is flipped", files={"b.txt": "damaged"})
def blob_padding_bit(kit: Kit) -> dict[str, bytes]:
    return spoiled(kit, lambda blob: flip(blob, -1))


@vector("a blob is cut short", files={"b.txt": "damaged"})
def blob_truncated(kit: Kit) -> dict[str, bytes]:
    return spoiled(kit, lambda blob: blob[:-20])


@vector("a blob is empty", files={"b.txt": "damaged"})
def blob_empty(kit: Kit) -> dict[str, bytes]:
    return spoiled(kit, lambda blob: b"")


@vector("a blob has a byte more", files={"b.txt": "damaged"})
def blob_grown(kit: Kit) -> dict[str, bytes]:
    return spoiled(kit, lambda blob: blob + b"\0")


@vector("a blob holds zeros", files={"b.txt": "damaged"})
def blob_zeros(kit: Kit) -> dict[str, bytes]:
    return spoiled(kit, lambda blob: bytes(len(blob)))


@vector("a blob is missing", files={"b.txt": "missing"})
def blob_missing(kit: Kit) -> dict[str, bytes]:
    return spoiled(kit, lambda blob: None)


@vector("the second of three blobs of a file is missing", files={"c.txt": "missing"})
def blob_missing_in_the_middle(kit: Kit) -> dict[str, bytes]:
    return spoiled(kit, lambda blob: None, kit.entries["c.txt"]["blobs"][1])


@vector("two blobs have each other's names", files={"a.txt": "wrong content", "b.txt": "wrong content"})
def blobs_swapped(kit: Kit) -> dict[str, bytes]:
    one, other = kit.blob("a.txt"), kit.blob("b.txt")
    kit.stored[one], kit.stored[other] = kit.stored[other], kit.stored[one]
    return kit.files()


@vector("a blob was sealed under another key", files={"b.txt": "damaged"})
def blob_of_another_key(kit: Kit) -> dict[str, bytes]:
    file_key = kit.random(32)
    payload = kit.pad(compress(FILES["b.txt"]))
    kit.stored[kit.blob("b.txt")] = kit.box(bytes(32), file_key) + kit.box(file_key, payload)
    return kit.files()


@vector("a blob is named by the rule of pogcli before 0.1.1: readers accept it")
def blob_of_an_old_name(kit: Kit) -> dict[str, bytes]:
    del kit.stored[kit.blob("b.txt")]
    kit.entries["b.txt"]["blobs"] = [kit.put(compress(FILES["b.txt"]), old=True)]
    return kit.files()


@vector("a blob's padding is longer than its rule: no chunk of the name is in it", files={"b.txt": "wrong content"})
def blob_of_a_wrong_padding(kit: Kit) -> dict[str, bytes]:
    chunk = compress(FILES["b.txt"])
    kit.put(chunk, chunk + bytes.fromhex("502a4d18") + struct.pack("<I", 3) + b"pad")
    return kit.files()


def of_chunk(kit: Kit, chunk: bytes) -> dict[str, bytes]:
    del kit.stored[kit.blob("b.txt")]
    name = kit.put(chunk)
    kit.entries["b.txt"] |= {"blobs": [name], "stored": [len(kit.stored[name])]}
    return kit.files()


@vector("a blob of its right name holds no zstd frame", files={"b.txt": "damaged"})
def frame_none(kit: Kit) -> dict[str, bytes]:
    return of_chunk(kit, b"this is not a zstd frame")


@vector("a blob of its right name holds a frame that is cut short", files={"b.txt": "damaged"})
def frame_cut(kit: Kit) -> dict[str, bytes]:
    return of_chunk(kit, compress(FILES["b.txt"])[:-5])


@vector("a blob of its right name gives more than its file's size: a megabyte of zeros", files={"b.txt": "damaged"})
def frame_too_long(kit: Kit) -> dict[str, bytes]:
    return of_chunk(kit, compress(bytes(1 << 20)))


@vector("a blob of its right name gives less than its file's size", files={"b.txt": "damaged"})
def frame_too_short(kit: Kit) -> dict[str, bytes]:
    return of_chunk(kit, compress(FILES["b.txt"][:-1]))


# ---- manifests -------------------------------------------------------------------------------------------------------


@vector("a bit of the manifest's header is flipped: it looks like another key's", open="wrong key or damaged")
def manifest_header_bit(kit: Kit) -> dict[str, bytes]:
    return spoiled(kit, lambda data: flip(data, 30), MANIFEST)


@vector("a bit of the header behind the index is flipped", x25519=True, public="good", open="damaged")
def manifest_header_bit_x25519(kit: Kit) -> dict[str, bytes]:
    index = 76 + int.from_bytes(nacl.secret.SecretBox(PUBLIC).decrypt(kit.files()[MANIFEST][:76])[:4], "big")
    return spoiled(kit, lambda data: flip(data, index + 40), MANIFEST)


@vector("a bit of the manifest's payload is flipped", open="damaged")
def manifest_payload_bit(kit: Kit) -> dict[str, bytes]:
    return spoiled(kit, lambda data: flip(data, 200), MANIFEST)


@vector("the last bit of the manifest, in its padding, is flipped", open="damaged")
def manifest_padding_bit(kit: Kit) -> dict[str, bytes]:
    return spoiled(kit, lambda data: flip(data, -1), MANIFEST)


@vector("the manifest has a byte more", open="damaged")
def manifest_grown(kit: Kit) -> dict[str, bytes]:
    return spoiled(kit, lambda data: data + b"\0", MANIFEST)


@vector("the manifest is cut short in its payload", open="damaged")
def manifest_truncated(kit: Kit) -> dict[str, bytes]:
    return spoiled(kit, lambda data: data[:-30], MANIFEST)


@vector("the manifest is empty", open="damaged")
def manifest_empty(kit: Kit) -> dict[str, bytes]:
    return spoiled(kit, lambda data: b"", MANIFEST)


@vector("the manifest holds zeros", open="damaged")
def manifest_zeros(kit: Kit) -> dict[str, bytes]:
    return spoiled(kit, lambda data: bytes(len(data)), MANIFEST)


@vector("the manifest is of another key", open="wrong key or damaged")
def manifest_of_another_key(kit: Kit) -> dict[str, bytes]:
    file_key = kit.random(32)
    payload = kit.pad(compress(json.dumps(kit.entries).encode()))
    return {**kit.stored, MANIFEST: kit.box(bytes(32), file_key) + kit.box(file_key, payload)}


@vector("an authentic manifest whose text is no JSON", open="damaged")
def manifest_no_json(kit: Kit) -> dict[str, bytes]:
    kit.text = b'{"a.txt": '
    return kit.files()


@vector("an authentic manifest whose text is a list", open="damaged")
def manifest_a_list(kit: Kit) -> dict[str, bytes]:
    kit.text = b"[]"
    return kit.files()


@vector("an authentic manifest whose frame is cut short", open="damaged")
def manifest_frame_cut(kit: Kit) -> dict[str, bytes]:
    kit.frames = compress(json.dumps(kit.entries).encode())[:-20]
    return kit.files()


@vector("an authentic manifest of 32 MiB of JSON in a few kB: beyond FORMAT.md's limits", open="damaged")
def manifest_too_dense(kit: Kit) -> dict[str, bytes]:
    kit.text = json.dumps(kit.entries).encode() + b" " * (32 << 20)
    return kit.files()


@vector("JSON that is nested 100,000 deep in an entry", open="damaged")
def manifest_too_deep(kit: Kit) -> dict[str, bytes]:
    text = json.dumps(kit.entries)
    kit.text = f'{text[:-1]}, "deep": {{"blobs": {"[" * 100_000}{"]" * 100_000}}}}}'.encode()
    return kit.files()


@vector("300 skippable frames in the payload: beyond FORMAT.md's limits", open="damaged")
def manifest_of_many_frames(kit: Kit) -> dict[str, bytes]:
    kit.frames = compress(json.dumps(kit.entries).encode()) + bytes.fromhex("512a4d1800000000") * 300
    return kit.files()


@vector("a name of 10,000 parts: beyond FORMAT.md's limits", open="damaged")
def name_of_many_parts(kit: Kit) -> dict[str, bytes]:
    kit.add("/".join(["d"] * 10_000), b"deep")
    return kit.files()


@vector("a trailer that is no JSON; a reader that reads none restores all", open="damaged")
def trailer_no_json(kit: Kit) -> dict[str, bytes]:
    kit.trailer_text = b"{"
    return kit.files()


@vector("a trailer of 32 MiB in a few kB: beyond the limits; a reader that reads none restores all", open="damaged")
def trailer_too_dense(kit: Kit) -> dict[str, bytes]:
    kit.trailer_text = b'{"host": "h"' + b" " * (32 << 20) + b"}"
    return kit.files()


# ---- entries ---------------------------------------------------------------------------------------------------------


def named(kit: Kit, name: str) -> dict[str, bytes]:
    kit.add(name, b"what has a hostile name\n")
    return kit.files()


@vector("an entry leads out of the directory", files={"../out.txt": "unsafe"})
def name_leads_out(kit: Kit) -> dict[str, bytes]:
    return named(kit, "../out.txt")


@vector("an entry without a name", files={"": "unsafe"})
def name_empty(kit: Kit) -> dict[str, bytes]:
    return named(kit, "")


@vector("a name with a zero byte", files={"a\0b": "unsafe"})
def name_with_nul(kit: Kit) -> dict[str, bytes]:
    return named(kit, "a\0b")


@vector("a name with a lone surrogate that stands for no byte", files={"x\ud800": "unsafe"})
def name_with_surrogate(kit: Kit) -> dict[str, bytes]:
    return named(kit, "x\ud800")


@vector(
    "a name with an escape sequence, a line end and a right-to-left mark: not to be sent to a terminal as it is",
    files={"\x1b[31mred\u202e\nline": "good"},
)
def name_with_controls(kit: Kit) -> dict[str, bytes]:
    return named(kit, "\x1b[31mred\u202e\nline")


def entry(kit: Kit, text: str) -> dict[str, bytes]:
    """With an entry `x` that is written as `text`."""
    kit.text = f'{json.dumps(kit.entries)[:-1]}, "x": {text}}}'.encode()
    return kit.files()


@vector("an entry is a number", files={"x": "malformed"})
def entry_a_number(kit: Kit) -> dict[str, bytes]:
    return entry(kit, "3")


@vector("an entry has no list of blobs", files={"x": "malformed"})
def entry_without_blobs(kit: Kit) -> dict[str, bytes]:
    return entry(kit, '{"atime": 1, "mtime": 1}')


@vector("the name of a blob is a path", files={"x": "malformed"})
def entry_of_a_path(kit: Kit) -> dict[str, bytes]:
    return entry(kit, '{"blobs": ["../../../../../../../../../../etc/hostname"], "atime": 1, "mtime": 1}')


@vector("a time is infinite", files={"x": "malformed"})
def entry_of_no_time(kit: Kit) -> dict[str, bytes]:
    return entry(kit, f'{{"blobs": ["{kit.blob("a.txt")}"], "atime": 1, "mtime": 1e999}}')


@vector("a time is a number of 10,000 digits", files={"x": "malformed"})
def entry_of_a_long_number(kit: Kit) -> dict[str, bytes]:
    return entry(kit, f'{{"blobs": ["{kit.blob("a.txt")}"], "atime": 1, "mtime": {"9" * 10_000}}}')


@vector("the sizes of the blobs do not add up", files={"c.txt": "malformed"})
def entry_sizes_do_not_add_up(kit: Kit) -> dict[str, bytes]:
    kit.entries["c.txt"]["sizes"] = [100, 100, 6]
    return kit.files()


@vector("there are more sizes than blobs", files={"c.txt": "malformed"})
def entry_of_more_sizes(kit: Kit) -> dict[str, bytes]:
    kit.entries["c.txt"]["sizes"] = [100, 100, 5, 0]
    return kit.files()


@vector("a name stands twice in the JSON: the last entry counts")
def entry_twice(kit: Kit) -> dict[str, bytes]:
    text = json.dumps(kit.entries)
    kit.text = f'{{"a.txt": {json.dumps(kit.entries["b.txt"])}, {text[1:]}'.encode()
    return kit.files()


# ---- the index -------------------------------------------------------------------------------------------------------


@vector("the index names no blob: the public key was enough to write it", x25519=True, public="good", check="damaged")
def index_empty(kit: Kit) -> dict[str, bytes]:
    kit.index = []
    return kit.files()


@vector("the index names a blob less", x25519=True, public="good", check="damaged")
def index_of_less(kit: Kit) -> dict[str, bytes]:
    names = sorted(name for one in kit.entries.values() for name in one["blobs"])
    kit.index = names[1:]
    return kit.files()


@vector("the index names a blob more", x25519=True, public="damaged", check="damaged")
def index_of_more(kit: Kit) -> dict[str, bytes]:
    names = [name for one in kit.entries.values() for name in one["blobs"]]
    kit.index = sorted([*names, kit.name(b"another")])
    return kit.files()


@vector("the index names no names", x25519=True, public="damaged", check="damaged")
def index_malformed(kit: Kit) -> dict[str, bytes]:
    kit.index = ["../../etc/hostname"]
    return kit.files()


@vector("a bit of the index is flipped", x25519=True, public="damaged", check="damaged")
def index_bit(kit: Kit) -> dict[str, bytes]:
    return spoiled(kit, lambda data: flip(data, 100), MANIFEST)


@vector("a bit of the index's header is flipped", x25519=True, public="wrong key or damaged", open=EITHER)
def index_header_bit(kit: Kit) -> dict[str, bytes]:
    return spoiled(kit, lambda data: flip(data, 30), MANIFEST)


# ---- the kit ---------------------------------------------------------------------------------------------------------


def made(name: str) -> dict[str, Any]:
    """A vector, as it is written down."""
    about, x25519, make, must = VECTORS[name]
    kit = Kit(name, x25519)
    stored = make(kit)
    contents = {**FILES, **{file: b"what has a hostile name\n" for file in must["files"] if file not in FILES}}
    good = {file: contents[file].decode() for file, verdict in must["files"].items() if verdict == "good"}
    return {
        "broken": about,
        "key": "x25519" if x25519 else "keyfile",
        "must": must,
        "content": good,
        "stored": {one: base64.b64encode(data).decode() for one, data in sorted(stored.items())},
    }


def ask_pogcli(python: str, name: str) -> dict[str, Any]:
    """What pogcli answers when it is to restore: exit code, last line, and what became of each file."""
    found = made(name)
    with tempfile.TemporaryDirectory() as directory:
        where = Path(directory, "deep", "inside")
        where.mkdir(parents=True)
        for one, data in found["stored"].items():
            (where / one).write_bytes(base64.b64decode(data))
        key = "--decryption-keyfile" if found["key"] == "x25519" else "--keyfile"
        file = HERE / ("pki.decrypt" if found["key"] == "x25519" else "secret.keyfile")
        command = [python, "-m", "pog.pog", f"{key}={file}", "--decrypt", MANIFEST]
        try:
            ran = subprocess.run(command, cwd=where, capture_output=True, timeout=60, check=False)
        except subprocess.TimeoutExpired:
            return {"exit": "killed after a minute"}
        files = {}
        for file_name in found["must"]["files"]:
            try:
                content = (where / file_name).read_bytes()
            except (OSError, ValueError):
                files[file_name] = "not restored"
                continue
            good = FILES.get(file_name, b"what has a hostile name\n")
            files[file_name] = "restored" if content == good else "restored with other content"
        last = (ran.stderr.decode(errors="replace").strip().splitlines() or [""])[-1]
        return {"exit": ran.returncode, "says": last[:160], "files": files}


def main() -> None:
    if sys.argv[1:2] == ["--pogcli"]:
        answers = {name: ask_pogcli(sys.argv[2], name) for name in VECTORS}
        (HERE / "pogcli-0.1.4.answers").write_text(json.dumps(answers, indent=1) + "\n")
        return
    (HERE / "secret.keyfile").write_bytes(KEYFILE)
    (HERE / "pki.decrypt").write_bytes(PRIVATE)
    (HERE / "pki.encrypt").write_bytes(PUBLIC)
    for name in VECTORS:
        (HERE / f"{name}.json").write_text(json.dumps(made(name), indent=1) + "\n")


if __name__ == "__main__":
    main()

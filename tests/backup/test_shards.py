"""`create --shard` on many machines, and `merge`, which makes one archive of what they have stored."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

import pogfast
import pogfast as package
from kit.commands import Ran, Runner, run
from kit.files import flip, restored
from kit.paths import DOCS
from kit.servers import Server, moto, rclone
from pogfast import backup, errors, keys, manifest
from pogfast.backup import going_on, known, shards
from pogfast.backup.shards import Part, Shard
from pogfast.stores.names import CONDEMNED

OF = 4
WRITE, READ = ["--encryption-keyfile", "pair.encrypt"], ["--decryption-keyfile", "pair.decrypt"]
DAY = 24 * 3600


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree with everything that an archive can have, in an order that is none of strings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POGFAST_CACHE_DIR", str(tmp_path / "cache"))
    pogfast.keygen("pair")
    tree = tmp_path / "tree"
    (tree / "a" / "deep" / "er").mkdir(parents=True)
    (tree / "empty").mkdir()
    for number in range(40):
        (tree / f"a{number}").write_bytes(os.urandom(200))
        (tree / "a" / f"{number}.txt").write_bytes(os.urandom(300) * (number % 3))
    (tree / "a.b").write_bytes(b"between a and its content, by the bytes of the name")
    (tree / "a" / "deep" / "er" / "large").write_bytes(os.urandom(100_000))
    (tree / os.fsdecode(b"no \xff UTF-8")).write_bytes(b"1")
    os.link(tree / "a7", tree / "a" / "deep" / "first name")
    os.link(tree / "a7", tree / "z")
    (tree / "link").symlink_to("a7")
    os.mkfifo(tree / "fifo")
    os.setxattr(tree / "a3", "user.color", b"blue")
    with (tree / "holes").open("wb") as file:
        file.truncate(300_000)
    return tmp_path


def public() -> keys.Key:
    return keys.from_encryption_keyfile("pair.encrypt")


def private() -> keys.Key:
    return keys.from_decryption_keyfile("pair.decrypt")


def run_shards(*paths: str, of: int = OF, only: tuple[int, ...] = (), to: str = "store", **more: Any) -> None:
    """Runs shards, each as on a machine of its own."""
    for number in only or range(1, of + 1):
        more.setdefault("cache_directory", "")
        set_name = more.pop("set_name", "") if "set_name" in more else ""
        options = backup.Options(shard=Shard(number, of, set_name), **more)
        summary = backup.create(paths or ["tree"], to, public(), options=options)
        assert summary.manifest == "", "there is no archive yet"
        assert summary.part
        if set_name:
            more["set_name"] = set_name


def parts(store: str = "store") -> list[Path]:
    return sorted(Path(store).glob("shards-*"))


def contents_of(name: str, store: str = "store") -> tuple[list[tuple[str, Any]], dict[str, Any]]:
    """The entries of an archive in their order, and its trailer, without times of reading."""
    opened = manifest.open(Path(store, name).read_bytes(), private(), name)
    entries = []
    for file, entry in opened.entries.items():
        entry.more.pop("atime_ns")
        entries.append((file, (entry.blobs, entry.mtime, entry.more)))
    trailer = opened.trailer or {}
    for word in ("time", "ended", "tags"):
        trailer.pop(word, None)
    for word in ("directories", "parents", "links", "fifos"):
        for facts in trailer.get(word, {}).values():
            facts.pop("atime_ns")
        trailer[word] = list(trailer.get(word, {}).items())  # in their order
    trailer["totals"].pop("added")
    return entries, trailer


def expect_same(merged: str, created: str, store: str = "store") -> None:
    one, other = contents_of(merged, store), contents_of(created, store)
    assert [name for name, _ in one[0]] == [name for name, _ in other[0]]
    assert one == other


# ---- one archive -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [{}, {"chunk_size": 10_000}, {"chunker": "fastcdc:4096,8192,16384"}, {"layout": "stream", "chunk_size": 10_000}],
    ids=["defaults", "small chunks", "by content", "stream"],
)
@pytest.mark.parametrize("of", [1, 4, 100])
def test_the_archive_is_the_one_that_create_makes(work: Path, more: dict[str, Any], of: int) -> None:
    run_shards(of=of, **more)
    assert len(parts()) == of
    merged = pogfast.merge("store", public())
    assert parts() == [], "they are deleted"
    created = backup.create(["tree"], "store", public(), options=backup.Options(cache_directory="", **more))
    assert created.blobs_new == 0
    expect_same(merged.manifest, created.manifest)
    assert pogfast.check("store", private(), read_data=True).exit_code == 0
    counted = (merged.files, merged.directories, merged.others, merged.bytes_source, merged.bytes_stored)
    files = created.files_new
    assert counted == (files, created.directories, created.others, created.bytes_source, created.bytes_stored)


def test_several_inputs_come_in_their_order(work: Path) -> None:
    inputs = ["tree/link", "tree/a/deep", "tree/z", "tree", str(work / "tree" / "a")]
    run_shards(*inputs)
    merged = pogfast.merge("store", public())
    created = backup.create(inputs, "store", public(), options=backup.Options(cache_directory=""))
    expect_same(merged.manifest, created.manifest)


def test_the_shards_share_the_work(work: Path) -> None:
    """No file is read twice, and every shard has some."""
    read = []
    for number in range(1, OF + 1):
        options = backup.Options(shard=Shard(number, OF), cache_directory="")
        read.append(backup.create(["tree"], "store", public(), options=options).files_new)
    assert sum(read) == backup.create(["tree"], "store", public(), options=backup.Options(cache_directory="")).files_new
    assert min(read) > 8


def test_which_shard_a_file_belongs_to_never_changes() -> None:
    """Shards of other releases may run at the same time. FORMAT.md has the rule."""
    digest = hashlib.blake2b(b"tree/a7", digest_size=8).digest()
    assert Shard(int.from_bytes(digest, "little") % 16 + 1, 16).owns("tree/a7")
    assert [shards.span_size(size) for size in (50_000_000, 300_000_000, 7)] == [250_000_000, 300_000_000, 255_999_996]
    owners = [next(n for n in range(1, 17) if Shard(n, 16).owns(name)) for name in ("a", "tree/a7", "tree/\udcff")]
    assert owners == [1, 10, 8]


def test_packs(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(100):
        (work / "tree" / f"b{number}").write_bytes(os.urandom(10_000))
    with pogfast.services(packs="yes"):
        run_shards(of=2)
    merged = pogfast.merge("store", public())
    assert list(Path("store", "packs").rglob("*="))
    created = backup.create(["tree"], "store", public(), options=backup.Options(cache_directory=""))
    assert created.blobs_new == 0
    expect_same(merged.manifest, created.manifest)
    assert pogfast.check("store", private(), read_data=True).exit_code == 0


def test_pogcli_restores_it(work: Path, pogcli: Runner) -> None:
    (work / "tree" / os.fsdecode(b"no \xff UTF-8")).unlink()
    run_shards()
    name = pogfast.merge("store", public()).manifest
    (work / "out").mkdir()
    os.symlink(work / "store" / "data", work / "out" / "data")
    ran = pogcli("--decryption-keyfile=../pair.decrypt", "--decrypt", f"local:../store/{name}", cwd=work / "out")
    assert ran.code == 0, ran.err
    out = {name: data for name, data in restored(work / "out").items() if name.startswith("tree/")}
    files = [path for path in (work / "tree").rglob("*") if path.is_file() and not path.is_symlink()]
    assert out == {str(path.relative_to(work)): path.read_bytes() for path in files}


def test_a_keyfile(work: Path) -> None:
    key = keys.Key("keyfile", bytes(range(32)))
    for number in (1, 2):
        options = backup.Options(shard=Shard(number, 2), cache_directory="")
        backup.create(["tree"], "store", key, options=options)
    merged = pogfast.merge("store", key)
    assert pogfast.check(f"store/{merged.manifest}", key, read_data=True).exit_code == 0


# ---- large files -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_spans(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Returns options with which files of more than 30 kB are shared."""
    monkeypatch.setattr(shards, "SPAN_SIZE", 30_000)
    return {"chunk_size": 10_000}


LARGE = "tree/a/deep/er/large"  # 100,000 bytes: spans of 3, 3, 3 and 1 chunks


@pytest.mark.parametrize("of", [1, 4, 100])
def test_large_files_are_shared(work: Path, small_spans: dict[str, Any], of: int) -> None:
    (work / "tree" / "exact").write_bytes(os.urandom(60_000))
    (work / "tree" / "all of one").write_bytes(os.urandom(30_000))
    os.link(work / "tree" / "exact", work / "tree" / "exact too")
    (work / "tree" / "a0.b").write_bytes(os.urandom(60_001))
    run_shards(of=of, **small_spans)
    if of == 100:
        having = [path for path in parts() if any(name.startswith(f"{LARGE}//") for name in entries_of(path))]
        assert len(having) == 4
    merged = pogfast.merge("store", public())
    created = backup.create(["tree"], "store", public(), options=backup.Options(cache_directory="", **small_spans))
    assert created.blobs_new == 0
    expect_same(merged.manifest, created.manifest)
    counted = (merged.files, merged.others, merged.bytes_source, merged.bytes_stored)
    assert counted == (created.files_new, created.others, created.bytes_source, created.bytes_stored)
    assert pogfast.check("store", private(), read_data=True).exit_code == 0


def entries_of(part: Path) -> dict[str, manifest.Entry]:
    return dict(manifest.open_partial(part.read_bytes(), public(), part.name).entries)


def test_a_large_file_that_changes_between_shards_is_left_out(
    work: Path, small_spans: dict[str, Any], pogfast: Runner
) -> None:
    number = next(n for n in range(1, OF + 1) if any(Shard(n, OF).owns(f"{LARGE}//{span}") for span in range(4)))
    run_shards(only=(number,), **small_spans)
    with open(LARGE, "r+b") as file:
        file.write(b"changed")
    run_shards(only=tuple({*range(1, OF + 1)} - {number}), **small_spans)
    before = {path: path.read_bytes() for path in parts()}
    ran = pogfast("merge", "store", *WRITE, cwd=work)
    assert ran.code == 3
    assert f"{LARGE}: left out, since shards have found different versions of it" in ran.err
    entries, trailer = contents_of(ran.lines[0])
    assert LARGE not in dict(entries)
    assert list(trailer["unreadable"]) == [LARGE]
    for path, data in before.items():
        path.write_bytes(data)
    run_shards(only=(number,), **small_spans)
    ran = pogfast("merge", "store", *WRITE, cwd=work)
    assert ran.code == 0, ran.err
    assert dict(contents_of(ran.lines[0])[0])[LARGE]


def test_a_file_that_grows_between_shards_is_not_forgotten(
    work: Path, small_spans: dict[str, Any], pogfast: Runner
) -> None:
    """Only some shards find it large: its archive has it as it was, or says that it is missing."""
    names = [f"tree/grows-{number}" for number in range(8)]
    for first in range(1, OF + 1):
        for sizes in ((20_000, 90_000), (90_000, 20_000)):
            for size, only in zip(sizes, ({first}, {*range(1, OF + 1)} - {first}), strict=True):
                for name in names:
                    Path(name).write_bytes(os.urandom(size))
                run_shards(only=tuple(only), **small_spans)
            ran = pogfast("merge", "store", *WRITE, cwd=work)
            entries, trailer = contents_of(ran.lines[0])
            there, missing = {name for name in names if name in dict(entries)}, {*trailer.get("unreadable", {})}
            assert there | missing == {*names}
            assert not there & missing
            assert ran.code == (3 if missing else 0)
            assert all(dict(entries)[name][2]["size"] in sizes for name in there)
            assert pogfast("check", f"store/{ran.lines[0]}", "--read-data", *READ, cwd=work).code == 0


def test_a_large_file_that_changes_while_it_is_read(
    work: Path, small_spans: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once: what is read again is what the file is then."""
    look_up, changed = known.KnownFiles.look_up_span, []

    def change(self: known.KnownFiles, *more: Any) -> Any:
        source = look_up(self, *more)
        if not changed:
            changed.append(Path(LARGE).write_bytes(os.urandom(95_000)))
        return source

    monkeypatch.setattr(known.KnownFiles, "look_up_span", change)
    run_shards(**small_spans)
    merged = pogfast.merge("store", public())
    assert not merged.problems
    created = backup.create(["tree"], "store", public(), options=backup.Options(cache_directory="", **small_spans))
    one, other = contents_of(merged.manifest)[0], contents_of(created.manifest)[0]
    assert dict(one) == dict(other)


def test_spans_are_not_read_again(work: Path, small_spans: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(going_on, "MARGIN_NS", 0)
    run_shards(of=2, **small_spans)
    for number in (1, 2):
        options = backup.Options(shard=Shard(number, 2), cache_directory="", **small_spans)
        assert backup.create(["tree"], "store", public(), options=options).bytes_read == 0
    merged = pogfast.merge("store", public())
    created = backup.create(["tree"], "store", public(), options=backup.Options(cache_directory="", **small_spans))
    expect_same(merged.manifest, created.manifest)


def test_the_cache_is_told_of_no_span(work: Path, small_spans: dict[str, Any]) -> None:
    """It would take that for the file."""
    time.sleep(0.3)  # until the files are old enough for the cache
    options = backup.Options(cache_directory="cache", **small_spans)
    backup.create(["tree"], "store", public(), options=options)
    run_shards(of=3, cache_directory="cache", **small_spans)
    assert backup.create(["tree"], "store", public(), options=options).bytes_read == 0


@pytest.mark.parametrize("span", [1, [0], [0, 1, 2, 3], ["a", None, {}], None])
def test_a_forged_span(work: Path, small_spans: dict[str, Any], span: Any) -> None:
    run_shards(of=1, **small_spans)
    [path] = parts()
    opened = manifest.open_partial(path.read_bytes(), public(), path.name)
    writer = manifest.Writer(public())
    for name, entry in opened.entries.items():
        if name.startswith(LARGE):
            entry.more["span"] = span
        writer.add(name, entry)
    path.write_bytes(writer.snapshot({}, opened.trailer or {}))
    merged = pogfast.merge("store", public())
    assert len(merged.problems) == 1
    assert LARGE not in dict(contents_of(merged.manifest)[0])


# ---- incomplete sets -------------------------------------------------------------------------------------------------


def refused(kind: type[Exception], match: str, store: str = "store", **more: Any) -> None:
    before = sorted(Path(store.split(",")[0]).iterdir())
    with pytest.raises(kind, match=match):
        pogfast.merge(store, public(), **more)
    assert sorted(Path(store.split(",")[0]).iterdir()) == before, "nothing was published or deleted"


def test_missing_shards_are_named(work: Path) -> None:
    run_shards(of=9, only=(2, 5, 6))
    refused(errors.PogfastError, r"of 9 shards is not complete: shards 1, 3-4, 7-9 not there")
    run_shards(of=9, only=(1, 3, 4, 7, 8))
    refused(errors.PogfastError, r"not complete: shard 9 not there")
    run_shards(of=9, only=(9,))
    assert pogfast.merge("store", public()).shards == 9
    refused(errors.NoSuchArchive, "has no parts")


KILLED = """
import sys
from pogfast.backup import run
from pogfast.stores import targets
run.PARTIAL_OFTEN = targets.PARTIAL_SHARE = run.SAVE_EVERY = 0.0
put = targets.Partial.put
def tell(self, seal):
    put(self, seal)
    print("stored", flush=True)
    sys.stdin.readline()
targets.Partial.put = tell
from pogfast.cli import main
sys.exit(main(sys.argv[1:]))
"""


def kill_shard(*options: str, after: int) -> None:
    """Runs a shard in a process of its own, and kills it when it has stored so many partial manifests."""
    words = [sys.executable, "-c", KILLED, "create", "tree", "--to", "store", "--no-cache", *options, *WRITE]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdin
        assert process.stdout
        for _ in range(after):
            assert process.stdout.readline() == b"stored\n"
            process.stdin.write(b"\n")
            process.stdin.flush()
        assert process.stdout.readline() == b"stored\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


def test_a_killed_shard_is_named_and_goes_on(work: Path, monkeypatch: pytest.MonkeyPatch, pogfast: Runner) -> None:
    monkeypatch.setattr(going_on, "MARGIN_NS", 0)
    run_shards(only=(1, 2, 3))
    kill_shard("--shard=4/4", after=2)
    assert len(parts()) == 4
    refused(errors.PogfastError, r"not complete: shard 4 interrupted")
    ran = pogfast("merge", "store", *WRITE, cwd=work)
    assert (ran.code, "run these shards (again)" in ran.err) == (1, True)
    options = backup.Options(shard=Shard(4, 4), cache_directory="")
    summary = backup.create(["tree"], "store", public(), options=options)
    assert summary.files_unchanged, "what it had stored is not read again"
    ran = pogfast("merge", "store", *WRITE, cwd=work)
    assert ran.code == 0, ran.err
    created = backup.create(["tree"], "store", public(), options=backup.Options(cache_directory=""))
    expect_same(ran.lines[0], created.manifest)


def test_a_shard_that_runs_again_replaces_its_part(work: Path) -> None:
    run_shards()
    before = {path: path.read_bytes() for path in parts()}
    [number] = [n for n in range(1, OF + 1) if Shard(n, OF).owns("tree/a5")]
    (work / "tree" / "a5").write_bytes(b"newer")
    run_shards(only=(number,))
    changed = [path for path, data in before.items() if path.read_bytes() != data]
    assert [Part.parse(path.name).number for path in changed] == [number]  # type: ignore[union-attr]
    merged = pogfast.merge("store", public())
    created = backup.create(["tree"], "store", public(), options=backup.Options(cache_directory=""))
    expect_same(merged.manifest, created.manifest)


@pytest.mark.parametrize(
    "more", [{"chunk_size": 10_000}, {"host": "other"}, {"selection": backup.walk.Selection(exclude=("*.txt",))}]
)
def test_parts_of_other_options(work: Path, more: dict[str, Any]) -> None:
    """By default they are another set; under one name they do not fit."""
    run_shards(only=(1, 2, 3), set_name="nightly")
    run_shards(only=(4,), set_name="nightly", **more)
    refused(errors.PogfastError, r"the set nightly of 4 shards is not complete: shard 4 of other paths or options")
    run_shards(only=(4,), set_name="nightly")
    run_shards(only=(1,), **more)
    refused(errors.UsageError, "parts of several sets: .*nightly")
    merged = pogfast.merge("store", public(), set_name="nightly")
    assert merged.shards == 4
    assert len(parts()) == 1, "that of the other set"


def test_two_numbers_of_shards_under_one_name(work: Path) -> None:
    run_shards(only=(1, 2, 3, 4), set_name="nightly")
    run_shards(of=2, only=(1,), set_name="nightly")
    refused(errors.UsageError, "several sets: nightly .of 2 shards., nightly .of 4 shards.", set_name="nightly")
    refused(errors.NoSuchArchive, "has no parts of the set weekly", set_name="weekly")


def test_parts_that_a_prune_is_about_to_ignore(work: Path) -> None:
    run_shards()
    old = time.time() - 6 * DAY - 60
    os.utime(parts()[1], (old, old))
    refused(errors.PogfastError, "not complete: shard 2 too old")
    run_shards(only=(2,))
    assert pogfast.merge("store", public()).shards == OF


def test_a_damaged_part(work: Path, pogfast: Runner) -> None:
    run_shards()
    flip(parts()[2], -20)
    refused(errors.CorruptManifest, "shards-.*-3-of-4")
    ran = pogfast("merge", "store", *WRITE, cwd=work)
    assert (ran.code, "run shard 3 again" in ran.err) == (4, True), ran.err
    pogfast("keygen", "other", cwd=work)
    ran = pogfast("merge", "store", "--encryption-keyfile", "other.encrypt", cwd=work)
    assert ran.code == 12


@pytest.mark.parametrize("words", [{"changed": 1}, {"unreadable": []}, {"time": "soon"}, {"directories": "none"}])
def test_a_forged_part(work: Path, words: dict[str, Any]) -> None:
    """Anybody with the public key can write one: it ends in a clear message."""
    run_shards()
    path = parts()[1]
    opened = manifest.open_partial(path.read_bytes(), public(), path.name)
    path.write_bytes(manifest.Writer(public()).snapshot({}, {**(opened.trailer or {}), **words}))
    refused(errors.CorruptManifest, "shards-.*-2-of-4.*its trailer")
    path.write_bytes(parts()[0].read_bytes())
    refused(errors.PogfastError, "not complete: shard 2 interrupted")
    writer = manifest.Writer(public())
    writer.add("f", manifest.Entry(["A" * 43 + "="], 0.0, 0.0, {"size": 1, "stored": [1], "mtime_ns": 0}))
    path.write_bytes(writer.snapshot({}, opened.trailer or {}))
    refused(errors.StoreError, "lacks blobs of shard 2")


# ---- prunes ----------------------------------------------------------------------------------------------------------


def test_blobs_that_are_gone(work: Path) -> None:
    run_shards()
    [number] = [n for n in range(1, OF + 1) if Shard(n, OF).owns("tree/a5")]
    opened = manifest.open(parts()[number - 1].read_bytes(), private(), "it")
    [blob] = opened.entries["tree/a5"].blobs
    Path("store", "data", blob[:2], blob).unlink()
    refused(errors.StoreError, f"lacks blobs of shard {number}: a prune")
    run_shards(only=(number,))
    pogfast.merge("store", public())
    assert pogfast.check("store", private(), read_data=True).exit_code == 0


def test_prunes_leave_what_parts_name(work: Path) -> None:
    """The blobs are old, and no archive needs them; and those of a list that a prune wrote before are stored again."""
    first = pogfast.create("tree", "store", public(), no_cache=True)
    (work / "other").write_bytes(b"1")
    pogfast.create("other", "store", public(), no_cache=True)
    pogfast.remove(f"store/{first.manifest}", private(), dry_run=False)
    for path in Path("store").rglob("*="):
        os.utime(path, (time.time() - 3 * DAY,) * 2)
    for path in Path("store").glob("*.removed"):
        os.utime(path, (time.time() - 3 * DAY,) * 2)
    pogfast.prune("store", private(), keep_last=99, dry_run=False, group_by="")
    run_shards(only=(1, 2))
    for _ in range(2):
        for path in [*Path("store").rglob("*="), *Path("store").glob(f"{CONDEMNED}*")]:
            os.utime(path, (path.stat().st_mtime - 2 * DAY,) * 2)
        pogfast.prune("store", private(), keep_last=99, dry_run=False, group_by="")
    run_shards(only=(3, 4))
    pogfast.prune("store", private(), keep_last=99, dry_run=False, group_by="")
    pogfast.merge("store", public())
    assert pogfast.check("store", private(), read_data=True).exit_code == 0


def test_a_blob_that_is_condemned_while_parts_are_merged(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there, and no prune deletes what parts name."""
    run_shards()
    blob = next(Path("store").rglob("*=")).name
    Path("store", f"{CONDEMNED}20260101T000000-00000000").write_text(blob)
    merged = pogfast.merge("store", public())
    assert pogfast.check(f"store/{merged.manifest}", private(), read_data=True).exit_code == 0


# ---- several stores, services ----------------------------------------------------------------------------------------


def test_several_stores(work: Path) -> None:
    run_shards(to="store,second")
    merged = pogfast.merge(["store", "second"], public())
    assert merged.problems == []
    for store in ("store", "second"):
        assert pogfast.check(f"{store}/{merged.manifest}", private(), read_data=True).exit_code == 0
    assert parts("store") == parts("second") == []


def test_a_store_that_lacks_a_part_gets_no_archive(work: Path, pogfast: Runner) -> None:
    run_shards(to="store,second")
    parts("second")[2].unlink()
    ran = pogfast("merge", "store,second", *WRITE, cwd=work)
    assert ran.code == 3
    assert "second lacks what shard 3 has stored elsewhere" in ran.err
    assert list(Path("store").glob("*.mfn"))
    assert not list(Path("second").glob("*.mfn"))


@pytest.fixture(params=["moto", "rclone"])
def service(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of S3 that has a bucket."""
    (tmp_path / "served").mkdir()
    with moto() if request.param == "moto" else rclone(tmp_path / "served") as server:
        said = {"aws_access_key_id": server.key, "aws_secret_access_key": server.secret, "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=server.url, **said).create_bucket(Bucket="bucket")
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.mark.parametrize("packs", ["", "yes"], ids=["plain", "packs"])
def test_a_service(work: Path, service: Server, pogfast: Runner, monkeypatch: pytest.MonkeyPatch, packs: str) -> None:
    """Shards go on from their parts, a missing one is named, and the archive is whole."""
    monkeypatch.setattr(going_on, "MARGIN_NS", 0)
    for number in range(100):
        (work / "tree" / f"b{number}").write_bytes(os.urandom(10_000))
    store, environment = f"s3://bucket/{packs or 'plain'}", dict(os.environ)
    with package.services(packs=packs or None):
        run_shards(to=store, of=3, only=(1, 2))
        assert "shard 3 not there" in pogfast("merge", store, *WRITE, cwd=work, env=environment).err
        run_shards(to=store, of=3, only=(3,))
        for number in (1, 2, 3):
            options = backup.Options(shard=Shard(number, 3), cache_directory="")
            assert backup.create(["tree"], store, public(), options=options).bytes_read == 0
    ran = pogfast("merge", store, *WRITE, "--json", cwd=work, env=environment)
    assert ran.code == 0, ran.err
    summary = json.loads(ran.lines[-1])
    assert (summary["shards"], summary["error_count"]) == (3, 0)
    assert pogfast("list", store, "--partial", *READ, cwd=work, env=environment).lines == []
    ran = pogfast("check", f"{store}/{summary['snapshot_id']}", "--read-data", *READ, cwd=work, env=environment)
    assert ran.code == 0, ran.err
    ran = pogfast("create", "tree", "--to", store, "--no-cache", "--json", *WRITE, cwd=work, env=environment)
    assert json.loads(ran.lines[-1])["data_blobs"] == 0


# ---- the commands ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tree", "--shard=0/3"], "no such shard: 0/3"),
        (["tree", "--shard=4/3"], "no such shard: 4/3"),
        (["tree", "--shard=3"], "3/16 is the third of 16"),
        (["tree", "--shard=1/100000"], "at most 10,000"),
        (["tree", "--shard=1/3", "--set=a/b"], "not a name for a set"),
        (["tree", "--set=nightly"], "give --shard=1/16 as well"),
        (["-", "--name=x", "--shard=1/3"], "a stream has no shards"),
    ],
)
def test_wrong_usage(work: Path, pogfast: Runner, words: list[str], said: str) -> None:
    ran = pogfast("create", *words, "--to", "store", *WRITE, cwd=work)
    assert (ran.code, said in ran.err) == (2, True), ran.err
    assert not Path("store").exists()


def test_merging_without_parts(work: Path, pogfast: Runner) -> None:
    ran = pogfast("merge", "nowhere", *WRITE, cwd=work)
    assert ran.code == 10
    assert not Path("nowhere").exists()


def test_parts_are_listed_as_unfinished_runs(work: Path, pogfast: Runner) -> None:
    run_shards()
    ran = pogfast("list", "store", "--partial", *READ, cwd=work)
    assert sum("-of-4.mfn.partial" in line for line in ran.lines) == OF
    assert pogfast("list", "store", *READ, cwd=work).lines == []


def test_names_of_parts() -> None:
    name = "shards-my-set-3-of-16.mfn.partial"
    assert Part.parse(name) == Part("my-set", 3, 16)
    for other in ("shards-x-03-of-16.mfn.partial", "shards-x-17-of-16.mfn.partial", "shards-x-3-of-16.mfn", "x.mfn"):
        assert Part.parse(other) is None


# ---- the recipes of docs/cluster.md ----------------------------------------------------------------------------------


def recipes() -> list[str]:
    """The blocks of the page that a shell runs, in their order, and the command of the Kubernetes job."""
    page = (DOCS / "cluster.md").read_text(encoding="utf-8")
    page = page.partition("## Without an engine: shards\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```(?:sh|yaml)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 5
    return blocks


@pytest.fixture
def shell(work: Path) -> Callable[..., Ran]:
    """Runs a script where the recipes' names mean what the tests have."""
    Path("pair.encrypt").rename("mine.encrypt")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def call(script: str, **variables: str) -> Ran:
        ran = run(["sh", "-c", script], work, env={**os.environ, "PATH": path, **variables})
        Path("pair.encrypt").unlink(missing_ok=True)
        return ran

    return call


def expect_archive(ran: Ran) -> None:
    assert ran.code == 0, ran.err
    os.link("mine.encrypt", "pair.encrypt")
    created = backup.create(["tree"], "store", public(), options=backup.Options(cache_directory="", host="cluster"))
    one, other = contents_of(ran.lines[-1])[0], contents_of(created.manifest)[0]
    assert one == other
    assert not parts()


def test_the_recipe_for_xargs(shell: Callable[..., Ran]) -> None:
    expect_archive(shell(recipes()[0]))


def test_the_recipe_for_ssh(shell: Callable[..., Ran], work: Path) -> None:
    """With a program in place of ssh that runs the command here."""
    (work / "bin").mkdir()
    (work / "bin" / "ssh").write_text('#!/bin/sh\nshift 2\nexec "$@"\n')
    (work / "bin" / "ssh").chmod(0o755)
    expect_archive(shell('PATH="$PWD/bin:$PATH"\n' + recipes()[1]))


def test_the_recipe_for_slurm(shell: Callable[..., Ran], work: Path) -> None:
    """With a program in place of sbatch that runs the tasks one after the other."""
    (work / "shards.sh").write_text(recipes()[2])
    (work / "bin").mkdir()
    (work / "bin" / "sbatch").write_text(SBATCH)
    (work / "bin" / "sbatch").chmod(0o755)
    expect_archive(shell('PATH="$PWD/bin:$PATH"\n' + recipes()[3]))


SBATCH = """#!/bin/sh
if [ "$2" = shards.sh ]; then
    grep -q '^#SBATCH --array=1-16$' shards.sh || exit 9
    for task in $(seq 16); do
        SLURM_ARRAY_JOB_ID=4711 SLURM_ARRAY_TASK_ID=$task SLURM_CPUS_PER_TASK=2 sh shards.sh >&2 || exit 8
    done
    echo 4711
else
    [ "$1 $2" = "--dependency=afterany:4711 --wrap" ] && sh -c "$3"
fi
"""


def test_the_recipe_for_kubernetes(shell: Callable[..., Ran]) -> None:
    """The command of the container, once for each index."""
    job = recipes()[4]
    [command] = re.findall(r"- >-\n(.*)", job, re.DOTALL)
    completions = int(re.findall(r"completions: (\d+)", job)[0])
    script = " ".join(command.split())
    for index in range(completions):
        ran = shell(script, JOB_COMPLETION_INDEX=str(index))
        assert ran.code == 0, ran.err
    expect_archive(shell("pogfast merge store --encryption-keyfile mine.encrypt"))

"""pogfast's create, through the library: what an archive contains, which files are read, how failures are reported."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pogfast
from kit import oracle
from kit.commands import Runner
from kit.files import plant_socket
from pogfast import backup, manifest
from pogfast._engine import FileRun
from pogfast.backup import Options, Silent, Summary, cache, known
from pogfast.backup import run as run_module
from pogfast.errors import NoSuchArchive, NoSuchInput, PogfastError, SourceError, StoreLost, UsageError
from pogfast.keys import Key, from_keyfile

CHUNK = 700_000


@pytest.fixture
def key(tmp_path: Path) -> Key:
    (tmp_path / "key").write_bytes(b"a secret")
    return from_keyfile(str(tmp_path / "key"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POGFAST_CACHE_DIR", str(tmp_path / "cache"))
    # Files made a moment ago are as good as old ones here.
    for module in (cache, known):
        monkeypatch.setattr(module, "is_racy", lambda data, read_at_ns: False)


class Heard(Silent):
    """A report that collects what it receives, and can call a function for each entry."""

    def __init__(self, at_entry: Callable[[str], None] = lambda name: None) -> None:
        self.outcomes: dict[str, str] = {}
        self.warnings: list[str] = []
        self.problems: list[PogfastError] = []
        self.at_entry = at_entry

    def entry(self, name: str, path: str, outcome: str, size: int) -> None:
        self.outcomes[name] = outcome
        self.at_entry(name)

    def warning(self, text: str) -> None:
        self.warnings.append(text)

    def problem(self, error: PogfastError) -> None:
        self.problems.append(error)


def create(tmp_path: Path, key: Key, *paths: str, **more: Any) -> Summary:
    more.setdefault("base", str(tmp_path))
    more.setdefault("chunk_size", CHUNK)
    return backup.create(list(paths) or ["tree"], str(tmp_path / "store"), key, **more)


def opened(tmp_path: Path, key: Key, summary: Summary) -> manifest.Manifest:
    return manifest.open((tmp_path / "store" / summary.manifest).read_bytes(), key, summary.manifest)


def content(tmp_path: Path, key: Key, entry: manifest.Entry) -> bytes:
    """Decrypts with the oracle, which shares no code with pogfast."""
    blobs = [(tmp_path / "store" / "data" / name[:2] / name).read_bytes() for name in entry.blobs]
    return oracle.open_file(oracle.OracleKey(key.secret, key.private), blobs)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "sub" / "empty").mkdir(parents=True)
    (top / "small").write_bytes(b"small")
    (top / "nothing").write_bytes(b"")
    (top / "large").write_bytes(os.urandom(3 * CHUNK + 5))
    (top / "sub" / ".hidden").write_bytes(b"hidden")
    (top / "again").hardlink_to(top / "small")
    (top / "link").symlink_to("nowhere/at all")
    os.mkfifo(top / "fifo")
    os.chmod(top / "small", 0o640)
    os.utime(top / "sub" / ".hidden", ns=(10**18 + 1, 10**18 + 2))
    return top


def test_everything_of_a_tree_is_in_the_archive(tmp_path: Path, key: Key, tree: Path) -> None:
    heard = Heard()
    summary = create(tmp_path, key, report=heard, tags=["a", "b"], host="box", comment="why")
    archive = opened(tmp_path, key, summary)
    assert set(archive.entries) == {f"tree/{name}" for name in ("small", "nothing", "large", "sub/.hidden", "again")}
    for name, entry in archive.entries.items():
        assert content(tmp_path, key, entry) == (tmp_path / name).read_bytes()
        assert entry.more["size"] == (tmp_path / name).stat().st_size
    large, small, again = (archive.entries[f"tree/{name}"] for name in ("large", "small", "again"))
    assert large.sizes == [CHUNK, CHUNK, CHUNK, 5]
    assert again.more["mode"] == 0o640
    linked, first = sorted([small, again], key=lambda entry: "hardlink" in entry.more)[::-1]
    assert linked.more["hardlink"] in ("tree/small", "tree/again")
    assert linked.blobs == first.blobs
    hidden = archive.entries["tree/sub/.hidden"]
    assert (hidden.more["atime_ns"], hidden.more["mtime_ns"]) == (10**18 + 1, 10**18 + 2)
    trailer = archive.trailer
    assert trailer is not None
    assert set(trailer["directories"]) == {"tree", "tree/sub", "tree/sub/empty"}
    assert trailer["links"]["tree/link"]["target"] == "nowhere/at all"
    assert set(trailer["fifos"]) == {"tree/fifo"}
    assert (trailer["tags"], trailer["host"], trailer["comment"]) == (["a", "b"], "box", "why")
    assert trailer["paths"] == [str(tree)]
    assert (trailer["layout"], trailer["chunk_size"]) == ("frames", CHUNK)
    assert trailer["totals"]["files"] == 5
    size = sum((tree / name).stat().st_size for name in ("small", "nothing", "large", "sub/.hidden"))
    assert trailer["totals"]["size"] == summary.bytes_source == size
    blobs = sum(path.stat().st_size for path in (tmp_path / "store" / "data").rglob("*") if path.is_file())
    assert trailer["totals"]["stored"] == trailer["totals"]["added"] == blobs == summary.bytes_stored
    assert heard.outcomes["tree/sub"] == "directory"
    assert heard.outcomes["tree/large"] == "new"
    assert summary.problems == []


def test_what_pogfast_creates_pogcli_restores(tmp_path: Path, tree: Path, pogcli: Runner) -> None:
    (tree / "caf\u00e9 \U0001f600").write_bytes(b"accents")
    (tree / os.fsdecode(b"not-utf8-\xff")).write_bytes(b"bytes")
    with (tree / "sparse").open("wb") as out:
        out.truncate(5 * CHUNK)
    for mode, arguments in (("keyfile", ["--keyfile=../key"]), ("x25519", ["--decryption-keyfile=../pair.decrypt"])):
        if mode == "keyfile":
            (tmp_path / "key").write_bytes(b"a secret")
            key = from_keyfile(str(tmp_path / "key"))
        else:
            from pogfast.keys import create_pair, from_encryption_keyfile

            key = from_encryption_keyfile(create_pair("pair", str(tmp_path))[0])
        summary = create(tmp_path, key)
        out_dir = tmp_path / f"restored-{mode}"
        out_dir.mkdir()
        (out_dir / "data").symlink_to(tmp_path / "store" / "data")
        done = pogcli(*arguments, "--decrypt", f"local:../store/{summary.manifest}", cwd=out_dir)
        assert done.code == 0, done.err
        files = [path for path in tree.rglob("*") if path.is_file() and not path.is_symlink()]
        assert len(files) == 8
        for path in files:
            assert (out_dir / path.relative_to(tmp_path)).read_bytes() == path.read_bytes()


def test_a_second_run_reads_nothing(tmp_path: Path, key: Key, tree: Path) -> None:
    first = create(tmp_path, key)
    heard = Heard()
    second = create(tmp_path, key, report=heard)
    assert second.bytes_read == second.bytes_added == second.blobs_new == 0
    assert second.files_unchanged == 4
    assert second.files_new == 0
    assert heard.outcomes["tree/large"] == "unchanged"
    one, two = (opened(tmp_path, key, summary) for summary in (first, second))
    assert dict(one.entries) == dict(two.entries)
    assert two.trailer["totals"] == {**one.trailer["totals"], "added": 0}
    assert create(tmp_path, key, force=True).bytes_read == first.bytes_read
    assert create(tmp_path, key, cache_directory="").bytes_read == first.bytes_read


def test_what_has_changed_is_read(tmp_path: Path, key: Key, tree: Path) -> None:
    create(tmp_path, key)
    (tree / "sub" / ".hidden").write_bytes(b"HIDDEN")
    (tree / "new").write_bytes(b"new")
    heard = Heard()
    summary = create(tmp_path, key, report=heard)
    assert summary.bytes_read == 9
    assert {name for name, outcome in heard.outcomes.items() if outcome == "new"} == {"tree/sub/.hidden", "tree/new"}
    archive = opened(tmp_path, key, summary)
    assert content(tmp_path, key, archive.entries["tree/sub/.hidden"]) == b"HIDDEN"


@pytest.mark.parametrize("damage", ["missing", "torn"])
def test_the_cache_is_not_trusted_for_what_the_store_does_not_hold(
    tmp_path: Path, key: Key, tree: Path, damage: str
) -> None:
    first = create(tmp_path, key)
    entry = opened(tmp_path, key, first).entries["tree/large"]
    lost = tmp_path / "store" / "data" / entry.blobs[1][:2] / entry.blobs[1]
    if damage == "missing":
        lost.unlink()
    else:
        os.truncate(lost, 1000)
    heard = Heard()
    second = create(tmp_path, key, report=heard)
    [warning] = heard.warnings
    assert warning.startswith(
        f"{tmp_path}/store: 1 blob of earlier runs was missing or damaged and was stored again"
    ), warning
    assert second.blobs_new == 1
    assert second.bytes_read == 2 * CHUNK + 5, "from the lost chunk on"
    entry = opened(tmp_path, key, second).entries["tree/large"]
    assert content(tmp_path, key, entry) == (tree / "large").read_bytes()


def test_blobs_that_no_archive_can_need_are_not_missed(tmp_path: Path, key: Key, tree: Path) -> None:
    """Blobs of a store that was deleted and created again, and of a second store that is new."""
    create(tmp_path, key)
    heard = Heard()
    backup.create(["tree"], f"{tmp_path}/store,{tmp_path}/two", key, report=heard, base=str(tmp_path), chunk_size=CHUNK)
    for path in (tmp_path / "store").rglob("*"):
        if path.is_file():
            path.unlink()
    assert create(tmp_path, key, report=heard).blobs_new > 0
    assert heard.warnings == []


def test_blobs_that_a_killed_run_had_not_stored_yet_are_not_missed(
    tmp_path: Path, key: Key, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the cache knows is saved while small blobs wait for their pack to be full, and large ones for a service."""
    with pogfast.services(packs="yes"):
        create(tmp_path, key)
    (tree / "small").write_bytes(b"smaller")

    def killed(run: run_module.Run) -> None:
        run.known.save(None)
        os._exit(0)

    if not (child := os.fork()):
        with contextlib.suppress(BaseException):
            monkeypatch.setattr(run_module.Run, "conclude", killed)
            create(tmp_path, key)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    heard = Heard()
    assert create(tmp_path, key, report=heard).blobs_new == 1
    assert heard.warnings == []


def test_files_that_are_the_same_have_the_size_of_the_blob_that_is_there(tmp_path: Path, key: Key, tree: Path) -> None:
    """An earlier run has padded it otherwise: that is the size of all of them."""
    (tree / "1").write_bytes(os.urandom(30_000))
    create(tmp_path, key, pad=True)
    for name in "234":
        shutil.copyfile(tree / "1", tree / name)
    for repeat in range(2):
        heard = Heard()
        summary = create(tmp_path, key, report=heard)
        assert (summary.files_new, summary.blobs_new) == (0 if repeat else 3, 0)
        assert heard.warnings == []
        for name in "1234":
            entry = opened(tmp_path, key, summary).entries[f"tree/{name}"]
            [blob] = entry.blobs
            assert entry.stored == [(tmp_path / "store" / "data" / blob[:2] / blob).stat().st_size]


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("large"), Path.mkdir])
def test_a_file_that_becomes_something_else_during_the_run(
    tmp_path: Path, key: Key, tree: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None]
) -> None:
    path, look_up_all = tree / "sub" / ".hidden", known.KnownFiles.look_up_all

    def replace(self: Any, files: FileRun) -> None:
        if files.path.endswith(b"/sub/"):
            path.unlink()
            make(path)
        look_up_all(self, files)

    monkeypatch.setattr(known.KnownFiles, "look_up_all", replace)
    [problem] = create(tmp_path, key).problems
    assert problem.reason == ("Is a directory" if path.is_dir() else "it is not a regular file any more")


@pytest.mark.parametrize("together", [True, False])
def test_a_file_that_another_takes_the_place_of_has_no_metadata_of_the_old_one(
    tmp_path: Path, key: Key, tree: Path, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    """What is private stays so, though the name was listed as that of a public file."""
    path, wait = tree / "sub" / ".hidden", run_module.Run._wait

    def replace(self: Any, pending: Any) -> None:
        if path.stat().st_size == 6 and (not together or pending.files.path.endswith(b"/sub/")):
            (tree / "new").write_bytes(b"private")
            (tree / "new").chmod(0o600)
            (tree / "new").rename(path)
        wait(self, pending)

    monkeypatch.setattr("pogfast.manifest.writing.Writer.takes_encoded", staticmethod(lambda above: together))
    monkeypatch.setattr(run_module.Run, "_wait", replace)
    path.chmod(0o644)
    summary = create(tmp_path, key, "tree/sub")
    entry = opened(tmp_path, key, summary).entries["tree/sub/.hidden"]
    assert (entry.more["mode"], content(tmp_path, key, entry)) == (0o600, b"private")
    assert summary.problems == []


def test_another_chunk_size_cuts_anew(tmp_path: Path, key: Key, tree: Path) -> None:
    create(tmp_path, key)
    summary = create(tmp_path, key, chunk_size=CHUNK + 1)
    assert summary.bytes_read > 3 * CHUNK
    assert opened(tmp_path, key, summary).entries["tree/large"].sizes == [CHUNK + 1] * 3 + [2]


def test_the_stream_layout(tmp_path: Path, key: Key, tree: Path) -> None:
    summary = create(tmp_path, key, layout="stream")
    entry = opened(tmp_path, key, summary).entries["tree/large"]
    assert "sizes" not in entry.more
    assert entry.blobs == oracle.names_of(oracle.OracleKey(key.secret), (tree / "large").read_bytes(), CHUNK)
    assert create(tmp_path, key, layout="stream").bytes_read == 0


def test_an_interrupted_run_is_continued(tmp_path: Path, key: Key, tree: Path) -> None:
    def interrupt(name: str) -> None:
        if name == "tree/sub/.hidden":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        create(tmp_path, key, report=Heard(interrupt))
    assert not list((tmp_path / "store").glob("*.mfn"))
    second = create(tmp_path, key)
    assert second.bytes_read == 0, "what is reported is stored"
    assert second.manifest


def test_a_huge_file_is_continued_where_it_was(
    tmp_path: Path, key: Key, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = 400  # so many that the engine is not done before the first of them are heard of
    (tree / "huge").write_bytes(os.urandom(chunks * CHUNK))
    monkeypatch.setattr(run_module, "SAVE_EVERY", 0.0)
    run = run_module.Run._note_progress
    told = 0

    def note(self: Any, pending: Any, sealed: Any) -> None:
        nonlocal told
        run(self, pending, sealed)
        if pending is not None and pending.node.name == "tree/huge":
            told = len(pending.blobs)
            if told >= 5:
                raise KeyboardInterrupt

    monkeypatch.setattr(run_module.Run, "_note_progress", note)
    with pytest.raises(KeyboardInterrupt):
        create(tmp_path, key, jobs=1)
    monkeypatch.setattr(run_module.Run, "_note_progress", run)
    assert 5 <= told < chunks
    heard = Heard()
    second = create(tmp_path, key, report=heard)
    # What came before it was finished, what came behind it is small.
    assert (chunks - told) * CHUNK <= second.bytes_read <= (chunks - told) * CHUNK + 3 * CHUNK + 100
    entry = opened(tmp_path, key, second).entries["tree/huge"]
    assert content(tmp_path, key, entry) == (tree / "huge").read_bytes()


def test_an_interrupted_run_writes_down_what_it_has(
    tmp_path: Path, key: Key, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even between two regular saves: only chunks in flight are read again."""
    chunks, seen = 400, 0  # so many that the engine is not done before the first of them are heard of
    (tree / "huge").write_bytes(os.urandom(chunks * CHUNK))
    monkeypatch.setattr(run_module, "SAVE_EVERY", 1e9)
    run = run_module.Run._note_progress

    def note(self: Any, pending: Any, sealed: Any) -> None:
        nonlocal seen
        run(self, pending, sealed)
        if pending is not None and pending.node.name == "tree/huge" and len(pending.blobs) >= 12:
            seen = len(pending.blobs)
            raise KeyboardInterrupt

    monkeypatch.setattr(run_module.Run, "_note_progress", note)
    with pytest.raises(KeyboardInterrupt):
        create(tmp_path, key, jobs=1)
    monkeypatch.setattr(run_module.Run, "_note_progress", run)
    assert create(tmp_path, key).bytes_read <= (chunks - seen) * CHUNK + 3 * CHUNK + 100


@pytest.mark.parametrize("known_first", [True, False])
def test_few_files_wait_for_an_older_one(
    tmp_path: Path, key: Key, monkeypatch: pytest.MonkeyPatch, known_first: bool
) -> None:
    """Unchanged files do not pile up behind a file that takes long, and the order is kept."""
    many = tmp_path / "many"
    many.mkdir()
    for number in range(500):
        (many / f"{number:03}").write_bytes(b"%d" % number)
    if known_first:
        create(tmp_path, key, "many")
    (many / "000a").write_bytes(os.urandom(10 * CHUNK))
    (many / "400a").write_bytes(b"late")
    monkeypatch.setattr(run_module, "MAX_PENDING", 20)
    most = 0
    finish = run_module.Run._finish_known

    def finished(self: Any) -> None:
        nonlocal most
        most = max(most, sum(map(len, self.pending)))
        assert self.waiting == sum(map(len, self.pending))
        finish(self)

    monkeypatch.setattr(run_module.Run, "_finish_known", finished)
    summary = create(tmp_path, key, "many")
    assert (summary.files_new, summary.files_unchanged) == ((2, 500) if known_first else (502, 0))
    assert 19 <= most < 40
    entries = opened(tmp_path, key, summary).entries
    assert list(entries) == sorted(f"many/{name}" for name in os.listdir(many))
    assert content(tmp_path, key, entries["many/400a"]) == b"late"


@contextlib.contextmanager
def changing(path: Path, times: int) -> Iterator[None]:
    """Appends a byte to a file each time after the engine has opened it, up to `times` times."""
    original = run_module.Sealer
    left = times

    class Meddler:
        def __init__(self, *arguments: Any, **more: Any) -> None:
            sinks = arguments[3]

            def sink(name: str, blob: memoryview) -> None:
                nonlocal left
                if left and len(blob) > CHUNK:
                    left -= 1
                    with path.open("ab") as out:
                        out.write(b"!")
                sinks[0].put(name, blob)

            self.sealer = original(arguments[0], arguments[1], arguments[2], [sink], **more)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.sealer, name)

    run_module.Sealer = Meddler  # type: ignore[misc,assignment]
    try:
        yield
    finally:
        run_module.Sealer = original  # type: ignore[misc]


def test_a_file_that_changes_once_is_read_again(tmp_path: Path, key: Key, tree: Path) -> None:
    with changing(tree / "large", 1):
        summary = create(tmp_path, key, jobs=1)
    assert summary.problems == []
    entry = opened(tmp_path, key, summary).entries["tree/large"]
    assert "changed" not in entry.more
    assert content(tmp_path, key, entry) == (tree / "large").read_bytes()


def test_a_file_that_keeps_changing_is_marked(tmp_path: Path, key: Key, tree: Path) -> None:
    (tree / "linked").hardlink_to(tree / "large")
    with changing(tree / "large", 100):
        summary = create(tmp_path, key, jobs=1)
    [problem] = summary.problems
    assert isinstance(problem, SourceError)
    assert "large changed while it was read" in str(problem)
    archive = opened(tmp_path, key, summary)
    assert archive.entries["tree/large"].more["changed"]
    assert archive.trailer["changed"] == ["tree/large"]
    assert archive.entries["tree/linked"].blobs == archive.entries["tree/large"].blobs
    with changing(tree / "large", 0):
        assert create(tmp_path, key).bytes_read > 3 * CHUNK, "it is not taken for known"


def test_what_cannot_be_read_is_named_and_left_out(tmp_path: Path, key: Key, tree: Path) -> None:
    gone: list[str] = []

    def remove(name: str) -> None:
        if not gone:
            gone.append(name)
            shutil.rmtree(tree / "sub")

    heard = Heard(remove)
    summary = create(tmp_path, key, "/proc/self/mem", "tree", report=heard)
    assert any("/proc/self/mem" in str(problem) for problem in summary.problems)
    archive = opened(tmp_path, key, summary)
    assert "tree/large" in archive.entries
    assert not any("mem" in name for name in archive.entries)
    assert "/proc/self/mem" in archive.trailer["unreadable"]


def test_sockets_are_named_and_passed_over(tmp_path: Path, key: Key, tree: Path) -> None:
    heard = Heard()
    plant_socket(tree / "socket")
    summary = create(tmp_path, key, report=heard)
    assert heard.outcomes["tree/socket"] == "skipped"
    assert list(opened(tmp_path, key, summary).trailer["skipped"].values()) == ["a socket"]
    assert summary.skipped == 1
    assert summary.problems == []


def test_nothing_at_all(tmp_path: Path, key: Key) -> None:
    with pytest.raises(PogfastError, match="nothing could be archived"):
        create(tmp_path, key, "/proc/self/mem")
    with pytest.raises(NoSuchInput):
        create(tmp_path, key, "not there")
    assert not list(tmp_path.glob("store/*.mfn"))
    (tmp_path / "tree").mkdir()
    assert create(tmp_path, key).manifest, "an empty directory is something"


def test_a_stream_and_a_command(tmp_path: Path, key: Key) -> None:
    summary = create(tmp_path, key, stdin_name="a/dump.sql", command="seq 300000")
    entry = opened(tmp_path, key, summary).entries["a/dump.sql"]
    expected = b"".join(b"%d\n" % number for number in range(1, 300_001))
    assert content(tmp_path, key, entry) == expected
    assert entry.more["size"] == len(expected)
    assert entry.sizes == [CHUNK, CHUNK, len(expected) - 2 * CHUNK]
    assert stat.S_IMODE(entry.more["mode"]) == 0o600


@pytest.mark.parametrize(
    ("command", "said"),
    [("sh -c 'echo half; exit 3'", "exit status 3"), ("sh -c 'echo half; kill -9 $$'", "signal 9"),
     ("no-such-command", "cannot run no-such-command"), ("'", "cannot understand"), ("", "empty")],
)  # fmt: skip
def test_a_failing_command_leaves_no_archive(tmp_path: Path, key: Key, command: str, said: str) -> None:
    with pytest.raises(PogfastError, match=said):
        create(tmp_path, key, stdin_name="dump", command=command)
    assert not list(tmp_path.glob("store/*.mfn"))


def test_a_dry_run_touches_nothing(tmp_path: Path, key: Key, tree: Path) -> None:
    heard = Heard()
    summary = create(tmp_path, key, dry_run=True, report=heard)
    assert not (tmp_path / "store").exists()
    assert heard.outcomes["tree/large"] == "new"
    assert (summary.manifest, summary.files_new, summary.bytes_read) == ("", 4, 0)
    assert summary.bytes_source == 3 * CHUNK + 5 + 5 + 6
    create(tmp_path, key)
    before = sorted(tmp_path.rglob("*"))
    summary = create(tmp_path, key, dry_run=True, report=heard)
    assert sorted(tmp_path.rglob("*")) == before
    assert heard.outcomes["tree/large"] == "unchanged"
    assert (summary.files_new, summary.files_unchanged) == (0, 4)


@pytest.mark.parametrize(
    "wrong",
    [{"level": 99}, {"chunk_size": 0}, {"jobs": 0}, {"readers": -1}, {"layout": "tar"}, {"memory": 1000}],
)
def test_what_cannot_be_meant(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Options(**wrong)


def test_the_memory_budget_bounds_the_chunks_in_flight() -> None:
    options = Options(chunk_size=10**6, memory=5 * 10**6)
    assert options.slabs(jobs=8) == 2
    assert Options(chunk_size=10**6).slabs(jobs=8) == 8


def test_several_stores_get_everything(tmp_path: Path, key: Key, tree: Path) -> None:
    to = f"{tmp_path / 'store'},{tmp_path / 'other'}"
    summary = backup.create(["tree"], to, key, base=str(tmp_path), chunk_size=CHUNK)
    assert (tmp_path / "other" / summary.manifest).read_bytes() == (tmp_path / "store" / summary.manifest).read_bytes()
    shutil.rmtree(tmp_path / "other" / "data")
    again = backup.create(["tree"], to, key, base=str(tmp_path), chunk_size=CHUNK)
    assert again.bytes_read > 3 * CHUNK, "one of them has lost everything"
    assert len(list((tmp_path / "other" / "data").rglob("*="))) == len(list((tmp_path / "store" / "data").rglob("*=")))


def test_progress_can_be_asked_for_at_any_time(tmp_path: Path, key: Key, tree: Path) -> None:
    seen: list[backup.Progress] = []
    ended = threading.Event()

    class Watcher(Silent):
        def started(self, progress: Callable[[], backup.Progress]) -> None:
            def watch() -> None:
                while not ended.is_set():
                    seen.append(progress())
                    time.sleep(0.001)
                seen.append(progress())

            self.thread = threading.Thread(target=watch)
            self.thread.start()

    watcher = Watcher()
    summary = create(tmp_path, key, report=watcher, count_ahead=True)
    ended.set()
    watcher.thread.join()
    last = seen[-1]
    assert (last.files, last.bytes_read, last.blobs_new) == (4, summary.bytes_read, summary.blobs_new)
    assert last.bytes_done == summary.bytes_source
    assert [progress.bytes_done for progress in seen] == sorted(progress.bytes_done for progress in seen)


def test_a_store_that_must_exist_is_not_made(tmp_path: Path, key: Key) -> None:
    """A disk that is not mounted leaves an empty directory behind, or none."""
    (tmp_path / "f").write_bytes(b"f")
    (tmp_path / "void").mkdir()
    for place in ("void", "none"):
        with pytest.raises(NoSuchArchive):
            backup.create([str(tmp_path / "f")], str(tmp_path / place), key, must_exist=True)
    assert os.listdir(tmp_path / "void") == []
    assert not (tmp_path / "none").exists()
    assert backup.create([str(tmp_path / "f")], str(tmp_path / "store"), key).manifest
    both = f"{tmp_path}/void,{tmp_path}/store"
    summary = backup.create([str(tmp_path / "f")], both, key, must_exist=True)
    assert [type(problem) for problem in summary.problems] == [StoreLost]
    assert os.listdir(tmp_path / "void") == []

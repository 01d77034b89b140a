"""create and then restore is the identity, for any tree; pogcli restores the files of the same archive."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit.commands import Ran, Runner
from pogfast.keys import from_keyfile

CHUNK = 1000

names = st.binary(min_size=1, max_size=40).filter(
    lambda name: name not in (b".", b"..") and b"/" not in name and b"\0" not in name
) | st.sampled_from([b"-x", b" ", b"a\nb", b"\xff\xfe", "é".encode(), b"~", b"*", b"[a]", b"data", b"x" * 200])
contents = st.one_of(
    st.binary(max_size=50),
    st.integers(0, 3 * CHUNK + 1).map(lambda size: os.urandom(size)),
    st.tuples(st.integers(0, 9), st.integers(0, 5 * CHUNK)).map(lambda pair: b"%d" % pair[0] * pair[1]),
)
times = st.integers(-(10**9), 4 * 10**9).flatmap(lambda s: st.integers(0, 10**9 - 1).map(lambda ns: s * 10**9 + ns))
modes = st.integers(0, 0o7777)
files = st.tuples(st.just("file"), contents, modes, times)
holes = st.tuples(st.just("sparse"), st.integers(1, 40).map(lambda n: n * 4096), modes, times)
links = st.tuples(st.just("link"), names, st.just(0), times)
fifos = st.tuples(st.just("fifo"), st.none(), modes, times)
trees = st.recursive(
    files | holes | links | fifos,
    lambda inner: st.tuples(st.just("directory"), st.dictionaries(names, inner, max_size=4), modes, times),
    max_leaves=12,
)


def build(path: bytes, node: tuple[str, Any, int, int]) -> None:
    kind, content, mode, ns = node
    if kind == "directory":
        os.mkdir(path)
        for name, inner in content.items():
            build(os.path.join(path, name), inner)
    elif kind == "link":
        os.symlink(content, path)
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        with open(path, "wb") as out:
            if kind == "sparse":
                out.truncate(content)
                out.seek(content // 8192 * 4096)
                out.write(b"x")
            else:
                out.write(content)
    if kind != "link":
        os.chmod(path, mode)
    os.utime(path, ns=(ns, ns), follow_symlinks=False)


def picture(top: bytes) -> dict[bytes, tuple[Any, ...]]:
    """All that must be the same of a tree."""
    seen: dict[bytes, tuple[Any, ...]] = {}
    for directory, below, others in os.walk(top):
        for name in [*below, *others]:
            path = os.path.join(directory, name)
            found = os.lstat(path)
            kind = stat.S_IFMT(found.st_mode)
            what: Any = None
            if kind == stat.S_IFLNK:
                what = os.readlink(path)
            elif kind == stat.S_IFREG:
                with open(path, "rb") as file:
                    what = file.read()
            mode = 0 if kind == stat.S_IFLNK else stat.S_IMODE(found.st_mode)
            seen[os.path.relpath(path, top)] = (kind, mode, found.st_uid, found.st_gid, found.st_mtime_ns, what)
    return seen


@given(tree=st.dictionaries(names, trees, max_size=5), layout=st.sampled_from(["frames", "stream"]))
@settings(suppress_health_check=list(HealthCheck))
def test_create_and_restore_is_the_identity(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[bytes, Any], layout: str
) -> None:
    import pogfast

    place = tmp_path_factory.mktemp("identity")
    top = os.fsencode(place / "top")
    build(top, ("directory", tree, 0o755, 10**18))
    (place / "key").write_bytes(b"a secret")
    key = from_keyfile(str(place / "key"))
    summary = pogfast.create(
        ["top"], str(place / "store"), key, directory=place, chunk_size=CHUNK, layout=layout, no_cache=True
    )
    assert summary.problems == []
    done = pogfast.restore(str(place / "store" / summary.manifest), key, str(place / "out"), set_id=True)
    assert done.problems == []
    assert picture(os.path.join(os.fsencode(place), b"out", b"top")) == picture(top)
    again = pogfast.restore(str(place / "store" / summary.manifest), key, str(place / "out"), set_id=True)
    assert (again.problems, again.files) == ([], 0), "a second run has nothing to do"
    shutil.rmtree(place)


def test_a_real_tree(tmp_path: Path, pogfast: Runner) -> None:
    """The standard library of this Python: thousands of files, links, directories."""
    top = Path(os.__file__).parent
    inputs = ["json", "email", "test", "unittest", "os.py"]
    inputs = [name for name in inputs if (top / name).exists()]
    (tmp_path / "key").write_bytes(os.urandom(32))

    def ran(*arguments: str) -> Ran:
        done = pogfast(*arguments, "--keyfile=key", cwd=tmp_path)
        assert done.code == 0, done.err
        return done

    ran("create", "-C", str(top), *inputs, "--to=store", "--no-cache", "--exclude=__pycache__")
    ran("check", "store", "--read-data")
    ran("restore", "store/latest", "--into=out")
    for name in inputs:
        wanted = {
            path.relative_to(top): path.read_bytes()
            for path in ([top / name] if (top / name).is_file() else (top / name).rglob("*"))
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert wanted
        for path, content in wanted.items():
            assert (tmp_path / "out" / path).read_bytes() == content


@pytest.mark.skipif(bool(os.environ.get("POGFAST_TEST_QUICK")), reason="the other build has it")
def test_very_many_entries(tmp_path: Path, pogfast: Runner) -> None:
    """Many names, in few blobs: files that are alike, links to them, directories, names that are no text. They are
    20,000, or 100,000 if there is time (POGFAST_TEST_SOAK)."""
    directories = 100 if os.environ.get("POGFAST_TEST_SOAK") else 20
    top = tmp_path / "tree"
    for number in range(directories):
        directory = top / f"{number:02}" / os.fsdecode(b"\xff\n -x")
        directory.mkdir(parents=True)
        for name in range(990):
            (directory / f"{name}").write_bytes(b"%d" % (name % 7))
        (directory / "link").symlink_to("0")
        (directory / "again").hardlink_to(directory / "1")
        (directory / "empty").mkdir()
    (tmp_path / "key").write_bytes(os.urandom(32))
    created = pogfast("create", "tree", "--to=store", "--keyfile=key", "--json")
    assert created.code == 0, created.err
    assert pogfast("create", "tree", "--to=store", "--keyfile=key", "-q").code == 0
    listed = pogfast("ls", "store/latest", "--keyfile=key")
    assert len(listed.out.split(b"\n")) > 995 * directories
    restored = pogfast("restore", "store/latest", "--into=out", "--keyfile=key", "-q")
    assert restored.code == 0, restored.err
    assert picture(os.fsencode(tmp_path / "out" / "tree")) == picture(os.fsencode(top))

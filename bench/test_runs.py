"""compare.py reports what was run, and nothing that failed: tests of its launcher and of its comparisons."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import sides
from runs import Bench, Figures
from sides import Pipeline, Side

SPIN = "import sys, time\nwhile time.process_time() < 0.3: pass\nsys.stdout.write(sys.stdin.read() + 'x')"
HOLD = "import sys; held = bytearray(b'1') * 30_000_000; sys.stdout.write(sys.stdin.read() + 'y')"


class Copy(Side):
    """Its command is a shell that copies `source`, or misbehaves as a test needs."""

    def write(self, source: Path, store: Path) -> Pipeline:
        return [[*self.command, str(source / "file"), "blob"]]

    def restore(self, store: Path, into: Path) -> Pipeline:
        return [[*self.command, str(store / "blob"), "file"]]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(b"content")
    return source


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    home = tmp_path / "home"
    home.mkdir()
    return Bench(home, (Copy("copy", ("cp",), home),), runs=2)


def python(program: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", program]


def test_a_pipeline_is_the_sum_of_its_processes(bench: Bench, tmp_path: Path) -> None:
    end = python(f"import sys; open({str(tmp_path / 'out')!r}, 'w').write(sys.stdin.read())")
    commands = [python(SPIN), python(SPIN), python(HOLD), python(HOLD), end]
    wall, cpu, memory, user = bench.run(bench.sides[0], commands, tmp_path)
    assert (tmp_path / "out").read_text() == "xxyy"
    assert wall > 0.3
    assert 0.6 < cpu < 5
    assert 0 < user <= cpu
    assert 60e6 < memory < 200e6


@pytest.mark.parametrize("place", [0, 1, 2])
def test_whichever_process_fails_the_run_is_not_reported(bench: Bench, tmp_path: Path, place: int) -> None:
    commands = [["true"], ["cat"], ["cat"]]
    commands[place] = ["false"]
    with pytest.raises(SystemExit, match=r"^not reported: .*false.* ended with 1"):
        bench.run(bench.sides[0], commands, tmp_path)


def test_every_run_of_a_side_is_measured(bench: Bench, source: Path) -> None:
    written, stores = bench.write(source)
    restored = bench.restore(source, stores)
    assert written["copy"].stored == len(b"content")
    for figures in (written["copy"], restored["copy"]):
        assert [len(values) for values in (figures.wall, figures.cpu, figures.memory)] == [2, 2, 2]
    assert isinstance(figures, Figures)


def test_what_differs_is_not_reported(bench: Bench, source: Path) -> None:
    _, stores = bench.write(source)
    (stores["copy"] / "blob").write_bytes(b"Content")
    with pytest.raises(SystemExit, match="what copy restored differs"):
        bench.restore(source, stores)


def test_what_is_missing_is_not_reported(bench: Bench, source: Path) -> None:
    _, stores = bench.write(source)
    (source / "more").write_bytes(b"")
    with pytest.raises(SystemExit, match="what copy restored differs"):
        bench.restore(source, stores)


def test_other_blobs_are_not_reported(bench: Bench, source: Path) -> None:
    class Elsewhere(Copy):
        def write(self, source: Path, store: Path) -> Pipeline:
            return [["cp", str(source / "file"), "other"]]

    home = bench.home
    bench.sides = (Copy("copy", ("cp",), home, naming="n"), Elsewhere("other", ("cp",), home, naming="n"))
    with pytest.raises(SystemExit, match="other made other blobs"):
        bench.write(source)


def test_who_is_not_installed_is_no_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [sides.SIDES[key](tmp_path) for key in ("age", "restic", "borg")] == [None, None, None]
    program = tmp_path / "restic"
    program.write_text("#!/bin/sh\necho restic 0.99.1 compiled with go1.2\n")
    program.chmod(0o755)
    restic = sides.SIDES["restic"](tmp_path)
    assert restic is not None
    assert restic.name == "restic 0.99.1"

"""`pogfast tune` as a user has it: real trials on small data, what is sampled, what is kept, what is best."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pexpect
import pytest

from kit.commands import Ran, Runner
from kit.servers import rclone
from pogfast.backup import profiles
from pogfast.errors import NoSuchInput, PogfastError, StoreError, UsageError
from pogfast.tuning import Figures, choose, sampling
from pogfast.tuning.plot import unbeaten
from pogfast.tuning.sampling import sample
from pogfast.tuning.trial import Restored, Setting, Written, alone, write

QUICK = ("--levels=1,3", "--jobs=1", "--chunker=1MB", "--chunker=fastcdc:1MB")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    place = tmp_path / "data"
    place.mkdir()
    source = random.Random(1)
    words = b" ".join(b"%d" % source.randrange(3000) for _ in range(400_000))
    (place / "words").write_bytes(words)
    (place / "noise").write_bytes(source.randbytes(2_000_000))
    (place / "empty").write_bytes(b"")
    (place / "link").symlink_to("words")
    return place


@pytest.fixture(autouse=True)
def own_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POGFAST_CONFIG_DIR", str(tmp_path / "config"))


def told(ran: Ran, kind: str) -> list[dict]:
    objects = [json.loads(line) for line in ran.lines]
    return [each for each in objects if each["message_type"] == kind]


def test_it_measures_chooses_and_leaves_nothing_behind(data: Path, tmp_path: Path, pogfast: Runner) -> None:
    (tmp_path / "store").mkdir()
    ran = pogfast("tune", "data", "--to=store", *QUICK)
    assert ran.code == 0, ran.err
    assert os.listdir(tmp_path / "store") == []
    assert "measuring with all 3 files" in ran.err
    lines = ran.lines
    [head] = [line for line in lines if line.startswith("chunks")]
    rows = lines[lines.index(head) + 1 : lines.index(head) + 4]
    assert [row.split()[0] for row in rows[:2]] == ["fixed:1.00MB", "fastcdc:1.00MB"]
    assert all("MB" in row for row in rows)
    assert any(line.startswith("why      least time times space") for line in lines)
    command = next(line for line in lines if line.startswith("command")).split(None, 1)[1]
    assert command.startswith("pogfast create data --to store --")
    (tmp_path / "key").write_bytes(b"key")
    assert pogfast(*command.split()[1:], "--keyfile=key").code == 0


def test_a_terminal_shows_it_line_by_line(data: Path, tmp_path: Path) -> None:
    command = ["-m", "pogfast", "tune", "data", "--levels=1", "--jobs=1", "--chunker=1MB", "-q"]
    shown = pexpect.run(" ".join([sys.executable, *command]), cwd=str(tmp_path), timeout=120).decode()
    assert [line.split()[0] for line in shown.splitlines() if line] == [
        "chunks",
        "fixed:1.00MB",
        "best",
        "why",
        "command",
    ]


def test_it_tells_all_as_json(data: Path, pogfast: Runner) -> None:
    ran = pogfast("tune", "data", "--json", *QUICK)
    assert ran.code == 0, ran.err
    [taken] = told(ran, "sample")
    assert (taken["files"], taken["of_files"], taken["parts"]) == (3, 3, 0)
    settings = told(ran, "setting")
    assert len(settings) == 3
    assert {each["level"] for each in settings} == {1, 3}
    for each in settings:
        assert 3 <= each["runs"] <= 7
        assert each["write_speed"] > 0
        assert each["restore_speed"] > 0
        assert each["ratio"] > 1
        assert each["memory"] > 10e6
        assert each["dollars_a_terabyte"] is None
    assert len(told(ran, "trial")) == sum(each["runs"] for each in settings)
    [best] = told(ran, "best")
    assert best["command"].startswith("pogfast create data --to STORE ")


def test_a_profile_is_kept_and_taken(data: Path, tmp_path: Path, pogfast: Runner) -> None:
    odd = b"d\xe4\x01ta"  # no TOML can hold this name as it is
    os.symlink("data", os.fsencode(tmp_path) + b"/" + odd)
    ran = pogfast("tune", odd + b"/", "--levels=2", "--jobs=1", "--chunker=fastcdc:300k", "--save=mine", "--plot=p.svg")
    assert ran.code == 0, ran.err
    assert (tmp_path / "p.svg").read_bytes().count(b"fastcdc") >= 1
    assert profiles.load("mine") == {"chunker": "fastcdc:300k", "level": 2, "jobs": 1}
    (tmp_path / "key").write_bytes(b"key")
    create = ("create", "data", "--to=store", "--keyfile=key", "--profile=mine", "-v")
    ran = pogfast(*create)
    assert ran.code == 0
    assert "1 workers" in ran.err
    info = json.loads(pogfast("info", "store/latest", "--keyfile=key", "--json").lines[0])
    assert info["chunker"] == "fastcdc:75000,300000,1200000"
    assert pogfast(*create, "--chunk-size=1MB", "--jobs=2").code == 0
    info = json.loads(pogfast("info", "store/latest", "--keyfile=key", "--json").lines[0])
    assert (info["chunker"], info["chunk_size"]) == ("", 1_000_000)


def test_a_plot_is_a_png(data: Path, tmp_path: Path, pogfast: Runner) -> None:
    ran = pogfast("tune", "data", *QUICK, "--plot=p.png", "-q")
    assert ran.code == 0, ran.err
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("level = 'x'", "level is not a setting"),
        ("levels = 3", "levels is not a setting"),
        ("level = true", "level is not a setting"),
        ("level 3", "is not a profile"),
    ],
)
def test_what_is_no_profile(data: Path, tmp_path: Path, pogfast: Runner, content: str, said: str) -> None:
    (tmp_path / "p.toml").write_text(content)
    (tmp_path / "key").write_bytes(b"key")
    ran = pogfast("create", "data", "--to=store", "--keyfile=key", "--profile=p.toml")
    assert ran.code == 2
    assert said in ran.err


def test_there_is_no_such_profile(data: Path, pogfast: Runner) -> None:
    ran = pogfast("create", "data", "--to=store", "--profile=none")
    assert ran.code == 2
    assert "cannot read profile " in ran.err
    assert "tune --save" in ran.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to measure: no PATH given"),
        (["none"], "none"),
        (["data/empty"], "nothing to measure with: no file, or only empty ones"),
        (["data", "--levels=a"], "not a whole number"),
        (["data", "--levels=77"], "--levels=77: not a whole number"),
        (["data", "--chunker=fastcdc:x"], "not a size"),
        (["data", "--chunker=many"], "not a size"),
        (["data", "--plot=p.gif"], "neither a .png nor a .svg"),
        (["data", "--save=.hidden"], "not a name for a profile"),
        (["data", "--to=data/words"], "is a file"),
        (["data", "--to=none/none"], "cannot write to"),
        (["data", "--to=a,b"], "tune measures one store at a time"),
        (["data", "--compare"], "--compare takes two PATHs"),
        (["data", "data", "--compare", "--to=x"], "--compare takes two PATHs"),
    ],
)
def test_what_cannot_be_measured(data: Path, pogfast: Runner, arguments: list[str], said: str) -> None:
    ran = pogfast("tune", *arguments)
    assert ran.code in (1, 2)
    assert said in ran.err
    assert len(ran.err.splitlines()) <= 3


def test_two_versions_of_a_tree(data: Path, tmp_path: Path, pogfast: Runner) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    content = random.Random(2).randbytes(6_000_000)
    (tmp_path / "old" / "image").write_bytes(content)
    (tmp_path / "new" / "image").write_bytes(b"in front" + content)
    ran = pogfast("tune", "--compare", "old", "new", "--chunker=250k", "--chunker=fastcdc:250k", "--json")
    assert ran.code == 0, ran.err
    fixed, content_defined = told(ran, "shared")
    assert fixed["added"] == fixed["new"] > 6_000_000, "all is moved"
    assert content_defined["added"] < 0.3 * content_defined["new"]
    assert content_defined["blobs_added"] <= 2
    ran = pogfast("tune", "--compare", "old", "new", "--chunker=250k", "--chunker=fastcdc:250k")
    assert "least space for both: fastcdc:250kB" in ran.out.decode()


def begun(tmp_path: Path) -> subprocess.Popen[bytes]:
    """A tune in the middle of its work, in a process group of its own."""
    (tmp_path / "store").mkdir()
    (tmp_path / "data" / "more").write_bytes((tmp_path / "data" / "words").read_bytes() * 10)
    command = [sys.executable, "-m", "pogfast", "tune", "data", "--to=store", *QUICK, "--levels=19,20,21,22"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # it may be ignored here
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not os.listdir(tmp_path / "store"):
        time.sleep(0.05)
    time.sleep(0.5)
    return process


def test_ctrl_c_leaves_nothing_behind(data: Path, tmp_path: Path) -> None:
    process = begun(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert b"Traceback" not in err
    assert os.listdir(tmp_path / "store") == []


def test_a_doctor_finds_what_one_that_was_killed_has_left(data: Path, tmp_path: Path, pogfast: Runner) -> None:
    process = begun(tmp_path)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    ran = pogfast("doctor", "store")
    assert ran.code == 0
    assert "1 of a tune that is running or was killed" in ran.out.decode()


def test_a_bucket_is_measured_and_left_empty(data: Path, tmp_path: Path, pogfast: Runner) -> None:
    (tmp_path / "served" / "bucket").mkdir(parents=True)
    with rclone(tmp_path / "served") as server:
        words = ("--to=s3://bucket/place", "--json", "--put-price=0.005")
        ran = pogfast("tune", "data", *QUICK, *words, env={**os.environ, **server.environment})
    assert ran.code == 0, ran.err
    for each in told(ran, "setting"):
        assert each["requests"]["put"] == each["blobs"] + 1
        assert each["dollars_a_terabyte"] > 0
    assert [path for path in (tmp_path / "served").rglob("*") if path.is_file()] == []


# ---- samples -------------------------------------------------------------------------------------------------------


def many_files(place: Path, count: int, size: int) -> Path:
    place.mkdir()
    for number in range(count):
        (place / f"{number}").write_bytes(b"%d" % (number % 10) * size)
    return place


def taken(place: Path, most: int, scratch: Path) -> tuple:
    scratch.mkdir(exist_ok=True)
    problems: list[PogfastError] = []
    return sample([str(place)], most, str(scratch), problems.append), problems


def test_a_small_tree_is_taken_whole(tmp_path: Path) -> None:
    found, problems = taken(many_files(tmp_path / "in", 10, 100), 1000, tmp_path / "scratch")
    assert found.is_all
    assert found.paths == [str(tmp_path / "in")]
    assert (found.files, found.size, found.parts, problems) == (10, 1000, 0, [])


def test_a_sample_is_like_the_whole(tmp_path: Path) -> None:
    place = many_files(tmp_path / "in", 200, 1000)
    (place / "large").write_bytes(bytes(200_000))
    found, _ = taken(place, 40_000, tmp_path / "scratch")
    assert not found.is_all
    assert 40_000 <= found.size < 50_000
    assert (found.of_files, found.of_size) == (201, 400_000)
    assert found.largest == 10_000
    parts = [path for path in found.paths if path.startswith(str(tmp_path / "scratch"))]
    assert len(parts) == found.parts > 0
    assert found.parts * 10_000 <= 30_000, "small files keep their share"
    again, _ = taken(place, 40_000, tmp_path / "again")
    assert [Path(path).name for path in again.paths] == [Path(path).name for path in found.paths]


def test_parts_are_what_they_are_parts_of(tmp_path: Path) -> None:
    content = random.Random(4).randbytes(100_003)
    (tmp_path / "file").write_bytes(content)
    found, _ = taken(tmp_path / "file", 50_000, tmp_path / "scratch")
    for path in found.paths:
        assert Path(path).read_bytes() in content
    assert sum(os.path.getsize(path) for path in found.paths) == found.size


def test_what_cannot_be_read_is_named_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = many_files(tmp_path / "in", 10, 100)
    nodes = list(sampling.regular_files([str(place)], lambda error: None))
    monkeypatch.setattr(sampling, "regular_files", lambda paths, tell: nodes)
    (place / "3").unlink()
    found, [problem] = taken(place, 10_000, tmp_path / "scratch")
    assert str(place / "3") in str(problem)
    assert sorted(found.paths) == sorted(str(place / f"{number}") for number in range(10) if number != 3)
    assert (found.files, found.size) == (9, 900)


def test_nothing_to_sample(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(UsageError, match="nothing to measure"):
        taken(tmp_path / "in", 10, tmp_path / "scratch")
    with pytest.raises(NoSuchInput):
        taken(tmp_path / "none", 10, tmp_path / "scratch")


# ---- trials --------------------------------------------------------------------------------------------------------


def test_a_trial_that_fails_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "taken").write_bytes(b"not a store")
    setting = Setting("fixed", 1000, 1, 1)
    with pytest.raises(StoreError):
        alone("", write, [str(tmp_path / "file")], str(tmp_path / "taken" / "store"), bytes(32), setting)
    with pytest.raises(ZeroDivisionError):
        alone("", divmod, 1, 0)
    with pytest.raises(PogfastError, match="ended by signal 9"):
        alone("", signal.raise_signal, 9)


# ---- what is best --------------------------------------------------------------------------------------------------


def figures(chunk_size: int, seconds: list[float], stored: int, blobs: int = 10) -> Figures:
    made = Figures(Setting("fixed", chunk_size, 3, 2))
    for each in seconds:
        made.written.append(Written(each, 1.0, 50, 1000, stored, 0, blobs, {}, "x.mfn"))
        made.restored.append(Restored(1.0, 1.0, 60))
    return made


def test_the_best_is_the_one_with_the_least_cost() -> None:
    fast, small = figures(1, [1.0, 1.0, 5.0], 900), figures(2, [3.0, 3.0, 3.0], 200)
    assert choose([fast, small], "speed") is fast
    assert choose([fast, small], "size") is small
    assert choose([fast, small], "both") is small
    assert fast.write_speed == 1000, "the median: one slow run does not count"


def test_of_equals_the_default_then_the_fewest_blobs() -> None:
    near = [figures(1, [1.00], 500, 30), figures(2, [1.01], 500, 20), figures(3, [1.02], 500, 10)]
    assert choose(near, "speed") is near[2]
    assert choose([*near, figures(4, [1.5], 500, 1)], "speed") is near[2]


def test_the_spread_is_that_of_the_middle_half() -> None:
    assert figures(1, [1.0, 1.0, 1.0, 1.0, 9.0], 1).spread == 0
    assert figures(1, [1.0, 1.1, 1.2], 1).spread == pytest.approx(0.1 / 1.1)


def test_what_nothing_beats() -> None:
    fast, middle, small, beaten = (
        figures(1, [1.0], 900),
        figures(2, [2.0], 500),
        figures(3, [4.0], 400),
        figures(4, [4.0], 600),
    )
    assert unbeaten([small, beaten, middle, fast]) == [small, middle, fast]

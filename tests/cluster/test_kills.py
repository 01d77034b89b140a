"""Random kills at random moments: whatever dies during `create`, `restore` and `check` with `--executor`, a later run
completes, and nothing is lost.

Each campaign kills workers, the coordinator or the scheduler a few times, changes the tree in between, and then lets a
run end; then it does the same to restores and checks. `POGFAST_CLUSTER_CAMPAIGNS` is how many there are; ci/soak.sh
runs 30.
"""

from __future__ import annotations

import contextlib
import filecmp
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import pogfast
from kit import dask
from pogfast import keys

CAMPAIGNS = int(os.environ.get("POGFAST_CLUSTER_CAMPAIGNS", "1"))
CHUNK = 1_000_000


def grow(tree: Path, rng: random.Random) -> None:
    """Adds files, and changes some."""
    for _ in range(rng.randrange(200, 600)):
        directory = tree / f"{rng.randrange(8)}"
        directory.mkdir(exist_ok=True, parents=True)
        (directory / f"{rng.randrange(3000):04}").write_bytes(rng.randbytes(rng.randrange(5000)))
    (tree / f"large {rng.randrange(3)}").write_bytes(rng.randbytes(rng.randrange(5, 40) * CHUNK))


def kill_something(made: dask.Cluster, run: subprocess.Popen[str], rng: random.Random) -> str:
    victim = rng.choice(["worker", "worker", "all workers", "coordinator", "scheduler"])
    if victim == "coordinator":
        run.kill()
    elif victim == "scheduler":
        dask.kill(made.scheduler)
    else:
        with contextlib.suppress(OSError, ProcessLookupError):
            for pid in made.pids() if victim == "all workers" else made.pids()[:1]:
                os.kill(pid, signal.SIGKILL)
    return victim


# The command, with ranges that are small: files of a test have several.
COMMAND = """
import sys
from pogfast.__main__ import main
from pogfast.cluster import ranges
ranges.RANGE_SIZE = 4_000_000
sys.exit(main())
"""


class Campaign:
    def __init__(self, home: Path, seed: int) -> None:
        self.home = home
        self.rng = random.Random(seed)
        self.clusters = 0
        keys.create_pair("key", str(home))
        self.private = keys.from_decryption_keyfile(str(home / "key.decrypt"))
        self.environment = {**os.environ, "POGFAST_CACHE_DIR": str(home / "cache")}

    def ends_well(self, words: list[str], *, killed: bool) -> bool:
        """Runs a command with two workers, of which something is killed. Returns whether it succeeded. It may only end
        in other ways if something was killed, and says so itself."""
        self.clusters += 1
        with dask.cluster(self.home / f"cluster{self.clusters}") as made:
            command = [sys.executable, "-c", COMMAND, *words, "--quiet", "--worker-timeout", "20s"]
            command += ["--executor", made.executor]
            run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=self.environment)
            if killed:
                time.sleep(self.rng.uniform(0.3, 2.5))
                kill_something(made, run, self.rng)
            _, said = run.communicate(timeout=180)
        assert "Traceback" not in said
        if run.returncode:
            assert killed, said
            assert run.returncode in (1, -signal.SIGKILL), said
        return run.returncode == 0


@pytest.mark.parametrize("seed", range(CAMPAIGNS))
def test_random_kills_lose_nothing(tmp_path: Path, seed: int) -> None:
    campaign = Campaign(tmp_path, seed)
    rng, tree, store, back = campaign.rng, tmp_path / "tree", tmp_path / "store", tmp_path / "back"
    create = ["create", str(tree), "--to", str(store), "--encryption-keyfile", str(tmp_path / "key.encrypt")]
    create += ["--chunk-size", str(CHUNK), *rng.choice([[], ["--packs=1MiB"]])]
    done = 0
    for turn in range(4):
        grow(tree, rng)
        done += campaign.ends_well([*create, *rng.choice([[], ["--no-cache"]])], killed=turn < 3)
    checked = pogfast.check([store], campaign.private, read_data=True)
    assert (checked.damage, checked.problems, checked.archives) == ([], [], done)

    reads = ["--decryption-keyfile", str(tmp_path / "key.decrypt")]
    restore = ["restore", f"{store}/latest", "--into", str(back), "--overwrite", "if-changed", *reads]
    for turn in range(3):
        campaign.ends_well(restore, killed=turn < 2)
        for path in back.rglob("*"):  # files are whole or not there, at any moment
            if path.is_file() and not path.name.startswith(".pogfast"):
                assert filecmp.cmp(path, tree / path.relative_to(back / str(tree).lstrip("/")), shallow=False), path
    compared = ["diff", "-r", str(tree), str(back / str(tree).lstrip("/"))]
    assert subprocess.run(compared, capture_output=True, text=True).stdout == ""

    check = ["check", str(store), "--read-data", *reads]
    campaign.ends_well(check, killed=True)
    campaign.ends_well(check, killed=False)
    shutil.rmtree(tree)
    shutil.rmtree(back)

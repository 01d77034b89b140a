"""Random kills at random moments: whatever dies during `create --executor`, a later run completes, and nothing is lost.

Each campaign kills workers, the coordinator or the scheduler a few times, changes the tree in between, and then lets a
run end. `POGFAST_CLUSTER_CAMPAIGNS` is how many there are; ci/soak.sh runs 30.
"""

from __future__ import annotations

import contextlib
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


@pytest.mark.parametrize("seed", range(CAMPAIGNS))
def test_random_kills_lose_nothing(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    tree, store = tmp_path / "tree", tmp_path / "store"
    keys.create_pair("key", str(tmp_path))
    words = [sys.executable, "-m", "pogfast", "create", str(tree), "--to", str(store), "--quiet"]
    words += ["--encryption-keyfile", str(tmp_path / "key.encrypt"), "--chunk-size", str(CHUNK)]
    words += ["--worker-timeout", "20s", *rng.choice([[], ["--packs=1MiB"]])]
    environment = {**os.environ, "POGFAST_CACHE_DIR": str(tmp_path / "cache")}
    done = 0
    for turn in range(4):
        grow(tree, rng)
        with dask.cluster(tmp_path / f"cluster{turn}") as made:
            run = subprocess.Popen(
                [*words, "--executor", made.executor, *rng.choice([[], ["--no-cache"]])],
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
            if turn < 3:
                time.sleep(rng.uniform(0.3, 2.5))
                kill_something(made, run, rng)
            _, said = run.communicate(timeout=180)
        assert "Traceback" not in said
        if run.returncode == 0:
            done += 1
        else:
            assert turn < 3, said
            assert run.returncode in (1, -signal.SIGKILL), said
    private = keys.from_decryption_keyfile(str(tmp_path / "key.decrypt"))
    checked = pogfast.check([store], private, read_data=True)
    assert (checked.damage, checked.problems, checked.archives) == ([], [], done)
    pogfast.restore(f"{store}/latest", private, tmp_path / "back")
    compared = ["diff", "-r", str(tree), str(tmp_path / "back" / str(tree).lstrip("/"))]
    assert subprocess.run(compared, capture_output=True, text=True).stdout == ""
    shutil.rmtree(tree)

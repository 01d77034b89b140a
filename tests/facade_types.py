"""How the functions of the package may be called, and how not: checked by mypy, never run.

A `type: ignore` that is not needed is an error under --strict, so each wrong call here is one that mypy refuses.
"""

from __future__ import annotations

from pathlib import Path

import pogfast


def right(key: pogfast.Key) -> list[str]:
    done = pogfast.create("dir", Path("store"), key, exclude=["*.tmp"], chunk_size="16MB", exclude_larger_than=10**9)
    pogfast.create([Path("a"), b"b"], ["one", "s3://two"], key, tags="a,b", layout="stream")
    pogfast.restore("store/latest", key, Path("out"), names="notes", overwrite="if-changed")
    pogfast.check(["store"], key, read_data=True)
    pogfast.check("store", key, read_data=pogfast.Subset.parse("10%"))
    pogfast.prune("store", key, pogfast.Policy(last=3, within=pogfast.Span(days=7)), dry_run=False)
    pogfast.prune("store", key, keep_daily=7, keep_within="14d", grace=3600)
    pogfast.lock("s3://store", key, pogfast.Lock("compliance", 86400))
    with pogfast.services(s3_endpoint="http://nas:9000", retry_for="5m"), pogfast.open_archive("x", key) as archive:
        names = list(archive)
    if isinstance(done, pogfast.errors.PogfastError):
        return []
    return [*names, done.manifest, *(info.name for info in pogfast.list_archives("store", key))]


def wrong(key: pogfast.Key) -> None:
    pogfast.create("dir", "store", key, exlude="*.tmp")  # type: ignore[call-arg]
    pogfast.create("dir", "store", key, chunk_size=1.5)  # type: ignore[arg-type]
    pogfast.create("dir", "store", key, layout="pack")  # type: ignore[arg-type]
    pogfast.create(5, "store", key)  # type: ignore[arg-type]
    pogfast.create("dir", "store", "key")  # type: ignore[arg-type]
    pogfast.create("dir", "store", key, cache_directory="")  # type: ignore[call-arg]
    pogfast.restore("store/latest", key)  # type: ignore[call-arg]
    pogfast.restore("store/latest", key, "out", overwrite="yes")  # type: ignore[arg-type]
    pogfast.prune("store", key, keep="last")  # type: ignore[call-arg]
    pogfast.nonsense  # type: ignore[attr-defined] # noqa: B018

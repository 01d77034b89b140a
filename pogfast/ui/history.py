"""The jobs that have ended, for the servers that come: JSON lines in the user's state directory.

They have what the page of a job shows, but no pictures and no lists of files that went well. Commands have no secrets,
so neither have these.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from typing import Any

from pogfast.runs.records import append_line, state_path
from pogfast.ui.jobs import STATES, WENT_WELL, Counters, Job, Lines, Place

# What is written as it is.
PLAIN = ("title", "command", "keeps", "state", "seconds", "exit_code", "error", "hint", "summary", "link", "table")


class StateFile:
    """The history of the user who runs this."""

    def remember(self, job: Job) -> None:
        """Writes down a job that has ended. Raises UsageError and OSError."""
        words = {word: getattr(job, word) for word in PLAIN}
        words["began"] = job.began.isoformat()
        words["stores"] = [asdict(place) for place in job.stores]
        words["lists"] = {
            title: {"count": lines.count, "last": [*lines.last]}
            for title, lines in job.lists.items()
            if title not in WENT_WELL
        }
        append_line(state_path("ui", "jobs.jsonl"), json.dumps(words).encode())

    def remembered(self) -> Iterator[Job]:
        """Yields the jobs of earlier servers, as they ended, without numbers. Lines that are none are left out. Raises
        UsageError and OSError."""
        path = state_path("ui", "jobs.jsonl")
        if not os.path.exists(path):
            return
        with open(path, "rb") as file:
            for line in file:
                try:
                    job = _job(json.loads(line))
                except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                    continue
                yield job


def _job(words: dict[str, Any]) -> Job:
    """Raises ValueError, TypeError, KeyError and AttributeError for what is no job."""
    stores = tuple(Place(**each) for each in words["stores"])
    job = Job(0, str(words["title"]), stores, str(words["command"]), str(words["keeps"]))
    if words["state"] not in STATES or words["state"] == "running":
        raise ValueError(words["state"])
    for word in PLAIN:
        setattr(job, word, words[word])
    job.seconds = float(words["seconds"])
    job.summary = [(str(label), str(text)) for label, text in words["summary"]]
    job.began = datetime.fromisoformat(words["began"]).astimezone()
    for title, lines in words["lists"].items():
        job.lists[title] = Lines(int(lines["count"]), deque(map(str, lines["last"])))
    job.counters = Counters
    return job

"""Metrics of runs as a text file for Prometheus, which node_exporter's textfile collector reads.

The file has the last run of each profile that names it, and is written anew from the records when a run ends, whatever
came of it: whole, or not at all.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from pogfast.config.loading import Config
from pogfast.runs.records import Record, alone, seconds_of, state_path
from pogfast.runs.status import runs_of

# Name of a gauge -> what it means. Times are seconds since 1970.
GAUGES = {
    "run_end_timestamp_seconds": "When the last run of a profile ended.",
    "run_duration_seconds": "How long it took.",
    "run_exit_code": "Its exit code.",
    "run_success": "1 if it did all that the profile asks for, apart from single files that could not be read, else 0.",
    "run_problems": "Problems of it.",
    "run_warnings": "Warnings of it.",
    "last_success_timestamp_seconds": "When the last run that did all that ended.",
    "verb_run": "1 if a verb of the last run was run, 0 if it was skipped, as after one that failed.",
    "verb_duration_seconds": "How long it took.",
    "verb_exit_code": "Its exit code.",
    "verb_figure": "A number of its summary; sizes are in bytes.",
}
Sample = tuple[str, dict[str, str], float]  # the name of a gauge, labels and a value


def write(config: Config, path: str, record: Record) -> None:
    """Writes the metrics of all profiles that name this file. `record` is the newest of its profile. Raises OSError and
    UsageError."""
    with alone(state_path("metrics")):
        samples: list[Sample] = []
        for name, profile in config.profiles.items():
            if profile.metrics == path:
                runs = runs_of(config, name)
                if name == record.profile and record.took_place and (not runs or runs[-1].start != record.start):
                    runs.append(record)  # which could not be recorded
                samples += _samples(runs) if runs else []
        _replace(path, _text(samples).encode())


def _samples(runs: list[Record]) -> Iterator[Sample]:
    record = runs[-1]
    labels = {"profile": record.profile}
    yield "run_end_timestamp_seconds", labels, seconds_of(record.end)
    yield "run_duration_seconds", labels, record.seconds
    yield "run_exit_code", labels, record.exit_code
    yield "run_success", labels, int(record.succeeded)
    yield "run_problems", labels, record.problem_count
    yield "run_warnings", labels, record.warning_count
    succeeded = [seconds_of(each.end) for each in runs if each.succeeded]
    if succeeded:
        yield "last_success_timestamp_seconds", labels, succeeded[-1]
    for verb in record.verbs:
        words = {**labels, "verb": verb.verb, "stores": ",".join(verb.stores), "source": verb.source}
        yield "verb_run", words, int(not verb.skipped)
        if not verb.skipped:
            yield "verb_duration_seconds", words, verb.seconds
            yield "verb_exit_code", words, verb.exit_code
            for figure, number in verb.figures.items():
                yield "verb_figure", {**words, "figure": figure}, number


def _text(samples: list[Sample]) -> str:
    lines: list[str] = []
    for gauge, meaning in GAUGES.items():
        lines += [f"# HELP pogfast_{gauge} {meaning}", f"# TYPE pogfast_{gauge} gauge"]
        for name, labels, value in samples:
            if name == gauge:
                words = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
                lines.append(f"pogfast_{name}{{{words}}} {value!r}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    text = text.encode(errors="replace").decode()
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _replace(path: str, data: bytes) -> None:
    draft = f"{path}.{os.getpid()}.tmp"  # the collector reads *.prom only
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644), "wb") as file:
            os.fchmod(file.fileno(), 0o644)  # node_exporter is another user
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
        raise

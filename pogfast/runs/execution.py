"""Runs a profile: create, then copy, prune and check as it says, with its hooks around them, and records the result.

A verb that fails ends the run, so that nothing is pruned where nothing was added; one that is incomplete (exit code 3)
does not, but nothing is pruned either if a source was not there or a store was lost. Whatever happens, also Ctrl-C and
SIGTERM, the hooks for that run, and the record is written. Prints nothing.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from itertools import groupby
from typing import Any

from pogfast.config.loading import Config
from pogfast.config.schema import Hooks, Profile, Stream
from pogfast.errors import NotRun, PogfastError, worst_code
from pogfast.keys import Key
from pogfast.runs import telling, verbs
from pogfast.runs.keys import open_key
from pogfast.runs.locks import CannotLock, StillRunning, only_run
from pogfast.runs.needs import unmet
from pogfast.runs.programs import ProgramFailed, run_program
from pogfast.runs.records import Outcome, Record, VerbRecord, append, history, seconds_of
from pogfast.runs.report import Report, Silent
from pogfast.system.clock import uptime

Step = tuple[VerbRecord, Callable[[VerbRecord], None]]
SLACK = 0.1  # of `every`: a daily run is a little earlier on some days
INTERRUPTED = 130
INCOMPLETE = 3  # the exit code of a verb that did all it could
OUTCOMES: dict[int, Outcome] = {0: "success", INCOMPLETE: "incomplete", INTERRUPTED: "interrupted"}


def run(config: Config, name: str, *, group: str = "", report: Report | None = None) -> Record:
    """Runs a profile and returns the record, which is also appended to those in the state directory.

    Raises UsageError if there is no such profile or it lacks something, KeyboardInterrupt once everything has ended in
    order, and OSError if the record cannot be written. All else that fails is in the record.
    """
    profile = config.runnable(name)
    report = report or Silent()
    record = Record(name, config.file, socket.gethostname(), _now(), group=group)
    began = uptime()
    try:
        report.started(record)
        wait = profile.wait_timeout if profile.on_conflict == "wait" else None
        with only_run(name, wait=wait, waiting=report.waiting) as other:
            if other:
                _not_run(record, "busy", f"another run of {name} is under way: {other}")
            elif said := unmet(profile.needs):
                _not_run(record, "unmet", said)
            else:
                this = _Run(config, profile, record, report)
                telling.started(config, record, this.warning)
                this.run()
    except KeyboardInterrupt:
        record.outcome, record.exit_code, record.message = "interrupted", INTERRUPTED, "interrupted"
        raise
    except (ProgramFailed, StillRunning, CannotLock) as error:  # it cannot begin, and waiting would be in vain
        record.outcome, record.exit_code, record.message = "failed", error.exit_code, str(error)
        record.add_problem(error)
        report.problem(error)
    except BaseException as error:
        record.outcome, record.exit_code, record.message = "failed", 1, str(_as_ours(error))
        raise
    finally:
        record.end, record.seconds = _now(), round(uptime() - began, 3)
        try:
            append(record)
        finally:
            telling.ended(config, record, report.warning)
            report.ended(record)
    return record


def _not_run(record: Record, outcome: Outcome, message: str) -> None:
    record.outcome, record.exit_code, record.message = outcome, NotRun.exit_code, message


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="milliseconds")


class _Run:
    """One run of a profile."""

    def __init__(self, config: Config, profile: Profile, record: Record, report: Report) -> None:
        self.config = config
        self.profile = profile
        self.record = record
        self.report = report
        self.key: Key | None = None
        self.current: VerbRecord | None = None

    def run(self) -> None:
        steps = self._steps()
        self.record.verbs = [verb for verb, _ in steps]
        with verbs.settings_of_stores(self.config, self.profile):
            self._within(self.profile.hooks, "", lambda: self._run_steps(steps))

    def _steps(self) -> list[Step]:
        """Returns what is to be done, in order."""
        profile = self.profile
        steps: list[Step] = []
        if profile.creates:
            streams: list[Stream | None] = [None] if profile.paths or profile.files_from else []
            for stream in [*streams, *profile.streams]:
                record = VerbRecord("create", profile.stores, source=stream.name if stream else "")
                steps.append((record, partial(self._create, stream)))
        if profile.copy is not None:
            source = profile.copy.from_ or profile.stores[0]
            for target in profile.copy.to:
                steps.append((VerbRecord("copy", [source, target]), self._copy))
        steps += [(VerbRecord("prune", [store]), self._prune) for store in self._due("prune", profile.pruned)]
        steps += [(VerbRecord("check", [store]), self._check) for store in self._due("check", profile.checked)]
        return steps

    def _due(self, verb: str, stores: Sequence[str]) -> Sequence[str]:
        """Returns those stores for which a verb is due, as `every` says."""
        said = self.profile.retention if verb == "prune" else self.profile.check
        if said is None or said.every is None:
            return stores
        since = datetime.now().astimezone().timestamp() - said.every * (1 - SLACK)
        good = (0, INCOMPLETE) if verb == "prune" else (0,)  # until all is well it is checked in each run
        done = {
            step.stores[0]
            for record in history(self.profile.name, self.config.file)
            if not record.is_of_future()
            for step in record.verbs
            if step.verb == verb and not step.skipped and step.exit_code in good and seconds_of(step.start) > since
        }
        return [store for store in stores if store not in done]

    def _create(self, stream: Stream | None, verb: VerbRecord) -> None:
        verbs.create(self.config, self.profile, self._key(), stream, verb, self)

    def _copy(self, verb: VerbRecord) -> None:
        verbs.copy(self.config, self.profile, self._key_or_none(), verb, self)

    def _prune(self, verb: VerbRecord) -> None:
        verbs.prune(self.config, self.profile, self._key(), verb, self)

    def _check(self, verb: VerbRecord) -> None:
        verbs.check(self.config, self.profile, self._key_or_none(), verb, self)

    def _run_steps(self, steps: Sequence[Step]) -> None:
        """Runs the steps of each verb, until a verb has failed."""
        for word, found in groupby(steps, lambda step: step[0].verb):
            if self._has_failed():
                return
            if word == "prune" and (lacking := self.record.lacking):
                more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
                self.warning(f"nothing is pruned, since not all was there: {lacking[0]}{more}")
                continue
            self._within(getattr(self.profile.hooks, word), word, partial(self._each, [*found]))

    def _each(self, steps: Sequence[Step]) -> None:
        for verb, act in steps:
            self._step(verb, act)

    def _step(self, verb: VerbRecord, act: Callable[[VerbRecord], None]) -> None:
        """Runs a verb on one store. Its failure is recorded, not raised."""
        self.current = verb
        verb.start, began = _now(), uptime()
        self.report.verb(verb)
        try:
            act(verb)
        except (PogfastError, MemoryError, ImportError, OSError) as error:
            failed = _as_ours(error)
            verb.error, verb.exit_code = str(failed), failed.exit_code
            self.problem(failed)
            self.record.message = self.record.message or f"{verb.verb}: {failed}"
        except BaseException as error:
            verb.error, verb.exit_code = str(_as_ours(error)), _code_of(error)
            raise
        finally:
            verb.seconds = round(uptime() - began, 3)
            self._add_code(verb.exit_code)
            self.current = None
        self.report.verb_ended(verb)

    def _has_failed(self) -> bool:
        return self.record.exit_code not in (0, INCOMPLETE)

    # ---- hooks ----

    def _within(self, hooks: Hooks, verb: str, act: Callable[[], object]) -> None:
        """Runs `act` between the hooks of the run, or of a verb. What fails is recorded; only signals are raised."""
        before = self.record.exit_code
        try:
            if self._hooks(hooks, "before", verb):
                act()
                if not self._has_failed():
                    self._hooks(hooks, "after", verb)
        except BaseException as error:
            self._add_code(_code_of(error))
            raise
        finally:
            if self._has_failed() and before in (0, INCOMPLETE):
                self._hooks(hooks, "after-failure", verb)
            self._hooks(hooks, "finally", verb)

    def _hooks(self, hooks: Hooks, when: str, verb: str) -> bool:
        """Runs the hooks of one kind. Returns False if one failed; those of `before` and `after` end there."""
        succeeded = True
        commands = getattr(hooks, "finally_" if when == "finally" else when.replace("-", "_"))
        told = {**self.record.as_dict(), "hook": when, "verb": verb or None}
        for command in commands:
            try:
                stdin = json.dumps(told).encode() + b"\n"
                run_program(command, hooks.timeout, stdin=stdin, line=self.report.hook)
            except ProgramFailed as error:
                name = f"hook {when} of {verb}" if verb else f"hook {when}"
                failed = ProgramFailed(f"{name}: {error}")
                self.problem(failed)
                self.record.message = self.record.message or str(failed)
                self._add_code(failed.exit_code)
                succeeded = False
                if when in ("before", "after"):
                    break
        return succeeded

    def _add_code(self, exit_code: int) -> None:
        """Makes the exit code and the outcome of the run as bad as those of a part of it."""
        self.record.exit_code = worst = worst_code([self.record.exit_code, exit_code])
        self.record.outcome = OUTCOMES.get(worst, "failed")

    # ---- what verbs need ----

    def _key_or_none(self) -> Key | None:
        reference = self.profile.key
        if reference is None:
            return None
        if self.key is None:
            self.key = open_key(reference, writing=self.profile.creates, tell=self.warning)
        return self.key

    def _key(self) -> Key:
        key = self._key_or_none()
        assert key is not None  # checked when the configuration was loaded
        return key

    # ---- what verbs tell ----

    def warning(self, text: str) -> None:
        self.record.add_warning(text)
        self.report.warning(text)

    def note(self, text: str) -> None:
        self.report.note(text)

    def problem(self, error: PogfastError) -> None:
        self.record.add_problem(error)
        self.report.problem(error)

    def progress(self, progress: Callable[[], Any]) -> None:
        assert self.current is not None
        self.report.progress(self.current, progress)


def _code_of(error: BaseException) -> int:
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1


def _as_ours(error: BaseException) -> PogfastError:
    """Returns an error as one of ours, with a message of one line."""
    if isinstance(error, PogfastError):
        return error
    if isinstance(error, OSError):
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        return PogfastError(f"{where}{error.strerror or error}")
    if isinstance(error, MemoryError | ImportError):
        return PogfastError(str(error) or "out of memory")
    return PogfastError("interrupted" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}")

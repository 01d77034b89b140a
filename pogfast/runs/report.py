"""What a run reports while it goes on.

No text is printed here: the command line, or a page, shows it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from pogfast.errors import PogfastError

if TYPE_CHECKING:
    from pogfast import backup
    from pogfast.runs.records import Record, VerbRecord
    from pogfast.upkeep import checking, copying

    # How far a verb is, for display; prune tells nothing.
    Progress = backup.Progress | copying.Summary | checking.Summary


class Report(Protocol):
    """Receives what happens during a run. Every method does nothing unless it is overridden."""

    def started(self, record: Record) -> None:
        """Called when the run begins. The run goes on filling in `record`, which `ended` gets as well."""
        return

    def verb(self, verb: VerbRecord) -> None:
        """Called before each verb."""
        return

    def progress(self, verb: VerbRecord, progress: Callable[[], Progress]) -> None:
        """Called when a verb begins to work. `progress` may be called from any thread until the verb ends."""
        return

    def verb_ended(self, verb: VerbRecord) -> None:
        """Called after each verb."""
        return

    def waiting(self, text: str) -> None:
        """Called when the run waits for another run of the profile."""
        return

    def hook(self, line: str) -> None:
        """Called with each line that a hook prints."""
        return

    def note(self, text: str) -> None:
        """Called for information that is the same in every run."""
        return

    def warning(self, text: str) -> None:
        """Called for what a user should know, although it is no failure."""
        return

    def problem(self, error: PogfastError) -> None:
        """Called for each problem: the file that cannot be read, the store that is lost, the verb or hook that
        failed."""
        return

    def ended(self, record: Record) -> None:
        """Called last, when the record has been written."""
        return


class Silent(Report):
    """Reports nothing."""

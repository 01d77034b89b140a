"""The source that the engine reads from if a store of packs is on a service: few requests for many blobs.

Blobs that will be asked for are planned as pieces: ranges of packs, each one request, downloaded ahead and kept until
the last of their blobs was asked for. A blob in no piece, or asked for again since it did not authenticate, is read
alone. Memory is bounded, whatever the order and whatever an index says: a blob never waits for memory that other pieces
have; it is read alone then. Knows names and places only; the caller says where a blob lies.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pogfast._engine import MAX_BLOB
from pogfast.errors import CorruptBlob, MissingBlob, PogfastError, without_frames
from pogfast.stores.concurrency import Concurrency
from pogfast.stores.packs.reading import MAX_GAP, MAX_PIECE
from pogfast.stores.protocols import CanAbandon, CanPrefetch
from pogfast.stores.traffic import InFlightLimit, Prefetcher

if TYPE_CHECKING:
    from pogfast._engine import Buffer

# Seconds after a listing of the packs in which a plain blob that is missing is not looked for in yet another listing.
FRESH = 30.0
# Bytes of pieces that are downloaded before they are asked for, as much as a service a tenth of a second away sends
# meanwhile at 2 Gbit/s. Large blobs have more.
MAX_AHEAD = 24 << 20
# Names that are located at a time.
LOCATED = 10_000

# A pack, its bytes, and where in it a blob lies; None for a blob in no pack.
Span = tuple[str, int, int, int]
Locate = Callable[[Sequence[str]], Sequence[Span | None]]


class Ranges(Protocol):
    """The store of the packs and the plain blobs."""

    label: str
    concurrency: Concurrency

    @property
    def in_flight(self) -> InFlightLimit: ...

    def fetch_range(
        self, path: str, start: int, size: int, urgent: Callable[[], bool], exceed: Callable[[], bool]
    ) -> bytearray | None:
        """Reads a range; None if the object is missing. Waits for memory until it is `urgent` and may `exceed` the
        limit, and ends after abandon unless it is urgent. The bytes count as in flight until they are freed."""

    def read_range(self, path: str, start: int, size: int) -> Buffer: ...

    def get_blob(self, name: str) -> Buffer: ...

    def prefetch(self, names: Iterable[str]) -> None: ...

    def abandon(self) -> None: ...


class _NoRoom(PogfastError):
    """Memory is full of pieces that wait for blobs that are asked for later."""


@dataclass(eq=False)
class Piece:
    """A range of a pack in which several blobs lie."""

    path: str
    start: int
    end: int
    spare: threading.Lock  # held by the one piece that may be beyond the limit of memory
    names: list[str] = field(default_factory=list)
    left: int = 0  # blobs that were not asked for yet
    left_bytes: int = 0  # of them
    data: bytearray | None = None
    failed: bool = False  # its blobs are read alone
    tried: bool = False  # there was no room for it
    has_spare: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, name: str, span: Span) -> None:
        self.names.append(name)
        self.left += 1
        self.left_bytes += span[3]
        self.end = max(self.end, span[2] + span[3])

    def is_worth_it(self) -> bool:
        """Returns False if downloading the blobs that are left alone takes fewer bytes by far."""
        return not self.failed and not (self.tried and 2 * self.left_bytes < self.end - self.start)

    def drop(self) -> None:
        """Frees the memory, as soon as no caller has a view of it."""
        self.data = None
        if self.has_spare:
            self.has_spare = False
            self.spare.release()


class Planned(NamedTuple):
    """Where a blob is downloaded with others, and its place."""

    piece: Piece
    span: Span


Plan = dict[str, Planned]


def plan(names: Sequence[str], spans: Sequence[Span | None], spare: threading.Lock) -> Plan:
    """Divides the blobs that lie in packs among pieces. Those whose place is impossible are left out."""
    packs: dict[str, list[tuple[int, int, int]]] = {}  # (offset, size, number)
    for number, span in enumerate(spans):
        if span is not None and span[2] >= 0 and 0 < span[3] <= min(MAX_PIECE, span[1] - span[2]):
            packs.setdefault(span[0], []).append((span[2], span[3], number))
    planned: Plan = {}
    for blobs in packs.values():
        blobs.sort()
        pack_size = _span(spans, blobs[0][2])[1]
        gap = pack_size if 2 * _covered(blobs) >= pack_size else MAX_GAP
        piece: Piece | None = None
        for offset, size, number in blobs:
            span = _span(spans, number)
            if piece is None or offset - piece.end > gap or offset + size - piece.start > MAX_PIECE:
                piece = Piece(span[0], offset, offset, spare)
            piece.add(names[number], span)
            planned[names[number]] = Planned(piece, span)
    return planned


def _span(spans: Sequence[Span | None], number: int) -> Span:
    span = spans[number]
    assert span is not None
    return span


def _covered(blobs: Iterable[tuple[int, int, int]]) -> int:
    """Returns how many bytes lie in at least one of the spans, which are sorted by offset."""
    covered, end = 0, 0
    for offset, size, _ in blobs:
        covered += max(0, offset + size - max(end, offset))
        end = max(end, offset + size)
    return covered


class PackSource(CanPrefetch, CanAbandon):
    """Reads blobs from packs and plain ones. May be called from several threads."""

    def __init__(
        self,
        base: Ranges,
        locate: Locate,
        refresh: Callable[[], bool],
        copies: Callable[[str], Iterable[Buffer]] = lambda name: (),
    ) -> None:
        """`locate` returns where blobs lie: (path, bytes of the pack, offset, size). `refresh` lists the packs again,
        and returns True if they are to be located again. `copies` yields all copies of a damaged blob."""
        self.base = base
        self.locate = locate
        self.refresh = refresh
        self.copies = copies
        self._plan: Plan = {}  # of the blobs that were not asked for yet
        self._spare = threading.Lock()
        self._prefetcher: Prefetcher[Piece] = Prefetcher(
            self._fetch,
            base.in_flight,
            base.concurrency,
            size_of=lambda piece: piece.end - piece.start,
            ahead=MAX_AHEAD,
        )
        self._listing = threading.Lock()
        self._listings = 0
        self._listed = float("-inf")  # when, by the monotonic clock
        self._gone: dict[str, int] = {}  # packs that were found missing after so many listings
        self._abandoned = False

    def prefetch(self, names: Iterable[str]) -> None:
        wanted = list(dict.fromkeys(names))
        spans = self._located(wanted)
        self._spare = threading.Lock()  # the pieces of an earlier call may keep the other for ever
        self._gone = {}
        # After abandon memory has no limit: then blobs are read alone.
        self._plan = {} if self._abandoned else plan(wanted, spans, self._spare)
        self.base.in_flight.recheck()  # pieces of an earlier call no longer wait
        self._prefetcher.prefetch(dict.fromkeys(self._plan[name].piece for name in wanted if name in self._plan))
        self.base.prefetch(name for name, span in zip(wanted, spans, strict=True) if span is None)

    def abandon(self) -> None:
        self._abandoned = True
        self.base.abandon()

    def close(self) -> None:
        """Ends all downloads; to be called before the base store is closed."""
        self.abandon()
        self._plan = {}
        self._prefetcher.prefetch(())
        self._prefetcher.stop()

    def order(self, groups: Sequence[Sequence[str]]) -> list[int]:
        """Returns the numbers of groups of names, such as the blobs of each file, in the order in which they take the
        fewest requests: packs in the order of first use, within one by offset, by the first blob of a group that lies
        in a pack. Groups without such a blob come last, in their order."""
        ranks: dict[str, int] = {}
        places: dict[int, tuple[int, int]] = {}
        flat = ((number, name) for number, group in enumerate(groups) for name in group)
        while some := list(islice(flat, LOCATED)):
            for (number, _), span in zip(some, self.locate([name for _, name in some]), strict=True):
                if span is not None and number not in places:
                    places[number] = (ranks.setdefault(span[0], len(ranks)), span[2])
        last = (len(ranks), 0)
        return sorted(range(len(groups)), key=lambda number: places.get(number, last))

    def _located(self, names: Sequence[str]) -> list[Span | None]:
        slices = (names[start : start + LOCATED] for start in range(0, len(names), LOCATED))
        return list(chain.from_iterable(map(self.locate, slices)))

    # ---- pieces ----

    def __call__(self, name: str) -> Buffer:
        """Returns a blob's bytes. Raises MissingBlob, CorruptBlob and StoreError."""
        seen, plan_ = self._listings, self._plan
        planned = plan_.pop(name, None)
        if planned is None:
            return self._alone(name)
        try:
            view = self._view(planned)
        except MissingBlob:
            view = self._view_elsewhere(plan_, planned.piece, name) if self._look_again(seen) else None
        return self._alone(name) if view is None else view

    def _view(self, planned: Planned) -> memoryview | None:
        """Returns a blob in its piece; None if it is to be read alone. Raises MissingBlob if the pack is not there."""
        piece, (_, _, offset, size) = planned
        with piece.lock:
            try:
                if piece.data is None and piece.is_worth_it():
                    piece.data = self._piece(piece)
                if piece.data is None:
                    return None
                return memoryview(piece.data)[offset - piece.start : offset - piece.start + size]
            finally:
                piece.left -= 1
                piece.left_bytes -= size
                if piece.left <= 0:
                    piece.drop()

    def _piece(self, piece: Piece) -> bytearray | None:
        """Returns the bytes of a piece, downloaded ahead or now; None if its blobs are to be read alone."""
        try:
            data = self._prefetcher.take(piece)
        except _NoRoom as error:
            without_frames(error)
            piece.tried = True
            return None
        except CorruptBlob as error:  # the pack is not as its index says: each blob for itself shows if it is damaged
            without_frames(error)
            piece.failed = True
            return None
        if data is None:
            piece.failed = True
            self._gone.setdefault(piece.path, self._listings)
            raise MissingBlob(f"{piece.path} is missing from {self.base.label}")
        return data

    def _fetch(self, piece: Piece, urgent: Callable[[], bool]) -> bytearray | None:
        def is_urgent() -> bool:
            if piece.spare is not self._spare:
                raise _NoRoom("the piece is of an earlier plan")
            return urgent()

        def exceed() -> bool:
            """Gives a piece that is asked for more memory than the limit: one at a time. It must not wait for a lock:
            others may hold it while memory is freed."""
            if not piece.spare.acquire(blocking=False):
                raise _NoRoom("another piece is beyond the limit")
            piece.has_spare = True
            return True

        try:
            return self.base.fetch_range(piece.path, piece.start, piece.end - piece.start, is_urgent, exceed)
        except BaseException:
            piece.drop()
            raise

    def _view_elsewhere(self, plan_: Plan, piece: Piece, name: str) -> memoryview | None:
        """Plans the blobs of a missing pack anew, after a listing, and returns one of them; None if it is to be read
        alone. Their pieces are downloaded when they are asked for."""
        left = [name, *(other for other in piece.names if plan_.pop(other, None) is not None)]
        plan_.update(plan(left, self._located(left), piece.spare))
        with contextlib.suppress(MissingBlob):
            planned = plan_.pop(name, None)
            return self._view(planned) if planned is not None else None
        return None

    # ---- blobs alone ----

    def _alone(self, name: str) -> Buffer:
        """Reads a blob by a request of its own. If it is not where it should be, packs are listed and it is located
        once more."""
        seen = self._listings
        [span] = self.locate([name])
        try:
            return self._read(name, span)
        except MissingBlob:
            if self._is_gone(span, seen) or not self._look_again(seen):
                raise
        [span] = self.locate([name])
        return self._read(name, span)

    def _is_gone(self, span: Span | None, seen: int) -> bool:
        """Returns True if what is missing where it was located after listing number `seen` would not be found by
        another listing."""
        if span is None:
            return time.monotonic() < self._listed + FRESH
        return self._gone.get(span[0], seen) < seen

    def _read(self, name: str, span: Span | None) -> Buffer:
        if span is None:
            return self.base.get_blob(name)
        path, pack_size, offset, size = span
        if offset < 0 or not 0 < size <= min(MAX_BLOB, pack_size - offset):
            what = f"{size:,} bytes from {offset:,} on in {path}, which has {pack_size:,} bytes"
            raise CorruptBlob(f"the index of {self.base.label} is wrong: blob {name} has {what}")
        try:
            if path not in self._gone:
                return self.base.read_range(path, offset, size)
        except MissingBlob:
            self._gone.setdefault(path, self._listings)
        raise MissingBlob(f"blob {name} is missing from {self.base.label}: there is no {path}")

    def _look_again(self, seen: int) -> bool:
        """Lists the packs, unless another thread has since listing number `seen`. Returns True if blobs are to be
        located again. Raises StoreError."""
        with self._listing:
            if self._listings != seen:
                return True
            found = self.refresh()
            self._listings += 1
            self._listed = time.monotonic()
            return found

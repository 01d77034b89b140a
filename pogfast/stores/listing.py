"""Lists the objects of a service: page by page, and where there are many, several pages at a time.

A page has at most a thousand objects, and only its end says where the next one begins. Here later pages are asked for
at the same time, at names that are guessed from how far apart those of the last page are. A guess may cost a request,
never an object: the listing goes on with a page only if that began at or before the last object that is known, and says
of all objects between the same as the page before. Else the next page comes as its predecessor says. A service that is
not sorted, or begins elsewhere than it was asked to, gets no more guesses.
"""

from __future__ import annotations

import contextlib
import itertools
import string
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

from pogfast.errors import StoreError
from pogfast.stores.concurrency import Concurrency, RequestPool
from pogfast.stores.names import PACKS
from pogfast.stores.service import ObjectInfo, Service

Result = TypeVar("Result")
Page = tuple[list[ObjectInfo], str]  # with the token of the next one; "" if there is none

# Empty pages in a row after which a listing counts as endless: each stands for a thousand folders.
MAX_EMPTY_PAGES = 10_000
# Pages that are requested at a time, as far as the service's concurrency allows.
AT_A_TIME = 8
# Objects of a page that tell how far apart they are. Smaller pages are of small stores.
ENOUGH = 100
# How far apart guesses are, in widths of the last page: chance seldom puts more than a page's objects between two. The
# last guess is at least LEAST of a width before the end.
APART, LEAST = 0.9, 0.2


class Retry(Protocol):
    """RemoteStore's: repeats what raises TransientError."""

    def __call__(self, act: Callable[[], Result], /) -> Result: ...


class Lister:
    """The listings of one service."""

    def __init__(self, service: Service, concurrency: Concurrency, retry: Retry) -> None:
        self.service = service
        self.concurrency = concurrency
        self.retry = retry
        self.is_sorted: bool | None = None  # True: a guess was right; False: there is no use in guesses

    def page(self, prefix: str, token: str, *, deep: bool, start: str = "") -> Page:
        began = time.monotonic()
        page = self.service.page(prefix, token, deep=deep, start=start)
        self.concurrency.answered(began)
        return page

    def listed(self, prefix: str, *, deep: bool, start: str = "") -> Iterator[ObjectInfo]:
        """Yields the objects of a listing; a page that fails is requested again. Raises StoreError, also for a listing
        that repeats itself."""
        listing = _Listing(self, prefix, deep, start)
        seen: set[str] = set()
        empty = 0
        try:
            page, token = listing.first()
            while True:
                yield from page
                if not token:
                    return
                empty = 0 if page else empty + 1
                marks = {f"token {token}", *(f"path {first.path}" for first in page[:1])}
                if marks & seen or empty > MAX_EMPTY_PAGES:
                    raise StoreError(f"{self.service.label}: the service's listing repeats itself without end")
                seen |= marks
                page, token = listing.next(token)
        finally:
            listing.close()


class _Guess(NamedTuple):
    """A page that was requested ahead: the objects after `start`."""

    start: str
    page: Future[Page]
    is_certain: bool = False  # it is no guess: the page before it says so


class _Listing:
    """The pages of one listing."""

    def __init__(self, lister: Lister, prefix: str, deep: bool, start: str) -> None:
        self.lister = lister
        self.scale = None if start else SCALES.get((prefix, deep))
        self._below = partial(lister.page, prefix, "", deep=deep)
        self._at_token = partial(lister.page, prefix, deep=deep, start=start)
        self._last: list[str] = []  # the paths of the last page, all of them
        self._guesses: deque[_Guess] = deque()  # in the order of their starts
        self._threads: RequestPool | None = None

    def first(self) -> Page:
        return self._take(self.lister.retry(partial(self._at_token, "")))

    def next(self, token: str) -> Page:
        """Returns the page that follows the last one, which came with this token. Raises StoreError."""
        self._guess(token)
        return self._guessed() or self._take(self.lister.retry(partial(self._at_token, token)))

    def _take(self, page: Page) -> Page:
        self._last = [found.path for found in page[0]]
        return page

    # ---- guesses ----

    def _guess(self, token: str) -> None:
        """Requests pages ahead, if it can be told where, and with them the next one."""
        if self.scale is None or self.lister.is_sorted is False or len(self._last) < ENOUGH or not _ascends(self._last):
            self._drop()
            return
        end = self._last[-1]
        while len(self._guesses) > 1 and self._guesses[1].start <= end:
            self._guesses.popleft().page.cancel()
        needs_next = not self._guesses or self._guesses[0].start > end
        most = min(self.lister.concurrency.number, AT_A_TIME) if self.lister.is_sorted else 2
        for start in itertools.islice(self._starts(end), max(most - len(self._guesses) - needs_next, 0)):
            self._guesses.append(_Guess(start, self._submit(partial(self._at_name, start))))
        if needs_next and self._guesses:
            following = self._submit(partial(self.lister.retry, partial(self._at_token, token)))
            self._guesses.appendleft(_Guess(end, following, is_certain=True))

    def _at_name(self, start: str) -> Page:
        """Returns the page after a guessed name. Until guesses are known to be of use they are not retried: a service
        may fail when it is asked for one."""
        act = partial(self._below, start=start)
        if self.lister.is_sorted:
            return self.lister.retry(act)
        with contextlib.suppress(StoreError):
            return act()
        return [], ""

    def _starts(self, end: str) -> Iterator[str]:
        """Yields where further pages may begin, as far apart as the objects of the last page suggest."""
        assert self.scale is not None
        first, place = self.scale.place(self._last[0]), self.scale.place(end)
        if first is None or place is None:
            return
        width = place - first
        if self._guesses:
            place = max(self.scale.place(self._guesses[-1].start) or place, place - (1 - APART) * width)
        last = self.scale.end() - LEAST * width
        while width > 0 and (place := place + APART * width) < last:
            yield self.scale.path(place)

    def _submit(self, ask: Callable[[], Page]) -> Future[Page]:
        self._threads = self._threads or RequestPool(self.lister.concurrency, "pogfast-list")
        return self._threads.submit(ask)

    def _guessed(self) -> Page | None:
        """Returns what follows the last page, if it was requested ahead and can be believed."""
        if not self._guesses:
            return None
        start, future, is_certain = self._guesses.popleft()
        if is_certain:
            return self._take(future.result())
        found, token = future.result()
        paths = [each.path for each in found]
        known = bisect_right(paths, self._last[-1])
        if not known or not _ascends([start, *paths]):
            self.lister.is_sorted = False
        elif paths[:known] == self._last[bisect_right(self._last, start) :]:
            self.lister.is_sorted = True
            if known < len(paths) or not token:
                self._last = paths
                return found[known:], token
            return None
        self._drop()
        return None

    def _drop(self) -> None:
        for guess in self._guesses:
            guess.page.cancel()
        self._guesses.clear()

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(cancel=True)


def _ascends(paths: list[str]) -> bool:
    return all(one < other for one, other in itertools.pairwise(paths))


# ---- where the objects of a store are likely to be -------------------------------------------------------------------


class Scale(Protocol):
    """Numbers for paths, in the same order, that grow evenly, at least for a while."""

    def place(self, path: str) -> float | None:
        """Returns the number of a path; None if it is another object's."""

    def path(self, place: float) -> str:
        """Returns a path for a number."""

    def end(self) -> float:
        """Returns the number up to which there may be objects."""


class _Blobs:
    """data/ab/NAME: names are hashes."""

    def place(self, path: str) -> float | None:
        return _fraction(path[len("data/ab/") :])

    def path(self, place: float) -> str:
        name = _name_at(place)
        return f"data/{name[:2]}/{name}"

    def end(self) -> float:
        return 1.0


class _Manifests:
    """Names that begin with a time, in seconds since 1970."""

    def place(self, path: str) -> float | None:
        try:
            return (datetime.fromisoformat(path[:19]) - EPOCH).total_seconds()
        except (ValueError, TypeError):  # TypeError: it has a time zone
            return None

    def path(self, place: float) -> str:
        return (EPOCH + timedelta(seconds=place)).isoformat()

    def end(self) -> float:
        return time.time()


class _Packs:
    """packs/DATE/NAME, in days, and in a day by the name, which is a hash."""

    def place(self, path: str) -> float | None:
        day, _, name = path.removeprefix(PACKS).partition("/")
        fraction = _fraction(name)
        try:
            return None if fraction is None else date.fromisoformat(day).toordinal() + fraction
        except ValueError:
            return None

    def path(self, place: float) -> str:
        return f"{PACKS}{date.fromordinal(int(place))}/{_name_at(place % 1)}"

    def end(self) -> float:
        return datetime.now(UTC).date().toordinal() + 1.0


EPOCH = datetime(1970, 1, 1)
LETTERS = sorted(f"-_{string.ascii_letters}{string.digits}")  # of names, in the order in which services sort them
DIGITS = 6


def _fraction(name: str) -> float | None:
    """Returns where a name lies among all hashes, from 0 to 1; None if it is no name."""
    try:
        return sum(LETTERS.index(letter) * 64.0**-place for place, letter in enumerate(name[:DIGITS], 1))
    except ValueError:
        return None


def _name_at(fraction: float) -> str:
    number = int(fraction * 64**DIGITS)
    return "".join(LETTERS[number // 64**place % 64] for place in reversed(range(DIGITS)))


# By prefix, and whether folders below it are listed.
SCALES: dict[tuple[str, bool], Scale] = {("data/", True): _Blobs(), ("", False): _Manifests(), (PACKS, True): _Packs()}

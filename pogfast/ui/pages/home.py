"""Home: a card for each store with its verdict, the worst first; and running jobs.

Stores are asked at the same time, each by one thread at most. A store that has not answered after a moment gets its
card later: the page asks for it again.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, wait
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from pogfast.archives.overview import ArchiveInfo
from pogfast.archives.trailer import Trailer, time_of
from pogfast.errors import NoArchives, NoSuchArchive, PogfastError
from pogfast.keys import Key
from pogfast.ui.forms import Form
from pogfast.ui.site import Site, go, local_path, store_of
from pogfast.ui.stores import KnownStore, why
from pogfast.ui.verdicts import ORDER, Verdict, judge
from pogfast.ui.words import relative

PATIENCE = 1.0  # seconds that the page waits for stores
YEAR = 365 * 86400


@dataclass(frozen=True)
class Card:
    """What the home page says of a store."""

    store: KnownStore
    verdict: Verdict
    last: ArchiveInfo | None = None
    archives: int = 0
    is_locked: bool = False


def home(request: Request) -> Response:
    """The cards of all stores."""
    site = Site.of(request)
    asked = {store.name: _ask(request, store) for store in site.shelf}
    wait(asked.values(), PATIENCE)
    cards = [asked[store.name].result() if asked[store.name].done() else store for store in site.shelf]
    cards.sort(key=lambda card: ORDER[card.verdict.mood] if isinstance(card, Card) else ORDER["warn"])
    return site.page(request, "home.html", cards=cards, jobs=site.jobs.running())


def card(request: Request) -> Response:
    """The card of one store, when it has answered."""
    store = store_of(request)
    return Site.of(request).page(request, "home_card.html", card=_ask(request, store).result())


def _ask(request: Request, store: KnownStore) -> Future[Card]:
    """Asks a store in a thread of its own."""
    given = Site.of(request).given_key(request, store)
    future: Future[Card] = Future()

    def look() -> None:
        future.set_result(_card(store, given.key if given else None))

    threading.Thread(target=look, name=f"pogfast-card-{store.name}", daemon=True).start()
    return future


def _card(store: KnownStore, key: Key | None) -> Card:
    try:
        if key is None:
            return _locked(store)
        infos = store.archives(key)
    except (NoSuchArchive, NoArchives) as error:
        return Card(store, Verdict("bad", "No archives", why(error)))
    except PogfastError as error:
        return Card(store, Verdict("bad", "Not reachable", why(error)))
    readable = [info for info in infos if info.problem is None]
    return Card(store, judge(infos), readable[-1] if readable else None, len(infos))


def _locked(store: KnownStore) -> Card:
    """Returns what can be said without a key: by the names of manifests, which nobody has authenticated."""
    manifests = store.listing().manifests
    if not manifests:
        return Card(store, Verdict("bad", "Empty", "no archive"))
    times = [time for each in manifests if (time := time_of(Trailer(None), each.name))]
    newest = f"; by its name the newest is of {relative(max(times))}" if times else ""
    verdict = Verdict("unknown", "Locked", f"a key is needed to say whether it protects anything{newest}")
    return Card(store, verdict, None, len(manifests), is_locked=True)


def theme(request: Request, form: Form) -> Response:
    """Sets the color scheme, which a cookie remembers; without one it is the browser's."""
    answer = go(local_path(form.text("next")))
    chosen = form.choice("theme", ("auto", "light", "dark"))
    answer.set_cookie("pogfast-theme", chosen, max_age=YEAR, path="/", samesite="strict", httponly=True)
    return answer

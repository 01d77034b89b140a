"""Home: a card for each store with its verdict, the worst first; and running jobs.

Stores are asked at the same time, each by one thread at most. A store that has not answered after a moment gets its
card later: the page asks for it again.
"""

from __future__ import annotations

from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from pogfast.archives.overview import ArchiveInfo
from pogfast.archives.trailer import Trailer, time_of
from pogfast.errors import NoArchives, NoSuchArchive, PogfastError
from pogfast.keys import Key
from pogfast.ui import shell
from pogfast.ui.configuration import Seen, after_runs, ended_at, verdict_of_run
from pogfast.ui.forms import Form
from pogfast.ui.jobs import Job
from pogfast.ui.site import Site, go, local_path, store_of
from pogfast.ui.stores import KnownStore, in_thread, why
from pogfast.ui.verdicts import ORDER, Verdict, judge
from pogfast.ui.words import relative

if TYPE_CHECKING:
    from pogfast.runs import Record

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
    proven: float = 0.0  # the share of the data that was read back at some time
    proven_at: datetime | None = None  # the last time
    run: Record | None = None  # the last of a profile that writes to the store
    ran: datetime | None = None
    ran_so: Verdict | None = None
    next_run: datetime | None = None  # of such a profile whose timer is enabled
    enables: str = ""  # the command that enables the timer of a profile that has none
    late_since: datetime | None = None
    damage: Job | None = None  # the check that found it


def home(request: Request) -> Response:
    """Shows the cards of all stores."""
    site = Site.of(request)
    site.refresh()
    asked = {store.name: _ask(request, store) for store in site.shelf}
    wait(asked.values(), PATIENCE)
    cards = [asked[store.name].result() if asked[store.name].done() else store for store in site.shelf]
    cards.sort(key=lambda card: ORDER[card.verdict.mood] if isinstance(card, Card) else ORDER["warn"])
    return site.page(request, "home.html", cards=cards, jobs=site.jobs.running())


def card(request: Request) -> Response:
    """Returns the card of one store, when that has answered."""
    store = store_of(request)
    return Site.of(request).page(request, "home_card.html", card=_ask(request, store).result())


def _ask(request: Request, store: KnownStore) -> Future[Card]:
    """Asks a store in a thread of its own."""
    site = Site.of(request)
    given = site.given_key(request, store)
    seen = site.configuration.read()

    def look() -> Card:
        card = _with_runs(_card(store, given.key if given else None), seen)
        damaged = site.jobs.damage_in(store.address)
        if damaged is None or not card.archives:
            return card
        why = f"the check of {damaged.began.astimezone():%Y-%m-%d %H:%M} found {dict(damaged.summary)['Result']}"
        return replace(card, verdict=Verdict("bad", "Damaged", why), damage=damaged)

    return in_thread(look, f"pogfast-card-{store.name}")


def _card(store: KnownStore, key: Key | None) -> Card:
    try:
        if key is None:
            return _locked(store)
        infos = store.archives(key)
        proven = store.proven(key) if infos else []
    except (NoSuchArchive, NoArchives) as error:
        return Card(store, Verdict("bad", "No archives", why(error)))
    except PogfastError as error:
        return Card(store, Verdict("bad", "Not reachable", why(error)))
    readable = [info for info in infos if info.problem is None]
    last = readable[-1] if readable else None
    times = [share.read for share in proven if share.read]
    part = sum(share.share for share in proven if share.read)
    return Card(store, judge(infos, proven), last, len(infos), proven=part, proven_at=max(times, default=None))


def _with_runs(card: Card, seen: Seen) -> Card:
    """Returns a card with what the last runs of the store's profiles say, and their schedules."""
    profiles = seen.of_store(card.store)
    if not profiles:
        return card
    from pogfast.ui.schedules import lateness, next_run, with_timer

    assert seen.config is not None

    now = datetime.now(UTC)
    runs = [record for profile in profiles if (record := seen.last_run(profile.name))]
    late = [each for profile in profiles if (each := lateness(profile, seen.last_success(profile.name), now))]
    since = min((each.since for each in late if each.since), default=None)
    timed, untimed = with_timer(profiles, seen.config.file)
    names = [profile.name for profile in untimed]
    enables = shell.line(["pogfast", "schedule", "enable", *names, *shell.option("config", seen.config.file)])
    card = replace(card, next_run=next_run(timed, now), enables=enables if untimed else "", late_since=since)
    if card.archives:
        manifests = card.store.listing().manifests
        verdict = after_runs(card.verdict, seen.names_of(card.store), runs, manifests, [each.why for each in late])
        card = replace(card, verdict=verdict)
    if runs:
        newest = max(runs, key=lambda record: record.end)
        card = replace(card, run=newest, ran=ended_at(newest), ran_so=verdict_of_run(newest))
    return card


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

"""Settings: the stores of the pages, testing and adding one, and signing another browser in.

A store that is added without a name is shown until the server ends; with one it is written into the configuration.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from pogfast.errors import UsageError
from pogfast.stores import check_stores
from pogfast.stores.addresses import is_service
from pogfast.ui import shell
from pogfast.ui.forms import Form
from pogfast.ui.site import Site, go, session_of


def page(request: Request) -> Response:
    """Shows the stores, and the forms."""
    site = Site.of(request)
    seen = site.refresh()
    configured = {store.name for store in site.shelf if seen.names_of(store)}
    return site.page(request, "settings.html", seen=seen, configured=configured)


def _address(site: Site, form: Form) -> str:
    """Returns the address of a store in a form. Raises UsageError for a directory that is not allowed."""
    address = form.text("address")
    check_stores(address)
    if "," in address:
        raise UsageError("one store at a time")
    return address if is_service(address) else site.roots.inside(address.removeprefix("local:"))


def test(request: Request, form: Form) -> Response:
    """Shows what `doctor` finds out about a store. Writes, reads and deletes some small objects."""
    from pogfast.upkeep.doctor import examine

    site = Site.of(request)
    address = _address(site, form)
    findings = list(examine(address))
    return site.page(
        request, "settings_findings.html", findings=findings, command=shell.line(["pogfast", "doctor", address])
    )


def add(request: Request, form: Form) -> Response:
    """Shows a store from now on, and with a name keeps it in the configuration."""
    site, address = Site.of(request), _address(Site.of(request), form)
    name = form.text("name")
    if name:
        site.configuration.add_store(name, address)
        site.refresh()
    store = site.shelf.add(address, name)
    return go(f"/stores/{store.name}")


def hide(request: Request, form: Form) -> Response:
    """Shows a store no longer. Nothing in it is changed."""
    site, name = Site.of(request), form.text("store")
    site.shelf.remove(name)
    session_of(request).forget(name)
    return go("/settings")


def sign_in(request: Request, form: Form) -> Response:
    """Makes an address that signs in another browser, once."""
    site = Site.of(request)
    return site.page(request, "settings_address.html", address=f"{site.enter}?token={site.sessions.new_token()}")

"""Keys that pages ask for: a password or a key file, held in memory for this session or for one restore.

A key counts when it has opened an archive of the store. It is never sent back, and a wrong one is not kept.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from pogfast import keys
from pogfast.errors import UsageError, WrongKey
from pogfast.keys import Key
from pogfast.ui.forms import Form
from pogfast.ui.sessions import GivenKey
from pogfast.ui.site import Site, form_of, go, local_path, session_of, store_of
from pogfast.ui.stores import KnownStore

KINDS = ("password", "decryption-keyfile", "keyfile")


def ask(request: Request) -> Response:
    """Asks for the key of a store."""
    store = store_of(request)
    return Site.of(request).page(
        request,
        "key.html",
        store=store,
        reason="",
        next=local_path(form_of(request).text("next"), f"/stores/{store.name}"),
    )


def give(request: Request, form: Form) -> Response:
    """Takes a key for this session, if it opens an archive of the store."""
    site, store = Site.of(request), store_of(request)
    kind = form.choice("kind", KINDS)
    key, options = _key(site, form, kind)
    _try(store, key)
    session_of(request).keys[store.name] = GivenKey(key, options, once=form.on("once"))
    return go(local_path(form.text("next"), f"/stores/{store.name}"))


def _key(site: Site, form: Form, kind: str) -> tuple[Key, tuple[str, ...]]:
    """Returns the key of a form, and the options that give it to a command. Raises UsageError and KeyFileError."""
    if kind == "password":
        password = form.secret("password")
        if not password:
            raise UsageError("no password was typed")
        return keys.from_password(password), ()
    path = site.roots.inside(form.text("file"))
    key = keys.from_keyfile(path) if kind == "keyfile" else keys.from_decryption_keyfile(path)
    return key, (f"--{kind}={path}",)


def _try(store: KnownStore, key: Key) -> None:
    """Raises WrongKey for a key that opens none of a store's archives."""
    infos = store.archives(key)
    if infos and all(isinstance(info.error, WrongKey) for info in infos):
        raise WrongKey(
            f"this key opens none of the archives in {store.name}", hint="was another one used to create them?"
        )


def forget(request: Request, form: Form) -> Response:
    """Forgets the key of a store, and closes what was opened with it."""
    store = store_of(request)
    session_of(request).forget(store.name)
    Site.of(request).forget()
    return go("/")


def forget_all(request: Request, form: Form) -> Response:
    """Forgets all keys of this session."""
    session_of(request).forget()
    Site.of(request).forget()
    return go("/")

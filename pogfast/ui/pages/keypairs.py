"""Key files: making a pair, what a file is, which keys are held, and a sheet of paper for when all else is lost.

No page shows a private key, but for the sheet, and only if that is asked for.
"""

from __future__ import annotations

import os

from starlette.requests import Request
from starlette.responses import Response

from pogfast import keys
from pogfast.errors import KeyFileError, UsageError
from pogfast.ui import shell
from pogfast.ui.forms import Form
from pogfast.ui.site import Site, session_of

KINDS = {"keyfile": "keyfile", "password": "password", "x25519": "key pair"}


def page(request: Request) -> Response:
    """Shows the keys that this server and this browser hold, by kind and fingerprint, and the forms."""
    site = Site.of(request)
    started = [given for given in (site.writing, site.reading) if given is not None]
    held = [(name, given) for name, given in session_of(request).keys.items()]
    return site.page(request, "keys.html", started=list(dict.fromkeys(started)), held=held, kinds=KINDS)


def make(request: Request, form: Form) -> Response:
    """Makes a key pair below an allowed directory. Existing files are never changed."""
    site = Site.of(request)
    name = form.text("name")
    if not name or "/" in name:
        raise UsageError("the name of a key is a word, without /", hint="for example the name of this machine")
    directory = site.roots.inside(form.name("into"))
    public, private = keys.create_pair(name, directory)
    fingerprint = keys.from_decryption_keyfile(private).fingerprint
    command = shell.line(["pogfast", "keygen", os.path.join(directory, name)])
    return site.page(
        request, "keys_made.html", public=public, private=private, fingerprint=fingerprint, command=command
    )


def show(request: Request, form: Form) -> Response:
    """Shows the kind and the fingerprint of a key file."""
    site = Site.of(request)
    path = site.roots.inside(form.text("file"))
    command = shell.line(["pogfast", "key", "show", path])
    return site.page(request, "keys_shown.html", path=path, found=keys.describe_file(path), command=command)


def sheet(request: Request, form: Form) -> Response:
    """Shows a page to be printed: which stores there are, what restores them, and, if asked for, the private key."""
    site = Site.of(request)
    path = site.roots.inside(form.text("file"))
    key = keys.from_decryption_keyfile(path)
    assert key.private is not None
    shown = ""
    if form.on("private"):
        if os.path.getsize(path) != len(key.private):
            raise KeyFileError(f"{path} changed while it was read")
        digits = key.private.hex().upper()
        shown = " ".join(digits[at : at + 8] for at in range(0, len(digits), 8))
    return site.page(
        request,
        "keys_sheet.html",
        file=os.path.basename(path),
        fingerprint=key.fingerprint,
        shown=shown,
        back=shell.line(["basenc", "--base16", "-d"]),
        restore=[
            shell.line(["pogfast", "restore", store.archive("latest"), "--into=restored", "--decryption-keyfile=FILE"])
            for store in site.shelf
        ],
    )

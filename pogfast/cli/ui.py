"""`pogfast ui`: its options, and the start of the server.

The package `ui` serves the pages. Its libraries are an extra; they are imported when the verb runs.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from pogfast.cli.command import PATH, Whole, verb
from pogfast.cli.options import key_options, optional_key, service_options
from pogfast.cli.output import Output
from pogfast.cli.run import config_option
from pogfast.errors import KeyFileError, UsageError

if TYPE_CHECKING:
    from pogfast.ui.sessions import GivenKey

KEY_FILES = ("keyfile", "encryption_keyfile", "decryption_keyfile", "password_file")


@verb(
    "ui",
    examples=(
        "pogfast ui /mnt/backup s3://bucket/laptop",
        "pogfast ui /mnt/backup --decryption-keyfile mine.decrypt --no-browser --port 8080",
    ),
)
@click.argument("stores", nargs=-1, metavar="[STORE]...", type=PATH)
@click.option("--port", metavar="N", type=Whole(1, 65535), help="Port to listen on.  [default: a free one]")
@click.option("--no-browser", is_flag=True, help="Print the address, and open no browser.")
@click.option(
    "--root",
    "roots",
    metavar="DIR",
    type=PATH,
    multiple=True,
    help="Directory that pages may take files from and restore into; may be repeated.  [default: home directory]",
)
@click.option(
    "--listen",
    metavar="ADDRESS",
    default="127.0.0.1",
    show_default=True,
    help="IP address to listen on. All but loopback need a certificate and a password.",
)
@click.option("--host-name", "hosts", metavar="NAME", multiple=True, help="Name by which browsers call this machine.")
@click.option("--tls-certificate", metavar="FILE", type=PATH, help="Certificate of the server, PEM.")
@click.option("--tls-key", metavar="FILE", type=PATH, help="Private key of the certificate, PEM.")
@click.option(
    "--login-password-file", metavar="FILE", type=PATH, help="Ask for the password in the first line of FILE."
)
@config_option
@key_options
@service_options
def ui(output: Output, stores: tuple[str, ...], no_browser: bool, **options: Any) -> None:
    """Show archives in a web browser.

    Pages also create, restore and check archives. They are served to the user who runs this, on this machine; the
    printed address works once. Without a key, pages ask for one when they need it, and forget it afterwards.
    """
    from pogfast.stores import STORE_VARIABLE, check_stores

    try:
        from pogfast.ui import server
    except ImportError as error:
        raise UsageError(
            f"ui needs {error.name}, which is not installed", hint="pip install '.[ui]' in the source"
        ) from error
    from pogfast.ui.configuration import Configuration
    from pogfast.ui.roots import Roots
    from pogfast.ui.sessions import Sessions
    from pogfast.ui.site import Site
    from pogfast.ui.stores import Shelf

    given = stores or tuple(filter(None, os.environ.get(STORE_VARIABLE, "").split(",")))
    for store in given:
        check_stores(store)
    password = _password(options["login_password_file"])
    listen = server.Listen(
        options["listen"],
        options["port"] or 0,
        options["tls_certificate"],
        options["tls_key"],
        password is not None,
    )
    listen.check()
    keys = {word: options[word] for word in (*KEY_FILES, "password_command")}
    site = Site(
        Shelf(),
        Roots(options["roots"] or (os.path.expanduser("~"),)),
        Sessions(password),
        reading=_given(keys, writing=False),
        writing=_given(keys, writing=True),
        configuration=Configuration(options["config"]),
    )
    site.refresh()  # first, since names that the configuration gives are better than those made from addresses
    for store in given:
        site.shelf.add(store)

    def say(line: str) -> None:
        output.answer(line)
        output.flush()

    server.serve(site, listen, say=say, open_browser=not no_browser, hosts=options["hosts"])


def _given(keys: dict[str, Any], *, writing: bool) -> GivenKey | None:
    """Returns the key of the options or the environment, with the options that give it again; None if there is none,
    or none that can write."""
    from pogfast.system import environment
    from pogfast.ui.sessions import GivenKey

    try:
        key = optional_key(dict(keys), writing=writing)
    except KeyFileError:
        if not writing:
            raise
        return None
    if key is None:
        return None
    said = {word: path for word in KEY_FILES if (path := keys[word])}
    if not any(keys.values()):
        known = environment.known()
        order = ("decryption_keyfile", "encryption_keyfile") if not writing else ("encryption_keyfile",)
        named = {word: known.get(f"POGFAST_{word.upper()}", "") for word in (*order, *KEY_FILES)}
        said = dict([next((word, path) for word, path in named.items() if path)]) if any(named.values()) else {}
    return GivenKey(key, tuple(f"--{word.replace('_', '-')}={os.path.abspath(path)}" for word, path in said.items()))


def _password(path: str | None) -> str | None:
    """Returns the first line of a file. Raises UsageError."""
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8") as file:
            password = file.readline().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the password file {path}: {error}") from error
    if not password:
        raise UsageError(f"the first line of {path} is empty: it protects nothing")
    return password


VERBS = {"ui": ui}

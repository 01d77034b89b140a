"""Making an archive: what, where to, with which key and how; what excludes leave out; and the job.

The key is that of the command line, or one that the form names: a public key is enough. A password that is typed here
is used for this archive and forgotten.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from pogfast import keys
from pogfast.errors import UsageError
from pogfast.sizes import LEVELS, parse_size
from pogfast.stores import settings
from pogfast.ui import shell
from pogfast.ui.forms import Form
from pogfast.ui.jobs import Job
from pogfast.ui.pages import picker
from pogfast.ui.sessions import GivenKey
from pogfast.ui.site import Site, form_of, go, go_to_job

CHUNKERS = ("fixed", "fastcdc")
DEFAULTS = {"chunker": "fixed", "level": 3}
KINDS = ("encryption-keyfile", "keyfile", "password")
KEEPS = "Stored data is kept; run it again to continue."


def form(request: Request) -> Response:
    """Shows the form."""
    site = Site.of(request)
    chosen = form_of(request).text("store")
    return site.page(
        request,
        "create.html",
        chosen=chosen,
        chunkers=CHUNKERS,
        levels=LEVELS,
        can_write=site.writing is not None,
        kept=_kept(site),
        **picker.listed(site, site.roots.paths[0], files=True),
    )


def _kept(site: Site) -> list[str]:
    """Returns the names of the settings that tune has kept."""
    from pogfast.backup import profiles

    names = set[str]()
    with contextlib.suppress(OSError, UsageError):
        found = os.listdir(os.path.dirname(profiles.path_of("any")))
        names.update(name.removesuffix(profiles.SUFFIX) for name in found if name.endswith(profiles.SUFFIX))
    return sorted(names - {"pogfast", *site.refresh().profiles})


def preview(request: Request, form: Form) -> Response:
    """Shows what would be archived, and what the excludes leave out."""
    from pogfast.ui import excludes

    site = Site.of(request)
    words = _words(site, form)
    found = excludes.preview(words.pop("paths"), _selection(words))
    command = _command(site, form, _key_options(site, form))
    return site.page(request, "create_preview.html", found=found, command=command)


def start(request: Request, form: Form) -> Response:
    """Creates the archive, as a job."""
    site = Site.of(request)
    words, stores = _words(site, form), _stores(site, form)
    given = _key(site, form)

    def work(job: Job) -> None:
        from pogfast import backup
        from pogfast.ui import reports

        more = {word: words[word] for word in ("tags", "host", "comment") if words[word]}
        packs = words["settings"].pop("packs", None)
        options = backup.Options(selection=_selection(words), count_ahead=True, **more, **words["settings"])
        to = ",".join(store.address for store in stores)
        with settings.using(**({} if packs is None else {"packs": packs})):
            summary = backup.create(words["paths"], to, given.key, report=reports.CreateReport(job), options=options)
        reports.created(job, summary)

    def end(job: Job) -> None:
        for store in stores:
            store.changed()

    names = ", ".join(store.name for store in stores)
    job = site.jobs.start(
        f"Back up to {names}",
        work,
        stores=[store.at_work("written") for store in stores],
        command=_command(site, form, given.options),
        keeps=KEEPS,
        finally_=end,
    )
    job.link = (f"/stores/{stores[0].name}", f"Archives in {stores[0].name}")
    return go_to_job(job)


def save(request: Request, form: Form) -> Response:
    """Writes what the form says as a profile into the configuration."""
    site = Site.of(request)
    words, stores = _words(site, form), _stores(site, form)
    name = form.text("profile")
    if not name:
        raise UsageError("the profile needs a name", hint="for example the name of this machine")
    seen = site.refresh()
    named = {next(iter(seen.names_of(store)), store.name): store.address for store in stores}
    said: dict[str, Any] = {"stores": [*named], "sources": words["paths"]}
    said["key"] = _key_setting(_key_options(site, form))
    for word in ("exclude", "exclude_caches", "one_file_system", "exclude_larger_than", "tags", "host", "comment"):
        if words[word]:
            said[word.replace("_", "-")] = [*words[word]] if word == "tags" else words[word]
    for word, value in words["settings"].items():
        if value not in (DEFAULTS.get(word), False):
            said[word.replace("_", "-")] = str(value) if word == "packs" else value
    site.configuration.add_profile(name, said, named)
    return go(f"/profiles/{name}")


def _key_setting(options: tuple[str, ...]) -> dict[str, str]:
    """Returns the key of a command's options as a profile has it. Raises UsageError if it is in no file."""
    option, _, path = options[0].partition("=") if options else ("", "", "")
    kind = {"--encryption-keyfile": "public", "--decryption-keyfile": "private", "--keyfile": "keyfile"}.get(option)
    if option == "--password-file":
        kind = "password"
    if kind is None:
        raise UsageError("a profile needs a key file: it runs when nobody types a password")
    return {"file": path, "kind": kind}


def _words(site: Site, form: Form) -> dict[str, Any]:
    """Returns the options of a backup that a form has. Raises UsageError."""
    paths = [site.roots.inside(path) for path in form.names("path")]
    if not paths:
        raise UsageError("nothing to back up is chosen", hint="add directories or files")
    larger = form.text("larger")
    return {
        "paths": paths,
        "exclude": form.lines("exclude"),
        "exclude_caches": form.on("caches"),
        "one_file_system": form.on("one_file_system"),
        "exclude_larger_than": parse_size("larger than", larger) if larger else None,
        "tags": tuple(tag.strip() for tag in form.text("tags").split(",") if tag.strip()),
        "host": form.text("host") or None,
        "comment": form.text("comment"),
        "use": form.text("use"),
        "settings": _settings(site, form),
    }


def _settings(site: Site, form: Form) -> dict[str, Any]:
    """Returns chunker, level and the like: of the profile that is chosen, else of the form. Raises UsageError."""
    if form.text("use"):
        from pogfast.config import create_settings
        from pogfast.config.settings import of_command_line

        return of_command_line(create_settings(form.text("use"), site.configuration.file))
    return {"chunker": form.choice("chunker", CHUNKERS), "level": form.number("level", 3, *LEVELS)}


def _selection(words: dict[str, Any]) -> Any:
    from pogfast.backup.walk import Selection

    fields = ("exclude", "exclude_caches", "one_file_system", "exclude_larger_than")
    return Selection(**{word: words[word] for word in fields})


def _stores(site: Site, form: Form) -> list[Any]:
    """Raises UsageError and NoSuchArchive."""
    stores = [site.shelf.find(name) for name in form.texts("store")]
    if not stores:
        raise UsageError("no store is chosen", hint="choose at least one")
    return stores


def _key(site: Site, form: Form) -> GivenKey:
    """Returns the key that the form names, else that of the command line. Raises UsageError and KeyFileError."""
    kind = form.text("kind")
    if kind == "":
        if site.writing is None:
            raise UsageError("no key is given", hint="name a public key, or type a password")
        return site.writing
    if kind == "password":
        password = form.secret("password")
        if password != form.secret("again"):
            raise UsageError("the two passwords differ")
        return GivenKey(keys.from_password(password, writing=True))
    path = site.roots.inside(form.text("file"))
    if form.choice("kind", KINDS) == "keyfile":
        return GivenKey(keys.from_keyfile(path, writing=True), (f"--keyfile={path}",))
    return GivenKey(keys.from_encryption_keyfile(path), (f"--encryption-keyfile={path}",))


def _key_options(site: Site, form: Form) -> tuple[str, ...]:
    """Returns the options that give the key of a form, without opening it."""
    kind = form.text("kind")
    if kind == "":
        return site.writing.options if site.writing else ()
    return () if kind == "password" else (f"--{kind}={form.text('file')}",)


def _command(site: Site, form: Form, options: tuple[str, ...]) -> str:
    words = _words(site, form)
    paths = words.pop("paths")
    to = ",".join(site.shelf.find(name).address for name in form.texts("store")) or "STORE"
    line = ["pogfast", "create", *shell.option("to", to), *shell.options("exclude", words["exclude"])]
    for word in ("exclude_caches", "one_file_system", "exclude_larger_than", "host", "comment"):
        line += shell.option(word, words[word])
    line += shell.option("tag", ",".join(words["tags"]))
    if words["use"]:
        line += shell.option("profile", words["use"])
    else:
        for word, value in words["settings"].items():
            line += shell.option(word, value if value != DEFAULTS[word] else None)
    return shell.line([*line, *options, *shell.names(paths)])

"""Options that several verbs share, and what they are turned into: keys, archives, a progress display.

The libraries for this are imported by the functions, when a verb runs.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from pogfast.cli.command import PATH, Duration, Whole, apply, split_commas
from pogfast.cli.output import Output
from pogfast.console import Console
from pogfast.sizes import MAX_JOBS, MAX_PARALLEL

if TYPE_CHECKING:
    from pogfast.archives.archive import Archive
    from pogfast.cli.progress import Display, Style
    from pogfast.cluster.crews import CrewOptions
    from pogfast.errors import PogfastError
    from pogfast.keys import Key

key_options = apply(
    [
        click.option("--keyfile", metavar="FILE", type=PATH, help="Symmetric key: the content of FILE."),
        click.option(
            "--encryption-keyfile", metavar="FILE", type=PATH, help="Public key: creates archives, cannot read them."
        ),
        click.option(
            "--decryption-keyfile", metavar="FILE", type=PATH, help="Private key: reads archives, and can create them."
        ),
        click.option(
            "--password-file", metavar="FILE", type=PATH, help="Read the password from the first line of FILE."
        ),
        click.option(
            "--password-command", metavar="COMMAND", help="Read the password from the first line COMMAND prints."
        ),
    ]
)


def _set(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value is not None and not context.resilient_parsing:
        from pogfast.stores import settings

        settings.change(**{str(parameter.name): value})


def _service(*names: str, **more: Any) -> Callable[[Any], Any]:
    return click.option(*names, **more, expose_value=False, callback=_set)


def _set_limit(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None and not context.resilient_parsing:
        from pogfast.stores.limits import RateLimit

        limit = RateLimit.parse(parameter.opts[-1], value)
        _set(context, parameter, limit)
        output = context.find_object(Output)
        if output is not None:
            output.limits[parameter.opts[-1]] = limit


def _limit(name: str, help: str) -> Callable[[Any], Any]:
    return click.option(name, metavar="RATE", expose_value=False, callback=_set_limit, help=help)


service_options = apply(
    [
        _service("--s3-endpoint", metavar="URL", help="S3 service other than AWS."),
        _service("--b2-realm", metavar="URL", help="B2 service other than Backblaze's."),
        _service(
            "--uploads",
            "--parallel",
            "parallel",
            metavar="N",
            type=Whole(1, MAX_PARALLEL),
            help="Concurrent requests to a service.  [default: as latency asks for]",
        ),
        _service(
            "--retry-for",
            metavar="TIME",
            type=Duration(bare=True),
            help="Time for which transient errors are retried: 90s, 5m, 1h.  [default: 5m]",
        ),
        _limit("--limit-upload", "Limit on what is sent to services, in bytes a second: 500KB, 5MB."),
        _limit("--limit-download", "Limit on what is received from services, in bytes a second: 500KB, 5MB."),
    ]
)
storage_class_option = _service(
    "--storage-class",
    metavar="CLASS",
    help="Storage class of blobs and packs in S3; all else stays in the standard class.",
)


def _set_packs(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None and not context.resilient_parsing:
        from pogfast.stores.settings import parse_packs

        _set(context, parameter, parse_packs("--packs", value))


class _WithValue(click.Option):
    """An option that has a value of its own, or one behind =."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        return record and (record[0].replace(" [=", "[="), record[1])


packs_option = click.option(
    "--packs",
    cls=_WithValue,
    metavar="[=SIZE]",
    is_flag=False,
    flag_value="yes",
    expose_value=False,
    callback=_set_packs,
    help="Store small blobs together in packs, of 16 MiB or SIZE; the store remembers it.",
)


def tag_option(help: str) -> Callable[[Any], Any]:
    """Returns the option --tag; --tag a,b and --tag a --tag b are the same in every verb."""
    return click.option("--tag", "tags", metavar="TAG[,TAG]", multiple=True, callback=split_commas, help=help)


archive_filter_options = apply(
    [
        click.option("--host", metavar="NAME", help="For STORE/latest: the newest archive of this host."),
        tag_option("For STORE/latest: the newest archive with all of these tags."),
        click.option("--path", metavar="PATH", type=PATH, help="For STORE/latest: the newest archive of PATH."),
    ]
)


def _set_lock(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None and not context.resilient_parsing:
        from pogfast.stores.settings import Lock

        _set(context, parameter, Lock.parse(value))


object_lock_option = click.option(
    "--object-lock",
    metavar="MODE:TIME",
    expose_value=False,
    callback=_set_lock,
    help="Lock written objects in S3: compliance:90d (nobody can delete), governance:90d (some users can).",
)

jobs_option = click.option(
    "--jobs", metavar="N", type=Whole(1, MAX_JOBS), help="Worker threads.  [default: number of cores]"
)


executor_options = apply(
    [
        click.option(
            "--executor",
            metavar="dask:ADDRESS",
            help="Have the workers of a Dask scheduler do the work: tcp://HOST:PORT, tls://HOST:PORT, "
            "scheduler-file=PATH.",
        ),
        click.option(
            "--worker-key",
            metavar="REFERENCE",
            help="Where each worker finds the key: file:PATH or command:COMMAND.  [default: as given here]",
        ),
        click.option(
            "--worker-timeout",
            metavar="TIME",
            type=Duration(bare=True),
            default="5m",
            show_default=True,
            help="End when no worker could do anything for this long.",
        ),
        click.option("--cluster-ca", metavar="FILE", type=PATH, help="CA of the scheduler at tls:// (PEM)."),
        click.option("--cluster-cert", metavar="FILE", type=PATH, help="This client's certificate for it (PEM)."),
        click.option("--cluster-key", metavar="FILE", type=PATH, help="The private key of the certificate (PEM)."),
        click.option(
            "--insecure-cluster", is_flag=True, help="Allow tcp:// to another machine: all traffic is unencrypted."
        ),
    ]
)


def is_given(option: str) -> bool:
    """Returns False for an option of the command that has its default."""
    source = click.get_current_context().get_parameter_source(option)
    return source is not click.core.ParameterSource.DEFAULT


OF_CLUSTERS = ("worker_key", "worker_timeout", "cluster_ca", "cluster_cert", "cluster_key", "insecure_cluster")


def executor_of(options: dict[str, Any]) -> tuple[str | None, CrewOptions | None]:
    """Returns the executor and how to reach it, None if none is given. Removes its options from `options`; the key's
    must be there. Raises UsageError for options of an executor without one."""
    executor = options.pop("executor")
    timeout, reference = options.pop("worker_timeout"), options.pop("worker_key")
    ca, certificate, key = options.pop("cluster_ca"), options.pop("cluster_cert"), options.pop("cluster_key")
    insecure = options.pop("insecure_cluster")
    if executor is None:
        for word in OF_CLUSTERS:
            if is_given(word):
                from pogfast.errors import UsageError

                raise UsageError(f"--{word.replace('_', '-')} is for work with --executor")
        return None, None
    from pogfast.cluster.crews import CrewOptions

    return executor, CrewOptions(ca, certificate, key, insecure, timeout, reference or _where_key_is(options))


def _where_key_is(options: dict[str, Any]) -> str:
    """Returns where workers find the key that the options or the environment give, "" if that cannot be said."""
    from pogfast.system import environment

    known = environment.known()
    for word in ("keyfile", "decryption_keyfile", "password_file", "password_command"):
        given = options[word] or known.get(f"POGFAST_{word.upper()}")
        if given:
            return f"command:{given}" if word == "password_command" else f"file:{os.path.abspath(given)}"
    return ""


def key_of(
    options: dict[str, Any], *, writing: bool = False, stdin_is_data: bool = False, store: str | None = None
) -> Key:
    """Returns the key of the options or the environment, else asks for a password, if the `store` exists. Removes the
    key options from `options`. Raises UsageError, KeyFileError and NoSuchArchive."""

    def ask() -> str:
        from pogfast.console import ask_password

        if store is not None:
            require_store(store)
        return ask_password(twice=writing, stdin_is_data=stdin_is_data, variables=True)

    return _key(options, ask, writing=writing)


class _NoKey(Exception):
    """Neither options nor variables give a key."""


def optional_key(options: dict[str, Any], *, writing: bool = False) -> Key | None:
    """Returns the key, or None if neither options nor variables give one. Asks for no password. Raises as key_of."""

    def ask() -> str:
        raise _NoKey

    try:
        return _key(options, ask, writing=writing)
    except _NoKey:
        return None


def _key(options: dict[str, Any], ask: Callable[[], str], *, writing: bool) -> Key:
    from pogfast import keys
    from pogfast.system import environment

    words = ("keyfile", "encryption_keyfile", "decryption_keyfile", "password_file", "password_command")
    given = {word: options.pop(word) for word in words}
    output = click.get_current_context().find_object(Output)
    assert output is not None
    return keys.from_options(**given, environ=environment.known(), ask=ask, writing=writing, tell=output.warning)


def _store(context: click.Context, parameter: click.Parameter, given: str | None) -> str | None:
    return given if context.resilient_parsing else store_of(given)


# For verbs with a single argument. Verbs with further ones decide themselves whether the first is a STORE.
store_argument = click.argument("store", metavar="STORE", type=PATH, required=False, callback=_store)


def store_of(given: str | None) -> str:
    """Returns the given store, else that of POGFAST_STORE. Raises UsageError if there is none."""
    from pogfast.errors import UsageError
    from pogfast.stores import default_store

    if store := given if given is not None else default_store():
        return store
    raise UsageError("no STORE given", hint="name one, or set POGFAST_STORE")


def require_archive(text: str) -> None:
    """Checks that the store of an archive exists, before a password is asked for. Raises UsageError, NoSuchArchive."""
    from pogfast.stores import find_manifest

    store, _ = find_manifest(text)
    store.close()


def require_store(text: str) -> None:
    """Checks that a store exists, before a password is asked for. Raises UsageError, NoSuchArchive."""
    from pogfast.stores import open_store

    open_store(text).close()


def open_archive(output: Output, text: str, options: dict[str, Any]) -> Archive:
    """Opens the archive of an argument and the options of a verb; the caller closes it."""
    require_archive(text)
    from pogfast.archives.lookup import open_archive

    return open_archive(text, key_of(options), **options, tell=reporter(output))


def reporter(output: Output) -> Callable[[PogfastError | str], None]:
    """Returns a callback that prints warnings, and problems after which the library went on (exit code 3)."""

    def tell(what: PogfastError | str) -> None:
        if isinstance(what, str):
            output.warning(what)
        else:
            output.problem(what)

    return tell


# What is printed when a verb is interrupted. Other verbs only read, or print what they did.
KEPT = {
    "archival": "stored data is kept, run the same command again to continue",
    **dict.fromkeys(("pack", "unpack"), "what has been moved stays, run the same command again to continue"),
    "copy": "copied data is kept, run the same command again to continue",
    "restore": "restored files are kept, run the same command again to continue",
}


@contextlib.contextmanager
def displayed(output: Output, label: str, during: str) -> Iterator[Display]:
    """Shows the progress of a verb while entered. `during`: the operation that errors belong to, in restic's words."""
    from pogfast.cli.progress import Display

    def emit(words: dict[str, Any]) -> None:
        output.emit("status", **words, error_count=output.errors)
        output.flush()

    output.during = during
    output.kept = KEPT.get(during, "")
    with Display(label, _style(output), lambda line: Console.say(output, line), emit) as shown:
        output.display = shown
        try:
            yield shown
        finally:
            output.display = None


def _style(output: Output) -> Style:
    if output.quiet:
        return "none"
    if output.json:
        return "json"
    if sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return "bar"
    return "lines" if output.verbose else "none"

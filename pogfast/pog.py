"""`pog` and `pog-create-keypair`: pogcli's command lines, to the letter on standard output, without its defects.

One library call a mode; what files mean is in inputs.py, what is done with them in create.py and restore.py. Nothing
but the standard library is imported before the command line has been understood, so that --help answers at once.
Everything but the answer goes to standard error, one line each; no failure ends in a traceback.
"""

from __future__ import annotations

import getopt
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pogfast.errors import PogfastError
    from pogfast.keys import Key

POG_VERSION = "0.1.4"  # the release whose command line this is

HELP = """\
pog: encrypts files into blobs and a manifest, and brings them back.

Usage:
  pog [KEY] [--save-to=TARGETS] [--chunk-size=SIZE] [--compresslevel=N]
      [--concurrency=N] [--store-absolute-paths] INPUT...
  pog [KEY] --decrypt [--consume] MANIFEST [NAME...] ...
  pog [KEY] --decrypt [--consume] BLOB...
  pog [KEY] --dump-manifest MANIFEST...
  pog [KEY] --dump-manifest-index MANIFEST...

An INPUT is a file, a directory with all that is below it, or a pattern (quoted; ** goes down).
A MANIFEST ends in .mfn; local:DIR/X.mfn has its blobs in DIR/data, any other in the working directory.
NAMEs behind a manifest restore these files only. BLOBs are decompressed to standard output, in order.

Writing:
  --save-to=TARGETS             local:/DIR, local (data/ here), or a program that is run as
                                PROGRAM NAME FILE for each blob; several with commas between.
                                Without it all goes flat into the working directory.
  --chunk-size=SIZE             cut the compressed stream so often: 50MB, 4MiB ... [100MB]
  --compresslevel=N             zstd's level, 1 to 22 [3]
  --concurrency=N               at most so many workers [8, and never more than there are cores]
  --store-absolute-paths        archive every file under its whole path

Reading:
  --decrypt                     restore into the working directory
  --consume                     delete blobs when all files that need them are on the disk
  --dump-manifest               print the archived names, each with its blobs
  --dump-manifest-index         print the blobs; with a key pair the public key is enough

Keys (without one of them a password is asked for):
  --keyfile=FILE                the secret is what is in FILE
  --encryption-keyfile=FILE     the public key of a pair: writes, and reads manifest indexes
  --decryption-keyfile=FILE     its private key: reads; --decrypt may be left out
                                (pog-create-keypair makes a pair)

  -h, --help                    print this
  --version                     print the version

Long options may be shortened as long as it is clear which is meant.
Exit codes: 0 done, 1 nothing was done, 2 wrong usage, 3 done but for what is named, 4 damage found,
10 no such archive, 12 wrong key, 130 interrupted.
"""

KEYPAIR_HELP = """\
pog-create-keypair: makes pki.encrypt (public) and pki.decrypt (private) in the working directory.

Files that are there already are not touched.
"""

WITH_VALUE = (
    "chunk-size",
    "compresslevel",
    "concurrency",
    "decryption-keyfile",
    "encryption-keyfile",
    "keyfile",
    "save-to",
)
FLAGS = ("consume", "decrypt", "dump-manifest", "dump-manifest-index", "help", "store-absolute-paths", "version")

# Which options can stand together: a command line must fit one of these. Of a group in parentheses one at most.
FORMS = (
    (
        {"keyfile", "encryption-keyfile", "save-to", "chunk-size", "compresslevel", "concurrency"}
        | {"store-absolute-paths"},
        ({"keyfile", "encryption-keyfile"},),
    ),
    (
        {"keyfile", "decryption-keyfile", "decrypt", "dump-manifest", "consume"},
        ({"keyfile", "decryption-keyfile"}, {"decrypt", "dump-manifest"}),
    ),
    (
        {"keyfile", "decryption-keyfile", "encryption-keyfile", "dump-manifest-index"},
        ({"keyfile", "decryption-keyfile", "encryption-keyfile"},),
    ),
)

SIZE_UNITS = {"": 1, "b": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15}
SIZE_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "pib": 2**50}
SIZE_WORDS = {"byte": "", "kilobyte": "k", "megabyte": "m", "gigabyte": "g", "terabyte": "t", "petabyte": "p"}
SIZE_WORDS |= {"kibibyte": "kib", "mebibyte": "mib", "gibibyte": "gib", "tebibyte": "tib", "pebibyte": "pib"}
SIZE_WORDS |= {"kb": "k", "mb": "m", "gb": "g", "tb": "t", "pb": "p"}

# Names beyond these are counted, not shown, when short names clash.
MOST_NOTES = 20


def parse(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """(options without their dashes -> values, inputs), as docopt 0.6.2 reads them. Raises UsageError.

    GNU getopt's rules are docopt's: options between inputs, unique beginnings of long options, bundled short ones,
    `-` an input. `--` ends the options; docopt leaves it among the inputs, which nobody can mean.
    """
    from pogfast.errors import UsageError

    hint = "see pog --help"
    try:
        pairs, inputs = getopt.gnu_getopt(list(arguments), "h", [*(f"{name}=" for name in WITH_VALUE), *FLAGS])
    except getopt.GetoptError as error:
        raise UsageError(error.msg, hint) from error
    options: dict[str, str] = {}
    for name, value in pairs:
        name = "help" if name == "-h" else name[2:]
        if name in options and name not in ("help", "version"):
            raise UsageError(f"--{name} is given twice", hint)
        options[name] = value
    if "help" in options or "version" in options:
        return options, inputs
    if not any(_fits(options, *form) for form in FORMS):
        together = ", ".join(f"--{name}" for name in options)
        raise UsageError(f"these options do not go together: {together}", hint)
    if not inputs:
        raise UsageError("no input is given", hint)
    return options, inputs


def _fits(options: dict[str, str], allowed: set[str], groups: tuple[set[str], ...]) -> bool:
    return options.keys() <= allowed and all(len(options.keys() & group) <= 1 for group in groups)


def parse_size(text: str) -> int:
    """Bytes in `100MB`, `1.5k`, `2 KiB`, `10 bytes`: decimal units, binary ones with an i. Raises UsageError."""
    from pogfast.errors import UsageError

    number = text.strip()
    unit = number.lstrip("0123456789.")
    digits = number[: len(number) - len(unit)]
    unit = unit.strip().lower()
    unit = SIZE_WORDS.get(unit.removesuffix("s") if len(unit) > 3 else unit, unit)
    try:
        size = int(float(digits) * SIZE_UNITS[unit]) if "." in digits else int(digits) * SIZE_UNITS[unit]
    except (KeyError, ValueError) as error:
        raise UsageError(f"--chunk-size={text}: not a size", hint="write 50MB, 4MiB or a number of bytes") from error
    if not 1 <= size < 2**63:
        raise UsageError(f"--chunk-size={text}: a chunk has at least one byte, and fits this machine")
    return size


def parse_number(name: str, text: str, least: int, most: int) -> int:
    from pogfast.errors import UsageError

    try:
        number = int(text)
    except ValueError as error:
        raise UsageError(f"--{name}={text}: not a whole number") from error
    if not least <= number <= most:
        raise UsageError(f"--{name}={text}: must be {least} to {most}")
    return number


class Console:
    """What the user sees: pog's lines on standard output, everything else on standard error."""

    def __init__(self, command: str = "pog") -> None:
        self.command = command
        self.exit_code = 0
        self.notes = 0
        self.watched = sys.stdout is not None and sys.stdout.isatty()

    def print(self, line: str) -> None:
        """A line of the answer. A name that is not UTF-8 is printed as the bytes that it is."""
        try:
            raw = os.fsencode(line)
        except UnicodeEncodeError:
            raw = line.encode("utf-8", "backslashreplace")
        self._write(raw + b"\n")

    def _write(self, raw: bytes) -> None:
        from pogfast.errors import PogfastError

        if sys.stdout is None:
            raise PogfastError("standard output is closed")
        try:
            sys.stdout.buffer.write(raw)
            if self.watched:
                sys.stdout.buffer.flush()
        except OSError as error:
            raise self.cannot_print(error) from error

    def flush(self) -> None:
        if sys.stdout is None:
            return
        try:
            sys.stdout.buffer.flush()
        except OSError as error:
            raise self.cannot_print(error) from error

    def cannot_print(self, error: OSError) -> PogfastError:
        from pogfast.errors import PogfastError

        # What could not be written would be tried again, and complained about, when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return PogfastError(f"cannot write to standard output: {error.strerror}")

    def note(self, kind: str, text: str, hint: str = "") -> None:
        """A line on standard error; control characters in it are shown, not sent to the terminal."""
        for line in (f"{self.command}: {kind}: {text}", hint and f"  {hint}"):
            if line and sys.stderr is not None:
                print("".join(c if c.isprintable() else repr(c)[1:-1] for c in line), file=sys.stderr)

    def problem(self, error: PogfastError) -> None:
        """Something failed and the rest goes on. The exit code will tell the worst: damage before all else."""
        self.note("error", str(error), error.hint)
        self.exit_code = 4 if 4 in (self.exit_code, error.exit_code) else self.exit_code or error.exit_code

    def tell(self, what: PogfastError | str) -> None:
        """What inputs.py came across: a problem, or something to know."""
        if not isinstance(what, str):
            self.problem(what)
            return
        self.notes += 1
        if self.notes <= MOST_NOTES:
            self.note("warning", what)

    def count_notes(self) -> None:
        if self.notes > MOST_NOTES:
            self.note("warning", f"{self.notes - MOST_NOTES} more like these")

    # What create.py and restore.py report.
    def file(self, index: int, total: int, path: str) -> None:
        self.print(f"*** {index}/{total}: {path}")

    def blob(self, name: str) -> None:
        self.print(name)

    def manifest(self, index: int, total: int, name: str) -> None:
        """Printed before the manifest is stored: where nobody can be told of an archive, none is made."""
        self.print(f"*** {index}/{total}: {name}")
        self.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command `pog`. Returns its exit code."""
    return guarded(Console(), lambda console: _pog(console, sys.argv[1:] if arguments is None else arguments))


def guarded(console: Console, command: Callable[[Console], None]) -> int:
    """Runs a command. Whatever it ends in becomes one line on standard error and an exit code."""
    from pogfast.errors import PogfastError

    try:
        _end_on_sigterm()
        command(console)
        console.flush()
    except PogfastError as error:
        console.note("error", str(error), error.hint)
        return error.exit_code
    except KeyboardInterrupt:
        console.note("error", "interrupted; what is stored already is kept, run the command again to go on")
        return 130
    except MemoryError as error:
        console.note("error", str(error) or "out of memory")
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        console.note("error", f"{where}{error.strerror or error}")
        return 1
    return console.exit_code


def _end_on_sigterm() -> None:
    """SIGTERM ends a run as Ctrl-C does: unfinished files are taken away."""
    import signal

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    try:
        signal.signal(signal.SIGTERM, interrupt)
    except ValueError:
        return  # called from another thread than the main one: signals are somebody else's there


def _pog(console: Console, arguments: Sequence[str]) -> None:
    options, inputs = parse(arguments)
    if "help" in options:
        console.print(HELP.rstrip("\n"))
    elif "version" in options:
        from pogfast import __version__

        console.print(f"Pog {POG_VERSION} (pogfast {__version__})")
    elif "dump-manifest-index" in options:
        _dump_indexes(console, options, inputs)
    elif "dump-manifest" in options:
        _dump_manifests(console, options, inputs)
    elif "decrypt" in options or "decryption-keyfile" in options:
        _decrypt(console, options, inputs)
    else:
        _encrypt(console, options, inputs)


def _encrypt(console: Console, options: dict[str, str], inputs: Sequence[str]) -> None:
    from pogfast.create import create, default_jobs
    from pogfast.inputs import find_sources
    from pogfast.stores import check_targets, open_targets

    chunk_size = parse_size(options.get("chunk-size", "100MB"))
    level = parse_number("compresslevel", options.get("compresslevel", "3"), -131072, 22)
    concurrency = parse_number("concurrency", options.get("concurrency", "8"), 1, 10**6)
    if "consume" in options:
        console.note("warning", "--consume does nothing when writing")
    check_targets(options.get("save-to"))
    sources = find_sources(inputs, absolute="store-absolute-paths" in options, tell=console.tell)
    console.count_notes()
    key = _key(options, writing=True)
    targets = open_targets(options.get("save-to"))
    try:
        create(
            sources,
            key,
            targets,
            chunk_size=chunk_size,
            level=level,
            jobs=min(concurrency, default_jobs()),
            report=console,
        )
    finally:
        for target in targets:
            target.close()


def _decrypt(console: Console, options: dict[str, str], inputs: Sequence[str]) -> None:
    from pogfast.create import default_jobs
    from pogfast.errors import PogfastError
    from pogfast.restore import cat_blobs, restore

    key = _key(options, writing=False)
    consume = "consume" in options
    blobs, archives = _by_archive(inputs)
    if blobs:
        if sys.stdout is None:
            raise PogfastError("standard output is closed")
        try:
            cat_blobs(blobs, key, sys.stdout.buffer, consume=consume)
        except OSError as error:
            raise console.cannot_print(error) from error
    for archive, names in archives:
        restore(archive, key, ".", names=names or None, consume=consume, jobs=default_jobs(), report=console)


def _by_archive(inputs: Sequence[str]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """(blobs before the first manifest, manifests each with the names behind it)."""
    blobs: list[str] = []
    archives: list[tuple[str, list[str]]] = []
    for given in inputs:
        if given.endswith(".mfn"):
            archives.append((given, []))
        elif archives:
            archives[-1][1].append(given)
        else:
            blobs.append(given)
    return blobs, archives


def _dump_manifests(console: Console, options: dict[str, str], inputs: Sequence[str]) -> None:
    from pogfast.restore import read_archive

    key = _key(options, writing=False)
    for archive in inputs:
        opened = read_archive(archive, key)
        _head(console, archive)
        for name, entry in opened.entries.items():
            console.print(f"* {name}:")
            for blob in entry.blobs:
                console.print(blob)


def _dump_indexes(console: Console, options: dict[str, str], inputs: Sequence[str]) -> None:
    from pogfast.restore import read_index

    key = _key(options, writing=False)
    for archive in inputs:
        blobs = read_index(archive, key)
        _head(console, archive)
        for blob in blobs:
            console.print(blob)


def _head(console: Console, archive: str) -> None:
    """Which manifest comes next: on standard error, as pog has it."""
    console.flush()
    if sys.stderr is not None:
        print(f"*** {archive}:", file=sys.stderr)


def _key(options: dict[str, str], *, writing: bool) -> Key:
    from pogfast import keys

    if options.get("encryption-keyfile"):
        return keys.from_encryption_keyfile(options["encryption-keyfile"])
    if options.get("decryption-keyfile"):
        return keys.from_decryption_keyfile(options["decryption-keyfile"])
    if options.get("keyfile"):
        return keys.from_keyfile(options["keyfile"], writing=writing)
    return keys.from_password(_password(writing))


def _password(twice: bool) -> str:
    """Asked for at the terminal; without one it is read from standard input, a line each time."""
    from pogfast.errors import UsageError

    while True:
        password = _ask()
        if twice and not password:
            raise UsageError("an empty password protects nothing")
        if not twice or _ask() == password:
            return password
        print("The passwords differ, once more.", file=sys.stderr)


def _ask() -> str:
    from pogfast.errors import UsageError

    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        line = sys.stdin.readline() if sys.stdin is not None else ""
        if not line:
            raise UsageError(
                "no password: there is no terminal, and standard input has ended",
                hint="give --keyfile, or the password on standard input (twice when writing)",
            ) from None
        return line.rstrip("\r\n")
    from getpass import getpass

    try:
        return getpass("Password: ")
    except EOFError:
        raise UsageError("no password was given") from None


def create_keypair(arguments: Sequence[str] | None = None) -> int:
    """The command `pog-create-keypair`. Returns its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    return guarded(Console("pog-create-keypair"), lambda console: _create_keypair(console, given))


def _create_keypair(console: Console, arguments: Sequence[str]) -> None:
    if list(arguments) in (["-h"], ["--help"]):
        console.print(KEYPAIR_HELP.rstrip("\n"))
        return
    for argument in arguments:
        console.note("warning", f"takes no arguments: {argument} is ignored")
    from pogfast.keys import create_pair

    create_pair()
    console.print("`pki.encrypt` contains the key for encryption")
    console.print("`pki.decrypt` contains the key for decryption")
    console.print(
        'The private key is in `pki.decrypt`. It can be used to regenerate the "public" (encryption) key if necessary.'
    )
    console.print("Keep it secret. Keep it safe.")


if __name__ == "__main__":
    sys.exit(main())

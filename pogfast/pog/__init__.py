"""`pog`, `pog-create-keypair` and `pog-cleanup`: pogcli's command lines, without its defects.

`pog` prints the same on standard output as pogcli, to the letter. inputs.py finds the files,
create.py archives them, restore.py restores them, cleaning.py is pog-cleanup, addresses.py opens stores in pog's words.
Nothing but the standard library is imported before the command line has been understood, so that --help answers at
once. Everything but the answer goes to standard error, one line each; no failure ends in a traceback.
"""

from __future__ import annotations

import getopt
import sys

from pogfast.console import Console, check_values, guarded, visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pogfast.keys import Key

POG_VERSION = "0.1.4"  # the release whose command line this is

HELP = """\
pog: encrypt files into blobs and a manifest, and restore them.

Usage:
  pog [KEY] [--save-to=TARGETS] [--chunk-size=SIZE] [--compresslevel=N]
      [--concurrency=N] [--store-absolute-paths] INPUT...
  pog [KEY] --decrypt [--consume] MANIFEST [NAME...] ...
  pog [KEY] --decrypt [--consume] BLOB...
  pog [KEY] --dump-manifest MANIFEST...
  pog [KEY] --dump-manifest-index MANIFEST...

An INPUT is a file, a directory with everything below it, or a quoted pattern (** matches subdirectories).
A MANIFEST ends in .mfn. The blobs of local:DIR/X.mfn are in DIR/data, those of s3://BUCKET/X.mfn and b2://BUCKET/X.mfn
in the bucket, those of any other in the working directory. NAMEs after a manifest restore only these files. BLOBs are
files, or local:NAME, s3://BUCKET/NAME, b2://BUCKET/NAME; they are decompressed to standard output, in order.

Writing:
  --save-to=TARGETS             s3://BUCKET, b2://BUCKET (s3 and b2: the bucket of S3_BUCKET_NAME and
                                B2_BUCKET_NAME), local:/DIR, local (data/ here), or a program that is run
                                as PROGRAM NAME FILE for each blob; several separated by commas
                                [the working directory, without subdirectories]
  --chunk-size=SIZE             size of the chunks of the compressed stream: 50MB, 4MiB ... [100MB]
  --compresslevel=N             compression level of zstd, 1 to 22 [3]
  --concurrency=N               maximum number of workers [8; never more than cores]
  --store-absolute-paths        archive every file under its absolute path

Reading:
  --decrypt                     restore into the working directory
  --consume                     delete blobs in the working directory once all files that need them are
                                on the disk; nothing is deleted from a store
  --dump-manifest               print the archived names and their blobs
  --dump-manifest-index         print the blobs; with a key pair the public key is enough

Keys (by default a password is asked for):
  --keyfile=FILE                symmetric key: the content of FILE
  --encryption-keyfile=FILE     public key of a pair: writes, and reads manifest indexes
  --decryption-keyfile=FILE     private key of a pair: reads, and implies --decrypt
                                (pog-create-keypair creates a pair)

  -h, --help                    print this help
  --version                     print the version

Long options may be abbreviated if they are unambiguous.
Exit codes: 0 success, 1 failed, 2 wrong usage, 3 incomplete: what is missing is named, 4 damage found,
10 no such archive, 12 wrong key, 130 interrupted.
"""

KEYPAIR_HELP = """\
pog-create-keypair: create pki.encrypt (public) and pki.decrypt (private) in the working directory.

Existing files are not changed.
"""

CLEANUP_HELP = """\
pog-cleanup: remove archives that are very similar to a newer one, and blobs that no archive needs.

Usage:
  pog-cleanup [KEY] [--backup=STORE] [--reckless-abandon]

  --backup=STORE                s3 and b2 (with S3_BUCKET_NAME, B2_BUCKET_NAME), s3://BUCKET, local (data/
                                here), local:/DIR or a directory [local]
  --reckless-abandon            really remove them; otherwise only print what would be removed

Keys (by default a password is asked for):
  --keyfile=FILE                symmetric key: the content of FILE
  --encryption-keyfile=FILE     public key of a pair, which is enough
  --decryption-keyfile=FILE     private key of a pair

Removed archives can be brought back for 24 hours: see pogfast undelete --help. Younger blobs are kept, since a
running backup may need them. See also pogfast prune --help.
"""

# Units of sizes: kilo, mega ...
PREFIXES = "kmgtpezy"
BINARY = ("kibibyte", "mebibyte", "gibibyte", "tebibyte", "pebibyte", "exbibyte", "zebibyte", "yobibyte")
MAX_CHUNK = 1 << 62  # bytes; larger than any file

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

# Combinations of options: a command line must fit one of these forms, with at most one option of each group.
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


def parse(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Returns (options without dashes -> values, inputs), as docopt 0.6.2 parses them. Raises UsageError.

    docopt's rules are those of GNU getopt: options between inputs, unambiguous abbreviations of long options, bundled
    short options, `-` as an input. `--` ends the options; docopt would treat it as an input, which nobody wants.
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
        raise UsageError(f"these options cannot be combined: {together}", hint)
    if not inputs:
        raise UsageError("no input given", hint)
    return options, inputs


def _check(
    arguments: Sequence[str],
    options: dict[str, str],
    inputs: Sequence[str],
    valued: Sequence[str],
    flags: Sequence[str],
) -> None:
    """Raises UsageError for a forgotten value, or one that an unset shell variable left empty; docopt accepts both."""
    from pogfast.errors import UsageError

    beginnings = {f"--{name[:end]}" for name in flags for end in range(1, len(name) + 1)}
    takes = {f"--{name[:end]}": f"--{name}" for name in valued for end in range(1, len(name) + 1)}
    takes = {name: long for name, long in takes.items() if name not in beginnings}
    check_values(arguments, {"-h", *takes, *beginnings}, takes)
    empty = [f"--{name}" for name in valued if options.get(name) == ""] + ["an input"] * ("" in inputs)
    if empty:
        raise UsageError(f"{empty[0]} is empty", hint="is a shell variable unset?")


def _fits(options: dict[str, str], allowed: set[str], groups: tuple[set[str], ...]) -> bool:
    return options.keys() <= allowed and all(len(options.keys() & group) <= 1 for group in groups)


def parse_size(text: str) -> int:
    """Returns the bytes of --chunk-size, as pogcli's parser (humanfriendly 10) reads them: a number and a word that
    begins with the letter of a unit, such as 50megs; binary units are written out, MiB. Raises UsageError."""
    import re

    from pogfast.errors import UsageError

    found = re.fullmatch(r"\s*([0-9]{1,40})(\.[0-9]{1,40})?\s*([^\d\s]\D*)?", text)
    unit = (found[3] or "b").strip().lower() if found else "?"
    exponent = 0 if unit.startswith("b") else PREFIXES.find(unit[0]) + 1
    if found is None or (exponent == 0 and not unit.startswith("b")):
        raise UsageError(f"--chunk-size={text}: not a size", hint="write 50MB, 4MiB or a number of bytes")
    singular = unit.rstrip("s")
    base = 1024 if singular[1:] == "ib" or singular in BINARY else 1000
    size = int((float(found[1] + found[2]) if found[2] else int(found[1])) * base**exponent)
    if size < 1:
        raise UsageError(f"--chunk-size={text}: at least one byte")
    return min(size, MAX_CHUNK)


class PogConsole(Console):
    """Prints what create.py and restore.py report as pog does; on a terminal, control characters are escaped."""

    def print(self, line: str) -> None:
        super().print(visible(line) if self.to_terminal else line)

    def file(self, index: int, total: int, path: str) -> None:
        self.answer(f"*** {index}/{total}: {path}")

    def blob(self, name: str) -> None:
        self.answer(name)

    def manifest(self, index: int, total: int, name: str) -> None:
        """Prints the name of the manifest, which is stored."""
        self.answer(f"*** {index}/{total}: {name}")
        self.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command `pog` and returns its exit code."""
    return guarded(PogConsole("pog"), lambda console: _pog(console, sys.argv[1:] if arguments is None else arguments))


def _pog(console: PogConsole, arguments: Sequence[str]) -> None:
    options, inputs = parse(arguments)
    _check(arguments, options, inputs, WITH_VALUE, FLAGS)
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


def _encrypt(console: PogConsole, options: dict[str, str], inputs: Sequence[str]) -> None:
    from pogfast._engine import cores
    from pogfast.pog.addresses import check_targets, open_targets
    from pogfast.pog.create import create
    from pogfast.pog.inputs import find_sources
    from pogfast.sizes import LEVELS, parse_whole

    chunk_size = parse_size(options.get("chunk-size", "100MB"))
    level = parse_whole("--compresslevel", options.get("compresslevel", "3"), *LEVELS)
    concurrency = parse_whole("--concurrency", options.get("concurrency", "8"), 1, 10**6)
    if "consume" in options:
        console.note("warning", "--consume does nothing when writing")
    check_targets(options.get("save-to"))
    sources = find_sources(inputs, absolute="store-absolute-paths" in options, tell=console.tell)
    console.count_warnings()
    key = _key(console, options, writing=True)
    console.kept = "stored data is kept, run the same command again to continue"
    targets = open_targets(options.get("save-to"), console.problem)
    try:
        create(
            sources,
            key,
            targets,
            chunk_size=chunk_size,
            level=level,
            jobs=min(concurrency, cores()),
            report=console,
        )
    finally:
        for target in targets:
            target.close()


def _decrypt(console: PogConsole, options: dict[str, str], inputs: Sequence[str]) -> None:
    from pogfast._engine import cores
    from pogfast.errors import PogfastError
    from pogfast.pog.restore import cat_blobs, restore

    key = _key(console, options, writing=False)
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
        restore(archive, key, ".", names=names or None, consume=consume, jobs=cores(), report=console)


def _by_archive(inputs: Sequence[str]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Returns (blobs before the first manifest, manifests each with the names after it)."""
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


def _dump_manifests(console: PogConsole, options: dict[str, str], inputs: Sequence[str]) -> None:
    from pogfast.errors import PogfastError
    from pogfast.pog.restore import read_archive

    key = _key(console, options, writing=False)
    for archive in inputs:
        opened = read_archive(archive, key)
        _head(console, archive)
        for name in opened.entries:
            console.answer(f"* {name}:")
            try:
                blobs = opened.entries[name].blobs
            except PogfastError as error:  # this entry is malformed; the others are dumped
                console.problem(error)
                continue
            for blob in blobs:
                console.answer(blob)


def _dump_indexes(console: PogConsole, options: dict[str, str], inputs: Sequence[str]) -> None:
    from pogfast.pog.restore import read_index

    key = _key(console, options, writing=False)
    for archive in inputs:
        blobs = read_index(archive, key)
        _head(console, archive)
        for blob in blobs:
            console.answer(blob)


def _head(console: PogConsole, archive: str) -> None:
    """Prints which manifest comes next, on standard error, as pog does."""
    console.flush()
    console.say(f"*** {archive}:")


def _key(console: Console, options: dict[str, str], *, writing: bool) -> Key:
    from pogfast import keys
    from pogfast.console import ask_password

    if options.get("encryption-keyfile"):
        return keys.from_encryption_keyfile(options["encryption-keyfile"], tell=console.tell)
    if options.get("decryption-keyfile"):
        return keys.from_decryption_keyfile(options["decryption-keyfile"], writing=writing, tell=console.tell)
    if options.get("keyfile"):
        return keys.from_keyfile(options["keyfile"], writing=writing, tell=console.tell)
    return keys.from_password(ask_password(twice=writing))


def create_keypair(arguments: Sequence[str] | None = None) -> int:
    """Runs the command `pog-create-keypair` and returns its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    return guarded(PogConsole("pog-create-keypair"), lambda console: _create_keypair(console, given))


def _create_keypair(console: PogConsole, arguments: Sequence[str]) -> None:
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


def cleanup(arguments: Sequence[str] | None = None) -> int:
    """Runs the command `pog-cleanup` and returns its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    return guarded(PogConsole("pog-cleanup"), lambda console: _cleanup(console, given))


def _cleanup(console: PogConsole, arguments: Sequence[str]) -> None:
    options = _parse_cleanup(arguments)
    if "help" in options:
        console.print(CLEANUP_HELP.rstrip("\n"))
        return
    from pogfast.pog.addresses import open_backup
    from pogfast.pog.cleaning import clean_up

    store = open_backup(options.get("backup", "local"))
    try:
        key = _key(console, options, writing=False)
        really = "reckless-abandon" in options
        cleaned = clean_up(store, key, dry_run=not really)
        for older, newer, share in cleaned.similar:
            console.answer(f"{older} vs {newer} similarity: {share}")
        console.print("***")
        console.print("final list:")
        for name in cleaned.kept:
            console.answer(name)
        console.print(str(cleaned.needed))
        what = "removed" if really else "would remove"
        for name in cleaned.obsolete:
            console.answer(f"{what} {name}")
        for name in cleaned.deleted:
            console.answer(f"{what} data/{name[:2]}/{name}")
        if cleaned.waiting:
            console.note("note", f"{cleaned.waiting} unneeded blobs will be removed when they are 24 hours old")
    finally:
        store.close()


def _parse_cleanup(arguments: Sequence[str]) -> dict[str, str]:
    """Returns the options without dashes and their values. Raises UsageError."""
    from pogfast.errors import UsageError

    hint = "see pog-cleanup --help"
    keys = ("keyfile", "decryption-keyfile", "encryption-keyfile")
    names = [*(f"{name}=" for name in (*keys, "backup")), "reckless-abandon", "help"]
    try:
        pairs, inputs = getopt.gnu_getopt(list(arguments), "h", names)
    except getopt.GetoptError as error:
        raise UsageError(error.msg, hint) from error
    options = {"help" if name == "-h" else name[2:]: value for name, value in pairs}
    _check(arguments, options, inputs, (*keys, "backup"), ("reckless-abandon", "help"))
    if inputs:
        raise UsageError(f"unexpected argument: {inputs[0]}", hint)
    if len(options.keys() & set(keys)) > 1:
        raise UsageError("more than one key given", hint)
    return options

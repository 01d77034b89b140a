"""Suggestions for unknown commands and options, among them the words of restic, borg and similar tools.

Imported only when a word is unknown. Knows no code of the commands: tests compare every name here with the commands.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

CREATE = "pogfast create PATH... --to STORE"
RESTORE = "pogfast restore ARCHIVE --into DIR"
PRUNE = "pogfast prune STORE --keep-..."
CHECK = "pogfast check STORE"
REMOVE = "pogfast remove ARCHIVE..."

# Command of another tool -> the command that does the same here.
COMMANDS = {
    **dict.fromkeys(("backup", "save", "archive", "store", "put", "add", "push", "encrypt", "import-tar"), CREATE),
    **dict.fromkeys(("extract", "get", "pull", "recover-files", "decrypt", "download"), RESTORE),
    **dict.fromkeys(("snapshots", "archives", "rlist", "repo-list", "show", "history"), "pogfast list STORE"),
    **dict.fromkeys(("list-files", "contents"), "pogfast ls ARCHIVE"),
    **dict.fromkeys(("forget", "expire", "purge", "gc", "cleanup", "clean", "compact", "vacuum", "maintenance"), PRUNE),
    **dict.fromkeys(("delete", "rm", "rdelete", "repo-delete", "del"), REMOVE),
    **dict.fromkeys(("recreate", "redact"), "pogfast rewrite ARCHIVE --exclude PATTERN"),
    **dict.fromkeys(("dump", "print", "export-tar"), "pogfast cat ARCHIVE NAME"),
    **dict.fromkeys(("verify", "test", "scrub", "fsck"), "pogfast check STORE --read-data"),
    **dict.fromkeys(("recover", "undo", "unremove"), "pogfast undelete STORE"),
    **dict.fromkeys(("search", "grep", "locate"), "pogfast find STORE PATTERN"),
    **dict.fromkeys(("compare", "changes"), "pogfast diff ARCHIVE ARCHIVE"),
    **dict.fromkeys(("cp", "clone", "mirror", "sync", "transfer", "replicate"), "pogfast copy FROM TO"),
    **dict.fromkeys(("benchmark", "bench"), "pogfast tune PATH..."),
    **dict.fromkeys(("genkey", "key-create", "keypair", "generate-key"), "pogfast keygen NAME"),
    **dict.fromkeys(("df", "size", "du", "usage"), "pogfast stats STORE"),
    **dict.fromkeys(("diagnose", "ping"), "pogfast doctor STORE"),
    **dict.fromkeys(("version", "--v"), "pogfast --version"),
    "generate": "pogfast completion SHELL",
    "retention": PRUNE,
}
# Command of another tool -> why pogfast has none, and what to do.
NEEDLESS = {
    **dict.fromkeys(
        ("init", "rcreate", "repo-create", "repository", "connect"),
        "stores need no init: create creates them; `pogfast keygen NAME` creates the keys",
    ),
    **dict.fromkeys(
        ("mount", "umount", "unmount"),
        "there is no mount: ls and find list files, cat prints one, restore restores those that are named",
    ),
    **dict.fromkeys(
        ("unlock", "break-lock", "with-lock", "locks"), "nothing has to be unlocked: commands do not lock a store"
    ),
    "repair": f"`{CHECK}` reports damage; `{CHECK} --repair` writes index objects again, and "
    "`pogfast create --force` stores blobs again",
    **dict.fromkeys(("migrate", "upgrade", "self-update"), "not needed: every release reads what older ones wrote"),
    **dict.fromkeys(
        ("rebuild-index", "reindex", "index"), f"`{CHECK} --repair` writes index objects that are missing or wrong"
    ),
    "repack": f"`{PRUNE}` stores what is needed of packs with much waste again: --max-unused sets how much",
    "cache": "the cache needs no maintenance; `pogfast create --no-cache` does not use it",
    "rename": "archives are named by their time: mark them with `pogfast create --tag TAG`",
    "tag": "tags are set when an archive is created: `pogfast create --tag TAG`",
    "serve": "there is no server: a store is a directory, S3 or B2",
    "policy": f"the policy is an argument of prune: `{PRUNE}`",
    "snapshot": f"`{CREATE}` creates an archive; `pogfast list STORE` lists them",
}

STORE = "STORE is an argument, as in `pogfast list STORE`; create takes --to STORE"
DRY = "without --yes nothing is removed, only listed"
NAMES = "names and patterns follow the archive: `pogfast restore ARCHIVE NAME... --into DIR`"
# (options, the commands that the hint applies to or none for all, the hint)
OPTIONS: list[tuple[str, str, str]] = [
    ("--repo -r --repository --repository-file --from-repo --repo2 --store", "", STORE),
    ("--dry-run -n", "prune remove rewrite", DRY),
    ("--dry-run -n", "list ls find cat diff info stats check doctor", "this command changes no archive"),
    ("--into --output -o --dest -d --destination", "create", "--to STORE sets where the archive is stored"),
    ("--target -t --output -o --dest -d --destination --to", "restore", "--into DIR sets where to restore to"),
    ("--include -i --iinclude --include-file --pattern", "restore", NAMES),
    ("--keep --keep-last --keep-daily", "create list", "`pogfast prune STORE --keep-...` removes old archives"),
    ("--keep -k", "prune", "write --keep-last N, --keep-daily N, --keep-weekly N and so on"),
    ("--keep-minutely --keep-secondly", "prune", "--keep-within TIME keeps all archives of the last TIME"),
    ("--prune", "prune", "prune deletes the blobs that no archive needs as well"),
    ("--exclude-file --iexclude-file", "create", "--exclude-from FILE"),
    ("-e", "create restore rewrite", "--exclude PATTERN"),
    ("--files-from0 --files-from-raw --files-from-verbatim --paths-from-stdin", "create", "--files-from FILE --null"),
    ("--stdin --stdin-filename --stdin-name", "create", "`pogfast create - --name NAME` archives standard input"),
    ("--stdin-from-command --content-from-command", "create", "--from-command COMMAND"),
    ("--compression --compress -z", "create", "--level N is zstd's level"),
    ("--pack-size", "create copy pack", "--packs=SIZE stores small blobs together in packs of SIZE"),
    ("--chunker-params", "create", "--chunker CHUNKER sets how files are cut"),
    (
        "--parent --ignore-inode --ignore-ctime --files-cache",
        "create",
        "--force reads every file, --no-cache ignores the cache",
    ),
    ("--list --filter", "create restore", "-vv prints every file"),
    (
        "--progress -p --stats -s --no-progress",
        "",
        "a terminal shows progress and every run ends with a summary; --quiet shows none",
    ),
    ("--verify-data --verify", "check", "--read-data reads all blobs"),
    (
        "--verify",
        "restore",
        "every restore checks each blob; `pogfast check ARCHIVE --against DIR` compares what is on the disk",
    ),
    ("--snapshot --archive", "", "ARCHIVE is an argument: STORE/NAME.mfn, or STORE/latest"),
    ("--latest --newest --last --first", "", "ARCHIVE is STORE/latest for the newest; list shows the newest last"),
    ("--hostname -H", "", "--host NAME"),
    ("--prefix -P --glob-archives -a --match-archives", "", "--host, --tag and --path select archives"),
    (
        "--password --passphrase --passcommand --pass",
        "",
        "--password-file FILE or --password-command COMMAND: every user can see arguments",
    ),
    ("--key --key-file --identity --recipient", "", "--keyfile, --encryption-keyfile or --decryption-keyfile FILE"),
    ("-g", "prune", "--group-by WORDS"),
    ("-j --threads --workers --concurrency", "", "--jobs N"),
    ("--recursive -R", "ls", "ls is always recursive"),
    ("--no-lock --retry-lock --lock-wait", "", "commands do not lock a store"),
    (
        "--upload-ratelimit --download-ratelimit --bwlimit --remote-ratelimit",
        "",
        "--limit-upload RATE and --limit-download RATE, as in 5MB",
    ),
    ("--sparse", "restore", "holes are restored as holes"),
    (
        "--threshold --max-unused --repack-cacheable-only",
        "prune",
        "every blob that no archive needs is deleted: nothing is repacked",
    ),
]


def command_hint(word: str, known: Sequence[str], *, others: bool = True) -> str:
    """Returns a hint for a command that is not in `known`, or "". With `others`, commands of other tools are
    recognized, too."""
    if others and word in COMMANDS:
        return f"`{COMMANDS[word]}` does this"
    if others and word in NEEDLESS:
        return NEEDLESS[word]
    near = get_close_matches(word, known, 1)
    if near:
        return f"did you mean {near[0]}?"
    if not others:
        return ""
    near = get_close_matches(word, [*COMMANDS, *NEEDLESS], 1, 0.8)
    return command_hint(near[0], ()) if near else ""


def option_hint(option: str, command: str, known: Sequence[str]) -> str:
    """Returns a hint for an option that `command` does not have, or ""."""
    for options, commands, said in OPTIONS:
        if option in options.split() and (not commands or command in commands.split()):
            return said
    near = get_close_matches(option, known, 1)
    return f"did you mean {near[0]}?" if near else ""

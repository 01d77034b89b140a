"""Parses the addresses of stores: a directory, local:/DIR, s3://BUCKET[/PREFIX][?WORD=VALUE...], b2://BUCKET[/PREFIX].

Another program's address, such as sftp:host:/dir, is refused with a suggestion: it would otherwise become a local
directory of that name, with the backup on the wrong machine. A directory that really has such a name is written ./NAME
or local:/DIR. Text only: accesses no store and no service.
"""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote

from pogfast.errors import UsageError
from pogfast.sizes import MAX_PARALLEL, parse_seconds, parse_whole
from pogfast.stores.settings import Lock
from pogfast.system.encoding import portable

# The settings that can follow a bucket after `?`, for one store alone, each with the field of `Settings` that it sets.
WORDS: dict[str, dict[str, str]] = {
    "s3": {
        "endpoint": "s3_endpoint",
        "profile": "profile",
        "region": "region",
        "storage-class": "storage_class",
        "object-lock": "object_lock",
        "parallel": "parallel",
        "retry-for": "retry_for",
    },
    "b2": {"realm": "b2_realm", "profile": "profile", "parallel": "parallel", "retry-for": "retry_for"},
}
# Other programs' schemes; they are recognized in any case, with one colon as well.
FOREIGN = {
    *("sftp", "ssh", "scp", "rsync", "ftp", "ftps", "http", "https", "rest", "webdav", "dav", "davs", "smb", "nfs"),
    *("rclone", "azure", "az", "abs", "gs", "gcs", "swift", "file", "dropbox", "gdrive", "gd", "onedrive", "minio"),
    *("oss", "cos", "obs", "wasabi", "hubic", "webdavs", "sia", "storj", "uplink", "borg", "restic", "kopia"),
}
BY_SFTP = "mount it, with sshfs for instance, and name the directory"
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(//)?(.*)", re.DOTALL)


class ServiceAddress(NamedTuple):
    """A bucket of a service, and a prefix in it. `settings` are fields of `Settings` for this store."""

    scheme: str
    bucket: str
    prefix: str
    settings: dict[str, Any]

    @property
    def label(self) -> str:
        """The store's name in messages."""
        return f"{self.scheme}://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")


def is_service(text: str) -> bool:
    """Returns True for s3://... and b2://..."""
    return text.startswith(tuple(f"{scheme}://" for scheme in WORDS))


def parse_service(text: str) -> ServiceAddress:
    """Reads s3://BUCKET[/PREFIX][?WORD=VALUE[&...]]. Raises UsageError."""
    scheme, _, rest = text.partition("://")
    place, question, query = rest.partition("?")
    bucket, _, prefix = place.partition("/")
    if "@" in bucket:  # not shown: a password may be in it
        raise UsageError(f"{scheme}://: credentials do not go into the address of a store", hint=_credentials(scheme))
    if not bucket or ":" in bucket:
        meant = _meant(text)
        raise UsageError(f"{visible(text)} names no bucket", hint=meant or f"write {scheme}://BUCKET[/PREFIX]")
    prefix = portable(prefix.strip("/"))
    if not _is_unicode(bucket + prefix):
        raise UsageError(f"{visible(text)}: this is not UTF-8, which services require")
    # A / after the query remains of STORE/latest.
    return ServiceAddress(
        scheme, bucket, prefix, _settings(scheme, visible(f"{scheme}://{place}"), query.rstrip("/")) if question else {}
    )


def below(text: str, name: str) -> str:
    """Returns the address of a name in a service's store, with the same settings."""
    place, question, query = text.partition("?")
    return f"{place.rstrip('/')}/{name}{question}{query}"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _credentials(scheme: str) -> str:
    return f"they are in the environment, or in a profile: {scheme}://BUCKET?profile=NAME"


def _settings(scheme: str, where: str, query: str) -> dict[str, Any]:
    """Parses the query of a store's address into fields of `Settings`. Messages show the values of known settings only:
    others may be secret."""
    known = WORDS[scheme]
    found: dict[str, Any] = {}
    for part in query.split("&"):
        word = unquote(part.partition("=")[0]).strip().lower().replace("_", "-")
        if word not in known:
            near = get_close_matches(word, known, 1, 0.5)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UsageError(f"{where}: unknown setting: {word}", hint=f"{hint}known: {', '.join(known)}")
        if known[word] in found:
            raise UsageError(f"{where}: {word} is given twice")
        pairs = parse_qsl(part.replace("+", "%2B"), keep_blank_values=True)
        found[known[word]] = _value(word, pairs[0][1] if pairs else "")
    return found


def _value(word: str, text: str) -> Any:
    """Parses the value of a setting. Raises UsageError."""
    if word in ("endpoint", "realm"):
        if text and not re.fullmatch(r"https?://[^/\s@]+(/[^\s?]*)?", text):
            raise UsageError(f"{word} is not a URL", hint=f"write {word}=https://HOST[:PORT]")
        return text.rstrip("/") or None
    if word == "object-lock":
        return Lock.parse(text)
    if word == "retry-for":
        return parse_seconds(word, text)
    if word == "parallel":
        return parse_whole(word, text, 1, MAX_PARALLEL)
    if not text:
        raise UsageError(f"{word}= has no value")
    return text


def check_directory(text: str) -> None:
    """Raises UsageError for a directory's name that looks like another program's address."""
    if text.startswith(("./", "../", "local:")):
        return
    # As in scp and rsync: a colon before any slash follows a host or a remote, unless there is such a directory.
    first = text.partition("/")[0]
    remote = ":" in first and not os.path.isdir(first)
    if remote or _is_foreign(text):
        meant = _meant(text) or "a store is a directory, s3://BUCKET, b2://BUCKET or a program"
        shown = visible(text)
        hint = f"{meant}{'' if meant.endswith('?') else ';'} a directory of that name is local:{shown}"
        raise UsageError(f"{shown} is not a store that pogfast supports", hint=hint)


def check_restored_to(path: str) -> None:
    """Raises UsageError for an address as the target of a restore, which has to be a local directory."""
    if (_is_foreign(path) or path.startswith("local:")) and not os.path.lexists(path):
        hint = f"the home directory is $HOME{path[1:]}" if path.startswith("~/") else "restore, then copy it there"
        shown = visible(path)
        raise UsageError(f"{shown} is not a directory", hint=f"{hint}; a directory of that name is ./{shown}")


def _is_foreign(text: str) -> bool:
    """Returns True for a URL, another program's address, and a ~ that the shell did not expand, as in --to=~/backup."""
    head, colon, _ = text.partition("/")[0].partition(":")
    service = colon != "" and (head.lower() in FOREIGN | WORDS.keys() or "@" in head)
    return service or text.startswith("~") or ("://" in text and not text.startswith(("./", "../")))


def visible(text: str) -> str:
    """Returns an address without the user and password before an @."""
    return re.sub(r"(//)[^/@]*:[^/@]*@", r"\1...@", text)


def _meant(text: str) -> str:
    """Returns a hint at what was probably meant by an address that is none of ours; "" if there is none."""
    if text.startswith("~"):
        return f"the home directory is $HOME{text[1:]}" if text[1:2] in ("", "/") else ""
    found = SCHEME.fullmatch(text.strip().lstrip("/"))
    if found is None:
        return BY_SFTP if "@" in text else ""
    scheme, rest = found[1].lower(), found[3].lstrip("/")
    if scheme in WORDS:
        return _meant_service(scheme, rest)
    if scheme in ("http", "https", "minio"):
        return _meant_service("s3", rest if scheme == "minio" else f"{scheme}://{rest}")
    if scheme in ("gs", "gcs"):
        return f"did you mean s3://{rest}?endpoint=https://storage.googleapis.com?"
    if scheme == "rclone":
        return "rclone serve s3 makes it s3://BUCKET?endpoint=http://127.0.0.1:8080"
    if scheme == "file":
        return f"did you mean /{rest}?"
    return BY_SFTP if scheme in ("sftp", "ssh", "scp", "rsync") or "@" in text else ""


def _meant_service(scheme: str, rest: str) -> str:
    """Returns the hint for an s3: or b2: address as restic, rclone and others write it."""
    url = re.fullmatch(r"(https?)://([^/]+)/?(.*)", rest)
    if url is not None:
        host, place = f"{url[1]}://{url[2].rpartition('@')[2]}", url[3].strip("/") or "BUCKET"
    else:
        first, _, place = rest.partition("/")
        host = f"https://{first}" if "." in first and place else ""  # s3:s3.amazonaws.com/bucket
        place = place if host else rest.replace(":", "/", 1)
    query = f"?endpoint={host}" if host and scheme == "s3" and "amazonaws.com" not in host else ""
    return f"did you mean {scheme}://{place.strip('/') or 'BUCKET'}{query}?"

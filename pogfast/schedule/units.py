"""Schedules profiles with systemd: a service and a timer each, in the units of the machine or of the user.

What a unit is told is derived from the profile. The text of units is made here; whatever a profile names is quoted, and
% and $, which systemd replaces, are doubled.
"""

from __future__ import annotations

import contextlib
import glob
import os
import subprocess
from collections.abc import Iterator

from pogfast.config.schema import Priority
from pogfast.errors import PogfastError, UsageError
from pogfast.schedule.jobs import Job, mark_of, plain
from pogfast.system.environment import for_child

SYSTEM = "/etc/systemd/system"
BOOTED = "/run/systemd/system"  # is there if systemd runs this machine
LINGERING = "/var/lib/systemd/linger"
CREDENTIALS = "/etc/credstore"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # of what systemd runs
TEMPORARY = ("/tmp", "/var/tmp")
IO = {"low": ("best-effort", 7), "idle": ("idle", None)}
# For everybody: a backup needs none of this.
HARDENED = ("LockPersonality=yes", "RestrictRealtime=yes")
# Where no program of the user's is run, which might use sudo.
ALONE = ("NoNewPrivileges=yes", "RestrictSUIDSGID=yes", "SystemCallArchitectures=native")
# Only for the machine's units: the user's manager could do this with a user namespace only, in which files of other
# users belong to nobody, and would be archived so. Homes stay readable.
OF_SYSTEM = ("ProtectSystem=strict", "ProtectKernelTunables=yes", "ProtectControlGroups=yes")


class Systemd:
    """The units of the machine, or of the user."""

    def __init__(self, *, user: bool) -> None:
        self.user = user
        self.word = "user" if user else "system"
        self.label = f"systemd ({self.word} units)"

    @property
    def directory(self) -> str:
        if not self.user:
            return SYSTEM
        return os.path.join(_user_config(), "systemd", "user")

    def planned(self, job: Job) -> dict[str, str]:
        """Returns the files that are written, path -> text. Raises UsageError."""
        service, timer = self._files(job.name)
        return {service: self._service(job), timer: self._timer(job)}

    def enable(self, job: Job) -> bool:
        """Writes the units of a profile and starts its timer. Returns False if they were there already. Raises
        PogfastError and OSError."""
        planned = self.planned(job)
        for path in planned:
            self._check_ours(path, job.mark)
        for path in job.own_directories:
            os.makedirs(path, mode=0o700, exist_ok=True)  # what is missing cannot be made writable
        changed = [path for path, text in planned.items() if _read(path) != text]
        for path in changed:
            _write(path, planned[path])
        self._systemctl("daemon-reload")
        self._systemctl("enable", "--now", os.path.basename(self._files(job.name)[1]))
        return bool(changed)

    def disable(self, name: str, config_file: str) -> bool:
        """Stops the timer of a profile and removes its units. Returns False if there were none. Raises PogfastError
        and OSError."""
        files = [path for path in self._files(name) if os.path.lexists(path)]
        for path in files:
            self._check_ours(path, mark_of(name, config_file))
        if not files:
            return False
        self._systemctl("disable", "--now", os.path.basename(self._files(name)[1]))
        for path in files:
            os.unlink(path)
        self._systemctl("daemon-reload")
        return True

    def is_enabled(self, name: str, config_file: str) -> bool:
        """Returns True if a profile has a timer, which is started with the others. Raises UsageError and OSError."""
        timer = self._files(name)[1]
        wanted = os.path.join(self.directory, "timers.target.wants", os.path.basename(timer))
        return os.path.lexists(wanted) and (_read(timer) or "").startswith(f"# {mark_of(name, config_file)}\n")

    def lacking(self, job: Job) -> Iterator[UsageError]:
        """Yields what a run of the profile would not have."""
        drop_ins = f"{self._files(job.name)[0]}.d"
        hint = f"write its value, or set it in {drop_ins}/environment.conf: [Service], Environment=NAME=VALUE"
        told = "".join(map(_readable, sorted(glob.glob(os.path.join(glob.escape(drop_ins), "*.conf")))))
        yield from job.lacking(PATH, lambda name: f"{name}=" in told or "EnvironmentFile=" in told, hint)
        for name in job.credentials:
            path, _ = self._credential_file(name)
            if not os.path.exists(path):
                yield UsageError(f"there is no credential {name}: {path} is missing", hint="write it there")

    def remark(self) -> str:
        """Returns what the user should know, or ""."""
        if not self.user or os.path.exists(os.path.join(LINGERING, _user_name())):
            return ""
        return "timers of a user run while the user is logged in; always, after: loginctl enable-linger"

    def _files(self, name: str) -> tuple[str, str]:
        parent = self.directory
        return os.path.join(parent, f"pogfast-{name}.service"), os.path.join(parent, f"pogfast-{name}.timer")

    def _check_ours(self, path: str, mark: str) -> None:
        text = _read(path)
        if text is not None and not text.startswith(f"# {mark}\n"):
            raise UsageError(f"{path} was not written for this profile", hint="move it away, or rename the profile")

    # ---- the text of units ----

    def _service(self, job: Job) -> str:
        unit = [f"Description=pogfast run {job.name}"]
        if job.needs_network and not self.user:
            unit += ["Wants=network-online.target", "After=network-online.target"]
        service = [
            "Type=oneshot",
            f"ExecStart={' '.join(_quoted(word, '$') for word in job.command)}",
            *(f"Environment={_quoted(f'{name}={value}')}" for name, value in job.environment.items()),
            "SuccessExitStatus=75",  # nothing was run, since something was not there
            "KillMode=mixed",  # a run that is told to stop ends its programs in order
            *self._credentials(job),
            *_priority(job.profile.priority),
            *self._hardening(job),
        ]
        return _text(job, {"Unit": unit, "Service": service})

    def _timer(self, job: Job) -> str:
        timer = [f"OnCalendar={job.calendar.text}", "Persistent=true"]
        if job.profile.spread is not None:
            timer.append(f"RandomizedDelaySec={int(job.profile.spread)}s")
        unit = [f"Description=pogfast run {job.name}, on schedule"]
        return _text(job, {"Unit": unit, "Timer": timer, "Install": ["WantedBy=timers.target"]})

    def _hardening(self, job: Job) -> list[str]:
        if job.runs_programs:
            return [*HARDENED]
        if self.user:
            return [*HARDENED, *ALONE]
        is_private = not _uses_temporary(job)
        own = ["PrivateTmp=yes"] if is_private else []
        if "/" in job.written:
            return [*HARDENED, *ALONE, *own]
        # "-": a disk need not be there when the unit starts.
        paths = sorted({*job.written, *(() if is_private else TEMPORARY)})
        written = [f"ReadWritePaths={_quoted(f'-{path}')}" for path in paths]
        return [*HARDENED, *ALONE, *OF_SYSTEM, *own, *written]

    def _credentials(self, job: Job) -> list[str]:
        found = []
        for name in job.credentials:
            if ":" in name or "\\" in name:
                raise UsageError(f"{name!r} is not a name of a credential that systemd can be told")
            path, sealed = self._credential_file(name)
            found.append(f"LoadCredential{'Encrypted' if sealed else ''}={_escaped(name)}:{_escaped(path)}")
        return found

    def _credential_file(self, name: str) -> tuple[str, bool]:
        """Returns where a credential is, and whether systemd-creds has encrypted it."""
        parent = os.path.join(_user_config(), "credstore") if self.user else CREDENTIALS
        sealed = os.path.join(f"{parent}.encrypted", name)
        return (sealed, True) if os.path.exists(sealed) else (os.path.join(parent, name), False)

    def _systemctl(self, *words: str) -> None:
        """Calls systemctl. Raises PogfastError."""
        command = ["systemctl", *(["--user"] if self.user else []), *words]
        try:
            environ = for_child(credentials=False)
            ran = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace", env=environ)
        except OSError as error:
            raise PogfastError(f"cannot run systemctl: {error.strerror}", hint="--manager cron uses cron") from error
        if ran.returncode:
            said = ran.stderr.strip().splitlines()
            raise PogfastError(f"{' '.join(command)}: {said[-1] if said else f'exit status {ran.returncode}'}")


def _user_config() -> str:
    given = os.environ.get("XDG_CONFIG_HOME", "")
    return given if os.path.isabs(given) else os.path.expanduser("~/.config")


def _user_name() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _uses_temporary(job: Job) -> bool:
    """Returns True if a run would miss the real /tmp: something it names is in there, or includes it."""
    named = [(path, os.path.realpath(path)) for path in job.paths]
    return any(
        os.path.commonpath((path, place)) in (path, place) for pair in named for path in pair for place in TEMPORARY
    )


def _priority(priority: Priority) -> list[str]:
    lines = [f"Nice={priority.nice}"] if priority.nice else []
    if priority.io != "normal":
        kind, level = IO[priority.io]
        lines.append(f"IOSchedulingClass={kind}")
        if level is not None:
            lines.append(f"IOSchedulingPriority={level}")
    return lines


def _text(job: Job, sections: dict[str, list[str]]) -> str:
    lines = [f"# {job.mark}", "# Written by `pogfast schedule enable`; changes belong into a drop-in (systemctl edit)."]
    for title, rows in sections.items():
        lines += ["", f"[{title}]", *rows]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return plain(text).replace("%", "%%")


def _quoted(text: str, also: str = "") -> str:
    """Returns a word of a unit. Characters in `also` are doubled, as % is."""
    text = _escaped(text).replace("\\", "\\\\").replace('"', '\\"')
    for letter in also:
        text = text.replace(letter, letter * 2)
    return f'"{text}"'


def _readable(path: str) -> str:
    """Returns what is in a drop-in, "" if it cannot be read."""
    try:
        return _read(path) or ""
    except OSError:
        return ""


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    draft = f"{path}.{os.getpid()}.tmp"
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
        raise

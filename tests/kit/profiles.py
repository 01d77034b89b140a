"""Configurations for tests, and the command `pogfast` with directories of its own for them."""

from __future__ import annotations

import os
from pathlib import Path

from kit import forks
from kit.commands import Ran
from pogfast import keygen
from pogfast.config import Problem, examine


class Desk:
    """A directory with keys, files to archive and a configuration, and the command that is run there."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.config = place / "config" / "pogfast.toml"
        self.config.parent.mkdir()
        keygen(self.config.parent / "k")
        self.tree = place / "tree"
        self.tree.mkdir()
        (self.tree / "notes").write_text("hello\n")
        names = {"CONFIG": "config", "STATE": "state", "CACHE": "cache"}
        mine = {f"POGFAST_{word}_DIR": str(place / name) for word, name in names.items()}
        others = {name: value for name, value in os.environ.items() if not name.startswith("POGFAST_")}
        self.environ = {**others, **mine, "PLACE": str(place)}

    def write(self, text: str, name: str = "pogfast.toml") -> Path:
        path = self.config.parent / name
        path.write_text(text)
        return path

    def problems(self, text: str) -> list[Problem]:
        """What is wrong with a configuration."""
        self.write(text)
        return examine(str(self.config))[1]

    def pogfast(self, *arguments: str, **environ: str) -> Ran:
        ran = forks.command("pogfast", *arguments, cwd=self.place, env={**self.environ, **environ})
        assert "Traceback" not in ran.err, ran.err
        return ran

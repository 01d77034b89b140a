"""The configuration, `pogfast.toml`: profiles of what is archived where, when nobody watches.

`load` returns a `Config` with typed stores, profiles and groups; `examine` returns all problems as well. schema.py says
which settings there are. `edit` and `remove` change a file. Nothing is run here: that is `runs`.
"""

from __future__ import annotations

from pogfast.config.loading import Config, Setting, create_settings, examine, find, load
from pogfast.config.problems import ConfigError, Problem
from pogfast.config.schema import Group, Profile, Store
from pogfast.config.values import Value
from pogfast.config.writing import edit, remove

__all__ = [
    "Config",
    "ConfigError",
    "Group",
    "Problem",
    "Profile",
    "Setting",
    "Store",
    "Value",
    "create_settings",
    "edit",
    "examine",
    "find",
    "load",
    "remove",
]

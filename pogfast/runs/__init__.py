"""Runs of profiles that nobody watches: what a profile of the configuration says, done in order and recorded.

execution.py runs a profile, verbs.py calls the functions that do the work, records.py keeps what came of it. Nothing is
printed, and no command line is parsed.
"""

from __future__ import annotations

from pogfast.runs.execution import run
from pogfast.runs.records import Record, VerbRecord, history, last
from pogfast.runs.report import Report, Silent
from pogfast.runs.status import Verdict, status

__all__ = ["Record", "Report", "Silent", "VerbRecord", "Verdict", "history", "last", "run", "status"]

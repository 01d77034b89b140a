"""`pogfast doctor`: prints what a store can do, as lines or JSON.

upkeep/doctor.py runs the tests.
"""

from __future__ import annotations

from pogfast.cli.command import verb
from pogfast.cli.options import service_options, store_argument
from pogfast.cli.output import Output


@verb(
    "doctor",
    exit_codes={
        3: "something is bad",
        10: "no such store",
    },
    examples=("pogfast doctor s3://bucket/laptop",),
)
@store_argument
@service_options
def doctor(output: Output, store: str) -> None:
    """Test a store and report problems.

    Writes, reads and deletes some small objects. Needs no key and touches no archive.
    """
    from pogfast.upkeep.doctor import examine

    output.during = "doctor"
    for found in examine(store):
        if found.state == "bad":
            output.exit_code = 3
        if output.json:
            output.emit("finding", **found._asdict())
            continue
        output.answer(f"{found.state:5} {found.what:11} {found.said}")
        if found.advice:
            output.answer(f"{'':17} {found.advice}")


VERBS = {"doctor": doctor}

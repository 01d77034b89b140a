"""The command line of pog compared with docopt 0.6.2, which pogcli uses: the same lines give the same values."""

from __future__ import annotations

import docopt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pogfast import pog
from pogfast.errors import UsageError

# pogcli 0.1.4's options and patterns, in our words.
USAGE = """
Usage:
  pog <INPUTS>...
  pog [--keyfile=<f> | --encryption-keyfile=<f>] [--save-to=<t>] [--chunk-size=<n>] [--compresslevel=<n>]
      [--concurrency=<n>] [--store-absolute-paths] <INPUTS>...
  pog [--keyfile=<f> | --decryption-keyfile=<f>] [--decrypt | --dump-manifest] [--consume] <INPUTS>...
  pog [--keyfile=<f> | --decryption-keyfile=<f> | --encryption-keyfile=<f>] [--dump-manifest-index] <INPUTS>...
  pog (-h | --help)

Options:
  -h --help                 x
  --version                 x
  --chunk-size=<n>          x
  --compresslevel=<n>       x
  --concurrency=<n>         x
  --consume                 x
  --decrypt                 x
  --decryption-keyfile=<f>  x
  --encryption-keyfile=<f>  x
  --keyfile=<f>             x
  --store-absolute-paths    x
  --save-to=<t>             x
"""


def theirs(arguments: list[str]) -> tuple[dict[str, str], list[str]] | None:
    """Returns what docopt parses from a command line, or None if it refuses it."""
    try:
        found = docopt.docopt(USAGE, arguments, help=False)
    except SystemExit:
        return None
    inputs = found.pop("<INPUTS>")
    # docopt leaves the -- that ends the options among the inputs. Nobody means that.
    if "--" in arguments and "--" in inputs:
        inputs.remove("--")
    options = {name[2:]: "" if value is True else value for name, value in found.items() if value not in (None, False)}
    return options, inputs


def ours(arguments: list[str]) -> tuple[dict[str, str], list[str]] | None:
    try:
        return pog.parse(arguments)
    except UsageError:
        return None


NAMES = [f"--{name}" for name in (*pog.WITH_VALUE, *pog.FLAGS) if name not in ("help", "version")]
BEGINNINGS = st.sampled_from(NAMES).flatmap(lambda name: st.integers(3, len(name)).map(lambda end: name[:end]))
VALUES = st.sampled_from(["", "x", "1", "-", "-x", "--decrypt", "a=b", "s3"])
WORDS = (
    st.sampled_from(["a", "b.mfn", "-", "--", "-x", "--nonsense", "-1", "", "a b", "=", "--=", "s3://b/x"])
    | st.sampled_from(NAMES)
    | BEGINNINGS
    | st.builds("{}={}".format, st.sampled_from(NAMES) | BEGINNINGS, VALUES)
)


@settings(max_examples=2000)
@given(st.lists(WORDS, max_size=6))
def test_command_lines_are_parsed_as_by_docopt(arguments: list[str]) -> None:
    if "--" in arguments and not [word for word in arguments if word != "--"]:
        return  # only `--`: an input to docopt, nothing to us
    expected = theirs(arguments)
    if expected is not None and expected[1] == []:
        expected = None
    assert ours(arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "options", "inputs"),
    [
        (["a", "--decrypt", "b"], {"decrypt": ""}, ["a", "b"]),
        (["--keyf=k", "a"], {"keyfile": "k"}, ["a"]),
        (["--keyfile", "k", "a"], {"keyfile": "k"}, ["a"]),
        (["--chunk=5", "a", "-"], {"chunk-size": "5"}, ["a", "-"]),
        (["a", "--", "--decrypt"], {}, ["a", "--decrypt"]),
        (["--keyfile=", "a"], {"keyfile": ""}, ["a"]),
        (["s3", "d"], {}, ["s3", "d"]),
        (["filename", "d"], {}, ["filename", "d"]),
        (["--help", "--nonsense=1"], None, []),
        (["--dec", "a"], None, []),
        (["--decrypt", "--decrypt", "a"], None, []),
        (["--consume=x", "a"], None, []),
        (["--decrypt", "--dump-manifest", "a"], None, []),
        (["--decrypt", "--chunk-size=5", "a"], None, []),
        (["--keyfile=k", "--encryption-keyfile=e", "a"], None, []),
        (["--encryption-keyfile=e", "--dump-manifest", "a"], None, []),
        (
            ["--encryption-keyfile=e", "--dump-manifest-index", "a"],
            {"encryption-keyfile": "e", "dump-manifest-index": ""},
            ["a"],
        ),
        (["--decrypt"], None, []),
        ([], None, []),
    ],
)
def test_command_lines(arguments: list[str], options: dict[str, str] | None, inputs: list[str]) -> None:
    assert ours(arguments) == (None if options is None else (options, inputs))


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("100MB", 10**8),
        ("100mb", 10**8),
        ("1.5k", 1500),
        ("2 KiB", 2048),
        ("10b", 10),
        ("10bytes", 10),
        ("10 byte", 10),
        ("5MiB", 5 * 2**20),
        ("5 mebibytes", 5 * 2**20),
        ("1G", 10**9),
        ("3 terabytes", 3 * 10**12),
        (" 7 ", 7),
        ("0.001k", 1),
        ("1PiB", 2**50),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert pog.parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(("50megs", 50_000_000), ("1EB", 10**18), ("1.5k", 1500), ("5mibs", 5 << 20), ("1mi", 10**6), ("100b", 100)),
        *(("0.5kb", 500), ("1kbit", 1000), ("5 m", 5_000_000), (" 7 MiB", 7 << 20), ("3 gibibytes", 3 << 30)),
        *(("1YB", 1 << 62), ("9999999PiB", 1 << 62)),
    ],
)
def test_sizes_as_pogclis_parser_reads_them(text: str, size: int) -> None:
    """Sizes larger than any file are equivalent to 4 EiB."""
    assert pog.parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "abc", "0", "-1", "1e3", "1.2.3", "5XB", "5 5", "0.1", "MB", ".5m", "5.m", "1 000", "nan", "٣"]
)
def test_malformed_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="--chunk-size"):
        pog.parse_size(text)

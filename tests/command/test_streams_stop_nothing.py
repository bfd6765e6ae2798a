"""A command does its work whatever becomes of its streams: closed, full, without a reader, or of another encoding.

The commands here are of three lines, in processes of their own: only :mod:`weights_tools.command` is loaded.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from weights_tools.errors import printable

ROOT = Path(__file__).parents[2]

COMMAND = """
import os, sys
from pathlib import Path
from weights_tools import command

def work(args):
    for number in range(3):
        os.fstat(number)  # else the clip would get this number, and messages of libraries would go into it
    for number in range(3):
        print(f"wrote {args.name}", flush=True)
        print(f"note on {args.name}", file=sys.stderr, flush=True)
    Path("clip").write_text("whole")

def make_parser():
    parser = command.Parser()
    parser.add_argument("name")
    parser.set_defaults(run=work)
    return parser

sys.exit(command.run(make_parser, "prog"))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("command.py").write_text(COMMAND)
    return tmp_path


def shell(line: str, *words: str | bytes, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of sh in which PROG stands for the command and "$@" for ``words``."""
    line = line.replace("PROG", f'"{sys.executable}" command.py')
    return subprocess.run(
        ["sh", "-c", line, "sh", *words],
        # with buffers: what waits in them when a stream fails would fail again at the end
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "", **environment},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


@pytest.mark.skipif(os.name != "posix", reason="shells")
@pytest.mark.parametrize(
    "streams",
    [
        ">&-",
        "2>&-",
        ">&- 2>&-",
        "<&- >&- 2>&-",
        "2> /dev/full",
        "| head -c 1",
        "2>&1 | head -c 1",
        "2>&1 | true",
    ],
)
def test_a_stream_that_is_closed_stops_nothing(streams: str) -> None:
    done = shell(f"{{ PROG name; echo $? > code; }} {streams}")
    assert Path("clip").read_text() == "whole"
    assert Path("code").read_text() == "0\n"
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "from a buffer"])
def test_output_that_is_lost_is_said_at_the_end(at_once: bool) -> None:
    Path("command.py").write_text(COMMAND if at_once else COMMAND.replace(", flush=True", ""))
    done = shell("PROG name > /dev/full")
    assert Path("clip").read_text() == "whole"
    assert done.returncode == 2
    assert done.stderr.endswith(
        "prog: error: not all of the output could be written: No space left on device\n"
    )


@pytest.mark.skipif(os.name != "posix", reason="shells")
@pytest.mark.parametrize(
    ("name", "encoding", "shown"),
    [
        ("写真.png", "cp1252", r"\u5199\u771f.png"),
        ("写真.png", "ascii", r"\u5199\u771f.png"),
        ("写真.png", "utf-8", "写真.png"),
        (b"caf\xe9.png", "utf-8", r"caf\udce9.png"),
        (b"caf\xe9.png", "ascii:strict", r"caf\udce9.png"),
    ],
)
def test_a_name_that_the_encoding_lacks_is_shown_escaped(
    name: str | bytes, encoding: str, shown: str
) -> None:
    done = shell('PROG "$1"', name, PYTHONIOENCODING=encoding)
    assert done.stdout == f"wrote {shown}\n" * 3
    assert done.stderr == f"note on {shown}\n" * 3
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü 写真 🎬 a\u00a0b", "plain ü 写真 🎬 a\u00a0b"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("a\nvcut: forged", r"a\nvcut: forged"),
        ("\r\t\x07\x7f\x9b", r"\r\t\x07\x7f\x9b"),
        ("\u202egpj.exe\u2066", r"\u202egpj.exe\u2066"),
        ("\udce9\u2028", r"\udce9\u2028"),
    ],
)
def test_what_would_steer_a_terminal_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown

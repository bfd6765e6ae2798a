"""What every script has: options from a dataclass of settings, a folder for weights, and printing."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.report import Section
from weights_tools.command import stoppable

SCRIPTS = ("unet_call", "sampling", "vae_decode", "compiled", "loading", "scaling", "full_size")
"""In the order of the report. Each has FULL and QUICK settings and ``run(settings, folder) -> Section``."""


def main(name: str) -> None:
    """The command of one script: ``python -m benchmarks.NAME``."""
    script = importlib.import_module(f"benchmarks.{name}")
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=script.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_folder(parser)
    parser.add_argument(
        "--json", type=Path, help="put the numbers into this file too, in place of this script's"
    )
    add_settings(parser, script.FULL)
    args = parser.parse_args()
    with weights_folder(args.weights) as folder:
        section = run(name, settings_of(script, args), folder)
    print(section)
    if args.json:
        report.save(args.json, report.merged(report.load(args.json), [section], SCRIPTS))


def run(name: str, settings: Any, folder: Path) -> Section:
    """Run one script."""
    script = importlib.import_module(f"benchmarks.{name}")
    found = report.machine()
    options = ["--quick"] if settings == script.QUICK else _difference(settings, script.FULL)
    section: Section = script.run(settings, folder)
    command = " ".join([f"python -m benchmarks.{name}", *options])
    return dataclasses.replace(section, machine={**found, **section.machine}, command=command)


def add_folder(parser: argparse.ArgumentParser) -> None:
    """Options that all commands have."""
    parser.add_argument("--quick", action="store_true", help="the tiny model, to see that everything runs")
    parser.add_argument("--weights", type=Path, help="write the random weights here and keep them")


def add_settings(parser: argparse.ArgumentParser, defaults: Any) -> None:
    """One option for each field."""
    for field in dataclasses.fields(defaults):
        default = getattr(defaults, field.name)
        several = isinstance(default, tuple)
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=type(default[0] if several else default),
            nargs="+" if several else None,
            help=f"default: {_text(default)}",
        )


def settings_of(script: Any, args: argparse.Namespace) -> Any:
    """The script's settings, with what the command line says otherwise."""
    base = script.QUICK if args.quick else script.FULL
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(base)}
    changed = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items() if v is not None}
    return dataclasses.replace(base, **changed)


@contextmanager
def weights_folder(keep: Path | None) -> Iterator[Path]:
    """A folder for weights and outputs: ``keep``, or a temporary one that is removed whatever ends the block."""
    with stoppable():
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            yield keep.absolute()
            return
        with tempfile.TemporaryDirectory(prefix="vcut-bench-") as folder:
            yield Path(folder)


def progress(text: str) -> None:
    """Tell whoever watches."""
    print(text, file=sys.stderr, flush=True)


def _difference(settings: Any, full: Any) -> Iterator[str]:
    for field in dataclasses.fields(full):
        value = getattr(settings, field.name)
        if value != getattr(full, field.name):
            yield f"--{field.name.replace('_', '-')} {_text(value)}"


def _text(value: object) -> str:
    return (
        " ".join(map(str, value))
        if isinstance(value, Sequence) and not isinstance(value, str)
        else str(value)
    )

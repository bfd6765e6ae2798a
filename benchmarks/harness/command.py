"""The command line of every benchmark: options made from a dataclass of settings, and a folder for weights."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import report
from benchmarks.harness.report import Found, Section
from weights_tools.command import stoppable

SCRIPTS = ("unet", "shares", "waiting", "sampling", "vae", "loading")
"""Modules in the order of the report. Each has ``CHAPTERS``, by name, which share one type of settings."""


@dataclass(frozen=True)
class Chapter:
    """One chapter of the report, before it is measured.

    Attributes:
        title: its heading.
        run: function that measures it, given settings and a folder for weights.
        full: its settings by default.
        quick: settings with the tiny model, to see that it runs.
    """

    title: str
    run: Callable[[Any, Path], Found]
    full: Any
    quick: Any


def chapters(*scripts: str) -> dict[str, Chapter]:
    """The chapters of ``scripts``, by default of all, by name and in the order of the report."""
    found: dict[str, Chapter] = {}
    for script in scripts or SCRIPTS:
        found |= importlib.import_module(f"benchmarks.{script}").CHAPTERS
    return found


def main(script: str) -> None:
    """Run the command of one script: ``python -m benchmarks.SCRIPT``."""
    own = chapters(script)
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{script}",
        description=importlib.import_module(f"benchmarks.{script}").__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_shared(parser, own)
    parser.add_argument(
        "--json", type=Path, help="put the numbers into this file too, in place of older ones"
    )
    add_settings(parser, {name: chapter.full for name, chapter in own.items()})
    args = parser.parse_args()
    with weights_folder(args.weights) as folder:
        for name in args.only:
            base = own[name].quick if args.quick else own[name].full
            section = run(name, changed(base, args), folder)
            print(section, end="\n\n", flush=True)
            if args.json:
                report.save(args.json, report.merged(report.load(args.json), [section], list(chapters())))


def run(name: str, settings: Any, folder: Path) -> Section:
    """Measure the chapter ``name`` and say how and on what machine it was measured."""
    chapter = chapters()[name]
    module = chapter.run.__module__
    words = [f"python -m {module}"]
    if len(chapters(module.rpartition(".")[2])) > 1:
        words.append(f"--only {name}")
    words += ["--quick"] if settings == chapter.quick else options(settings, chapter.full)
    held, threads = getattr(settings, "held", False), getattr(settings, "threads", 0)
    machine = report.machine(held=held, threads=threads)
    progress(f"{chapter.title}, {settings.model}")
    rows, notes, missing = chapter.run(settings, folder)
    return Section(name, chapter.title, tuple(rows), tuple(notes), dict(missing), machine, " ".join(words))


def add_shared(parser: argparse.ArgumentParser, names: Collection[str]) -> None:
    """Add the options that all commands have."""
    parser.add_argument("--only", nargs="+", choices=list(names), default=list(names), help="default: all")
    parser.add_argument("--quick", action="store_true", help="the tiny model, to see that everything runs")
    parser.add_argument("--weights", type=Path, help="write the random weights here and keep them")


def add_settings(parser: argparse.ArgumentParser, defaults: Mapping[str, Any]) -> None:
    """Add one option for each field of the settings; ``defaults`` are those of each chapter."""
    for field in dataclasses.fields(next(iter(defaults.values()))):
        values = {name: getattr(settings, field.name) for name, settings in defaults.items()}
        value = next(iter(values.values()))
        option = f"--{field.name.replace('_', '-')}"
        if isinstance(value, bool):
            parser.add_argument(option, action="store_const", const=True, help=f"default: {value}")
            continue
        several = isinstance(value, tuple)
        texts = {_text(each) for each in values.values()}
        parser.add_argument(
            option,
            type=type(value[0] if several else value),
            nargs="+" if several else None,
            help=f"default: {texts.pop()}" if len(texts) == 1 else "default: each chapter has its own",
        )


def changed(base: Any, args: argparse.Namespace) -> Any:
    """The settings ``base``, with what the command line says otherwise."""
    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(base)}
    new = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items() if v is not None}
    return dataclasses.replace(base, **new)


@contextmanager
def weights_folder(keep: Path | None) -> Iterator[Path]:
    """Yield a folder for weights: ``keep``, or a temporary one that is removed whatever ends the block."""
    with stoppable():
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            yield keep.absolute()
            return
        with tempfile.TemporaryDirectory(prefix="vcut-bench-") as folder:
            yield Path(folder)


def progress(text: str) -> None:
    """Tell whoever watches what is being done."""
    print(text, file=sys.stderr, flush=True)


def options(settings: Any, full: Any) -> Iterator[str]:
    """The options of the command line that make ``settings`` out of ``full``."""
    for field in dataclasses.fields(full):
        value = getattr(settings, field.name)
        if value != getattr(full, field.name):
            yield f"--{field.name.replace('_', '-')}" + ("" if value is True else f" {_text(value)}")


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)

"""The share of small faults that the tests notice: `python -m tests.mutation PACKAGE TESTS... [--sample N]`.

A mutant is a source file with one operator, number or statement changed (mutants.py). It is killed if a test fails,
or does not end. What survives is printed, to be judged: either the change is equal, or a test is missing.

    python -m tests.mutation vcut/sampling tests/sampling tests/settings

The tests run on a copy of the tree. A first run notes which functions each test calls: a mutant meets the tests that
call its function, fastest first, and those that start processes. A second run collects the tests, and forks for each
mutant, in which the functions get their changed code (session.py). What importing executes is imported anew.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.mutation import session
from tests.mutation.mutants import Mutant, mutants

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Mutate, test, and print the survivors and the share of the killed."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__.splitlines()[0])
    parser.add_argument("package", help="folder or file whose code is mutated")
    parser.add_argument("tests", nargs="+", help="the tests that ought to notice")
    parser.add_argument("--sample", type=int, help="this many mutants, drawn at random; by default all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the survivors here")
    args = parser.parse_args()

    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        tree = _copy_of_the_tree(Path(folder) / "tree")
        target = tree / args.package
        candidates = [
            (file, mutant)
            for file in sorted(target.rglob("*.py") if target.is_dir() else [target])
            for mutant in mutants(file.read_text())
        ]
        if args.sample and args.sample < len(candidates):
            candidates = random.Random(args.seed).sample(candidates, args.sample)
        for done, (number, killed) in enumerate(_judged(candidates, args.tests, tree), 1):
            file, mutant = candidates[number]
            place = f"{file.relative_to(tree)}:{mutant.line}"
            if not killed:
                survivors.append({"place": place, "change": mutant.change})
            word = "killed  " if killed else "SURVIVED"
            print(f"{done}/{len(candidates)} {word} {place}: {mutant.change}", flush=True)
    share = 1 - len(survivors) / max(1, len(candidates))
    print(f"{args.package}: {len(candidates)} mutants, {share:.1%} killed, {len(survivors)} survive")
    if args.json:
        found = {"package": args.package, "mutants": len(candidates), "killed": share, "survivors": survivors}
        args.json.write_text(json.dumps(found, indent=1) + "\n")


def _copy_of_the_tree(tree: Path) -> Path:
    """A copy of what git knows and does not ignore, so that the sources of the checkout are never touched."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    return tree


def _judged(
    candidates: list[tuple[Path, Mutant]], tests: list[str], tree: Path
) -> Iterator[tuple[int, bool]]:
    """The number of each mutant and whether it is killed, in the order in which they are tried."""
    _import_once(tree)
    files = {str(file) for file, _ in candidates}
    imported, *runs = _forked(lambda send: session.run_tests(tests, session.Coverage(files, send)))
    runs.sort(key=lambda run: (run["processes"], run["seconds"]))
    for run in (imported, *runs):
        run["calls"] = {tuple(call) for call in run["calls"]}

    plans = {}
    anew = []
    for number, (file, mutant) in enumerate(candidates):
        if mutant.function:
            called = {(str(file), line) for line in mutant.function[1]}
            met = [run for run in runs if run["processes"] or called & run["calls"]]
            limit = 10 + 5 * sum(run["seconds"] for run in met)
            plans[number] = session.Plan(file, mutant, [run["test"] for run in met], limit)
        else:
            anew.append(number)
    for number, killed in _forked(lambda send: session.run_tests(tests, session.Forks(plans, send))):
        file, mutant = candidates[number]
        # what importing calls has still to be seen in what it makes
        called = {(str(file), line) for line in mutant.function[1]}
        if killed or (killed is not None and not called & imported["calls"]):
            yield number, killed
        else:
            anew.append(number)
    limit = 60 + 5 * sum(run["seconds"] for run in runs)
    for number in anew:
        file, mutant = candidates[number]
        yield number, session.killed(file, mutant, functools.partial(_test_anew, runs, file), limit)


def _test_anew(runs: list[dict[str, Any]], mutated: Path) -> int:
    """Run all tests, file by file, and stop at the first that fails; first the files that call the mutated one."""
    files: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        files.setdefault(run["test"].partition("::")[0], []).append(run)

    def seconds(file: str) -> tuple[bool, float]:
        call_it = [run for run in files[file] if any(path == str(mutated) for path, _ in run["calls"])]
        return not call_it, sum(run["seconds"] for run in call_it or files[file])

    return next((status for file in sorted(files, key=seconds) if (status := session.run_tests([file]))), 0)


def _import_once(tree: Path) -> None:
    """Load what the tests load and nothing that is mutated."""
    os.environ["PYTHONPATH"] = str(tree)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    sys.path[:] = [str(tree), *(path for path in sys.path if Path(path or ".").resolve() != ROOT)]
    os.chdir(tree)
    for name in ("einops", "hypothesis", "numpy", "pytest", "safetensors.torch", "torch"):
        importlib.import_module(name)
    sys.modules["torch"].set_num_threads(1)


def _forked(work: Callable[[Callable[[object], None]], int]) -> Iterator[Any]:
    """What ``work`` sends from a fork of this process."""
    out, into = os.pipe()
    with os.fdopen(out) as rows, os.fdopen(into, "w") as sent:
        child = session.fork(lambda: work(lambda row: print(json.dumps(row), file=sent, flush=True)))
        sent.close()
        yield from map(json.loads, rows)
    if session.ended(child):
        sys.exit("the tests fail without a mutant: mend that first")


if __name__ == "__main__":
    main()

"""The share of small faults that the tests notice: `python -m tests.mutation PACKAGE TESTS... [--sample N]`.

A mutant is a source file with one operator, number or statement changed (mutants.py). It is killed if a test fails,
or does not end. What survives is printed, to be judged: either the change is equal, or a test is missing.

    python -m tests.mutation vcut/sampling tests/sampling tests/settings

The tests run on a copy of the tree. torch is loaded once and every mutant has a fork of that process.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.mutation.mutants import Mutant, mutants

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Mutate, test, and print the survivors and the share of the killed."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__.splitlines()[0])
    parser.add_argument("package", help="folder or file whose code is mutated")
    parser.add_argument("tests", nargs="+", help="the tests that ought to notice")
    parser.add_argument("--sample", type=int, help="this many mutants, drawn at random; by default all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the judgement of each mutant here")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        tree = _copy_of_the_tree(Path(folder) / "tree")
        _import_once(tree)
        candidates = [
            (file, mutant)
            for file in sorted(
                (tree / args.package).rglob("*.py")
                if (tree / args.package).is_dir()
                else [tree / args.package]
            )
            for mutant in mutants(file.read_text())
        ]
        if args.sample and args.sample < len(candidates):
            candidates = sorted(
                random.Random(args.seed).sample(candidates, args.sample), key=lambda c: (c[0], c[1].line)
            )
        started = time.monotonic()
        if not _passes(args.tests, tree, limit=3600):
            sys.exit("the tests fail without a mutant: mend that first")
        limit = 30 + 10 * (time.monotonic() - started)
        survivors = []
        for number, (file, mutant) in enumerate(candidates, 1):
            place = f"{file.relative_to(tree)}:{mutant.line}"
            killed = _killed(file, mutant, args.tests, tree, limit)
            if not killed:
                survivors.append({"place": place, "change": mutant.change})
            print(
                f"{number}/{len(candidates)} {'killed  ' if killed else 'SURVIVED'} {place}: {mutant.change}",
                flush=True,
            )
    killed_share = 1 - len(survivors) / max(1, len(candidates))
    print(f"{args.package}: {len(candidates)} mutants, {killed_share:.1%} killed, {len(survivors)} survive")
    if args.json:
        result = {
            "package": args.package,
            "mutants": len(candidates),
            "killed": killed_share,
            "survivors": survivors,
        }
        args.json.write_text(json.dumps(result, indent=1) + "\n")


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


def _killed(file: Path, mutant: Mutant, tests: list[str], tree: Path, limit: float) -> bool:
    sound = file.read_text()
    file.write_text(mutant.source)
    try:
        return not _passes(tests, tree, limit)
    finally:
        file.write_text(sound)


def _passes(tests: list[str], tree: Path, limit: float) -> bool:
    """Whether the tests pass in a fork of this process within the limit in seconds."""
    child = os.fork()
    if child == 0:
        _run_and_exit(tests)
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def _run_and_exit(tests: list[str]) -> None:
    """Run the tests and leave with their status. The parent's cleaning up is not ours, so there is no return."""
    status = 1
    try:
        os.setsid()
        silence = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(silence, stream)
        import pytest

        # Hypothesis draws the same examples every time, or a mutant would live or die by chance.
        status = int(pytest.main([
            *tests, "-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-p", "no:randomly", "--hypothesis-seed=0",
            "-m", "not slow and not parity and not browser",
        ]))  # fmt: skip
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()

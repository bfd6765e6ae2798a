"""Everything in one command: ``python -m benchmarks`` measures and writes docs/benchmarks.md, .png and .json.

    python -m benchmarks                            # all scripts, with what each is set to by itself
    python -m benchmarks --only unet_call scaling   # these alone; the other chapters stay as they were
    python -m benchmarks --report                   # the page and the plot anew, from the numbers in the .json
    python -m benchmarks --quick --out /tmp/quick   # the tiny model, to see that everything runs

For other sizes, run a script by itself, with ``--json docs/benchmarks.json``, and then ``--report``.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from benchmarks import command, report
from benchmarks.plot import plot
from benchmarks.rounds import ROOT


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_folder(parser)
    parser.add_argument("--only", nargs="+", choices=command.SCRIPTS, default=command.SCRIPTS)
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--out", type=Path, help="where the report goes (default: docs)")
    args = parser.parse_args()
    if args.quick and args.out is None:
        parser.error("--quick needs --out: its numbers say nothing and must not replace the report")
    out = args.out or ROOT / "docs"
    out.mkdir(parents=True, exist_ok=True)
    numbers = out / "benchmarks.json"

    if not args.report:
        with command.weights_folder(args.weights) as folder:
            for name in args.only:
                script = importlib.import_module(f"benchmarks.{name}")
                section = command.run(name, script.QUICK if args.quick else script.FULL, folder)
                print(section, end="\n\n", flush=True)
                report.save(numbers, report.merged(report.load(numbers), [section], command.SCRIPTS))
    sections = report.load(numbers)
    (out / "benchmarks.md").write_text(report.page(sections))
    plot(sections, out / "benchmarks.png")


if __name__ == "__main__":
    main()

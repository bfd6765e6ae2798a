"""All benchmarks in one command: ``python -m benchmarks`` measures and writes docs/benchmarks.md, .png and .json.

    python -m benchmarks                            # every chapter, with its own settings
    python -m benchmarks --only unet_call scaling   # these alone; the other chapters stay as they were
    python -m benchmarks --report                   # the page and the plot anew, from the numbers in the .json
    python -m benchmarks --quick --out /tmp/quick   # the tiny model, to see that everything runs
    python -m benchmarks gpu                        # one CUDA card in eight minutes: benchmarks/gpu.py

For other sizes, run the script of one subject with ``--json docs/benchmarks.json``, and then ``--report``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import gpu
from benchmarks.harness import command, report
from benchmarks.harness.plot import plot
from benchmarks.harness.rounds import ROOT


def main() -> None:
    if sys.argv[1:2] == ["gpu"]:
        return gpu.main(sys.argv[2:])
    chapters = command.chapters()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_shared(parser, chapters)
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--out", type=Path, help="folder of the report (default: docs)")
    args = parser.parse_args()
    if args.quick and args.out is None:
        parser.error("--quick needs --out: its numbers say nothing and must not replace the report")
    out = args.out or ROOT / "docs"
    out.mkdir(parents=True, exist_ok=True)
    numbers = out / "benchmarks.json"

    if not args.report:
        with command.weights_folder(args.weights) as folder:
            for name in args.only:
                settings = chapters[name].quick if args.quick else chapters[name].full
                section = command.run(name, settings, folder)
                print(section, end="\n\n", flush=True)
                report.save(numbers, report.merged(report.load(numbers), [section], list(chapters)))
    sections = report.load(numbers)
    (out / "benchmarks.md").write_text(report.page(sections))
    plot(sections, out / "benchmarks.png")


if __name__ == "__main__":
    main()

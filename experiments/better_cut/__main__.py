"""The command: clips, scores, times, and the report of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

import experiments.better_cut
from experiments.better_cut import peers, report, times
from experiments.better_cut.candidates import Candidate, candidates
from experiments.better_cut.clips import Bench, latents, scores
from training.config import settings
from vcut.cli import values
from vcut.loading import find
from weights_tools import command

QUALITY, COST = "Modified, c=20", "Modified, c=10"
"""The candidates whose quality is asked for, and at whose time."""

WINNER = "10 levels of Align Your Steps, guided in 0.3..25"
"""The candidate that the tuning scenes chose, set beside the peers."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit code."""

    def parser() -> argparse.ArgumentParser:
        made = command.Parser(
            prog="python -m experiments.better_cut",
            description=experiments.better_cut.__doc__,
            formatter_class=argparse.RawTextHelpFormatter,
        )
        made.add_argument("model", nargs="?", default="tiny", help="default: tiny")
        made.add_argument(
            "-o", "--out", type=Path, default=Path("better-cut"), help="folder, default better-cut"
        )
        made.add_argument("--scenes", type=values.count, default=64, help="at most 64, the default")
        made.add_argument(
            "--tuning", action="store_true", help="scenes to choose numbers on, not to judge on"
        )
        made.add_argument(
            "--only", nargs="*", default=[], help="candidates whose group or name has one of these"
        )
        made.add_argument("--batch", type=values.count, default=16, help="clips at a time, default 16")
        made.add_argument("--rounds", type=int, default=7, help="of timing, default 7; 0 times nothing")
        made.set_defaults(run=search)
        return made

    return command.run(parser, "experiments.better_cut", argv)


@torch.no_grad()
def search(args: argparse.Namespace) -> None:
    """Make and score what is missing, then write the report of everything chosen."""
    every = candidates()
    wanted = (QUALITY, COST, *args.only)
    chosen = [
        each
        for each in every
        if not args.only or each is every[0] or any(word in f"{each.group}: {each.name}" for word in wanted)
    ]
    if any(isinstance(each.rule, peers.Peer) for each in chosen):
        peers.check()
    settings()
    args.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(find(args.model), args.out, every[0], min(args.scenes, 64), args.tuning, args.batch)
    found = run(bench, chosen, args.rounds)
    told = {
        "model": args.model,
        "scenes": bench.count,
        "tuning": args.tuning,
        "threads": torch.get_num_threads(),
    }
    texts = [*report.tables(found, QUALITY, COST), *report.beside_peers(found, WINNER)]
    report.save(found, told, texts, args.out)
    print("\n\n".join(text.markdown() for text in texts))


def run(bench: Bench, chosen: Sequence[Candidate], rounds: int) -> list[report.Found]:
    """Make and score the clips of the candidates, then time them."""
    with tqdm(total=bench.count * len(chosen), desc="clips", unit="clip") as bar:
        made = [latents(bench, each, bar.update) for each in chosen]
    found = tqdm(zip(chosen, made, strict=True), total=len(chosen), desc="scoring")
    scored = [scores(bench, each, clips) for each, (clips, _) in found]
    ratios = times.rounds(bench, chosen, rounds)
    return [
        report.Found(each.name, each.group, score, ratios[each.name], passes)
        for each, score, (_, passes) in zip(chosen, scored, made, strict=True)
    ]


if __name__ == "__main__":
    sys.exit(main())

"""Loading a whole checkpoint of full size: ``vcut.load`` beside diffusers' ``from_pretrained``, from the same folder.

    python -m benchmarks.loading [--stored float32] [--to float32 bfloat16] [--rounds 2]
    python -m benchmarks.loading --single-file      # vcut alone, from one file in the published (sgm) layout

Each load has a fresh process. Time counts until every page of every weight has been touched, since both libraries may
leave weights in the file until then. Importing is shown apart; torch is imported before. *memory* is the most that
was resident above what was before. It includes pages of the file, which the system may take back: at the end, *own*
is memory of the process and *mapped* are pages of the file. The files are in the page cache: the first round, which
also compares the weights, is not counted unless it is the only one. The difference is that of the sums of all
absolute values. *packed* is what the command does on a CPU: it reads all weights and holds them in a new order.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import command
from benchmarks.harness.report import Found, Row
from benchmarks.harness.rounds import alone
from benchmarks.harness.weights import configuration, write_model, write_single_file
from benchmarks.harness.worker import CONTENDERS

MODULE = "benchmarks.harness.load_once"  # a module that imports neither vcut nor diffusers
FORMS = {
    "vcut, baseline": ("baseline", False),
    "vcut, cut form": ("vcut", False),
    "vcut, cut form, packed": ("vcut", True),
}
"""Forms by their names in the report: the preset, and whether the weights are packed."""


@dataclass(frozen=True)
class Settings:
    """Precision of the files, and the precisions to which they are loaded."""

    model: str = "svd-xt"
    stored: str = "float32"
    to: tuple[str, ...] = ("float32", "bfloat16")
    rounds: int = 2
    single_file: bool = False


def run(settings: Settings, folder: Path) -> Found:
    """Measure every precision in turn, in rounds."""
    config = configuration(settings.model)
    contenders = {label: ("vcut", *form) for label, form in FORMS.items()}
    if settings.single_file:
        path = write_single_file(folder, config, settings.stored)
        place = "one file of the published layout"
    else:
        path = write_model(folder, config, settings.stored)
        place = "a diffusers folder"
        peers = {CONTENDERS[who]: (who, "baseline", False) for who in ("diffusers", "diffusers-same")}
        contenders = {**peers, **contenders}
    rows = []
    for to in settings.to:
        case = f"{settings.stored} to {to}"
        found: dict[str, list[dict[str, float]]] = {label: [] for label in contenders}
        for number in range(settings.rounds + 1):
            for label, (who, preset, pack) in contenders.items():
                command.progress(f"loading {case}, round {number}: {label}")
                arguments = {"path": str(path), "dtype": to, "preset": preset, "pack": pack}
                arguments |= {"contender": who, "compare": number == 0}
                found[label].append(alone(who, MODULE, "measure", arguments))
        total = next(iter(found.values()))[0]["total"]
        for label, (_, preset, _) in contenders.items():
            first, *others = found[label]
            counted = others or [first]
            different = abs(first["total"] - total) / total
            median = {name: statistics.median([one[name] for one in counted]) for name in counted[0]}
            rows.append(
                Row(
                    case,
                    label,
                    [one["load"] + one["touch"] for one in counted],
                    peak=int(median["peak"]) if median["peak"] else None,
                    difference=(different, different) if preset == "baseline" else None,
                    details={
                        "import": median["import"],
                        "load": median["load"],
                        "touch": median["touch"],
                        "own, GiB": median["own"] / 2**30,
                        "mapped, GiB": median["mapped"] / 2**30,
                        "tensors, GiB": median["bytes"] / 2**30,
                    },
                )
            )
    return Found(rows, [f"{settings.model}: UNet, VAE and CLIP, from {place} in the page cache."])


CHAPTERS = {
    "loading": command.Chapter(
        "Loading a checkpoint", run, Settings(), Settings("tiny", to=("float32",), rounds=0)
    )
}


if __name__ == "__main__":
    command.main("loading")

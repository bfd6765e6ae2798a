"""Loading a whole full-size checkpoint: ``vcut.load`` beside diffusers' ``from_pretrained``, from the same folder.

    python -m benchmarks.loading [--stored float32] [--to float32 bfloat16] [--rounds 2]

A fresh process each time. Time counts until every page of every weight has been touched, since both may leave weights
in the file until then; importing is shown apart (torch is there before). Memory is the most that was resident above
what was before, pages of the file included, which the system may take back; *own* is what is left at the end that is
not the file's. The files are in the page cache: the first round, which also compares the weights, is not counted. The
difference is that of the sums of all absolute values. *Packed* is what the command does on a CPU: it has read all
weights, and holds them anew.

``benchmarks/load_full_size.py`` measures the same for vcut from a single file of the published layout.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from benchmarks import command
from benchmarks.report import Row, Section
from benchmarks.rounds import alone
from benchmarks.weights import configuration, write_model
from benchmarks.worker import CONTENDERS

MODULE = "benchmarks.load_once"
FORMS = {
    "vcut, baseline": ("baseline", False),
    "vcut, cut form": ("vcut", False),
    "vcut, cut form, packed": ("vcut", True),
}
"""By name in the report: the preset, and whether the weights are packed."""


@dataclass(frozen=True)
class Settings:
    """Precision of the files, and to which they are loaded."""

    model: str = "svd-xt"
    stored: str = "float32"
    to: tuple[str, ...] = ("float32", "bfloat16")
    rounds: int = 2


FULL = Settings()
QUICK = Settings("tiny", to=("float32",), rounds=1)


def run(settings: Settings, folder: Path) -> Section:
    """Measure every precision in turn, in rounds."""
    path = write_model(folder, configuration(settings.model), settings.stored)
    contenders = {
        CONTENDERS["diffusers"]: ("diffusers", "baseline", False),
        CONTENDERS["diffusers-same"]: ("diffusers-same", "baseline", False),
        **{label: ("vcut", *form) for label, form in FORMS.items()},
    }
    rows, threads = [], "?"
    for to in settings.to:
        case = f"{settings.stored} to {to}"
        found: dict[str, list[dict[str, float]]] = {label: [] for label in contenders}
        for number in range(settings.rounds + 1):
            for label, (who, preset, pack) in contenders.items():
                command.progress(f"loading {case}, round {number}: {label}")
                arguments = {
                    "contender": who,
                    "path": str(path),
                    "dtype": to,
                    "preset": preset,
                    "pack": pack,
                }
                found[label].append(alone(who, MODULE, "measure", {**arguments, "compare": number == 0}))
        total = found[CONTENDERS["diffusers"]][0]["total"]
        for label, (_, preset, _) in contenders.items():
            first, *counted = found[label]
            threads = f"{first['threads']:.0f}"
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
                        "tensors, GiB": median["bytes"] / 2**30,
                    },
                )
            )
    return Section(
        "loading",
        "Loading a checkpoint",
        tuple(rows),
        notes=(f"{settings.model}: UNet, VAE and CLIP, from a diffusers folder in the page cache.",),
        machine={"threads": threads},
    )


if __name__ == "__main__":
    command.main("loading")

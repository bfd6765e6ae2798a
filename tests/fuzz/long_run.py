"""Memory of one long `vcut generate` on a folder: resident after every clip, and what a stop leaves behind.

    nice -n 19 python tests/fuzz/long_run.py --hours 2 --out long_run.jsonl

The folder holds pictures of many sizes and modes; the command makes clips of them until the time is over, and gets
SIGTERM. Each clip is a line of ``--out``: seconds since the start, number of clips, resident memory in MiB, and that
without the pages of files, which a busy system takes back as it likes. The run ends with 1 if the median of the last
tenth of the lines lies 2 % above that of the second tenth, if the command ended by itself, or if it left half
an output. It reads /proc, so it needs Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
PICTURES, CLIPS, ALLOWED = 500, 80, 1.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=4, help="of each clip; few, so that many clips fit")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, args.out.open("w") as lines:
        draw_pictures(Path(folder, "pictures"))
        rows = watch(Path(folder), args.steps, args.hours * 3600, lines)
    tenth = max(1, len(rows) // 10)
    early, late = (
        statistics.median(row["mib"] for row in part) for part in (rows[tenth : 2 * tenth], rows[-tenth:])
    )
    print(f"{len(rows)} clips in {rows[-1]['seconds'] / 3600:.2f} h: {early:.1f} MiB, then {late:.1f} MiB")
    sys.exit(late > early * ALLOWED)


def draw_pictures(folder: Path) -> None:
    """Noise, from 8 to 640 pixels a side: what is allocated differs from clip to clip."""
    folder.mkdir()
    numbers = np.random.default_rng(0)
    for index in range(PICTURES):
        height, width = numbers.integers(8, 640, 2)
        picture = Image.fromarray(numbers.integers(0, 256, (height, width, 4), np.uint8))
        mode, suffix = [("RGB", "jpg"), ("RGBA", "png"), ("L", "png"), ("P", "gif"), ("RGB", "webp")][
            index % 5
        ]
        picture.convert(mode).save(folder / f"{index:04}.{suffix}")


def watch(folder: Path, steps: int, seconds: float, lines: object) -> list[dict[str, float]]:
    """Run the command for so long, and return a row for each clip."""
    command = [sys.executable, "-m", "vcut", "generate", "pictures", "-o", "clips/", "--clips", str(CLIPS)]
    rows: list[dict[str, float]] = []
    with subprocess.Popen(
        [*command, "--steps", str(steps), "--cut", "none", "--seed", "0"],
        cwd=folder,
        env={"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        begun = time.monotonic()
        for line in process.stdout:
            if not line.startswith("wrote"):
                continue
            _, resident, files, *_ = map(int, Path(f"/proc/{process.pid}/statm").read_text().split())
            mib, own = (n * resource.getpagesize() / 2**20 for n in (resident, resident - files))
            since = round(time.monotonic() - begun, 1)
            rows.append({"seconds": since, "clips": len(rows) + 1, "mib": mib, "own": own})
            print(json.dumps(rows[-1]), file=lines, flush=True)
            if since > seconds:
                process.send_signal(signal.SIGTERM)
                break
        process.stdout.read()
    if process.returncode != 128 + signal.SIGTERM:
        sys.exit(f"the command ended by itself, with {process.returncode}")
    if left := [path.name for path in (folder / "clips").iterdir() if path.suffix != ".mp4"]:
        sys.exit(f"it left {left}")
    return rows


if __name__ == "__main__":
    main()

"""Mutated pictures and clips, read one after the other: each gives a picture, a clip or a ``MediaError``.

    nice -n 19 python tests/fuzz/pictures.py --runs 20000 --seed 0
    nice -n 19 python tests/fuzz/pictures.py --runs 20000 --seed 0 --guided

A seed file of every format and depth is changed in a few bytes, cut, doubled in parts or mixed with another: by
chance, or, guided, as the coverage of vcut.media and of Pillow's readers suggests (``pip install atheris``). An input
that raises anything else, takes more than 5 s of processor time, or brings the process above 2 GiB is kept in
``--keep`` and makes the run end with 1.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

if "--guided" in sys.argv:
    import atheris

    with atheris.instrument_imports(include=["vcut.media", "PIL"]):
        from PIL import Image

        Image.init()
        import vcut.media  # noqa: F401

import av  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from picture_files import png, tiff  # noqa: E402
from PIL import Image  # noqa: E402

from vcut import media  # noqa: E402
from vcut.errors import MediaError  # noqa: E402
from vcut.media import files, images  # noqa: E402

SECONDS, GIBIBYTES = 5.0, 2.0


def pictures() -> dict[str, bytes]:
    """Seeds: a picture of every format, and of every depth of those that have several."""
    rgb = np.random.default_rng(0).integers(0, 256, (24, 36, 3), np.uint8)
    found: dict[str, bytes] = {}
    Image.init()
    for kind, suffixes in files.FORMATS.items():
        for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16", "CMYK", "F"):
            exif = Image.Exif()
            exif[0x0112] = 6
            file = io.BytesIO()
            try:
                image = Image.fromarray(rgb)
                image = (
                    Image.fromarray(rgb[..., 0].astype(np.uint16) * 257)
                    if mode == "I;16"
                    else image.convert(mode)
                )
                image.save(file, kind, **({"exif": exif} if kind in ("JPEG", "PNG", "WEBP", "AVIF") else {}))
            except (OSError, KeyError, ValueError):
                continue
            found[f"{kind}-{mode}{suffixes[0]}"] = file.getvalue()
    for bits in (1, 2, 4, 8, 16):
        found[f"grey-{bits}.png"] = png([[0, 1] * 4] * 3, bits, 0, key=[1])
        found[f"grey-{bits}.tif"] = tiff([[0, 1] * 4] * 3, bits, 1)
    found["key.png"] = png([[0, 1, 2] * 4] * 3, 16, 2, 3, key=[0, 1, 2], before=[(b"tEXt", b"a\0b")])
    return found


def clips(room: Path) -> dict[str, bytes]:
    """Seeds: a clip of every kind that :func:`vcut.media.write` makes, and of others that are read."""
    frames = torch.rand(4, 3, 24, 36, generator=torch.Generator().manual_seed(0))
    found = {}
    for suffix in (".mp4", ".gif", ".webp"):
        found[f"clip{suffix}"] = media.write(frames, room / f"clip{suffix}").read_bytes()
    for suffix, codec, pixels in (
        (".mov", "png", "rgba"),
        (".mkv", "ffv1", "bgra"),
        (".avi", "mjpeg", "yuvj420p"),
    ):
        with av.open(str(room / f"clip{suffix}"), "w") as container:
            stream = container.add_stream(codec, rate=7)
            stream.height, stream.width, stream.pix_fmt = 24, 36, pixels
            for frame in frames:
                picture = av.VideoFrame.from_ndarray(
                    (frame.permute(1, 2, 0).numpy() * 255).astype(np.uint8).copy()
                )
                container.mux(stream.encode(picture.reformat(format=pixels)))
            container.mux(stream.encode(None))
        found[f"clip{suffix}"] = (room / f"clip{suffix}").read_bytes()
    return found


def mutated(content: bytes, other: bytes, chance: random.Random) -> bytes:
    """A seed with one to eight changes."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        at = chance.randrange(len(data)) if data else 0
        size = min(chance.choice((1, 1, 2, 4, 4, 8, 64)), len(data) - at)
        kind = chance.randrange(7)
        if kind == 0:
            data[at : at + size] = chance.randbytes(size)
        elif kind == 1 and data:
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 2:
            data[at : at + size] = chance.choice((b"\xff", b"\0", b"\x7f", b"\x80")) * size
        elif kind == 3:
            del data[at : at + size]
        elif kind == 4:
            data[at:at] = data[at : at + size]
        elif kind == 5:
            data = data[: max(1, at)] if chance.random() < 0.3 else data
        else:
            begin = chance.randrange(len(other))
            data[at : at + size] = other[begin : begin + size]
    return bytes(data)


class Reader:
    """Reads inputs, and keeps count and what went wrong."""

    def __init__(self, room: Path, keep: Path) -> None:
        self.room, self.keep = room, keep
        self.outcomes: Counter[str] = Counter()
        self.slowest = 0.0
        self.bad: list[str] = []

    def read(self, name: str, content: bytes) -> None:
        """Read one input as what its name says."""
        path = self.room / f"input{Path(name).suffix}"
        path.write_bytes(content)
        clip = name.startswith("clip")
        begun = time.process_time()
        try:
            if clip:
                frames = media.read(path)[0]
                fault = "" if bool(torch.isfinite(frames).all()) else "not finite"
            else:
                shown = images.fitted(path, 32, 32)
                fault = "" if bool(((shown >= 0) & (shown <= 1)).all()) else "outside of 0..1"
            self.outcomes["clips read" if clip else "pictures read"] += 1
        except MediaError as error:
            fault = "" if "\n" not in str(error) and str(path) in str(error) else f"message {error!r}"
            self.outcomes["clips refused" if clip else "pictures refused"] += 1
        except BaseException:
            fault = traceback.format_exc()
        seconds = time.process_time() - begun
        self.slowest = max(self.slowest, seconds)
        if seconds > SECONDS:
            fault += f"{seconds:.1f} s"
        if peak() > GIBIBYTES and not any("GiB" in bad for bad in self.bad):
            fault += f"{peak():.2f} GiB"
        if fault:
            self.keep.mkdir(parents=True, exist_ok=True)
            kept = self.keep / f"{len(self.bad):03}-{name}"
            kept.write_bytes(content)
            self.bad.append(f"{kept}: {fault}")

    def report(self) -> str:
        """Numbers of the run, and its faults."""
        counts = ", ".join(f"{count} {name}" for name, count in sorted(self.outcomes.items()))
        total = sum(self.outcomes.values())
        lines = [
            f"{total} inputs: {counts}; slowest {self.slowest:.3f} s of processor time, peak {peak():.2f} GiB"
        ]
        return "\n".join([*lines, f"{len(self.bad)} faults", *self.bad])


def peak() -> float:
    """Gibibytes that the process held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def guide(reader: Reader, seeds: dict[str, bytes], args: argparse.Namespace) -> None:
    """Let atheris choose the inputs; ends the process."""
    names = sorted(seeds)
    corpus = reader.room / "corpus"
    corpus.mkdir()
    for i, name in enumerate(names):
        (corpus / name).write_bytes(bytes([i]) + seeds[name])
    begun, runs = time.monotonic(), 0

    def one(data: bytes) -> None:
        nonlocal runs
        if data:
            reader.read(names[data[0] % len(names)], data[1:])
        runs += 1
        if runs % 2000 == 0:
            print(reader.report().splitlines()[0], flush=True)
        if runs >= args.runs or time.monotonic() - begun > 60 * args.minutes:
            print(reader.report(), flush=True)
            shutil.rmtree(reader.room)
            os._exit(bool(reader.bad))

    atheris.Setup([sys.argv[0], str(corpus), f"-seed={args.seed + 1}", "-max_len=20000", "-verbosity=0"], one)
    atheris.Fuzz()


def main() -> int:
    """Read ``--runs`` inputs; 1 if one of them is a fault."""
    parser = argparse.ArgumentParser(description="Read mutated pictures and clips.")
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guided", action="store_true", help="let atheris choose the inputs")
    parser.add_argument("--minutes", type=float, default=600, help="stop after this time")
    parser.add_argument(
        "--keep", type=Path, default=Path("fuzz-faults"), help="folder for inputs that are faults"
    )
    args = parser.parse_args()
    logging.getLogger("libav").setLevel(logging.CRITICAL)
    av.logging.set_level(None)
    torch.set_num_threads(1)
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as room:
        reader = Reader(Path(room), args.keep)
        seeds = pictures() | clips(Path(room))
        names = sorted(seeds)
        for name in names:
            reader.read(name, seeds[name])
        if args.guided:
            guide(reader, seeds, args)
        begun = time.monotonic()
        for run in range(args.runs):
            if time.monotonic() - begun > 60 * args.minutes:
                break
            # every third input is a clip: there are fewer kinds
            kind = [name for name in names if name.startswith("clip") == (run % 3 == 0)]
            name = chance.choice(kind)
            reader.read(name, mutated(seeds[name], seeds[chance.choice(names)], chance))
            if run % 2000 == 1999:
                print(reader.report().splitlines()[0], flush=True)
        print(reader.report())
    return bool(reader.bad)


if __name__ == "__main__":
    sys.exit(main())

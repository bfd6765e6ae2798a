"""Time and memory of loading a full-size checkpoint: `python benchmarks/load_full_size.py [--dtype D] [--to D]`.

Writes a random file with every tensor of the published single file (9.6 GB in float32), tensor by tensor, then loads
all three networks from it in a fresh process, strictly, and touches every page. Prints seconds, bytes, peak memory.

Peak memory is VmHWM, the most that was ever resident. Without a cast the tensors are the file's own pages (RssFile):
the system counts them as resident once touched, but may take them back, as they can be read again. With a cast the
result is ordinary memory (RssAnon), and the pages of the file are let go while it is made.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

from weights_tools.checkpoint import open_checkpoint
from weights_tools.fold import Mode
from weights_tools.remap import Lazy
from weights_tools.tensor_file import write

MANIFEST = Path(__file__).parents[1] / "tests" / "data" / "manifests" / "sgm_svd_xt.json"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="precision of the file")
    parser.add_argument(
        "--to", choices=DTYPES, nargs="*", help="precisions to load it in (default: as stored)"
    )
    parser.add_argument("--fold", action="store_true", help="fold the UNet to tca=False, sca='linear_cached'")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the file goes"
    )
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)  # the fresh process
    args = parser.parse_args()
    if args.load:
        print(json.dumps(measure(args.load, DTYPES[args.to[0]] if args.to else None, args.fold)))
        return

    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "svd_xt.safetensors"
        start = time.perf_counter()
        write_random(path, DTYPES[args.dtype])
        size = path.stat().st_size
        print(f"wrote {size / 1e9:.2f} GB of {args.dtype} in {time.perf_counter() - start:.0f} s")
        for to in args.to or [None]:
            command = [sys.executable, __file__, "--load", str(path), *(["--to", to] if to else [])]
            command += ["--fold"] if args.fold else []
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(
                f"{args.dtype} -> {to or 'as stored'}{', folded' if args.fold else ''}: "
                f"{found['read']:.1f} s to read, {found['touch']:.1f} s to touch, "
                f"tensors {found['bytes'] / 1e9:.2f} GB, peak {found['VmHWM'] / 1e9:.2f} GB "
                f"({found['VmHWM'] / size:.2f} x file, {found['VmHWM'] / found['bytes']:.2f} x tensors; "
                f"{found['before'] / 1e9:.2f} GB of it before), at the end {found['RssFile'] / 1e9:.2f} GB of file "
                f"pages and {found['RssAnon'] / 1e9:.2f} GB of own memory"
            )


def write_random(path: Path, dtype: torch.dtype) -> None:
    """A file of the published names and shapes; one tensor in memory at a time."""
    shapes = {name: tuple(shape) for name, shape in json.loads(MANIFEST.read_text()).items()}
    generator = torch.Generator().manual_seed(0)

    def random(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype).uniform_(-1, 1, generator=generator)

    specs = {name: (dtype, shape) for name, shape in shapes.items()}
    write(path, specs, Lazy({name: partial(random, shape) for name, shape in shapes.items()}), {})


def measure(path: Path, dtype: torch.dtype | None, fold: bool) -> dict[str, float]:
    """Load everything, touch everything, and say what it took: seconds and bytes."""
    before = memory()["VmHWM"]
    start = time.perf_counter()
    tca: Mode | None = False if fold else None
    sca: Mode | None = "linear_cached" if fold else None
    checkpoint = open_checkpoint(path)
    unet = checkpoint.read("unet", dtype=dtype, tca=tca, sca=sca)
    model = [unet, checkpoint.read("vae", dtype=dtype), checkpoint.read("clip", dtype=dtype)]
    loaded = time.perf_counter()
    tensors = [tensor for state in model for tensor in state.values()]
    for tensor in tensors:
        tensor.view(-1)[:: 4096 // tensor.itemsize].sum()  # one number per page
    return {
        "read": loaded - start,
        "touch": time.perf_counter() - loaded,
        "bytes": sum(tensor.nbytes for tensor in tensors),
        "before": before,
        **memory(),
    }


def memory() -> dict[str, float]:
    """Bytes of this process's memory, as Linux counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: 1024 * int(fields[name].split()[0]) for name in ("VmHWM", "RssFile", "RssAnon")}


if __name__ == "__main__":
    main()

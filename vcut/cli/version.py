"""``vcut --version``; with ``--verbose``, what a bug report needs: versions, processor, threads and devices."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path

from vcut import __version__
from vcut.errors import ConfigError

NEEDED = ("torch", "safetensors", "einops", "numpy", "huggingface_hub", "tqdm")
OPTIONAL = ("av", "pillow", "diffusers", "transformers")
FIRST_WITH_BFLOAT16 = 8
"""Compute capability of the first CUDA devices with bfloat16 arithmetic of their own."""
GIB = 2**30


Run = Callable[[argparse.Namespace], int | None]
"""The action of a command, on its parsed arguments."""


def add(parser: argparse.ArgumentParser, subcommands: Iterable[argparse.ArgumentParser]) -> None:
    """Add ``--version`` and ``--verbose`` before a subcommand, and the answer to a line that names none."""
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.add_argument(
        "--verbose", action="store_true", help="with --version: name libraries and devices too"
    )
    parser.set_defaults(run=_first(lambda _: parser.error("the following arguments are required: COMMAND")))
    for subcommand in subcommands:
        subcommand.set_defaults(run=_first(subcommand.get_default("run")))


def _first(run: Run) -> Run:
    """Answer ``--version`` where it is given; otherwise run what follows it."""

    def answer(args: argparse.Namespace) -> int | None:
        if args.version:
            print(*(report() if args.verbose else [f"vcut {__version__}"]), sep="\n")
            return None
        if args.verbose:
            raise ConfigError("--verbose needs --version: vcut --version --verbose")
        return run(args)

    return answer


def report() -> Iterator[str]:
    """Lines of the report. A library that is missing, or a torch that does not load, is one of them."""
    yield f"vcut {__version__}"
    yield _line("Python", f"{platform.python_version()} ({platform.python_implementation()})")
    yield _line("platform", platform.platform())
    for name in NEEDED:
        yield _line(name, installed(name) or "missing")
    for name in OPTIONAL:
        yield _line(name, installed(name) or "not installed (optional)")
    try:
        yield from _devices()
    except Exception as error:
        message = next(iter(str(error).splitlines()), "")
        yield _line("devices", f"unknown: {type(error).__name__}: {message}")


def installed(name: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> Iterator[str]:
    """Lines about the processor and the other devices, as torch sees them."""
    import torch

    from vcut.kernels import onednn, runtime
    from vcut.kernels.choice import Packing

    fast = [name for name in ("bfloat16", "float16") if not runtime.is_emulated(getattr(torch, name))]
    yield _line("processor", f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}")
    yield _line("arithmetic", ", ".join(["float32", *fast]))
    packed = [name for name in ("float32", *fast) if onednn.packs(getattr(torch, name))]
    says = f"{', '.join(packed)}: {Packing()}" if packed else "none: this torch cannot pack"
    yield _line("packed weights", says)
    yield _line(
        "threads", f"{torch.get_num_threads()}, and {torch.get_num_interop_threads()} between operations"
    )
    yield _line("CUDA", torch.version.cuda or torch.version.hip or "none: this torch is built for the CPU")
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        dtypes = ["float32", "float16"] + (["bfloat16"] if card.major >= FIRST_WITH_BFLOAT16 else [])
        yield _line(
            f"cuda:{index}",
            f"{card.name}, {card.total_memory / GIB:.1f} GiB, compute capability {card.major}.{card.minor}, "
            + ", ".join(dtypes),
        )
    yield _line("mps", "available" if torch.backends.mps.is_available() else "not available")


def _line(name: str, text: str) -> str:
    return f"{name:<16} {text}"


def _processor() -> str:
    """Name of the processor. Linux says it in a file; elsewhere the platform module has it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()

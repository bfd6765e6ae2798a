"""``vcut --version``, and with ``--verbose`` what a bug report needs: versions, processor, threads and devices."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from vcut import __version__
from vcut.errors import ConfigError

NEEDED = ("torch", "safetensors", "einops", "numpy", "huggingface_hub", "tqdm")
OPTIONAL = ("av", "pillow", "diffusers", "transformers")
GIB = 2**30


def add(parser: argparse.ArgumentParser) -> None:
    """Add ``--version`` and ``--verbose``, and the answer to a command line without a command."""
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.add_argument(
        "--verbose", action="store_true", help="with --version: name libraries and devices too"
    )
    parser.set_defaults(run=lambda _: parser.error("the following arguments are required: COMMAND"))


def shown(args: argparse.Namespace) -> bool:
    """Print the version if it was asked for. Return whether it was, so that nothing else runs.

    Raises:
        ConfigError: ``--verbose`` without ``--version``.
    """
    if args.verbose and not args.version:
        raise ConfigError("--verbose needs --version: vcut --version --verbose")
    if args.version:
        print(*(report() if args.verbose else [f"vcut {__version__}"]), sep="\n")
    return bool(args.version)


def report() -> Iterator[str]:
    """Lines of the report. A library that is missing or does not import is named, not raised."""
    yield f"vcut {__version__}"
    yield f"{'Python':<16} {platform.python_version()} ({platform.python_implementation()})"
    yield f"{'platform':<16} {platform.platform()}"
    for name in NEEDED:
        yield f"{name:<16} {installed(name) or 'missing'}"
    for name in OPTIONAL:
        yield f"{name:<16} {installed(name) or 'not installed (optional)'}"
    try:
        yield from _processors()
    except Exception as error:  # noqa: BLE001 - a broken torch is what this report is for
        first_line = next(iter(str(error).splitlines()), "")
        yield f"{'devices':<16} unknown: torch fails with {type(error).__name__}: {first_line}"


def installed(name: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _processors() -> Iterator[str]:
    """Lines about the CPU and the other devices, as torch sees them."""
    import torch

    from vcut import runtime

    own = [name for name in ("bfloat16", "float16") if not runtime.is_emulated(getattr(torch, name))]
    yield f"{'CPU':<16} {_processor_name()}, {torch.backends.cpu.get_cpu_capability()}"
    yield f"{'CPU arithmetic':<16} {', '.join(['float32', *own])}"
    yield f"{'threads':<16} {torch.get_num_threads()} in an operation, {torch.get_num_interop_threads()} between"
    yield f"{'CUDA of torch':<16} {torch.version.cuda or torch.version.hip or 'none: a build for the CPU'}"
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        dtypes = ["float32", "float16", *(["bfloat16"] if device.major >= 8 else [])]
        yield (
            f"{f'cuda:{index}':<16} {device.name}, {device.total_memory / GIB:.1f} GiB, "
            f"compute capability {device.major}.{device.minor}, {', '.join(dtypes)}"
        )
    yield f"{'mps':<16} {'available' if torch.backends.mps.is_available() else 'not available'}"


def _processor_name() -> str:
    """Name of the processor. Linux says it in a file; elsewhere the platform module has it."""
    cpuinfo = Path("/proc/cpuinfo")
    if sys.platform.startswith("linux") and cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()

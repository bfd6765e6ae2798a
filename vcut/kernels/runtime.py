"""Settings of the process that make it faster.

Importing vcut changes none of them. The command calls :func:`keep_large_blocks` and
:func:`keep_within_quota`; a program may do so too.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd import forward_ad

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Options of mallopt, as in glibc's malloc.h."""


def keep_large_blocks() -> bool:
    """Let the C library keep the memory of freed tensors for the next ones; for the whole process, for good.

    By default glibc maps every block above some hundred KiB anew and gives it back when freed, so that each large
    tensor is paid for by page faults, 4 KiB at a time.

    Returns:
        Whether it took effect: False where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    largest = 2**31 - 1
    wanted = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, largest), (M_TOP_PAD, 64 << 20))
    return all(mallopt(option, value) == 1 for option, value in wanted)


def keep_within_quota(own: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup") -> int:
    """Use no more threads than the control groups of this process give it cores; for the whole process, for good.

    torch counts the cores that the process may run on, but not those of a quota, as containers have. What the user
    set by ``OMP_NUM_THREADS`` stays.

    Args:
        own: file that names the process's control group (cgroup v2).
        root: where these groups are mounted.

    Returns:
        The number of threads.
    """
    threads = torch.get_num_threads()
    if "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, min(threads, math.ceil(_quota(Path(own), Path(root)))))
        if threads < torch.get_num_threads():
            torch.set_num_threads(threads)
    return threads


def _quota(own: Path, root: Path) -> float:
    """Cores of the tightest limit on the group in ``own`` and on those around it."""
    cores = float(sys.maxsize)
    names = own.read_text().splitlines() if own.is_file() else []
    for name in (line.removeprefix("0::/") for line in names if line.startswith("0::/")):
        group = root / name
        for folder in (group, *group.parents):
            limit = folder / "cpu.max"
            if folder.is_relative_to(root) and limit.is_file():
                quota, period = limit.read_text().split()
                cores = cores if quota == "max" else min(cores, int(quota) / int(period))
    return cores


def is_watched(*tensors: Tensor) -> bool:
    """Whether what is computed of ``tensors`` is recorded for gradients, or transformed by ``torch.func``."""
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return True
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_emulated(dtype: torch.dtype) -> bool:
    """Whether this machine's CPU has no arithmetic of its own for ``dtype``, so that float32 is faster."""
    if dtype == torch.bfloat16:
        return not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if dtype == torch.float16:
        return not torch.ops.mkldnn._is_mkldnn_fp16_supported()
    return False

"""Settings of the process that make it faster.

Importing vcut changes none of them. The command calls :func:`keep_large_blocks`; a program may do so too.
"""

from __future__ import annotations

import ctypes
import sys

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

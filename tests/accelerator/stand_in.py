"""A device of another name whose memory is the CPU's and whose kernels are the CPU's, written in Python.

Importing this registers it as ``stand_in``, for the whole process and for good. Like a GPU it refuses to compute with
a tensor that lies elsewhere, and it notes where the host waits for it. Unlike one it runs no kernel of its own: what
is shown is where tensors lie and what is asked of the device, never what a GPU's kernel returns, its speed or memory.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
from torch.utils.dlpack import from_dlpack, to_dlpack

NAME = "stand_in"
K_DL_CPU, K_DL_EXT_DEV = 1, 12
"""Kinds of device of the DLPack standard, in which tensors are handed over without a copy."""

ACROSS = ("aten::_copy_from", "aten::_copy_from_and_resize")
"""Operators that copy from one device to another."""

WAITS = ("aten::_local_scalar_dense", "aten::equal", "aten::nonzero", "aten::masked_select", "aten::_unique2")
"""Operators whose result the host, or the shape of the next tensor, depends on."""

waited: list[str] = []
ran: set[str] = set()


class _Module:
    """What torch asks a device's module for."""

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def is_initialized(self) -> bool:
        return True

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


def _relabelled(tensor: Tensor, kind: int) -> Tensor:
    """The same memory as a tensor of another device."""
    capsule = to_dlpack(tensor.detach())
    managed = _pointer(capsule, b"dltensor")
    ctypes.c_int32.from_address(managed + ctypes.sizeof(ctypes.c_void_p)).value = kind
    return from_dlpack(capsule)


_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def _run(operator: Any, *args: Any, **kwargs: Any) -> Any:
    """Run ``operator`` on the CPU's view of the memory, and hand its result out as the device's."""
    name = operator.name().partition(".")[0]
    ran.add(name)
    given = list(_tensors((args, kwargs)))
    if name in ACROSS:
        source, target = given
        waited.extend([name] if source.device != target.device else [])
        _twin(target).copy_(_twin(source))
        return target
    ours = [tensor for tensor in given if tensor.device.type == NAME]
    strays = [tensor for tensor in given if tensor.device.type != NAME and tensor.ndim > 0]
    if ours and strays:
        raise RuntimeError(
            f"{name}: expected all tensors on the device {NAME}, found one on {strays[0].device}"
        )
    waited.extend([name] if name in WAITS else [])
    twins = {id(tensor): _twin(tensor) for tensor in given}
    homes = {id(twins[id(tensor)]): tensor for tensor in ours}
    empty = [
        tensor for tensor in ours if tensor.numel() == 0
    ]  # results that the operator makes as large as they are
    for tensor in empty:
        twin = torch.empty(tensor.shape, dtype=tensor.dtype)
        twins[id(tensor)], homes[id(twin)] = twin, tensor
    args, kwargs = _changed((args, kwargs), lambda tensor: twins[id(tensor)])
    if kwargs.get("device") is not None:
        kwargs["device"] = torch.device("cpu")
    found = operator(*args, **kwargs)
    for tensor in empty:
        if twins[id(tensor)].numel():
            tensor.data = _relabelled(twins[id(tensor)], K_DL_EXT_DEV)

    def home(tensor: Tensor) -> Tensor:
        return homes[id(tensor)] if id(tensor) in homes else _relabelled(tensor, K_DL_EXT_DEV)

    return _changed(found, home)


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors among an operator's arguments. torch's own walk takes ten times as long as a small operator."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _tensors(each)


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """``value`` with another tensor in the place of each."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: _changed(each, change) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_changed(each, change) for each in value)
    return value


def _twin(tensor: Tensor) -> Tensor:
    return _relabelled(tensor, K_DL_CPU) if tensor.device.type == NAME else tensor


@contextmanager
def waits() -> Iterator[list[str]]:
    """Names of the operators for which the host waits within the block."""
    waited.clear()
    yield waited


_setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
LIBRARY = torch.library.Library("_", "IMPL")
LIBRARY.fallback(_run, "PrivateUse1")
OWN = torch.library.Library("aten", "IMPL")
for name, operator in {
    "convolution_overrideable": torch.ops.aten.convolution.default,
    **{
        f"arange{form}": getattr(torch.ops.aten.arange, form[1:] or "default")
        for form in ("", ".start", ".start_step")
    },
}.items():  # torch brings kernels of its own for these, which this device could not run
    OWN.impl(name, functools.partial(_run, operator), "PrivateUse1")

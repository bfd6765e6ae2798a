"""A network from its tensors, and made ready to compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from vcut.errors import ConfigError

C = TypeVar("C")
M = TypeVar("M", bound=nn.Module)


def assembled(kind: Callable[[C], M], config: C, state: Mapping[str, Tensor]) -> M:
    """A network that holds the tensors of ``state`` themselves: none is drawn, none is copied.

    Raises:
        RuntimeError: a tensor is missing, left over or of another shape; torch's message lists them.
    """
    with torch.device("meta"):
        network = kind(config)
    network.load_state_dict(state, strict=True, assign=True)
    return network


def device_named(name: object) -> torch.device:
    """The device of that name, on which torch was seen to make a tensor.

    Raises:
        ConfigError: torch does not reach it here; the message lists those that it reaches.
    """
    try:
        return torch.empty(0, device=name).device  # type: ignore[call-overload]  # any name: that is the question
    except Exception as error:  # of as many kinds as torch has devices
        kind = torch.accelerator.current_accelerator(check_available=True)
        there = ["cpu", *(f"{kind}:{i}" for i in range(torch.accelerator.device_count()))]
        raise ConfigError(f"there is no device {str(name)!r} here; there is {', '.join(there)}") from error


DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""Number types in which the networks compute."""


def check_dtype(what: str, dtype: object) -> None:
    """Raise :class:`ConfigError` unless the networks compute in ``dtype``."""
    if dtype not in DTYPES:
        raise ConfigError(f"{what} must be one of {', '.join(map(str, DTYPES))}, got {dtype!r}")


def for_inference(network: M, device: torch.device) -> M:
    """Freeze ``network`` in place and put it on ``device``; on a GPU in the activations' layout, for cuDNN."""
    network.eval().requires_grad_(False).to(device)
    if device.type == "cuda":  # CPU weights stay views of the file
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    return network

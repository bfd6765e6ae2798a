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


def device_named(name: str | torch.device) -> torch.device:
    """The device of that name.

    Raises:
        ConfigError: torch knows no such kind of device.
    """
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"there is no device {name!r}; use 'cpu', 'cuda', 'cuda:1' or 'mps'") from error


def for_inference(network: M, device: torch.device) -> M:
    """Freeze ``network`` in place and put it on ``device``; on a GPU in the activations' layout, for cuDNN."""
    network.eval().requires_grad_(False).to(device)
    if device.type == "cuda":  # CPU weights stay views of the file
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    return network

"""Packing: weights rearranged once for this CPU."""

from __future__ import annotations

from torch import nn

from vcut.errors import ConfigError
from vcut.kernels.onednn import can_pack
from vcut.layers.conv import Conv2d
from vcut.layers.linear import Linear


def pack(*networks: nn.Module) -> bool:
    """Pack the weights of ``networks``, in place and for good: they then compute on this CPU, and nothing else.

    A packed network cannot be moved, cast, trained, compiled, folded or saved. Packed weights are memory of their
    own, where those of a loaded file may be the file's pages, and convolutions of fewer products have more of them.
    What several networks share they share still, if packed in one call. Weights for which :func:`can_pack` says no
    stay as they are.

    Returns:
        Whether any was packed.

    Raises:
        ConfigError: a weight still wants a gradient, which it could not have. Nothing was packed then.
    """
    modules = [
        module
        for network in networks
        for module in network.modules()
        if isinstance(module, Linear | Conv2d) and not is_packed(module) and can_pack(module.weight)
    ]
    if any(module.weight.requires_grad for module in modules):
        raise ConfigError("packed weights have no gradients: call requires_grad_(False) first")
    same: dict[int, list[Linear | Conv2d]] = {}
    for module in modules:
        same.setdefault(module.weight.data_ptr(), []).append(module)
    for first, *others in same.values():
        first.pack()
        for other in others:
            other._parameters.update(first._parameters)
            other._modules.update(first._modules)
    return bool(modules)


def is_packed(network: nn.Module) -> bool:
    """Whether :func:`pack` has been here."""
    return any(parameter.is_mkldnn for parameter in network.parameters())

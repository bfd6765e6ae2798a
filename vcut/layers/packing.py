"""Packing: layers replaced by others that compute the same from weights rearranged for this CPU.

A packed layer holds matrices in the form that is faster here (:mod:`vcut.kernels.matrices`), convolution filters in
the blocks of oneDNN (:mod:`vcut.kernels.onednn`) or as filters that take fewer products
(:mod:`vcut.kernels.winograd`, :mod:`vcut.kernels.upsampling`). Which of them, a :class:`Packing` says. A packed layer
computes without gradients and refuses whatever else one does with a module.

Shapes: b clips, f frames, h w grid, c channels.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from types import NoneType
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vcut.errors import ConfigError, check_type
from vcut.kernels import matrices, onednn, upsampling, winograd
from vcut.kernels.choice import Packing
from vcut.kernels.parts import Parts
from vcut.kernels.runtime import is_watched
from vcut.layers.conv import Conv, TemporalConv, UpsamplingConv
from vcut.layers.linear import GEGLU

MANY, MORE = 128, 640
"""Numbers of channels from which on fewer products are worth their transforms: in general, and over time where the
plain sum has oneDNN's blocks."""

NARROW, WIDE = 6, 1024
"""Maps of fewer columns and at least so many channels are convolved side by side: oneDNN works on a row at a time."""


def pack(*networks: nn.Module, packing: Packing | None = None) -> bool:
    """Replace the layers of ``networks`` by packed ones, in place and for good.

    They then compute on this CPU, and nothing else: a packed network cannot be moved, cast, trained, compiled,
    folded, copied or saved. Weights in another form are memory of their own, where those of a loaded file may be
    the file's pages, and convolutions of fewer products have more of them. Networks that share weights share them
    still, if they are packed in one call. Weights for which :func:`vcut.kernels.onednn.can_pack` says no stay as they
    are.

    Args:
        networks: UNets, VAEs or other modules of layers.
        packing: the forms to pack them in, by default those that this CPU computes fastest.

    Returns:
        Whether any was packed.

    Raises:
        ConfigError: a weight still wants a gradient, which it could not have. Nothing was packed then.
    """
    check_type("packing", packing, Packing, NoneType)
    packing = packing or Packing()
    sharing: dict[tuple[object, ...], list[tuple[nn.Module, str]]] = {}
    for network in networks:
        check_type("a network", network, nn.Module)
        if _kind(network, packing) is not None:
            raise ConfigError("pack replaces the layers of a network; packed(layer) makes one packed layer")
        for parent, name, layer in _layers(network, packing):
            _refuse_gradients(layer)
            memory = [parameter.data_ptr() for parameter in layer.parameters()]
            sharing.setdefault((type(layer), *memory), []).append((parent, name))
    for places in sharing.values():
        weights: list[nn.Parameter] | None = None
        for parent, name in places:  # the plain weights are freed here, group by group
            replacement = packed(getattr(parent, name), weights, packing)
            weights = list(replacement.weights)
            setattr(parent, name, replacement)
    return bool(sharing)


def is_packed(network: nn.Module) -> bool:
    """Whether any of the network's layers is packed."""
    return packing_of(network) is not None


def packing_of(network: nn.Module) -> Packing | None:
    """The forms that the network is packed in, those of its first packed layer; None if no layer is packed."""
    return next((module.packing for module in network.modules() if isinstance(module, Packed)), None)


def packed(
    layer: nn.Module, weights: Sequence[nn.Parameter] | None = None, packing: Packing | None = None
) -> Packed:
    """The packed form of one layer.

    Args:
        layer: a linear layer, a GEGLU or a convolution of :mod:`vcut.layers`.
        weights: the packed weights, where another layer with the same weights has made them in the same form.
        packing: the forms to choose from, by default those that this CPU computes fastest.

    Raises:
        ConfigError: its weight wants a gradient, this CPU does not compute in its dtype, it is another layer, or one
            that ``packing`` leaves as it is.
    """
    packing = packing or Packing()
    kind = _kind(layer, packing)
    if kind is None:
        raise ConfigError(f"a {type(layer).__name__} cannot be packed here")
    _refuse_gradients(layer)
    return kind(layer, weights, packing)


def packed_bytes(network: nn.Module, packing: Packing | None = None) -> int:
    """Bytes of the parameters of ``network`` once it is packed. It may be on the meta device."""
    packing = packing or Packing()
    size = sum(parameter.nbytes for parameter in network.parameters())
    for layer in network.modules():
        form = _form(layer, packing)
        if form is not None:
            weight: Tensor = layer.weight  # type: ignore[assignment]
            size += round((form.growth(layer, packing) - 1) * weight.nbytes)
    return size


def _layers(network: nn.Module, packing: Packing) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """The layers that can be packed, each with its parent and its name there."""
    for parent in network.modules():
        for name, layer in parent.named_children():
            if _kind(layer, packing) is not None:
                yield parent, name, layer


def _refuse_gradients(layer: nn.Module) -> None:
    if any(parameter.requires_grad for parameter in layer.parameters()):
        raise ConfigError("packed weights have no gradients: call requires_grad_(False) first")


def _kind(layer: nn.Module, packing: Packing) -> type[Packed] | None:
    """The packed form for ``layer``; None where there is none, or the layer is not on a CPU."""
    form = _form(layer, packing)
    return form if form is not None and onednn.can_pack(layer.weight) else None  # type: ignore[arg-type]


def _form(layer: nn.Module, packing: Packing) -> type[Packed] | None:
    """The packed form that this CPU would have for ``layer``, wherever that is now."""
    forms: dict[type[nn.Module], Callable[[Any, Packing], type[Packed] | None]] = {
        nn.Linear: lambda *_: PackedLinear,
        GEGLU: lambda *_: PackedGEGLU,
        Conv: _form_of_convolution,
        UpsamplingConv: _form_of_upsampling,
        TemporalConv: _form_of_temporal_convolution,
    }
    form = forms.get(type(layer))
    if form is None or not isinstance(layer.weight, Tensor) or not onednn.packs(layer.weight.dtype):
        return None
    return form(layer, packing)


def _form_of_convolution(conv: Conv, packing: Packing) -> type[Packed] | None:
    form = conv.kernel_size, conv.padding, conv.stride
    if form == ((1, 1), (0, 0), (1, 1)):
        return PointwiseConv
    in_blocks = _in_blocks(conv, packing)
    if form == ((3, 3), (1, 1), (1, 1)):
        if packing.filtering != "none" and _is_wide(conv, MANY):
            return WinogradConv
        joined = packing.narrow == "joined" and min(conv.in_channels, conv.out_channels) >= WIDE
        return (SideBySideConv if joined else PackedConv) if in_blocks else None
    if in_blocks:
        return PackedConv
    return StridedConv if conv.stride != (1, 1) and _is_wide(conv, MORE) else None


def _form_of_upsampling(conv: UpsamplingConv, packing: Packing) -> type[Packed] | None:
    if packing.upsampling == "filtered" and _is_wide(conv, MANY):
        return WinogradUpsampling
    blocks_pay = packing.upsampling == "filtered" and _in_blocks(conv, packing)
    return FourConvolutions if blocks_pay or packing.upsampling == "four" else None


def _form_of_temporal_convolution(conv: TemporalConv, packing: Packing) -> type[Packed] | None:
    in_blocks = _in_blocks(conv, packing)
    if packing.filtering != "none" and _is_wide(conv, MORE if in_blocks else MANY):
        return WinogradTemporalConv
    return PackedTemporalConv if in_blocks else None


def _is_wide(conv: nn.Conv2d, least: int) -> bool:
    """Whether fewer products over at least so many channels pay; in half precision they would lose digits."""
    return conv.weight.dtype == torch.float32 and min(conv.in_channels, conv.out_channels) >= least


def _in_blocks(conv: nn.Conv2d, packing: Packing) -> bool:
    """Whether the filters of ``conv`` are in blocks, wherever they stay filters."""
    return packing.filters == "blocks" and onednn.same_blocks(conv.out_channels)


class Packed(nn.Module, ABC):
    """A layer that computes from packed weights, and refuses what it cannot do.

    ``weights`` are constants of this CPU in the forms of ``packing``; the bias is that of the layer that it replaces.
    """

    bias: Tensor | None

    def __init__(self, layer: Any, weights: Sequence[nn.Parameter] | None, packing: Packing) -> None:
        super().__init__()
        self.packing = packing
        if weights is None:
            weights = [nn.Parameter(weight, requires_grad=False) for weight in self.arranged(layer)]
        self.weights = nn.ParameterList(weights)
        self.register_parameter("bias", layer.bias)
        self.replaces = str(layer)

    @property
    def weight(self) -> Tensor:
        """The only packed weight, or the first of them; all have the dtype of the layer."""
        return self.weights[0]

    @abstractmethod
    def arranged(self, layer: Any) -> list[Tensor]:
        """The weights of ``layer`` as this form wants them."""

    @classmethod
    def growth(cls, layer: Any, packing: Packing) -> float:
        """Size of the packed weights over that of the weight of ``layer``."""
        return 1.0

    @abstractmethod
    def compute(self, x: Tensor) -> Tensor:
        """The result of ``forward``, computed once it is clear that nothing forbids it."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            self._refuse(
                "computed under torch.autocast", "leave autocast, or load the model in the wanted dtype"
            )
        if is_watched(x, self.weight):
            self._refuse(
                "trained, differentiated or transformed by torch.func",
                "use torch.no_grad(), or an unpacked network",
            )
        return self.compute(x)

    def extra_repr(self) -> str:
        return f"for {self.replaces}"

    def _refuse(self, what: str, instead: str = "load the network again without packing it") -> NoReturn:
        dtype = str(self.weight.dtype).removeprefix("torch.")
        raise ConfigError(f"weights packed for this CPU in {dtype} cannot be {what}: {instead}")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Packed:
        """Refuse to go to another device or dtype; where that changes nothing, nothing is done."""
        before = torch.empty(0, dtype=self.weight.dtype, device="cpu")
        after = fn(before)
        if (after.device, after.dtype) != (before.device, before.dtype):
            self._refuse(f"moved or cast to {after.device}, {str(after.dtype).removeprefix('torch.')}")
        return self

    def _save_to_state_dict(self, *_: Any) -> None:
        self._refuse("saved (state_dict)", "save the network before packing it")

    def _load_from_state_dict(self, *_: Any) -> None:
        self._refuse("loaded into (load_state_dict)", "load first, then pack")

    def __reduce_ex__(self, _: Any) -> NoReturn:
        self._refuse("copied or pickled", "copy or save the network before packing it")


class PackedLinear(Packed):
    """``x W^T + b`` over the last axis of ``x``."""

    def arranged(self, layer: nn.Linear) -> list[Tensor]:
        return [matrices.arranged(layer.weight, self.packing)]

    def compute(self, x: Tensor) -> Tensor:
        return matrices.linear(x, self.weight, self.bias)


class PackedGEGLU(Packed):
    """Value and gate as two matrices, so that neither is held twice."""

    def arranged(self, layer: GEGLU) -> list[Tensor]:
        return [matrices.arranged(half, self.packing) for half in layer.weight.chunk(2)]

    def compute(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        return matrices.geglu(x, self.weights[0], self.weights[1], self.bias)


class PointwiseConv(Packed):
    """A 1x1 convolution as what it is, a linear layer: up to ten times faster."""

    def arranged(self, layer: Conv) -> list[Tensor]:
        return [matrices.arranged(layer.weight.flatten(1), self.packing)]

    def compute(self, x: Tensor) -> Tensor:
        return matrices.linear(x, self.weight, self.bias)


class PackedConv(Packed):
    """A convolution of ``[b, f, h, w, c]``, frame by frame."""

    def __init__(self, layer: Conv, weights: Sequence[nn.Parameter] | None, packing: Packing) -> None:
        super().__init__(layer, weights, packing)
        self.stride, self.padding = layer.stride, _numbers(layer.padding)

    def arranged(self, layer: Conv) -> list[Tensor]:
        return [onednn.packed_filters(layer.weight, layer.stride, _numbers(layer.padding))]

    def compute(self, x: Tensor) -> Tensor:
        wide = onednn.widened(x, self.weight, self.stride, self.padding)
        y = onednn.convolution(wide.flatten(0, 1), self.weight, self.bias, self.stride, self.padding)
        y = y if wide is x else y[:, :, :1].contiguous()
        return y.unflatten(0, (len(x), -1))


class StridedConv(Packed):
    """A convolution of ``[b, f, h, w, c]`` with few results, as a product: what each result sees is one row."""

    def __init__(self, layer: Conv, weights: Sequence[nn.Parameter] | None, packing: Packing) -> None:
        super().__init__(layer, weights, packing)
        self.size, self.stride, self.padding = layer.kernel_size, layer.stride, _numbers(layer.padding)

    def arranged(self, layer: Conv) -> list[Tensor]:
        return [matrices.arranged(layer.weight.permute(0, 2, 3, 1).flatten(1), self.packing)]

    def compute(self, x: Tensor) -> Tensor:
        height, width = self.padding
        seen = F.pad(x, (0, 0, width, width, height, height))
        for axis, size, step in zip((2, 3), self.size, self.stride, strict=True):
            seen = seen.unfold(axis, size, step)
        return matrices.linear(seen.movedim(4, -1).flatten(4), self.weight, self.bias)


class SideBySideConv(PackedConv):
    """A 3x3 convolution of many channels, which takes narrow maps side by side."""

    def compute(self, x: Tensor) -> Tensor:
        if x.shape[3] >= NARROW:
            return super().compute(x)
        y = onednn.side_by_side(x.flatten(0, 1), self.weight, self.bias)
        return y.unflatten(0, (len(x), -1))


class WinogradConv(Packed):
    """A 3x3 convolution over many channels in float32, with the fewer products of :mod:`vcut.kernels.winograd`."""

    def __init__(self, layer: Any, weights: Sequence[nn.Parameter] | None, packing: Packing) -> None:
        self.axes = self.filtering(layer, packing)
        super().__init__(layer, weights, packing)

    @classmethod
    def growth(cls, layer: Any, packing: Packing) -> float:
        i, j = cls.filtering(layer, packing)
        return len(i.filters) * len(j.filters) / math.prod(layer.kernel_size)

    @staticmethod
    def filtering(layer: Any, packing: Packing) -> winograd.Axes:
        """Filtering along each axis of the map."""
        return _minimal(layer, packing), _minimal(layer, packing)

    def arranged(self, layer: Any) -> list[Tensor]:
        return matrices.all_arranged(winograd.transform(layer.weight, self.axes), self.packing)

    def compute(self, x: Tensor) -> Tensor:
        return self.convolve(x.flatten(0, 1)).unflatten(0, (len(x), -1))

    def convolve(self, maps: Tensor) -> Tensor:
        """The convolution of ``[n, i, j, c]``."""
        return winograd.convolve(maps, tuple(self.weights), self.bias, self.axes)


class WinogradUpsampling(WinogradConv):
    """Upsampling and convolution in float32, in which nothing is repeated."""

    @staticmethod
    def filtering(layer: Any, packing: Packing) -> winograd.Axes:
        return winograd.UPSAMPLED, winograd.UPSAMPLED


class WinogradTemporalConv(WinogradConv):
    """The 3x1x1 convolution of ``[b, f, h, w, c]`` over frames in float32."""

    @staticmethod
    def filtering(layer: Any, packing: Packing) -> winograd.Axes:
        return _minimal(layer, packing), winograd.WHOLE

    def compute(self, x: Tensor) -> Tensor:
        return self.convolve(x.flatten(2, 3)).view(*x.shape[:-1], -1)


class FourConvolutions(Packed):
    """Upsampling and convolution of :mod:`vcut.kernels.upsampling`, with filters in blocks or plain ones."""

    @classmethod
    def growth(cls, layer: Any, packing: Packing) -> float:
        return 16 / 9  # four filters of 2x2 in place of one of 3x3

    def arranged(self, layer: UpsamplingConv) -> list[Tensor]:
        quarters = upsampling.transform(layer.weight)
        if _in_blocks(layer, self.packing):
            return [onednn.packed_filters(quarter) for quarter in quarters]
        return quarters

    def compute(self, x: Tensor) -> Tensor:
        parts = Parts(x, dim=1, growth=4)
        for some in parts:
            y = upsampling.convolve(
                x[:, some].flatten(0, 1), tuple(self.weights), self.bias, onednn.convolution
            )
            parts.keep(y.unflatten(0, (len(x), -1)))
            del y
        return parts.result


class PackedTemporalConv(Packed):
    """The 3x1x1 convolution of ``[b, f, h, w, c]`` over frames, as a (3, 1) convolution of ``[f, h*w]``."""

    def arranged(self, layer: TemporalConv) -> list[Tensor]:
        return [onednn.packed_filters(layer.weight, padding=(1, 0))]

    def compute(self, x: Tensor) -> Tensor:
        y = onednn.convolution(x.flatten(2, 3), self.weight, self.bias, padding=(1, 0))
        return y.unflatten(2, x.shape[2:4])


def _minimal(layer: nn.Conv2d, packing: Packing) -> winograd.Filtering:
    # The widest layers see the smallest maps and have most of the weights: theirs grow least with a tile of 2.
    by_width = 4 if layer.out_channels <= 640 else 2
    return winograd.minimal(by_width if packing.filtering == "width" else int(packing.filtering))


def _numbers(padding: str | tuple[int, ...]) -> tuple[int, ...]:
    assert not isinstance(padding, str), "padding is given in numbers"
    return padding

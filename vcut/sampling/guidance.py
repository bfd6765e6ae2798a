"""Classifier-free guidance with a scale of its own for every frame.

Guidance mixes the denoised estimates, as the official code does: D = D_u + s_f (D_c - D_u). Mixing the raw outputs of
the network would give the same, because preconditioning is affine and shared by both branches.

Shapes: b clips, f frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Number
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from vcut.config import number
from vcut.errors import ConfigError

Scale = Callable[[int], Tensor | Sequence[float]]
"""A function from the number of frames to one guidance scale per frame."""

Shape = Literal["linear", "triangle"]


@dataclass(frozen=True)
class Ramp:
    """A scale that changes from frame to frame, as a value: two numbers and the shape between them.

    ``linear`` rises from ``minimum`` at frame 0 to ``maximum`` at the last frame (sgm's LinearPredictionGuider).
    ``triangle`` rises from ``minimum`` at both ends to ``maximum`` in the middle (sgm's TrianglePredictionGuider,
    period 1), which keeps the last frames from saturating when clips are chained. With an even number of frames the
    middle lies between two frames, which share the highest scale, a little short of ``maximum``.

    Any two finite numbers will do: falling, equal, below 1 and negative scales are all well defined.
    """

    minimum: float = 1.0
    maximum: float = 3.0
    shape: Shape = "linear"

    def __post_init__(self) -> None:
        if self.shape not in get_args(Shape):
            raise ConfigError(
                f"the shape of guidance must be one of {', '.join(get_args(Shape))}, got {self.shape!r}"
            )
        for name in ("minimum", "maximum"):
            object.__setattr__(self, name, number(f"the {name} of guidance", getattr(self, name)))

    def __call__(self, frames: int) -> Tensor:
        """The scale of each frame, ``[frames]`` in float64."""
        if self.shape == "linear":
            return torch.linspace(self.minimum, self.maximum, frames, dtype=torch.float64, device="cpu")
        # The height of a single frame is 0.
        height = 1 - torch.linspace(-1, 1, frames, dtype=torch.float64, device="cpu").abs()
        return self.minimum + (self.maximum - self.minimum) * height


def linear(minimum: float, maximum: float) -> Ramp:
    """A scale from ``minimum`` at frame 0 to ``maximum`` at the last frame."""
    return Ramp(minimum, maximum)


def constant(scale: float) -> Ramp:
    """The same scale on every frame."""
    return Ramp(scale, scale)


def triangle(minimum: float, maximum: float) -> Ramp:
    """A scale from ``minimum`` at both ends to ``maximum`` in the middle."""
    return Ramp(minimum, maximum, "triangle")


Guidance = Scale | Sequence[float] | float
"""A scale; or two numbers, at the first frame and at the last; or one number for all frames."""


def scale_of(guidance: Guidance) -> Scale:
    """The scale that two numbers, one number, or the fields of a :class:`Ramp` by name stand for.

    Raises:
        ConfigError: ``guidance`` is nothing of the kind.
    """
    if callable(guidance):
        return guidance
    given: Any = guidance
    try:
        if isinstance(given, Mapping):
            return Ramp(**given)
        if getattr(given, "ndim", None) == 0 or (isinstance(given, Number) and not isinstance(given, bool)):
            return constant(given)
        first, last = given
    except ConfigError:
        raise
    except (TypeError, ValueError):
        raise ConfigError(
            "guidance must be one scale, (scale at the first frame, scale at the last), or a function such as "
            f"vcut.sampling.triangle(1.0, 3.0), got {guidance!r}"
        ) from None
    return Ramp(first, last)


def frame_scales(scale: Scale, frames: int) -> Tensor:
    """Evaluate and check a scale: ``[f]`` float64 on the CPU.

    Raises:
        ConfigError: the scale is not callable, or does not return one finite number per frame.
    """
    if not callable(scale):
        raise ConfigError(
            f"the guidance scale must be a function of the number of frames, such as linear(1.0, 3.0) or "
            f"constant(2.0), got {scale!r}"
        )
    try:
        values = torch.as_tensor(scale(frames), dtype=torch.float64, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"the guidance scale must return numbers: {error}") from error
    if values.shape != (frames,):
        raise ConfigError(f"expected {frames} guidance scales, one per frame, got {list(values.shape)}")
    for i, value in enumerate(values.tolist()):
        if not math.isfinite(value):
            raise ConfigError(f"the guidance scale of frame {i} is {value}")
    return values


def guide(uncond: Tensor, cond: Tensor, scale: Tensor) -> Tensor:
    """Mix two estimates ``[b, f, ...]`` by ``scale [f]``: D_u + s_f (D_c - D_u), exactly D_u at 0 and D_c at 1."""
    if scale.shape != cond.shape[1:2]:
        raise ConfigError(f"{list(scale.shape)} guidance scales do not fit {list(cond.shape)} (b, f, ...)")
    weight = scale.to(cond.device, cond.dtype).view(1, -1, *[1] * (cond.ndim - 2))
    return torch.lerp(uncond, cond, weight)

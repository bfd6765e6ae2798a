"""Consistency of a clip in some encoder's features: equations 5 to 8 of the paper, and what VBench makes of them.

Equations 5 and 6 are of DINO's features, 7 and 8 the same of CLIP's. So there is one function for each pair. VBench
takes a negative cosine for 0 (``clip``); the paper's text does not.

Shapes: features ``[T, D]`` of T frames and ``reference [D]`` of the picture, of any length; frames ``[T, 3, H, W]``.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from vcut.errors import ConfigError


def consistency(features: Tensor, *, clip: bool = True) -> float:
    """Consistency of the frames, in -1..1: equation 5 of the paper with DINO's features, 7 with CLIP's.

    ``1/(T-1) sum_(t=2..T) 1/2 (<d_1, d_t> + <d_(t-1), d_t>)``, d the unit features.

    Raises:
        ConfigError: features of another shape, or of a single frame.
    """
    return reference_consistency(features, features[0], clip=clip)


def reference_consistency(features: Tensor, reference: Tensor, *, clip: bool = True) -> float:
    """Consistency of the frames with the picture: equation 6 of the paper with DINO's features, 8 with CLIP's.

    Equation 5 with the picture's feature in place of the first frame's.

    Raises:
        ConfigError: features of another shape, or of a single frame.
    """
    to_reference, consecutive = _cosines(features, reference, clip)
    return (0.5 * (to_reference[1:] + consecutive)).mean().item()


def i2v_mix(features: Tensor, reference: Tensor) -> float:
    """Mix of cosines that VBench calls i2v_subject (with DINO's features) and i2v_background (with DreamSim's).

    0.4 of the largest cosine of a frame to the picture, 0.3 of the mean and 0.3 of the smallest cosine of successive
    frames, each at least 0.

    Raises:
        ConfigError: features of another shape, or of a single frame.
    """
    to_reference, consecutive = _cosines(features, reference, clip=True)
    return (0.4 * to_reference.max() + 0.3 * consecutive.mean() + 0.3 * consecutive.min()).item()


def flicker(frames: Tensor) -> float:
    """1 minus the mean absolute difference of successive frames in 0..1: VBench's temporal_flickering.

    VBench computes it of static scenes alone. In any other clip it mostly says how much moves.

    Raises:
        ConfigError: a single frame.
    """
    _check_frames(len(frames))
    return 1 - frames.double().diff(dim=0).abs().mean().item()


def _cosines(features: Tensor, reference: Tensor, clip: bool) -> tuple[Tensor, Tensor]:
    """Cosines in float64: of every frame to the reference, ``[T]``, and of successive frames, ``[T - 1]``."""
    if features.ndim != 2 or reference.shape != features.shape[1:]:
        raise ConfigError(
            f"consistency needs features [T, D] and a reference [D], got {list(features.shape)} and "
            f"{list(reference.shape)}"
        )
    _check_frames(len(features))
    unit, other = F.normalize(features.double(), dim=1), F.normalize(reference.double(), dim=0)
    pairs = unit @ other, (unit[:-1] * unit[1:]).sum(1)
    return (pairs[0].clamp_min(0), pairs[1].clamp_min(0)) if clip else pairs


def _check_frames(count: int) -> None:
    if count < 2:
        raise ConfigError(f"a clip's consistency needs at least 2 frames, got {count}")

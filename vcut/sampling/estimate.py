"""The denoise side of a step: the latents and their noise level become one estimate of the clean latents.

It knows the step's branches and the guidance, and nothing of how the sampler goes on from there.

Shapes: b clips, f frames. The axes that follow (c, h, w) concern the denoiser alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vcut.errors import ConfigError
from vcut.sampling.cut_plan import Step
from vcut.sampling.guidance import guide
from vcut.sampling.preconditioning import Denoiser


@dataclass(frozen=True)
class Estimate:
    """One evaluation of a step: the guided D(x; sigma), and where it was made.

    The loop hands it to whatever comes after. Nothing else is remembered from one evaluation to the next.
    """

    step: Step
    sigma: float
    denoised: Tensor  # [b, f, ...]


def estimate(denoiser: Denoiser, x: Tensor, sigma: float, step: Step, scales: Tensor) -> Estimate:
    """Evaluate a step's branches on the latents ``x [b, f, ...]`` at ``sigma`` and mix them by ``scales [f]``.

    Raises:
        ConfigError: the denoiser returned another shape than one estimate per branch.
    """
    branches = denoiser(x, sigma, step.branches).to(x.dtype)
    if branches.shape != (len(step.branches), *x.shape):
        raise ConfigError(
            f"the denoiser returned {list(branches.shape)} for {len(step.branches)} branches of {list(x.shape)}"
        )
    denoised = guide(branches[0], branches[1], scales) if step.guided else branches[0]
    return Estimate(step, sigma, denoised)

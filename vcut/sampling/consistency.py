"""The sampler of consistency models (Song et al. 2023, arXiv 2303.01469, algorithm 1), as AnimateLCM-SVD uses it.

Such a model maps every state of a path to its clean end, so a few jumps do: to the estimate, and back to less noise.
"""

from __future__ import annotations

from torch import Tensor

from vcut.sampling.estimate import Estimate


def lcm(now: Estimate, noise: Tensor | None, sigma_next: float) -> Tensor:
    """The estimate with fresh unit ``noise`` at the next level: D + sigma_next z, or D if there is no noise.

    AnimateLCM (Wang et al. 2024, arXiv 2402.00769) leaves out the small sigma_min^2 that Song et al. subtract from
    sigma_next^2.
    """
    return now.denoised if noise is None else now.denoised + sigma_next * noise

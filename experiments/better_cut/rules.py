"""Rules on the denoiser's side: what a guided estimate is made of at each step, and what it costs.

A rule is bound to a network and to the conditioning of some clips, and gives a denoiser of a single branch for the
sampler, which then mixes nothing. The denoiser belongs to one run: it remembers what the rule carries along.

Shapes: b clips, f frames.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.better_cut.reuse import reusing
from vcut.conditioning import Conditioning, bind
from vcut.sampling import COND, UNCOND, Branch, Denoiser, Step, guide, plan, precondition
from vcut.settings import Run
from vcut.unet import UNet

Estimate = Callable[[Tensor, float], Tensor]
"""``estimate(x [b, f, ...], sigma) -> D [b, f, ...]``: one pass of the network."""


@dataclass(frozen=True)
class Rule:
    """Guidance at some steps alone. At the others one pass, to which the last guided difference may be added.

    Attributes:
        guided: numbers of the steps that take two passes.
        keep: None, and an unguided step is its pass alone; or a number g, and a step at noise level sigma after a
            guided one at sigma' is ``D_c + (s_f - 1) (sigma / sigma')^g (D_c - D_u)'``.
        embedding: factor on the embedding in the single passes: 1 the whole, 0.5 the mean of the paper's equation 4.
        before: the same of single passes before the first guided step.
        renew: the passes of the network after which its deep features are computed again; 1 never uses them again.
    """

    guided: tuple[int, ...]
    keep: float | None = None
    embedding: float = 1.0
    before: float = 1.0
    renew: int = 1

    def bind(self, unet: UNet, conditioning: Conditioning, run: Run) -> Denoiser:
        """The denoiser of one run, whose estimates ``[1, b, f, ...]`` are guided."""
        scales = torch.tensor(run.scales)
        numbers = {sigma: i + 1 for i, sigma in enumerate(run.sigmas[:-1])}
        if self.renew > 1:
            unet = reusing(unet, self.renew)
        network = bind(unet, conditioning, plan(len(numbers)), run.frames)
        both = precondition(network)
        whole = _pass(unet, conditioning, run.frames, COND, 1.0)
        single = _pass(unet, conditioning, run.frames, COND, self.embedding)
        early = _pass(unet, conditioning, run.frames, COND, self.before)
        # of the last guided step
        kept: tuple[Tensor, float] | None = None

        def denoise(x: Tensor, sigma: float, branches: tuple[Branch, ...]) -> Tensor:
            nonlocal kept
            if numbers[sigma] in self.guided:
                uncond, cond = both(x, sigma, (UNCOND, COND))
                kept = cond - uncond, sigma
                return guide(uncond, cond, scales)[None]
            if kept is None:
                return early(x, sigma)[None]
            if self.keep is None:
                return single(x, sigma)[None]
            difference, at = kept
            weight = (sigma / at) ** self.keep * (scales - 1).to(x).view(1, -1, 1, 1, 1)
            return (whole(x, sigma) + weight * difference)[None]

        return denoise


def _pass(unet: UNet, conditioning: Conditioning, frames: int, branch: Branch, factor: float) -> Estimate:
    """A single pass of ``branch``, its embedding times ``factor``."""
    scaled = dataclasses.replace(conditioning, embedding=factor * conditioning.embedding)
    denoiser = precondition(bind(unet, scaled, (Step(1, (branch,)),), frames))
    return lambda x, sigma: denoiser(x, sigma, (branch,))[0]

"""The loop over the steps of a run: estimate the clean latents, then move to the next noise level.

It knows no network: a denoiser is any function of the latents, the noise level and the branches to evaluate. It keeps
no state: a run is a generator of immutable records, and :func:`sample` reads it to its end.

Shapes: b clips, f frames. The axes that follow (c, h, w) concern the denoiser alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from enum import Enum
from typing import get_args

import torch
from torch import Tensor

from vcut.config import Sampler
from vcut.errors import ConfigError, NotFiniteError, check_type
from vcut.sampling.consistency import lcm
from vcut.sampling.cut_plan import Plan, Step, without_guidance
from vcut.sampling.dpm_solver import dpmpp_2m
from vcut.sampling.edm import Churn, euler, heun
from vcut.sampling.estimate import Estimate, estimate
from vcut.sampling.guidance import Scale, frame_scales
from vcut.sampling.preconditioning import Denoiser
from vcut.sampling.schedule import check_sigmas


@dataclass(frozen=True)
class Record:
    """The result of one step. Its tensors belong to the run: read them, and clone what you change."""

    step: Step
    sigma: float  # the noise level before the step, before churn
    sigma_next: float  # and after it
    latents: Tensor  # [b, f, ...] after the step, at sigma_next
    denoised: Tensor  # [b, f, ...] the guided estimate of the clean latents, good for previews


class Signal(Enum):
    """The value that a callback may return."""

    STOP = "stop"


STOP = Signal.STOP
"""A callback that returns this ends the run after the present step. With a tensor the run goes on from these latents.
Any other return value is ignored, because many handy callables, such as a progress bar's ``update``, return something
true."""

Callback = Callable[[Record], object]


def sample(
    denoiser: Denoiser,
    noise: Tensor,
    sigmas: Tensor | Sequence[float],
    plan: Plan,
    scale: Scale,
    *,
    sampler: Sampler = "euler",
    churn: Churn | None = None,
    generators: Sequence[torch.Generator] | None = None,
    callback: Callback | None = None,
    progress: bool = False,
) -> Tensor:
    """Run :func:`trajectory` to its end and return the clean latents ``[b, f, ...]``.

    Gradients flow unless the caller says otherwise: wrap in ``torch.inference_mode()`` to generate.

    Args:
        denoiser: see :data:`vcut.sampling.Denoiser`; :func:`vcut.sampling.precondition` makes one.
        noise: ``[b, f, ...]`` of unit variance; the run works on a scaled copy.
        sigmas: N falling levels, with or without the final 0 (:func:`vcut.sampling.check_sigmas`).
        plan: what to evaluate at each of the N steps.
        scale: the guidance scale over frames; if it is 1 on every frame, guided steps take one pass, not two.
        sampler: ``euler``, first order; ``heun``, EDM's second order at two evaluations a step; ``dpmpp_2m``,
            second order at one evaluation, which remembers the last; ``lcm``, the few stochastic steps of a
            consistency model.
        churn: fresh noise at each step of ``euler`` or ``heun``, which needs ``generators``; by default none.
        generators: one per clip, for churn and ``lcm``, so that a batch equals single runs.
        callback: a function called after every step with its :class:`Record`. If it returns :data:`STOP` the run
            ends, and the latents returned are that step's estimate of the clean ones. If it returns a tensor of the
            latents' shape, the run goes on as one that starts there, at ``sigma_next``; after the last step it is
            what is returned.
        progress: whether to show a bar with the stage and the step.

    Raises:
        ConfigError: the arguments do not fit together.
        NotFiniteError: the latents hold NaN or infinity.
    """
    if callback is not None and not callable(callback):
        raise ConfigError(f"callback must be a function, got {type(callback).__name__}")
    run = trajectory(
        denoiser, noise, sigmas, plan, scale, sampler=sampler, churn=churn, generators=generators
    )
    with closing(_with_bar(run, len(plan)) if progress else run) as records:
        for record in records:
            answer = None if callback is None else callback(record)
            if answer is STOP:
                return record.denoised
            latents = (records.send(answer) if isinstance(answer, Tensor) else record).latents
    return latents


def trajectory(
    denoiser: Denoiser,
    noise: Tensor,
    sigmas: Tensor | Sequence[float],
    plan: Plan,
    scale: Scale,
    *,
    sampler: Sampler = "euler",
    churn: Churn | None = None,
    generators: Sequence[torch.Generator] | None = None,
) -> Generator[Record, Tensor | None, None]:
    """The steps of a run, one :class:`Record` each, computed when they are asked for.

    ``send(latents)`` puts others in the place of the last record's, and returns the record with them.

    Arguments and errors are those of :func:`sample`. The call itself checks the arguments, before any step. The state
    is float32, or float64 if the noise is; the denoiser's dtype does not matter.
    """
    levels: list[float] = check_sigmas(sigmas).tolist()
    if len(levels) != len(plan) + 1:
        raise ConfigError(
            f"{len(levels) - 1} sigmas (the final 0 aside) do not fit a plan of {len(plan)} steps"
        )
    check_type("the noise", noise, Tensor)
    if noise.ndim < 2 or noise.numel() == 0 or not noise.is_floating_point():
        raise ConfigError(
            f"expected floating-point noise [b, f, ...], got {noise.dtype} of the shape {list(noise.shape)}"
        )
    if not torch.isfinite(noise).all():
        raise NotFiniteError("the noise to start from holds NaN or infinity")
    scales = frame_scales(scale, noise.shape[1])
    if (scales == 1).all():
        plan = without_guidance(plan)
    check_sampler(sampler, churn)
    churn = churn or Churn()
    draws = churn.s_churn > 0 or (sampler == "lcm" and len(plan) > 1)
    if draws and len(generators or ()) != len(noise):
        raise ConfigError(
            f"{'churn' if churn.s_churn > 0 else sampler} draws noise for {len(noise)} clips and needs a generator "
            f"for each, got {'none' if generators is None else len(generators)}"
        )
    return _run(denoiser, noise, levels, plan, scales, sampler, churn, generators or ())


def check_sampler(sampler: str, churn: Churn | None = None) -> None:
    """Raise :class:`ConfigError` unless there is such a sampler and ``churn`` is defined for it."""
    if sampler not in get_args(Sampler):
        raise ConfigError(f"sampler must be one of {', '.join(get_args(Sampler))}, got {sampler!r}")
    if churn is not None and churn.s_churn > 0 and sampler not in ("euler", "heun"):
        raise ConfigError(
            f"churn is defined for the samplers euler and heun (EDM, algorithm 2), not for {sampler}"
        )


def _run(
    denoiser: Denoiser,
    noise: Tensor,
    levels: list[float],
    plan: Plan,
    scales: Tensor,
    sampler: Sampler,
    churn: Churn,
    generators: Sequence[torch.Generator],
) -> Generator[Record, Tensor | None, None]:
    dtype = torch.promote_types(noise.dtype, torch.float32)
    # Cast before moving: some devices have no float64.
    scales = scales.to(dtype).to(noise.device)
    x = noise.to(dtype) * math.sqrt(levels[0] ** 2 + 1)
    last: Estimate | None = None
    for step, sigma, sigma_next in zip(plan, levels[:-1], levels[1:], strict=True):
        gamma = churn.gamma(sigma, len(plan))
        sigma_hat = sigma * (1 + gamma)
        if gamma > 0:
            x = x + _fresh_noise(x, generators) * (churn.s_noise * math.sqrt(sigma_hat**2 - sigma**2))

        now = estimate(denoiser, x, sigma_hat, step, scales)
        match sampler:
            case "euler":
                x, last = euler(x, now, sigma_next), now
            case "heun":
                predicted, last = euler(x, now, sigma_next), now
                if sigma_next > 0:
                    last = estimate(denoiser, predicted, sigma_next, step, scales)
                    predicted = heun(x, now, predicted, last)
                x = predicted
            case "dpmpp_2m":
                # Where the branches change, as at the cut, the slope between two estimates means nothing.
                before = last if last is not None and last.step.branches == step.branches else None
                x, last = dpmpp_2m(x, before, now, sigma_next), now
            case "lcm":
                x, last = lcm(now, _fresh_noise(x, generators) if sigma_next > 0 else None, sigma_next), now
        _check_finite(x, step, len(plan), sigma)
        record = Record(step, sigma, sigma_next, latents=x, denoised=last.denoised)
        while (given := (yield record)) is not None:
            record = dataclasses.replace(record, latents=_in_place_of(x, given, step))
            # what was estimated on the way to other latents says nothing of the slope from these
            x, last = record.latents, None


def _fresh_noise(x: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Unit noise of x's shape, one draw per clip, in float32 so that x's dtype does not change it."""
    clips = [torch.randn(x.shape[1:], generator=g, device=g.device, dtype=torch.float32) for g in generators]
    return torch.stack(clips).to(x)  # one copy, for which the host may wait


def _in_place_of(x: Tensor, given: Tensor, step: Step) -> Tensor:
    """The latents ``given`` from outside after a step, in the dtype and on the device of ``x``."""
    if given.shape != x.shape or not given.is_floating_point():
        raise ConfigError(
            f"the callback returned {list(given.shape)} of {given.dtype} after step {step.number}, the latents are "
            f"{list(x.shape)} of floating point"
        )
    if not torch.isfinite(given).all():
        raise NotFiniteError(f"the callback returned latents with NaN or infinity after step {step.number}")
    return given.to(x)


def _check_finite(x: Tensor, step: Step, steps: int, sigma: float) -> None:
    """Raise :class:`NotFiniteError` if the latents hold NaN or infinity.

    But for fresh noise this is the loop's only wait for the device: one bool a step, after one or two passes of a
    large network. It delays the next step's first kernels a little; a black clip would cost the whole run.
    """
    if not torch.isfinite(x).all():
        raise NotFiniteError(
            f"NaN or infinity in the latents after step {step.number} of {steps} (sigma {sigma:.4g}): "
            "in float16 this is most likely an overflow, so use bfloat16 or float32; "
            "in another dtype check the guidance, the other settings and the weights"
        )


def _with_bar(
    run: Generator[Record, Tensor | None, None], steps: int
) -> Generator[Record, Tensor | None, None]:
    # Imported here, so that a run without a bar does not need tqdm.
    from tqdm.auto import tqdm

    with tqdm(total=steps, unit="step") as bar:
        for record in run:
            bar.set_description(record.step.stage, refresh=False)
            bar.update()
            while (given := (yield record)) is not None:
                record = run.send(given)

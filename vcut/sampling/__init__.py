"""The way from noise to latents: schedule, preconditioning, guidance, the cut, and the loop over them.

All of it is plain torch functions over plain values. Nothing here knows a UNet, a file or a device::

    from vcut import sampling

    latents = sampling.sample(
        sampling.precondition(network),
        noise,  # [b, f, c, h, w]
        sampling.karras_sigmas(25),
        sampling.plan(25, cut=17),
        sampling.linear(1.0, 3.0),
    )
"""

from vcut.sampling.cut_plan import (
    COND,
    MEAN,
    UNCOND,
    Branch,
    Mix,
    Plan,
    Step,
    Summary,
    branch_of,
    plan,
    summarize,
    without_guidance,
)
from vcut.sampling.edm import Churn
from vcut.sampling.guidance import (
    Guidance,
    Ramp,
    Scale,
    constant,
    frame_scales,
    guide,
    linear,
    scale_of,
    triangle,
)
from vcut.sampling.preconditioning import Coefficients, Denoiser, Network, coefficients, precondition
from vcut.sampling.run import STOP, Callback, Record, check_sampler, sample, trajectory
from vcut.sampling.schedule import (
    ALIGN_YOUR_STEPS,
    SIGMA_MAX,
    SIGMA_MIN,
    check_sigmas,
    interpolate_sigmas,
    karras_sigmas,
    named_sigmas,
)

__all__ = [
    "ALIGN_YOUR_STEPS",
    "COND",
    "MEAN",
    "SIGMA_MAX",
    "SIGMA_MIN",
    "STOP",
    "UNCOND",
    "Branch",
    "Callback",
    "Churn",
    "Coefficients",
    "Denoiser",
    "Guidance",
    "Mix",
    "Network",
    "Plan",
    "Ramp",
    "Record",
    "Scale",
    "Step",
    "Summary",
    "branch_of",
    "check_sampler",
    "check_sigmas",
    "coefficients",
    "constant",
    "frame_scales",
    "guide",
    "interpolate_sigmas",
    "karras_sigmas",
    "linear",
    "named_sigmas",
    "plan",
    "precondition",
    "sample",
    "scale_of",
    "summarize",
    "trajectory",
    "triangle",
    "without_guidance",
]

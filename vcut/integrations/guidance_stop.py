"""The end of guidance inside a UNet's own call, for pipelines that run both of its branches as one batch.

From the cut step on, the unconditional half of the batch is taken off before the UNet runs, and what the other half
gives is returned for both. The pipeline then adds ``scale * (cond - uncond)``, which is exactly zero. Two hooks of
``nn.Module`` do it: they stand around ``forward``, so that offloading, which replaces it, cannot displace them.

Shapes: b clips, f frames; a guided batch has 2 b clips, the unconditional ones first.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vcut.conditioning import WEIGHTS
from vcut.config import Preset, whole_number
from vcut.errors import ConfigError
from vcut.sampling import Branch, Mix, Step, plan

REQUIRED = ("sample", "timestep", "encoder_hidden_states")
"""Arguments by which a UNet is one of this kind."""

HALVED = (
    "sample",
    "added_time_ids",
    "down_block_additional_residuals",
    "mid_block_additional_residual",
)
"""Arguments of which every tensor has the batch, or batch times frames, as its first axis."""


class Halved(dict[str, Any]):
    """The arguments of a call whose unconditional half was taken off; the hook behind it knows it by this type."""


@dataclass(frozen=True, eq=False)
class GuidanceStop:
    """The hooks that end guidance at the cut step.

    The step of a call is looked up by its timestep in the scheduler's present list. Nothing is counted and nothing
    kept, so no run can leave something stale behind. A noise level that the list has twice in a row is one step.

    Attributes:
        owner: the pipeline whose ``scheduler`` is meant, whichever it has at the time of a call.
        preset: it says where guidance stops if ``cut`` does not.
        cut: the first step without guidance, counted from 1.
        after: the context of the steps without guidance.
        signature: of the UNet's ``forward``.
    """

    owner: Any
    preset: Preset
    cut: int | None
    after: Mix
    signature: inspect.Signature

    def __deepcopy__(self, memo: dict[int, Any]) -> GuidanceStop:
        """The stop of a copied pipeline; a UNet copied by itself keeps the scheduler, and no pipeline is copied."""
        return dataclasses.replace(self, owner=memo.get(id(self.owner), self.owner))

    def install(self, module: nn.Module) -> tuple[RemovableHandle, RemovableHandle]:
        """Put the hooks around ``module``, where torch's compiler does not look; the handles take them away."""
        # not as a decorator, which would load the compiler with this module; methods, for they are copied with self
        before, behind = (
            MethodType(torch.compiler.disable(hook), self)
            for hook in (GuidanceStop.before, GuidanceStop.behind)
        )
        return (
            module.register_forward_pre_hook(before, with_kwargs=True),
            module.register_forward_hook(behind, with_kwargs=True),
        )

    def before(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        """Take the unconditional half off the arguments of a guided call from the cut step on.

        Raises:
            ConfigError: guidance does not run as one batch, or the call is of no step of the scheduler.
        """
        call = self._arguments(args, kwargs)
        guided = _is_guided(call["encoder_hidden_states"])
        if not (self._step(call["timestep"]).cut and guided):
            return None
        return (), Halved({name: self._half(name, value) for name, value in call.items()})

    def behind(self, _: nn.Module, __: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Return the output of a halved call for both halves."""
        return _doubled(output) if isinstance(kwargs, Halved) else None

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in self.signature.bind(*args, **kwargs).arguments.items():
            further = self.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
            found.update(value if further else {name: value})
        return found

    def _step(self, timestep: Any) -> Step:
        """The step of the plan that ``timestep`` is the noise level of."""
        scheduler = self.owner.scheduler
        given = torch.as_tensor(timestep).detach().cpu().reshape(-1)
        levels = torch.unique_consecutive(torch.as_tensor(scheduler.timesteps).cpu()).to(given.dtype)
        if (given != given[0]).any():
            raise ConfigError(
                f"the clips or frames of this call are at several noise levels, {given.tolist()}: which step of the "
                "run it is cannot be told, so guidance cannot stop there"
            )
        number = (levels == given[0]).nonzero()
        if not len(number):
            raise ConfigError(
                f"the timestep {float(given[0]):.6g} is none of the {len(levels)} that {type(scheduler).__name__} is "
                "set to: guidance stops by the list of the pipeline's own scheduler, so the UNet must be called by "
                "that pipeline (or give accelerate the scheduler that the loop uses)"
            )
        steps = len(levels)
        return plan(steps, self.cut or self.preset.cut_step(steps), Branch(self.after))[int(number[0])]

    def _half(self, name: str, value: Any) -> Any:
        """The conditional half of an argument."""
        if name == "encoder_hidden_states":
            return WEIGHTS[self.after] * _second(value)  # the unconditional half is zero
        if name == "timestep":
            return _second(value) if isinstance(value, Tensor) and value.numel() > 1 else value
        if name in HALVED:
            return _mapped(_second, value)
        if _tensors(value):
            raise ConfigError(
                f"the UNet was given {name}, and whether it has one half for each branch of guidance is not known: "
                "guidance cannot stop here; fold alone, with preset lossless"
            )
        return value


def stopped(unet: nn.Module) -> bool:
    """Whether hooks of a stop stand around ``unet``."""
    hooks = unet._forward_pre_hooks.values()
    return any(isinstance(getattr(hook, "__self__", None), GuidanceStop) for hook in hooks)


def guidance_stop(unet: nn.Module, owner: Any, preset: Preset, cut: int | None, after: Mix) -> GuidanceStop:
    """The stop for a UNet, all checked that can be before a run.

    Raises:
        ConfigError: no scheduler is known, the UNet is of another kind, or a number or name is wrong.
    """
    if cut is not None:
        cut = whole_number("the cut step", cut)
    if not hasattr(getattr(owner, "scheduler", None), "timesteps"):
        raise ConfigError(
            "which step a call belongs to follows from the scheduler's timesteps: give the pipeline, or scheduler="
        )
    signature = inspect.signature(unet.forward)
    if missing := [name for name in REQUIRED if name not in signature.parameters]:
        raise ConfigError(
            f"{type(unet).__name__}.forward has no {', '.join(missing)}: guidance cannot stop in it"
        )
    return GuidanceStop(owner, preset, cut, after, signature)


def _is_guided(context: Any) -> bool:
    """Whether a call has both branches, told by its contexts: those of the unconditional branch are zero.

    Raises:
        ConfigError: there are zero contexts, but not as the first half of a batch.
    """
    if not isinstance(context, Tensor):
        raise ConfigError(f"encoder_hidden_states must be a tensor, got {type(context).__name__}")
    given = context.flatten(1).any(1).tolist()
    half = len(given) // 2
    if all(given):
        return False
    if len(given) % 2 or given != [False] * half + [True] * half:
        raise ConfigError(
            "guidance does not run as one batch with the unconditional half first: of the contexts "
            f"{['zero', 'given'][given[0]]} comes first, {given.count(False)} of {len(given)} are zero. The cut "
            "works inside one call of the UNet: fold alone, with preset lossless, and leave out the unconditional "
            "call in the loop itself"
        )
    return True


def _second(tensor: Tensor) -> Tensor:
    return tensor[len(tensor) // 2 :]


def _doubled(output: Any) -> Any:
    """A UNet's output, a tensor, a tuple or an object with ``sample``, twice along the batch."""
    if isinstance(output, Tensor | tuple | list):
        return _mapped(lambda tensor: torch.cat([tensor, tensor]), output)
    output = copy.copy(output)
    output.sample = _doubled(output.sample)
    return output


def _mapped(change: Any, value: Any) -> Any:
    """``value``, a tensor or a list or tuple of tensors, with each one changed."""
    if isinstance(value, Tensor):
        return change(value)
    return type(value)(_mapped(change, each) for each in value) if isinstance(value, list | tuple) else value


def _tensors(value: Any) -> bool:
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return isinstance(value, Tensor) or any(map(_tensors, values))

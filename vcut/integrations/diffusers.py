"""One line that makes a diffusers pipeline of Stable Video Diffusion faster, and vcut's UNet inside such a pipeline.

    from vcut.integrations.diffusers import accelerate

    accelerate(pipe)                                    # lossless: equal frames, less work
    accelerate(pipe, "vcut")                            # the paper's cut, from step 17 of 25
    with accelerate(pipe, "lossless", cut=17): ...      # cross-attentions kept, guidance stopped; undone at the end

diffusers is not imported here: what is given is looked at. It works on the UNets of projects that subclass or copy
diffusers' UNet as well (docs/integrations.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal, get_args

from torch import nn
from torch.utils.hooks import RemovableHandle

from vcut.config import Preset, PresetName, choose_preset
from vcut.errors import ConfigError
from vcut.integrations.diffusers_unet import as_diffusers
from vcut.integrations.folding import FoldedAttention, Folds, fold_in_place, sites, unfold_in_place
from vcut.integrations.guidance_stop import guidance_stop, stopped
from vcut.sampling import Mix

__all__ = ["Accelerated", "OnUnsupported", "accelerate", "as_diffusers"]

OnUnsupported = Literal["raise", "keep"]
"""Fate of a cross-attention that is more than plain attention to one token."""


@dataclass(frozen=True, eq=False)
class Accelerated:
    """Record of what :func:`accelerate` did to a UNet. Leaving a ``with`` block, or :meth:`remove`, undoes it.

    Attributes:
        unet: the UNet, changed in place.
        preset: the form that its cross-attentions have.
        cut: the first step without guidance; None is the preset's share of the steps, or no cut at all.
        folds: names of the attentions that were folded, dropped, and left as they are.
    """

    unet: nn.Module
    preset: Preset
    cut: int | None
    folds: Folds
    handles: tuple[RemovableHandle, ...] = field(default=(), repr=False)

    def remove(self) -> None:
        """Put everything back as it was: the same modules with the same weights. Again, it does nothing."""
        unfold_in_place(self.unet, self.folds)
        for handle in self.handles:
            handle.remove()

    def __enter__(self) -> Accelerated:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        parts = [f"{len(self.folds.folded)} cross-attentions folded, {len(self.folds.dropped)} dropped"]
        parts += [f"{name} left as it is: {why}" for name, why in self.folds.kept]
        parts.append("{:,} of {:,} weights idle".format(*_idle(self.unet)))
        if self.handles:
            where = (
                f"at step {self.cut}" if self.cut else f"after {self.preset.guided_fraction:.0%} of the steps"
            )
            parts.append(f"guidance stops {where}: from there on one pass instead of two")
        hooks = [handle.id in (handle.hooks_dict_ref() or ()) for handle in self.handles]
        now = "; ".join(parts) if _layers(self.unet) or any(hooks) else "removed"
        return f"<{type(self.unet).__name__}, {self.preset.name}: {now}>"


def accelerate(
    pipe_or_unet: Any,
    preset: PresetName | Preset = "lossless",
    *,
    cut: int | None = None,
    after: Mix = "mean",
    scheduler: Any = None,
    on_unsupported: OnUnsupported = "raise",
) -> Accelerated:
    """Fold the cross-attentions of a diffusers UNet in place, and stop its guidance at a cut step.

    LoRA, processors and weights have to be in place before; ``torch.compile(unet)`` and
    ``enable_sequential_cpu_offload`` are told where they belong in docs/integrations.md. While it lasts the UNet's
    state dict has other names: :meth:`Accelerated.remove` before saving or training.

    Args:
        pipe_or_unet: a pipeline with ``unet`` and ``scheduler``, or a UNet.
        preset: ``'lossless'``, ``'vcut'`` (drops the temporal cross-attentions, cuts after 16/25 of the steps),
            ``'baseline'`` (folds nothing, for ``cut`` alone) or a preset of your own.
        cut: the first step without guidance, counted from 1, by default the preset's.
        after: context of the steps from ``cut`` on: ``'mean'`` (the paper's equation 4), ``'cond'`` or ``'uncond'``.
        scheduler: the scheduler of the loop, where a UNet is given and guidance is to stop.
        on_unsupported: ``'keep'`` leaves cross-attentions that are not plain as they are, and gives calls with
            several tokens to the trained ones; ``'raise'`` refuses both by name.

    Raises:
        ConfigError: nothing to do, something that cannot be folded, or no way to tell a call's step.
    """
    unet = pipe_or_unet if isinstance(pipe_or_unet, nn.Module) else getattr(pipe_or_unet, "unet", None)
    if not isinstance(unet, nn.Module):
        raise ConfigError(f"expected a pipeline with a unet, or a UNet, got {type(pipe_or_unet).__name__}")
    chosen = choose_preset(preset)
    if chosen.defaults != "paper":
        raise ConfigError(
            f"preset {chosen.name} is a form of the UNet and settings of vcut's own sampler: take lossless, and give "
            "the pipeline its steps"
        )
    if after not in get_args(Mix):
        raise ConfigError(f"after must be 'mean', 'cond' or 'uncond', got {after!r}")
    if on_unsupported not in get_args(OnUnsupported):
        raise ConfigError(f"on_unsupported must be 'raise' or 'keep', got {on_unsupported!r}")
    inner = getattr(unet, "_orig_mod", unet)  # torch.compile's wrapper: hooks belong around it, folds inside
    if _layers(inner) or stopped(inner) or stopped(unet):
        raise ConfigError(f"this {type(inner).__name__} is accelerated already: call remove() first")
    folds = chosen.tca is not True or chosen.sca is not True
    if folds and not any(True for _ in sites(inner)):
        raise ConfigError(
            f"{type(inner).__name__} has no cross-attentions in spatio-temporal transformers of diffusers' kind; "
            'preset "baseline" with a cut stops guidance alone'
        )
    stop = None
    if cut is not None or chosen.guided_fraction < 1:
        owner = pipe_or_unet if scheduler is None else SimpleNamespace(scheduler=scheduler)
        stop = guidance_stop(inner, owner, chosen, cut, after)
    elif not folds:
        raise ConfigError("preset baseline without a cut changes nothing: give cut, or another preset")
    elif after != "mean" or scheduler is not None:
        name = "scheduler" if after == "mean" else "after"
        raise ConfigError(
            f"{name} is for the steps from a cut on, and preset {chosen.name} has none: give cut too"
        )
    done = fold_in_place(inner, chosen, keep=on_unsupported == "keep") if folds else Folds()
    return Accelerated(inner, chosen, cut, done, stop.install(unet) if stop else ())


def _layers(unet: nn.Module) -> list[FoldedAttention]:
    return [site.block.attn2 for site in sites(unet) if isinstance(site.block.attn2, FoldedAttention)]


def _idle(unet: nn.Module) -> tuple[int, int]:
    """Numbers of weights that no call reads any more, and of all weights that the UNet had."""
    layers = _layers(unet)
    new = sum(p.numel() for layer in layers if layer.linear for p in layer.linear.parameters())
    old = sum(p.numel() for layer in layers for p in layer.parameters()) - new
    return old - new, sum(p.numel() for p in unet.parameters()) - new

"""The options of the commands. Those of a run are made from the fields of :class:`vcut.settings.Settings`."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_args

from vcut.cli import values
from vcut.config import CONFIGS, PRESETS, Defaults, Fit, Preset, Sampler, SigmaName, SVDConfig
from weights_tools import command

if TYPE_CHECKING:
    from vcut.loading import Found
    from vcut.settings import Settings

DTYPES = ("float32", "float16", "bfloat16")
MODELS = f"{', '.join(CONFIGS)}; or a .safetensors file or a diffusers folder"

FORMS: dict[str, dict[str, Any]] = {
    "frames": {"type": values.count, "metavar": "N"},
    "fit": {"choices": get_args(Fit)},
    "steps": {"type": values.count, "metavar": "N"},
    "sampler": {"choices": get_args(Sampler)},
    "sigmas": {"choices": get_args(SigmaName)},
    "cut": {"type": values.cut, "metavar": "N|none|preset"},
    "guidance_interval": {"type": values.strength, "nargs": 2, "metavar": ("LOW", "HIGH")},
    "embedding": {"type": values.steps, "metavar": "all|none|A-B"},
    "fps": {"type": values.rate, "metavar": "N"},
    "motion_bucket": {"type": values.whole, "metavar": "N"},
    "noise_aug": {"type": values.strength, "metavar": "X"},
    "decode_chunk": {"type": values.chunk, "metavar": "N|none"},
    "sequential": {"action": "store_true"},
}
"""Arguments of argparse for settings that are one option: how its text becomes the setting."""

SAMPLING = (
    "defaults",
    "steps",
    "sampler",
    "sigmas",
    "after",
    "embedding",
    "guidance",
    "guidance_interval",
    "frames",
    "fps",
    "motion_bucket",
    "noise_aug",
)
"""Options of the sampler that every command which makes clips offers. The cut is apart: a sweep has several."""


class Subcommand(command.Parser):
    """Parser of a subcommand, which gets its options when it is used: some need torch, which takes seconds."""

    add_options: Callable[[argparse.ArgumentParser], None] | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Add the options before the first word is read."""
        if self.add_options is not None:
            add, self.add_options = self.add_options, None
            add(self)
        return super().parse_known_args(args, namespace)


def add_settings(group: argparse._ArgumentGroup, *names: str) -> None:
    """Add the option of each setting; ``size``, ``after`` and ``guidance`` stand for several options.

    Of the arguments are then those alone that were given: the others come from ``defaults``.
    """
    from vcut.settings import SAYS

    several = {"defaults": _add_defaults, "size": _add_size, "after": _add_after, "guidance": _add_guidance}
    for name in names:
        if name in several:
            several[name](group)
            continue
        says = SAYS[name].removesuffix(" (default: False)")
        flag = f"--{name.replace('_', '-')}"
        group.add_argument(flag, default=argparse.SUPPRESS, help=says, **FORMS[name])


def settings(
    args: argparse.Namespace, config: SVDConfig, preset: Preset, named: Defaults | None = None
) -> Settings:
    """The settings that ``args`` ask for; the others are the defaults ``named``, of ``--defaults``, or of ``preset``.

    Raises:
        ConfigError: values that do not fit together, or defaults that this model has not.
    """
    from vcut.sampling import Branch, Ramp
    from vcut.settings import defaults

    given = vars(args)
    start = defaults(
        next(name for name in (named, args.defaults, preset.defaults) if name is not None), config
    )
    chosen = {name: given[name] for name in FORMS if name in given}
    if given.get("size"):
        chosen["width"], chosen["height"] = args.size
    if "after_context" in given:
        chosen["after"] = Branch(args.after_context, args.after_latents)
    ends = (("minimum", "guidance_min"), ("maximum", "guidance_max"), ("shape", "guidance_shape"))
    assert isinstance(start.guidance, Ramp)
    ramp = {end: given[name] for end, name in ends if name in given}
    return start.replace(**chosen, guidance=dataclasses.replace(start.guidance, **ramp))


def configuration(model: str, **source: Any) -> tuple[str | Found, SVDConfig]:
    """The model of this name as :func:`vcut.load` takes it, and its configuration.

    A published model is known by its name and not looked for yet, unless it gets another UNet. Of a file or a folder
    the headers are read, as ``source`` tells :func:`vcut.loading.find`.

    Raises:
        CheckpointError: there is no such model, or it cannot be read.
        ConfigError: it does not say what its shapes cannot tell.
    """
    if model in CONFIGS and source.get("unet") is None:
        return model, CONFIGS[model]
    from vcut.loading import find

    found = find(model, **source)
    return found, found.config


def add_preset(group: argparse._ArgumentGroup | argparse.ArgumentParser) -> None:
    """Add the form of the cross-attentions."""
    group.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        default="vcut",
        help="baseline: as published; lossless: equal output, less work; vcut: the paper's cut, lossy; fast: "
        "lossless in ten steps, not the paper's (default: vcut)",
    )
    for flag, kind in (("--tca", "temporal"), ("--sca", "spatial")):
        group.add_argument(
            flag,
            type=values.mode,
            metavar="true|linear_cached|false",
            help=f"mode of the {kind} cross-attention (default: the preset's)",
        )


def add_device(group: argparse._ArgumentGroup | argparse.ArgumentParser, default: str = "auto") -> None:
    """Add the device to run on."""
    group.add_argument(
        "--device",
        default=default,
        metavar="NAME",
        help=f"auto, cpu, cuda, cuda:1 or mps; auto is cuda if there is one (default: {default})",
    )


def _add_defaults(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--defaults",
        choices=get_args(Defaults),
        help="steps and guidance where no option says them: paper, the same for every model; official, Stability's: "
        "guidance 1.0 to 2.5 for svd, 30 steps and 1.5 to 3.0 for svd-xt and svd-xt-1-1; fast: ten levels of Align "
        "Your Steps, six of them guided, no cut (default: paper, but fast with --preset fast)",
    )


def _add_size(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--size",
        type=values.size,
        metavar="WxH",
        help="width x height of the frames in pixels, multiples of 64 for the published models (default: the "
        "model's: 64x64 of tiny, 1024x576 of the published)",
    )


def _add_after(group: argparse._ArgumentGroup) -> None:
    from vcut.sampling import MEAN, Mix

    for part, default in MEAN._asdict().items():
        group.add_argument(
            f"--after-{part}",
            choices=get_args(Mix),
            default=default,
            help=f"{part} that the single pass of a cut step is given (default: {default})",
        )


def _add_guidance(group: argparse._ArgumentGroup) -> None:
    from vcut.sampling import Ramp

    ramp = Ramp()
    for end, default, frame in (("min", ramp.minimum, "first"), ("max", ramp.maximum, "last")):
        group.add_argument(
            f"--guidance-{end}",
            type=values.finite,
            default=argparse.SUPPRESS,
            metavar="X",
            help=f"guidance scale at the {frame} frame (default: {default})",
        )
    group.add_argument(
        "--guidance-shape",
        choices=("linear", "triangle"),
        default=argparse.SUPPRESS,
        help="triangle reaches the maximum at the middle frame and falls back to the minimum (default: linear)",
    )

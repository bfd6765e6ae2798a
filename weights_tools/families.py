"""Other models than Stable Video Diffusion, told by the names of their tensors, so that an error can name them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from weights_tools.layouts import Shape

# The first that fits wins: what is added to a model stands before the models, video before pictures.
_MARKS = (
    ("a LoRA, a change to a model and not a model", r"(?:^|.*[._])lora_?(?:up|down|[AB]|unet|te)?[._].*"),
    ("a ControlNet", r"(?:.*\.)?(?:control_model|controlnet_\w+|input_hint_block|zero_convs)\..*"),
    ("SV4D", r".*\.time_mix_blocks\..*"),
    ("SV3D", r"conditioner\.embedders\.1\.encoder\.encoder\..*"),
    ("AnimateDiff's motion modules", r".*\bmotion_modules\..*"),
    ("Flux", r"(?:.*\.)?(?:double_blocks|single_transformer_blocks)\..*"),
    ("Stable Diffusion 3", r"(?:.*\.)?joint_blocks\..*"),
    ("Stable Diffusion XL", r"conditioner\.embedders\.[01]\.(?:model\.)?transformer\..*"),
    ("Stable Diffusion 1", r"cond_stage_model\.transformer\..*"),
    ("Stable Diffusion 2", r"cond_stage_model\.model\..*"),
)
_FAMILIES = tuple((name, re.compile(pattern)) for name, pattern in _MARKS)

# Width of the text that a UNet of pictures attends to, by which the generations differ.
_CROSS = re.compile(r"(?:.*\.)?(?:transformer_blocks\.\d+\.attn2\.to_k)\.weight")
_GENERATIONS = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}
_OVER_TIME = re.compile(r".*\b(?:time_stack|temporal_transformer_blocks|temporal)\..*")


def family(shapes: Mapping[str, Shape]) -> str | None:
    """The name of the other model that tensors of these names and shapes make, if it is a known one."""
    for name, pattern in _FAMILIES:
        if any(map(pattern.fullmatch, shapes)):
            return name
    widths = {shape[1] for key, shape in shapes.items() if len(shape) == 2 and _CROSS.fullmatch(key)}
    if len(widths) == 1 and not any(map(_OVER_TIME.fullmatch, shapes)):
        width = widths.pop()
        return f"a UNet of pictures ({_GENERATIONS.get(width, f'attending to {width} numbers')})"
    return None

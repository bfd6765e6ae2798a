"""The image embedding that conditions Stable Video Diffusion: CLIP's preprocessing and vision tower."""

from vcut.clip.preprocess import preprocess
from vcut.clip.vision import CLIPVisionEncoder
from vcut.config import CLIPConfig

__all__ = ["CLIPConfig", "CLIPVisionEncoder", "preprocess"]

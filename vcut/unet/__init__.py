"""The spatio-temporal UNet of Stable Video Diffusion, and its cut forms."""

from vcut.config import Level, UNetConfig
from vcut.unet.model import Context, UNet, fold

__all__ = ["Context", "Level", "UNet", "UNetConfig", "fold"]

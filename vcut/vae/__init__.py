"""The autoencoder of Stable Video Diffusion: pictures to latents, latents to clips."""

from vcut.config import VAEConfig
from vcut.vae.autoencoder import VAE

__all__ = ["VAE", "VAEConfig"]

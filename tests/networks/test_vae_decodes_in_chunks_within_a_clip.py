"""Chunks split clips along time and never mix them; what a clip becomes does not depend on its batch."""

from __future__ import annotations

import dataclasses
import weakref
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vcut.vae import VAE, VAEConfig

CONFIG = VAEConfig(channels=(16, 32, 16), layers=1, norm_groups=4)


def random_vae(config: VAEConfig = CONFIG) -> VAE:
    torch.manual_seed(0)
    return VAE(config).requires_grad_(False)


def random_latents(clips: int, frames: int) -> Tensor:
    return torch.randn(clips, frames, 4, 3, 5, generator=torch.Generator().manual_seed(1))


@settings(max_examples=10, deadline=None)
@given(frames=st.integers(1, 6), chunk=st.integers(1, 7))
def test_a_chunk_is_decoded_as_if_it_were_a_clip(frames: int, chunk: int) -> None:
    vae, latents = random_vae(), random_latents(2, frames)
    alone = [vae.decode(part) for part in latents.split(chunk, dim=1)]
    torch.testing.assert_close(vae.decode(latents, chunk), torch.cat(alone, dim=1), rtol=0, atol=0)


def test_no_chunk_is_one_chunk_of_the_whole_clip() -> None:
    vae, latents = random_vae(), random_latents(2, 5)
    torch.testing.assert_close(vae.decode(latents), vae.decode(latents, chunk=5), rtol=0, atol=0)


def test_chunking_changes_the_frames_because_the_decoder_sees_time() -> None:
    vae, latents = random_vae(), random_latents(1, 4)
    whole, halves = vae.decode(latents), vae.decode(latents, chunk=2)
    assert all((whole[0, i] - halves[0, i]).abs().max() > 1e-3 for i in range(4))


def test_the_image_decoder_sees_no_time() -> None:
    vae = random_vae(dataclasses.replace(CONFIG, temporal=False)).double()
    latents = random_latents(2, 5)
    torch.testing.assert_close(vae.decode(latents), vae.decode(latents, chunk=2), rtol=1e-12, atol=1e-12)


def test_a_batch_of_clips_is_exactly_its_clips() -> None:
    vae, latents = random_vae(), random_latents(3, 4)
    for chunk in (None, 1, 3):
        singles = [vae.decode(clip[None], chunk) for clip in latents]
        torch.testing.assert_close(vae.decode(latents, chunk), torch.cat(singles), rtol=0, atol=0)


def test_a_batch_of_pictures_is_its_pictures() -> None:
    vae = random_vae().double()
    images = torch.rand(3, 3, 12, 20, generator=torch.Generator().manual_seed(2)).double() * 2 - 1
    singles = torch.cat([vae.moments(image[None]) for image in images])
    torch.testing.assert_close(vae.moments(images), singles, rtol=1e-12, atol=1e-12)


class LiveBytes(TorchDispatchMode):
    """The most bytes that tensors made inside have held at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.storages: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self.storages:
                storage = tensor.untyped_storage()
                self.storages.add(storage._cdata)
                self.now += storage.nbytes()
                weakref.finalize(storage, self.release, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def release(self, storage: int, nbytes: int) -> None:
        self.storages.remove(storage)
        self.now -= nbytes


def test_memory_depends_on_the_chunk_alone() -> None:
    """Besides the result: at most about four of the widest activation, ``[chunk, H, W, channels[1]]``."""
    vae = random_vae(VAEConfig(channels=(32, 64, 128, 128)))

    def peak(clips: int, frames: int, chunk: int | None) -> float:
        latents = torch.randn(clips, frames, 4, 8, 12)
        with LiveBytes() as memory:
            result = vae.decode(latents, chunk)
        return (memory.peak - result.nbytes) / (64 * 96 * 64 * 4)

    two_frames = peak(1, 2, None)
    assert 2 * 2 < two_frames < 2 * 4.3
    assert peak(2, 4, 2) < 1.02 * two_frames

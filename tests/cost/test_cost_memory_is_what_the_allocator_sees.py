"""The peak of live tensors, followed on the meta device, against what torch's CPU allocator reports."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from vcut.analysis.counting import build_unet, on_meta, unet_call
from vcut.analysis.memory import estimate, peak_bytes
from vcut.config import CLIPConfig, Level, SVDConfig, UNetConfig, VAEConfig
from vcut.unet import UNet
from vcut.vae import VAE

SMALL = UNetConfig(
    levels=(Level(64, 2), Level(96, 4, attention=False)),
    layers=1,
    context_dim=64,
    time_id_dim=32,
)

SMALL_VAE = VAEConfig(channels=(32, 64), layers=1, norm_groups=16)
SMALL_CLIP = CLIPConfig(width=64, layers=1, heads=4, mlp_dim=64, embed_dim=64)


def allocated(run: Callable[[], object]) -> int:
    """Bytes at the allocator's peak during ``run``, above what was there before."""
    run()  # caches of the kernels
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tca", "clips", "frames", "height", "width"),
    [(True, 2, 3, 16, 24), (False, 1, 5, 24, 16)],
)
@torch.no_grad()
def test_a_unet_call(tca: bool, clips: int, frames: int, height: int, width: int) -> None:
    config = UNetConfig(**{**vars(SMALL), "tca": tca})
    unet = UNet(config)
    x = torch.randn(clips, frames, 8, height, width)
    context, ids = unet.cache_context(torch.randn(clips, 1, 64), frames), torch.randn(clips, 3)
    measured = allocated(lambda: unet(x, torch.zeros(clips), context, ids))
    estimated = peak_bytes(unet_call(build_unet(config), clips, frames, height, width))
    assert (
        0.98 * measured <= estimated <= 1.001 * measured
    )  # kernels may have workspaces, tensors may not vanish


@torch.no_grad()
def test_decoding() -> None:
    z = torch.randn(1, 5, 4, 16, 24)
    vae = VAE(SMALL_VAE)
    measured = allocated(lambda: vae.decode(z))
    with torch.device("meta"):
        meta = VAE(SMALL_VAE)
    estimated = peak_bytes(lambda: meta.decode(on_meta(*z.shape)))
    # counted as for a GPU, whose parts are larger than the CPU's
    assert 0.9 * measured <= estimated <= 1.2 * measured


def test_tensors_that_are_gone_do_not_count() -> None:
    x = on_meta(1000)
    assert peak_bytes(lambda: [x + i for i in range(5)]) == 5 * 4000  # kept
    assert peak_bytes(lambda: [(x + i).sum() for i in range(5)]) <= 4000 + 5 * 4  # dropped
    assert peak_bytes(lambda: x.view(10, 100).t()) == 0  # views
    assert peak_bytes(lambda: x.add_(1)) == 0  # in place


@pytest.mark.slow
def test_half_precision_takes_half_and_one_branch_half_of_two() -> None:
    config = dataclasses.replace(SVDConfig(), unet=SMALL, vae=SMALL_VAE, clip=SMALL_CLIP)

    def of(dtype: torch.dtype) -> tuple[int, int, int]:
        m = estimate(
            config, frames=3, height=16, width=8, decode_chunk=2, dtype=dtype, vae_dtype=torch.float32
        )
        assert (m.decode_frames, m.dtype) == (2, str(dtype).removeprefix("torch."))
        return m.unet_weights, m.guided, m.single

    weights, guided, single = of(torch.float32)
    half_weights, half_guided, _ = of(torch.float16)
    assert weights == 2 * half_weights == 4 * sum(p.numel() for p in build_unet(SMALL).parameters())
    assert half_guided < 0.75 * guided  # norms still run in float32
    assert guided == pytest.approx(2 * single, rel=0.05)

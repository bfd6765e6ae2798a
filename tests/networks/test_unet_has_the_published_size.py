"""Parameter counts at full size, on the meta device (DESIGN: the paper's 1.474 B among them)."""

from __future__ import annotations

import pytest
import torch

from vcut.unet import UNet, UNetConfig


@pytest.mark.parametrize(
    ("tca", "sca", "parameters"),
    [
        (True, True, 1_524_623_082),
        (False, True, 1_474_245_802),
        (False, "linear_cached", 1_436_660_522),
    ],
)
def test_parameter_count(tca: bool, sca: bool | str, parameters: int) -> None:
    with torch.device("meta"):
        unet = UNet(UNetConfig(tca=tca, sca=sca))  # type: ignore[arg-type]
    assert sum(p.numel() for p in unet.parameters()) == parameters


def test_there_are_sixteen_of_each_cross_attention() -> None:
    with torch.device("meta"):
        unet = UNet(UNetConfig())
        context = unet.cache_context(torch.zeros(1, 1, 1024), 25)
    assert len(context.transformers) == len(context.blocks) == 16
    assert [t.channels for t in unet.transformers()] == [320] * 2 + [640] * 2 + [1280] * 3 + [1280] * 3 + [
        640
    ] * 3 + [320] * 3


def test_norms_run_at_the_official_eps() -> None:
    """89 group norms at 1e-5 or 1e-6 as the official code has them; every layer norm at 1e-5."""
    with torch.device("meta"):
        unet = UNet(UNetConfig())
    for name, module in unet.named_modules():
        if isinstance(module, torch.nn.GroupNorm):
            assert module.eps == (1e-6 if name.endswith("transformer.norm") else 1e-5), name
            assert module.num_groups == 32
        if isinstance(module, torch.nn.LayerNorm):
            assert module.eps == 1e-5, name
    norms = [m.eps for m in unet.modules() if isinstance(m, torch.nn.GroupNorm)]
    assert (norms.count(1e-5), norms.count(1e-6)) == (89, 16)


def test_diffusers_has_72_resnet_norms_at_1e_6() -> None:
    with torch.device("meta"):
        unet = UNet(UNetConfig(diffusers_norm_eps=True))
    norms = [m.eps for n, m in unet.named_modules() if "resnet" in n and isinstance(m, torch.nn.GroupNorm)]
    assert norms.count(1e-6) == 72

"""Claim 4. Equation 4 of the paper, M = (L_cond + L_uncond) / 2, is the layer at e / 2.

L(e) = W e + b is affine and L_uncond = L(0) = b, so (W e + b + b) / 2 = W (e / 2) + b. A cut step is therefore one
ordinary pass with the mean of the two contexts, and needs no averaging of cached outputs.
"""

from __future__ import annotations

import pytest
import torch
from proof_models import inputs, shared_unet
from torch import Tensor

from vcut.conditioning import Conditioning, bind
from vcut.config import Mode
from vcut.sampling import MEAN, Branch, plan
from vcut.unet import UNet
from vcut.unet.attention import KeyValue

FORMS: list[tuple[Mode, Mode]] = [
    (True, True),
    ("linear_cached", "linear_cached"),
    (False, "linear_cached"),
]
every_form = pytest.mark.parametrize(("tca", "sca"), FORMS, ids=str)


def layer_outputs(unet: UNet, embedding: Tensor) -> list[Tensor]:
    """What every cross-attention adds to one pixel, ``[b, c]`` each, from the cache of ``embedding``."""
    outputs = []
    blocks = [block for t in unet.transformers() for block in zip(t.spatial, t.temporal, strict=True)]
    for modules, caches in zip(blocks, unet.cache_context(embedding, frames=1).blocks, strict=True):
        for module, cached in zip(modules, caches, strict=True):
            if module.cross is None:
                assert cached is None
                continue
            channels = module.attn_norm.normalized_shape[0]
            x = torch.randn(len(embedding), 1, 1, channels, dtype=embedding.dtype)
            outputs.append(module.cross(x, cached)[:, 0, 0])
    return outputs


@every_form
@torch.no_grad()
def test_the_mean_of_every_layers_two_outputs_is_its_output_at_half_the_embedding(
    tca: Mode, sca: Mode
) -> None:
    unet, e = shared_unet(tca, sca), inputs().context
    cond, uncond, half = (layer_outputs(unet, c) for c in (e, torch.zeros_like(e), e / 2))
    assert len(half) == (16 if tca is False else 32)
    for l_cond, l_uncond, m in zip(cond, uncond, half, strict=True):
        torch.testing.assert_close(m, (l_cond + l_uncond) / 2, rtol=1e-13, atol=1e-14)
        assert (m - l_cond).abs().max() > 1e-3


@every_form
@torch.no_grad()
def test_the_cache_itself_is_the_mean(tca: Mode, sca: Mode) -> None:
    """Vectors of the linear form, values (and keys) of the softmax form."""
    unet, e = shared_unet(tca, sca), inputs().context
    cond, uncond, half = (unet.cache_context(c, frames=1) for c in (e, torch.zeros_like(e), e / 2))
    for pair in zip(cond.blocks, uncond.blocks, half.blocks, strict=True):
        for caches in zip(*pair, strict=True):
            if caches[0] is None:
                continue
            tensors = [(c.value if isinstance(c, KeyValue) else c) for c in caches]
            l_cond, l_uncond, m = tensors
            torch.testing.assert_close(m, (l_cond + l_uncond) / 2, rtol=1e-13, atol=1e-14)


@every_form
@torch.no_grad()
def test_a_cut_step_is_one_pass_with_half_the_embedding_and_the_conditional_latents(
    tca: Mode, sca: Mode
) -> None:
    unet = shared_unet(tca, sca)
    x, c_noise, e, time_ids = inputs()
    noisy, latents = x[:, :, :4], x[:, 0, 4:]
    network = bind(unet, Conditioning(e, latents, time_ids), plan(1, cut=1), x.shape[1])
    level = float(c_noise[0])
    image = latents.unsqueeze(1).expand_as(noisy)
    expected = unet(torch.cat([noisy, image], dim=2), torch.tensor(level), e / 2, time_ids)
    torch.testing.assert_close(network(noisy, level, (MEAN,))[0], expected, rtol=1e-6, atol=1e-6)
    for other in (Branch("cond", "cond"), Branch("uncond", "cond"), Branch("mean", "mean")):
        assert (network(noisy, level, (other,))[0] - expected).abs().max() > 1e-4


@torch.no_grad()
def test_with_two_tokens_half_the_context_is_not_the_mean() -> None:
    """The softmax depends on the keys then, and the layer is not affine."""
    unet, e = shared_unet(), inputs(tokens=2).context
    torch.manual_seed(3)
    cond = layer_outputs(unet, 4 * e)
    torch.manual_seed(3)  # the same queries
    uncond = layer_outputs(unet, 0 * e)
    torch.manual_seed(3)
    half = layer_outputs(unet, 2 * e)
    worst = max(float((m - (lc + lu) / 2).abs().max()) for lc, lu, m in zip(cond, uncond, half, strict=True))
    assert worst > 1e-3


@torch.no_grad()
def test_the_network_is_not_affine_so_a_cut_step_is_not_a_guided_step() -> None:
    """The mean is exact in each layer alone. Of whole passes it is an approximation: what the cut gives up."""
    unet, (x, c_noise, e, time_ids) = shared_unet("linear_cached", "linear_cached"), inputs()
    cond, uncond, half = (unet(x, c_noise, c, time_ids) for c in (e, 0 * e, e / 2))
    assert (half - (cond + uncond) / 2).abs().max() > 1e-4

"""Large inputs are worked on in parts: same values, less memory, and in one piece where gradients are wanted."""

from __future__ import annotations

from math import ceil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from micro import MICRO

from vcut.analysis.memory import peak_bytes
from vcut.kernels import parts
from vcut.kernels.parts import Parts, slices_at_a_time
from vcut.unet import UNet
from vcut.vae import VAE


def small_parts(patch: pytest.MonkeyPatch) -> None:
    """From here on, parts of a few tokens or of one frame."""
    patch.setattr(parts, "PART_BYTES", {"cpu": 2048})


def unet_call() -> tuple[UNet, list[torch.Tensor]]:
    torch.manual_seed(0)
    unet = UNet(MICRO.unet).double().eval().requires_grad_(False)
    x = torch.randn(2, 5, 8, 6, 10, dtype=torch.float64)
    context = torch.randn(2, 1, MICRO.unet.context_dim, dtype=torch.float64)
    time_ids = torch.tensor([[6.0, 127.0, 0.02], [9.0, 40.0, 0.1]])
    return unet, [x, torch.tensor(0.3), context, time_ids]


def test_the_unet_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    unet, inputs = unet_call()
    with torch.no_grad():
        whole = unet(*inputs)
        small_parts(monkeypatch)
        torch.testing.assert_close(unet(*inputs), whole, rtol=1e-12, atol=1e-12)


def test_the_vae_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    vae = VAE(MICRO.vae).double().eval().requires_grad_(False)
    latents = torch.randn(1, 3, 4, 4, 6, dtype=torch.float64)
    pictures = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    whole = vae.decode(latents), vae.encode(pictures)
    small_parts(monkeypatch)
    with torch.no_grad():
        for part, one in zip((vae.decode(latents), vae.encode(pictures)), whole, strict=True):
            torch.testing.assert_close(part, one, rtol=1e-12, atol=1e-12)


@given(
    slices=st.integers(1, 60),
    slice_bytes=st.integers(4, 400).map(lambda n: 4 * n),
    budget=st.integers(1, 9000),
)
def test_parts_are_few_even_and_within_their_size(slices: int, slice_bytes: int, budget: int) -> None:
    x = torch.empty(slices, slice_bytes // 4)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(parts, "PART_BYTES", {"cpu": budget})
        count = slices_at_a_time(x, dim=0)
    most = max(1, budget // slice_bytes)
    assert count <= most
    number = ceil(slices / count)
    assert number == ceil(slices / most)  # as few as that allows
    assert count == 1 or ceil(slices / (count - 1)) > number  # smaller ones would be more


@pytest.mark.slow
def test_gradients_are_those_of_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch)
    unet, (x, *rest) = unet_call()
    x.requires_grad_()
    unet(x, *rest).square().sum().backward()
    assert x.grad is not None
    step = torch.randn_like(x)
    with torch.no_grad():
        near, far = (unet(x + e * step, *rest).square().sum() for e in (1e-5, -1e-5))
    torch.testing.assert_close((x.grad * step).sum(), (near - far) / 2e-5, rtol=1e-6, atol=0)


@given(slices=st.integers(1, 9), budget=st.integers(1, 200), dim=st.integers(0, 2))
def test_every_slice_is_seen_once_and_put_in_its_place(slices: int, budget: int, dim: int) -> None:
    shape = [2, 3, 4]
    shape[dim] = slices
    x = torch.arange(float(torch.Size(shape).numel())).view(shape)
    y = torch.arange(float(slices)).view([slices if i == dim else 1 for i in range(3)])
    sizes: list[int] = []

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(parts, "PART_BYTES", {"cpu": budget})
        found = Parts(x, dim=dim)
        for some in found:
            index = (slice(None),) * dim + (some,)
            sizes.append(x[index].shape[dim])
            found.keep(torch.stack([x[index] * y[index], -x[index]], dim=-1))
    assert torch.equal(found.result, torch.stack([x * y, -x], dim=-1))
    assert len(sizes) == len(found)
    assert sum(sizes) == slices
    assert all(size == 1 or size * x.numel() * 4 <= budget * slices for size in sizes)


def test_parts_take_less_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    unet, inputs = unet_call()

    def peak(budget: int) -> int:
        monkeypatch.setitem(parts.PART_BYTES, "cpu", budget)
        return peak_bytes(lambda: unet(*inputs))

    assert peak(1 << 14) < 0.6 * peak(1 << 40)

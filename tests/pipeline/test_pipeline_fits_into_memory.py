"""What takes less memory: offloading, a decoder in half precision; and what is said when it was not enough."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from typing import Any

import pytest
import torch
from micro import micro
from torch import Tensor, nn

from vcut import pipeline
from vcut.errors import OutOfMemoryError
from vcut.pipeline import copied_to
from vcut.unet import UNet
from vcut.vae import VAE

SETTINGS: dict[str, Any] = dict(steps=3, frames=2, seed=1)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def picture() -> Tensor:
    return torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_offloading_changes_no_bit(picture: Tensor) -> None:
    pipe = micro()
    offloading = dataclasses.replace(pipe, run_on=CPU)
    assert torch.equal(offloading.generate(picture, **SETTINGS), pipe.generate(picture, **SETTINGS))


def test_at_most_one_network_is_on_the_device(picture: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[weakref.ref[nn.Module]] = []

    def watched(network: Any, device: torch.device) -> Any:
        gc.collect()
        assert not [other for other in copies if other() is not None]
        copy = copied_to(network, device)
        copies.append(weakref.ref(copy))
        return copy

    monkeypatch.setattr(pipeline, "copied_to", watched)
    dataclasses.replace(micro(), run_on=CPU).generate(picture, **SETTINGS)
    gc.collect()
    assert len(copies) == 4  # CLIP, the VAE to encode, the UNet, the VAE to decode
    assert not [copy for copy in copies if copy() is not None]


def test_a_copy_has_the_values_and_the_precisions() -> None:
    vae = micro(vae_dtype=torch.float64).vae.decode_in(torch.float32)
    copy = copied_to(vae, CPU)
    assert {p.dtype for p in copy.encoder.parameters()} == {torch.float64}
    assert {p.dtype for p in copy.decoder.parameters()} == {torch.float32}
    for name, value in copy.state_dict().items():
        assert torch.equal(value, vae.state_dict()[name])


def test_the_decoder_may_have_a_precision_of_its_own(picture: Tensor) -> None:
    full, half = micro(), micro()
    half.vae.decode_in(torch.bfloat16)
    assert half.vae.dtype == torch.float32
    frames = half.generate(picture, **SETTINGS)
    assert frames.dtype == torch.float32
    difference = (frames - full.generate(picture, **SETTINGS)).abs().max().item()
    assert 0 < difference < 0.05


def out_of_memory(*_: Any, **__: Any) -> Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


def test_decoding_that_does_not_fit_keeps_the_latents(
    picture: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = micro()
    expected = pipe.generate(picture, **SETTINGS)
    with monkeypatch.context() as patch:
        patch.setattr(VAE, "decode", out_of_memory)
        with pytest.raises(OutOfMemoryError, match=r"decoding does not fit .* fewer frames .*now 14") as e:
            pipe.generate(picture, **SETTINGS)
    assert torch.equal(pipe.decode(e.value.latents)[0], expected)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"
        ),
        MemoryError(),
    ],
    ids=["GPU", "CPU", "Python"],
)
def test_sampling_that_does_not_fit_says_what_takes_less(
    picture: Tensor, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def forward(*_: Any) -> Tensor:
        raise error

    monkeypatch.setattr(UNet, "forward", forward)
    with pytest.raises(
        OutOfMemoryError, match="sampling does not fit into memory: run sequential, or take"
    ) as e:
        micro().generate(picture, **SETTINGS)
    assert e.value.latents is None
    with pytest.raises(OutOfMemoryError, match="memory: take a smaller size"):
        micro().generate(picture, **SETTINGS, sequential=True)


def test_other_errors_stay_what_they_are(picture: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(*_: Any) -> Tensor:
        raise RuntimeError("a bug")

    monkeypatch.setattr(UNet, "forward", forward)
    with pytest.raises(RuntimeError, match=r"^a bug$"):
        micro().generate(picture, **SETTINGS)

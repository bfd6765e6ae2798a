"""Settings of the process and of its thread change no bit of a clip."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from micro import micro
from torch import Tensor

import vcut
from vcut.analysis.audit import audit
from vcut.errors import ConfigError
from vcut.layers import pack
from vcut.pipeline import Pipeline

PICTURE = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(0))


@contextlib.contextmanager
def changed(setter: Callable[[Any], object], value: object, back: object) -> Iterator[None]:
    setter(value)
    try:
        yield
    finally:
        setter(back)


SETTINGS: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "default dtype float64": lambda: changed(torch.set_default_dtype, torch.float64, torch.float32),
    "default dtype bfloat16": lambda: changed(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "default device": lambda: changed(torch.set_default_device, "meta", None),
    "device of the thread": lambda: torch.device("meta"),
    "autocast to bfloat16": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast to float16": lambda: torch.autocast("cpu", torch.float16),
    "no gradients": torch.no_grad,
    "gradients": torch.enable_grad,
    "inference": torch.inference_mode,
    "anomaly detection": lambda: torch.autograd.set_detect_anomaly(True),
    "deterministic algorithms": lambda: changed(torch.use_deterministic_algorithms, True, False),
    "flush of denormals": lambda: changed(torch.set_flush_denormal, True, False),
    "matrix products in tf32": lambda: changed(torch.set_float32_matmul_precision, "high", "highest"),
    "global seed": lambda: changed(torch.manual_seed, 1, 2),
}


def clip(pipe: Pipeline) -> Tensor:
    return pipe.generate(PICTURE, steps=2, cut=2, frames=2, seed=1)


@pytest.fixture(scope="module", params=["plain", "packed"])
def pipe(request: pytest.FixtureRequest) -> Pipeline:
    made = micro("lossless")
    if request.param == "packed" and not pack(made.unet, made.vae):
        pytest.skip("nothing to pack on this CPU")
    return made


@pytest.fixture(scope="module")
def expected(pipe: Pipeline) -> Tensor:
    return clip(pipe)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_clip_is_the_same_bits(pipe: Pipeline, expected: Tensor, name: str) -> None:
    with SETTINGS[name]():
        found = clip(pipe)
    assert found.dtype == torch.float32
    assert found.device.type == "cpu"
    assert torch.equal(found, expected)


@pytest.fixture(scope="module")
def stored() -> dict[str, Tensor]:
    return vcut.load_unet().state_dict()


@pytest.mark.parametrize("name", ["default dtype float64", "default device", "inference"])
def test_a_model_is_loaded_the_same(name: str, stored: dict[str, Tensor]) -> None:
    with SETTINGS[name]():
        found = vcut.load_unet()
    for key, value in found.state_dict().items():
        assert torch.equal(value, stored[key]), key
    found.requires_grad_(True)  # as a tensor of inference mode never could


@pytest.mark.parametrize("name", ["default dtype float64", "default device"])
def test_an_audit_draws_the_same(name: str) -> None:
    unet = micro("baseline").unet
    expected = audit(unet)
    with SETTINGS[name]():
        assert audit(unet) == expected


@pytest.mark.slow  # two threads on a busy machine wait for each other
def test_threads_and_matrix_products_in_bfloat16_stay_near(pipe: Pipeline, expected: Tensor) -> None:
    """Threads sum in another order; a lower precision of products is torch's own switch, and the user's choice."""
    with changed(torch.set_num_threads, 2, torch.get_num_threads()):
        assert (clip(pipe) - expected).abs().max() < 1e-4
    with changed(torch.set_float32_matmul_precision, "medium", "highest"):
        assert (clip(pipe) - expected).abs().mean() < 0.02


def test_weights_on_the_meta_device_are_named() -> None:
    with pytest.raises(ConfigError, match="the weights are on the meta device"):
        clip(micro().to("meta"))

"""Settings of the process and of its thread change no bit of a clip."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from micro import micro
from torch import Tensor, nn

import vcut
from vcut.analysis.audit import audit
from vcut.errors import ConfigError
from vcut.kernels.onednn import can_pack
from vcut.layers import TemporalConv, pack, packed
from vcut.loading import load_clip
from vcut.pipeline import Pipeline
from vcut.sampling import Churn, linear, triangle

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


@pytest.mark.parametrize("name", ["default device", "device of the thread", "inference"])
def test_a_random_model_is_on_the_cpu_and_can_be_trained(name: str) -> None:
    with SETTINGS[name]():
        weight = micro().unet.conv_in.weight
    assert weight.device.type == "cpu"
    assert weight.requires_grad_().sum().backward() is None  # type: ignore[no-untyped-call]


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


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_a_clip_is_the_same_bits(pipe: Pipeline, expected: Tensor, name: str) -> None:
    with SETTINGS[name]():
        found = clip(pipe)
    assert found.dtype == torch.float32
    assert found.device.type == "cpu"
    assert torch.equal(found, expected)


DEFAULTS = pytest.mark.parametrize("name", [name for name in SETTINGS if name.startswith("default d")])


@pytest.mark.slow
@DEFAULTS
@pytest.mark.parametrize(
    "options",
    [
        dict(sigmas="ays", churn=Churn(1.0), guidance=lambda frames: [1.1, 2.3]),
        dict(guidance=triangle(1.1, 2.3)),
        dict(guidance=linear(1.1, 2.3)),
    ],
    ids=["churned", "triangle", "linear"],
)
def test_what_else_a_clip_is_made_of_is_the_same(name: str, options: dict[str, Any]) -> None:
    made = micro("lossless")
    expected = made.generate(PICTURE, steps=2, frames=2, **options)
    with SETTINGS[name]():
        found = made.generate(PICTURE, steps=2, frames=2, **options)
    assert torch.equal(found, expected)


@DEFAULTS
def test_a_picture_larger_than_clip_sees_is_embedded_the_same(name: str) -> None:
    made, pixels = micro(), 2 * torch.rand(1, 3, 500, 480) - 1
    expected = made.embed(pixels)
    with SETTINGS[name]():
        assert torch.equal(made.embed(pixels), expected)


@DEFAULTS
def test_convolutions_of_fewer_products_are_the_same(name: str) -> None:
    """Their matrices are made when they are packed, and at each call."""
    plain, x = TemporalConv(640, 640).requires_grad_(False), torch.rand(1, 3, 2, 2, 640)
    if not can_pack(plain.weight):
        pytest.skip("nothing to pack on this CPU")
    expected = packed(plain)(x)
    with SETTINGS[name]():
        assert torch.equal(packed(plain)(x), expected)


def test_a_thawed_model_gives_the_same_clip_and_records_nothing() -> None:
    made = micro("lossless")
    expected = clip(made)
    for network in (made.unet, made.vae, made.clip):
        network.requires_grad_(True)
    with torch.enable_grad():
        found = clip(made)
    assert not found.requires_grad
    assert torch.equal(found, expected)


def loaded() -> nn.ModuleList:
    """The networks of everything that loads."""
    whole = vcut.load()
    return nn.ModuleList([whole.unet, whole.vae, whole.clip, vcut.load_unet(), load_clip()])


@pytest.fixture(scope="module")
def stored() -> dict[str, Tensor]:
    return loaded().state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["default dtype float64", "default device", "inference"])
def test_a_model_is_loaded_the_same(name: str, stored: dict[str, Tensor]) -> None:
    with SETTINGS[name]():
        found = loaded()
    for key, value in found.state_dict().items():
        assert torch.equal(value, stored[key]), key
    found.requires_grad_(True)  # as a tensor of inference mode never could


@DEFAULTS
def test_an_audit_draws_the_same(name: str) -> None:
    unet = micro("baseline").unet
    expected = audit(unet, sigma=0.7)
    with SETTINGS[name]():
        assert audit(unet, sigma=0.7) == expected


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

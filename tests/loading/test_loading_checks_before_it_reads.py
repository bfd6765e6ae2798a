"""Devices and number types are tried before anything is downloaded or read, and a bad one is answered in one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

import vcut
from vcut import loading
from vcut.errors import ConfigError

LOADERS: list[Callable[..., Any]] = [vcut.load, vcut.load_unet, loading.load_clip]
KINDS = "hpu ipu xla lazy vulkan mtia privateuseone fpga maia ve opencl opengl hip ideep"
NOT_HERE = [*KINDS.split(), "cuda:99", "gpu", "CUDA", "cuda:", "cuda:-1"]
ODD = ["", "cpu ", -1, 99, 1.5, [], torch.float32]


@pytest.fixture(autouse=True)
def nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_open", lambda *_: pytest.fail("the model was opened"))


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("device", [*NOT_HERE, *ODD], ids=repr)
def test_a_device_that_is_not_there(load: Callable[..., Any], device: Any) -> None:
    named = re.escape(f"there is no device {str(device)!r} here; there is cpu")
    with pytest.raises(ConfigError, match=named):
        load("svd-xt", device=device)


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize(
    "dtype", ["float16", 16, float, torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn], ids=repr
)
def test_a_number_type_in_which_no_network_computes(load: Callable[..., Any], dtype: Any) -> None:
    says = f"must be one of torch.float64, torch.float32, torch.bfloat16, torch.float16, got {dtype!r}"
    with pytest.raises(ConfigError, match=re.escape(f"dtype {says}")):
        load("svd-xt", dtype=dtype)
    if load is vcut.load:
        for name in ("vae_dtype", "decode_dtype"):
            with pytest.raises(ConfigError, match=re.escape(f"{name} {says}")):
                load("svd-xt", **{name: dtype})


@pytest.mark.parametrize("preset", [2.5, [], object, b"vcut"], ids=repr)
def test_what_is_no_preset(preset: Any) -> None:
    with pytest.raises(ConfigError, match="there is no preset"):
        vcut.load("svd-xt", preset=preset)

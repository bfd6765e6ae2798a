"""Cases of test_a_stand_in_accelerator_runs_everything.py, which runs them in a process of their own.

There are no GPU kernels here: see :mod:`stand_in`.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Any

import pytest
import torch
from micro import micro
from stand_in import NAME, waits
from torch import Tensor

import vcut
from vcut.conditioning import bind
from vcut.kernels import norm
from vcut.layers import GroupNorm
from vcut.pipeline import Pipeline
from vcut.sampling import Branch, Churn, linear, plan, precondition, sample

DEVICE = torch.device(NAME, 0)
SETTINGS: dict[str, Any] = dict(steps=2, cut=2, frames=3, seed=1)
ROUNDING = {torch.float32: 5e-4, torch.float16: 3e-2, torch.bfloat16: 2e-1}
"""Largest difference of two ways of computing a pixel in 0..1: on the CPU vcut has kernels of its own for attention
and norms."""


def picture(n: int | None = None) -> Tensor:
    drawn = torch.rand(n or 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return drawn if n else drawn[0]


@functools.cache
def both(preset: str = "vcut", dtype: torch.dtype = torch.float32) -> tuple[Pipeline, Pipeline]:
    """The same model on the CPU and on the device."""
    return micro(preset, dtype=dtype), micro(preset, dtype=dtype).to(NAME)


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("preset", ["baseline", "lossless", "vcut"])
def test_clips_are_those_of_the_cpu(preset: str, dtype: torch.dtype) -> None:
    cpu, device = both(preset, dtype)
    found = device.generate(picture(), **SETTINGS)
    assert found.device == DEVICE
    assert (found.cpu() - cpu.generate(picture(), **SETTINGS)).abs().max() < ROUNDING[dtype]


WAYS: dict[str, dict[str, Any]] = {
    "several pictures and clips": {"clips": 2},
    "branches one after the other": {"sequential": True},
    "decoded in chunks": {"decode_chunk": 2},
    "churn": {"churn": Churn(2.0)},
    "heun": {"sampler": "heun"},
    "dpmpp_2m": {"sampler": "dpmpp_2m"},
    "lcm": {"sampler": "lcm"},
    "means after the cut": {"after": Branch("mean", "mean")},
    "never guided": {"cut": 1},
}


@pytest.mark.parametrize("way", WAYS)
def test_every_setting_gives_what_the_cpu_gives(way: str) -> None:
    cpu, device = both()
    pictures = list(picture(2)) if way == "several pictures and clips" else picture()
    settings = {**SETTINGS, "steps": 3, "cut": 3, **WAYS[way]}
    difference = device.generate(pictures, **settings).cpu() - cpu.generate(pictures, **settings)
    assert difference.abs().max() < ROUNDING[torch.float32]


def test_offloaded_networks_stay_where_they_are() -> None:
    cpu, _ = both()
    offloaded = dataclasses.replace(cpu, run_on=DEVICE)
    found = offloaded.generate(picture(), **SETTINGS)
    assert found.device == DEVICE
    assert (found.cpu() - cpu.generate(picture(), **SETTINGS)).abs().max() < ROUNDING[torch.float32]
    assert cpu.unet.conv_in.weight.device.type == "cpu"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_model_in_the_box_is_loaded_there(dtype: torch.dtype) -> None:
    tiny = vcut.load(device=NAME, dtype=dtype, decode_dtype=dtype, preset="lossless")
    networks = (tiny.unet, tiny.vae, tiny.clip)
    assert {p.device for network in networks for p in network.parameters()} == {DEVICE}
    settings: dict[str, Any] = dict(steps=2, seed=0, frames=2)
    expected = vcut.load(device="cpu", preset="lossless").generate(picture(), **settings)
    assert (tiny.generate(picture(), **settings).cpu() - expected).abs().mean() < ROUNDING[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_audit_runs_there(dtype: torch.dtype) -> None:
    _, device = both("baseline", dtype)
    report = vcut.audit(device.unet)
    assert report.holds
    assert report.worst_deviation == 0


WAITS_A_STEP = {"euler": 1, "heun": 1, "dpmpp_2m": 1, "lcm": 2, "churn": 2}
"""Waits of each step but the last: the look at the latents; and noise from the clips' generators, which are the CPU's
so that a seed means the same clip everywhere."""


@pytest.mark.parametrize("sampler", WAITS_A_STEP)
@torch.no_grad()
def test_a_step_waits_for_the_device_as_often_as_it_says(sampler: str) -> None:
    _, device = both()
    churn = {"sampler": "euler", "churn": Churn(2.0)} if sampler == "churn" else {"sampler": sampler}
    seen: list[int] = []
    with waits() as names:
        device.generate(
            picture(),
            steps=3,
            cut=2,
            frames=1,
            seed=1,
            clips=2,
            callback=lambda _: seen.append(len(names)),
            **churn,
        )
    steps = [after - before for before, after in itertools.pairwise(seen[:-1])]
    assert steps == [WAITS_A_STEP[sampler]]


@torch.no_grad()
def test_the_sampler_runs_on_what_it_is_given() -> None:
    cpu, device = both()
    latents = []
    for pipe in (cpu, device):
        run = vcut.settings.resolve(vcut.Settings(**SETTINGS), pipe.config, pipe.preset)
        conditioning, noise, _ = pipe.prepare(run, picture())
        network = bind(pipe.unet, conditioning, run.plan, run.frames)
        latents.append(sample(precondition(network), noise, run.sigmas, run.plan, linear(1, 3)))
    assert latents[1].device == DEVICE
    torch.testing.assert_close(latents[1].cpu(), latents[0], rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_what_lies_elsewhere_is_refused() -> None:
    """The control: without it nothing here could fail."""
    _, device = both()
    run = vcut.settings.resolve(vcut.Settings(**SETTINGS), device.config, device.preset)
    conditioning, noise, _ = device.prepare(run, picture())
    stray = dataclasses.replace(conditioning, time_ids=conditioning.time_ids.cpu())
    with pytest.raises(RuntimeError, match="device"):
        bind(device.unet, stray, plan(steps=3), run.frames)(noise, 0.0, run.plan[0].branches)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@torch.no_grad()
def test_a_group_norm_without_copies_is_the_plain_one(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = GroupNorm(4, 32)
    torch.nn.init.normal_(layer.weight)
    x = (3 * torch.randn(2, 3, 4, 5, 32) + 100).to(dtype)
    exact = torch.nn.functional.group_norm(
        x.double().movedim(-1, 1), 4, layer.weight.double(), layer.bias.double(), layer.eps
    ).movedim(1, -1)
    monkeypatch.setattr(norm, "MIXING", (NAME,))
    found = layer.to(NAME, dtype)(x.to(NAME)).cpu()
    assert found.dtype == dtype
    tolerance = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}[dtype]
    torch.testing.assert_close(found.double(), exact, rtol=tolerance, atol=tolerance)

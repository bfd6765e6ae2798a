"""A clip that two threads of a process make is the clip of one, and an error of one thread ends both."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from typing import Any

import pytest
import torch
from micro import micro
from torch import Tensor

from vcut import parallel
from vcut.errors import ConfigError
from vcut.pipeline import Pipeline
from vcut.sampling import STOP, Churn, Record
from vcut.settings import Settings, resolve
from vcut.unet.transformer import Transformer
from vcut.vae.decoder import Decoder

PICTURES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))

CASES: dict[str, dict[str, Any]] = {
    "guided, then cut": dict(frames=5, steps=2, cut=2),
    "one frame": dict(frames=1, steps=2, cut=2),
    "never cut": dict(frames=2, steps=1, cut=2),
    "two clips of each of two pictures": dict(frames=3, steps=2, cut=2, clips=2),
    "chunks": dict(frames=5, steps=1, cut=1, decode_chunk=2),
    "heun with churn": dict(frames=4, steps=2, cut=2, sampler="heun", churn=Churn(s_churn=1.0)),
    "guidance in one of two steps": dict(frames=4, steps=2, cut=3, guidance_interval=(1.0, 1000.0)),
    "branches one by one": dict(frames=3, steps=2, cut=2, sequential=True),
}


def latents_and_frames(pipe: Pipeline, case: dict[str, Any]) -> tuple[Tensor, Tensor]:
    run = resolve(Settings(**case), pipe.config, pipe.preset)
    pictures = PICTURES if "clips" in case else PICTURES[0]
    latents = pipe.sample_latents(run, pictures, seed=0)
    return latents, pipe.decode(latents, run.settings.decode_chunk)


@pytest.mark.parametrize(("name", "preset"), [*((name, "vcut") for name in CASES), ("never cut", "baseline")])
def test_latents_and_frames_are_those_of_one_thread(name: str, preset: str) -> None:
    pipe = micro(preset, dtype=torch.float64, vae_dtype=torch.float64)
    found = latents_and_frames(parallel.on_two_threads(pipe), CASES[name])
    wanted = latents_and_frames(pipe, CASES[name])
    for actual, expected in zip(found, wanted, strict=True):
        # frames are float32
        limit = 1e-12 if actual.dtype == torch.float64 else 1e-6
        assert (actual - expected).abs().max() <= limit * expected.abs().max()


def test_every_run_gives_the_same_bits() -> None:
    pipe = parallel.on_two_threads(micro())
    first = pipe.generate(PICTURES[0], frames=3, steps=2, cut=2, seed=0)
    for _ in range(3):
        assert torch.equal(pipe.generate(PICTURES[0], frames=3, steps=2, cut=2, seed=0), first)


def test_guided_steps_have_the_bits_of_a_sequential_run() -> None:
    case = dict(frames=3, steps=2, cut=3)
    found, _ = latents_and_frames(parallel.on_two_threads(micro()), case)
    wanted, _ = latents_and_frames(micro(), case | {"sequential": True})
    assert torch.equal(found, wanted)


def test_no_gradient_is_recorded_and_no_thread_stays() -> None:
    before = threading.active_count()
    pipe = parallel.on_two_threads(micro())
    for parameter in pipe.unet.parameters():
        parameter.requires_grad_()
    assert not pipe.generate(PICTURES[0], frames=3, steps=2, cut=2).requires_grad
    assert threading.active_count() == before


@pytest.mark.parametrize("stage", [Transformer, Decoder])
def test_an_error_of_one_thread_ends_both(stage: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other would wait for it at the next temporal layer."""
    pipe = parallel.on_two_threads(micro())
    inner, calls = stage.forward, itertools.count()

    def forward(*args: Any) -> Any:
        if next(calls) == 0:
            raise ZeroDivisionError("of the first")
        return inner(*args)

    monkeypatch.setattr(stage, "forward", forward)
    with pytest.raises(ZeroDivisionError, match="of the first"):
        pipe.generate(PICTURES[0], frames=3, steps=1, cut=1)
    monkeypatch.undo()
    assert pipe.generate(PICTURES[0], frames=3, steps=1, cut=1).shape[0] == 3


def test_callbacks_are_called_by_the_caller() -> None:
    seen: list[threading.Thread] = []

    def callback(record: Record) -> Any:
        seen.append(threading.current_thread())
        return STOP if record.step.number == 2 else None

    parallel.on_two_threads(micro()).generate(PICTURES[0], frames=2, steps=3, cut=2, callback=callback)
    assert seen == [threading.current_thread()] * 2


def test_what_is_wrong_with_latents_is_said_before_any_work() -> None:
    pipe = parallel.on_two_threads(micro())
    with pytest.raises(ConfigError, match=r"\[b, f, 4, h, w\]"):
        pipe.decode(torch.zeros(3, 4, 8, 8))
    with pytest.raises(ConfigError, match="chunk"):
        pipe.decode(torch.zeros(1, 3, 4, 8, 8), 0)


def test_it_is_the_same_model() -> None:
    pipe = micro()
    halved = parallel.on_two_threads(pipe)
    assert halved.unet is pipe.unet
    assert parallel.on_two_threads(halved).preset == pipe.preset
    assert dataclasses.replace(halved, note="other").note == "other"

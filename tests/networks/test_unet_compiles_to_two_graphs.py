"""A run compiles the UNet twice, for guided and for cut steps, and a second image compiles nothing more."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from micro import MICRO

from vcut.config import Level
from vcut.loading import random_model


@pytest.mark.slow
@torch.no_grad()
def test_guided_and_cut_steps_are_two_graphs_and_a_second_image_adds_none() -> None:
    # imported here: it takes seconds, which the quick tests would pay when they are collected
    from torch._dynamo.testing import CompileCounter

    small = dataclasses.replace(MICRO.unet, levels=(Level(32, 2),))
    pipe = random_model(dataclasses.replace(MICRO, unet=small))
    settings: dict[str, Any] = dict(steps=4, cut=3, frames=3)
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = [pipe.generate(picture, **settings) for picture in pictures]

    counter = CompileCounter()
    torch._dynamo.reset()
    pipe.unet.compile(backend=counter, fullgraph=True, dynamic=False)
    torch.testing.assert_close(pipe.generate(pictures[0], **settings), expected[0], rtol=0, atol=1e-5)
    assert counter.frame_count == 2
    torch.testing.assert_close(pipe.generate(pictures[1], **settings), expected[1], rtol=0, atol=1e-5)
    assert counter.frame_count == 2
    torch._dynamo.reset()

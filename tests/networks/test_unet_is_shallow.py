"""The stack of vcut's own functions above every convolution of a UNet call is short: few files to read at a time."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from micro import MICRO
from torch.utils._python_dispatch import TorchDispatchMode

import vcut
from vcut.kernels import parts
from vcut.unet import UNet

HOME = str(Path(vcut.__file__).parent)
DEEPEST = 5
"""UNet, a level, a resnet of both kinds, a resnet of one, a convolution."""


class Stacks(TorchDispatchMode):
    """The functions of vcut that are running at every convolution, the outermost first."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[list[str]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            frame, stack = inspect.currentframe(), []
            while frame is not None:
                if frame.f_code.co_filename.startswith(HOME):
                    stack.append(frame.f_code.co_qualname)
                frame = frame.f_back
            self.found.append(stack[::-1])
        return func(*args, **(kwargs or {}))


@pytest.mark.slow
@pytest.mark.parametrize("part_bytes", [parts.PART_BYTES["cpu"], 2048])
@torch.no_grad()
def test_from_the_unet_to_a_convolution_are_five_functions(
    part_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", {"cpu": part_bytes})
    unet = UNet(MICRO.unet)
    context = torch.randn(1, 1, MICRO.unet.context_dim)
    with Stacks() as stacks:
        unet(torch.randn(1, 3, 8, 16, 16), 0.3, context, torch.zeros(1, 3))
    convolutions = [module for module in unet.modules() if isinstance(module, torch.nn.Conv2d)]
    assert len(stacks.found) >= len(convolutions)
    for stack in stacks.found:
        assert stack[0] == "UNet.forward"
        assert stack[-1].endswith("Conv.forward")
        assert len(stack) <= DEEPEST, stack
    assert max(map(len, stacks.found)) == DEEPEST

"""From the cut step on the UNet computes one branch of guidance and returns it for both, in an unchanged pipeline."""

from __future__ import annotations

import copy
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers_like import Pipe, UNet, embedding
from torch import Tensor, nn

from vcut.config import Preset
from vcut.errors import ConfigError
from vcut.integrations.diffusers import accelerate

STEPS, CUT = 5, 3


def cut_by_hand(pipe: Pipe, context: Tensor, weight: float, **residuals: Any) -> Tensor:
    """The same run with the cut written out: one branch from the cut step on, its context times ``weight``."""
    x = torch.randn(2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    image, ids = torch.ones_like(x), torch.tensor([[0.6, 0.1, 0.02]]).expand(2, 3)
    with torch.no_grad():
        for number, t in enumerate(torch.linspace(1.6, -1.5, STEPS), start=1):
            half = {k: tuple(r[len(r) // 2 :] for r in v) for k, v in residuals.items()}
            if number < CUT:
                both = torch.cat([torch.cat([x, x]), torch.cat([torch.zeros_like(image), image])], dim=2)
                contexts = torch.cat([torch.zeros_like(context), context])
                uncond, cond = pipe.unet(both, t, contexts, torch.cat([ids, ids]), **residuals).sample.chunk(
                    2
                )
                out = uncond + 2.0 * (cond - uncond)
            else:
                out = pipe.unet(torch.cat([x, image], dim=2), t, weight * context, ids, **half).sample
            x = x - 0.1 * out
    return x


@pytest.mark.parametrize(("after", "weight"), [("mean", 0.5), ("cond", 1.0), ("uncond", 0.0)])
@pytest.mark.parametrize("rows", [2, 6], ids=["a context per clip", "a context per frame"])
def test_the_run_is_the_cut_one(after: Any, weight: float, rows: int) -> None:
    pipe = Pipe()
    expected = cut_by_hand(pipe, embedding(rows), weight)
    with accelerate(pipe, "baseline", cut=CUT, after=after):
        pipe.unet.calls.clear()
        assert torch.equal(pipe(embedding(rows)), expected)
    assert pipe.unet.calls == [4, 4, 2, 2, 2]


def test_residuals_are_halved() -> None:
    pipe = Pipe()
    residuals = {"down_block_additional_residuals": tuple(torch.randn(2, 12, 8, 2, 2))}
    expected = cut_by_hand(pipe, embedding(), 0.5, **residuals)
    with accelerate(pipe, "baseline", cut=CUT):
        assert torch.equal(pipe(embedding(), **residuals), expected)


def test_the_preset_says_where() -> None:
    pipe = Pipe()
    with accelerate(pipe, "vcut"):
        for steps, guided in ((25, 16), (5, 3), (1, 1)):
            pipe.unet.calls.clear()
            pipe(embedding(), steps=steps)
            assert pipe.unet.calls == [4] * guided + [2] * (steps - guided)


@pytest.mark.parametrize("cut", [1, STEPS, STEPS + 1])
def test_any_step_can_be_the_first(cut: int) -> None:
    pipe = Pipe()
    with accelerate(pipe, "baseline", cut=cut):
        pipe.unet.calls.clear()
        pipe(embedding(), steps=STEPS)
    assert pipe.unet.calls == [4] * (cut - 1) + [2] * (STEPS + 1 - cut)


def test_a_run_that_was_left_leaves_nothing_behind() -> None:
    pipe = Pipe()
    with accelerate(pipe, "baseline", cut=CUT):
        expected = pipe(embedding())
        pipe.unet.register_forward_hook(stop := Interrupt())
        with pytest.raises(KeyboardInterrupt):
            pipe(embedding())
        stop.after = 99
        assert torch.equal(pipe(embedding()), expected)
        assert torch.equal(pipe(embedding(), steps=7), Interrupt.cut_alone(7))


class Interrupt:
    """A hook that ends the fourth call, a cut one."""

    after = 4

    def __call__(self, *_: Any) -> None:
        self.after -= 1
        if not self.after:
            raise KeyboardInterrupt

    @staticmethod
    def cut_alone(steps: int) -> Tensor:
        pipe = Pipe()
        with accelerate(pipe, "baseline", cut=CUT):
            return pipe(embedding(), steps=steps)


def test_without_guidance_there_is_nothing_to_stop() -> None:
    pipe = Pipe()
    expected = pipe(embedding(), scale=1.0)
    with accelerate(pipe, "baseline", cut=CUT):
        assert torch.equal(pipe(embedding(), scale=1.0), expected)


def test_a_replaced_forward_and_a_replaced_scheduler() -> None:
    """Offloading replaces ``forward``; a user replaces the scheduler."""
    pipe = Pipe()
    with accelerate(pipe, "baseline", cut=CUT):
        expected = pipe(embedding())
        inner = pipe.unet.forward
        pipe.unet.forward = lambda *args, **kwargs: inner(*args, **kwargs)
        pipe.scheduler = SimpleNamespace(timesteps=None)
        assert torch.equal(pipe(embedding()), expected)
        del pipe.unet.forward
        assert torch.equal(pipe(embedding()), expected)


def test_two_pipelines_at_once_in_two_threads() -> None:
    pipes = {3: Pipe(), 9: Pipe()}
    expected, got = {}, {}
    for cut, pipe in pipes.items():
        with accelerate(pipe, "baseline", cut=cut):
            expected[cut] = pipe(embedding(), steps=40)
    handles = [accelerate(pipe, "baseline", cut=cut) for cut, pipe in pipes.items()]
    threads = [
        threading.Thread(target=lambda c=cut, p=pipe: got.__setitem__(c, p(embedding(), steps=40)))
        for cut, pipe in pipes.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for handle in handles:
        handle.remove()
    assert all(torch.equal(got[cut], expected[cut]) for cut in pipes)
    assert not torch.equal(got[3], got[9])


def test_a_copied_pipeline_follows_its_own_scheduler() -> None:
    pipe = Pipe()
    with accelerate(pipe, "baseline", cut=CUT):
        expected = pipe(embedding())
        copied, alone = copy.deepcopy(pipe), copy.deepcopy(pipe.unet)
    pipe.scheduler.timesteps = torch.zeros(1)
    assert torch.equal(copied(embedding()), expected)
    hook = next(iter(alone._forward_pre_hooks.values()))
    assert hook.__self__.owner is pipe  # no pipeline is copied with a UNet
    assert not pipe.unet._forward_pre_hooks


def test_a_loop_of_ones_own() -> None:
    pipe = Pipe()
    expected = cut_by_hand(pipe, embedding(), 0.5)
    with accelerate(pipe.unet, "baseline", cut=CUT, scheduler=pipe.scheduler):
        assert torch.equal(pipe(embedding()), expected)


def call(unet: nn.Module, context: Tensor, timestep: Any = 0.5, **further: Any) -> Tensor:
    n = len(context)
    return unet(torch.zeros(n, 3, 8, 2, 2), timestep, context, torch.zeros(n, 3), **further).sample


ZERO, GIVEN = torch.zeros_like(embedding()), embedding()
BOTH = torch.cat([ZERO, GIVEN])


@pytest.fixture
def stopped() -> Any:
    unet = UNet()
    levels = torch.tensor([3.0, 2.0, 2.0, 1.0, 1.0, 0.5, 0.5])  # as Heun's method visits them
    with accelerate(unet, "baseline", cut=2, scheduler=SimpleNamespace(timesteps=levels)):
        yield unet


@pytest.mark.parametrize(
    ("context", "timestep", "further", "says"),
    [
        (ZERO, 0.5, {}, "zero comes first, 2 of 2 are zero"),
        (torch.cat([GIVEN, ZERO]), 0.5, {}, "given comes first, 2 of 4 are zero"),
        (BOTH[1:], 0.5, {}, "zero comes first, 1 of 3 are zero"),
        (BOTH, 0.7, {}, "the timestep 0.7 is none of the 4"),
        (BOTH, torch.tensor([0.5, 1.0, 0.5, 1.0]), {}, "at several noise levels"),
        (BOTH, 0.5, {"pose_latents": torch.zeros(12, 8, 2, 2)}, "was given pose_latents"),
    ],
    ids=[
        "calls of their own",
        "the other order",
        "an odd batch",
        "another run's level",
        "levels",
        "unknown input",
    ],
)
def test_where_guidance_is_no_single_batch_it_is_refused(
    stopped: UNet, context: Tensor, timestep: Any, further: Any, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        call(stopped, context, timestep, **further)


def test_a_separate_unconditional_call_is_refused_before_the_cut(stopped: UNet) -> None:
    with pytest.raises(ConfigError, match="guidance does not run as one batch"):
        call(stopped, ZERO, 3.0)


@pytest.mark.parametrize("timestep", [0.5, torch.tensor(0.5), torch.tensor([0.5]), torch.full((4,), 0.5)])
def test_a_timestep_in_any_form(stopped: UNet, timestep: Any) -> None:
    uncond, cond = call(stopped, BOTH, timestep).chunk(2)
    assert torch.equal(uncond, cond)
    assert stopped.calls == [2]


def test_a_timestep_rounded_to_half_precision() -> None:
    unet = UNet()
    levels = torch.linspace(1.6, -1.5, 25)
    with accelerate(unet, "baseline", cut=17, scheduler=SimpleNamespace(timesteps=levels)):
        for level in levels.bfloat16():
            call(unet, BOTH, level)
    assert unet.calls == [4] * 16 + [2] * 9


@pytest.mark.parametrize(("timestep", "batch"), [(3.0, 4), (2.0, 2), (1.0, 2)])
def test_a_level_that_is_visited_twice_is_one_step(stopped: UNet, timestep: float, batch: int) -> None:
    call(stopped, BOTH, timestep)
    assert stopped.calls == [batch]


def test_outputs_of_any_form_are_doubled(stopped: UNet) -> None:
    as_tuple = stopped(torch.zeros(4, 3, 8, 2, 2), 0.5, BOTH, torch.zeros(4, 3), return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert torch.equal(as_tuple[0], call(stopped, BOTH))


def test_a_unet_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Linear.forward has no sample, timestep, encoder_hidden_states"):
        accelerate(nn.Linear(1, 1), Preset("mine", True, True), cut=3, scheduler=Pipe().scheduler)

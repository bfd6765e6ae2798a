"""diffusers' own pipeline on the model in the box, accelerated in one line: equal, or equal to vcut's cut."""

from __future__ import annotations

import copy
import dataclasses
import threading
from typing import Any

import peers
import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableVideoDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor, IPAdapterAttnProcessor2_0
from goldens_io import relative_error
from micro import MICRO
from PIL import Image
from torch import Tensor

import vcut
from training import world
from training.config import HELD_OUT_SEED
from vcut.errors import ConfigError
from vcut.integrations.diffusers import accelerate, as_diffusers
from vcut.integrations.folding import FoldedAttention
from vcut.loading import BOXED, random_model
from vcut.settings import Settings, resolve
from weights_tools.convert import convert

pytestmark = pytest.mark.parity

TOLERANCE = 1e-5
"""Relative, float32, over 25 steps."""

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tiny") / "diffusers"
    convert(BOXED, folder, "diffusers", dtype=torch.float32)
    return folder


@pytest.fixture
def pipe(folder: Any) -> Any:
    return quiet(StableVideoDiffusionPipeline.from_pretrained(folder, local_files_only=True))


def pictures(n: int = 1) -> list[Image.Image]:
    scenes = world.draw(64, HELD_OUT_SEED, 32)[:n]
    pixels = (world.render(scenes, 1, 32)[:, 0] * 255).round().byte()
    return [Image.fromarray(picture.permute(1, 2, 0).numpy()) for picture in pixels]


def run(pipe: Any, images: Any = None, steps: int = 25, seed: int = 3, **further: Any) -> Tensor:
    """Latents ``[n, f, c, h, w]``."""
    settings = dict(height=32, width=32, num_frames=8, output_type="latent") | further
    generator = torch.Generator().manual_seed(seed)
    return pipe(images or pictures(), generator=generator, num_inference_steps=steps, **settings).frames


def load(preset: Any, **options: Any) -> vcut.Pipeline:
    """The model in the box with diffusers' eps."""
    config = vcut.load("tiny", preset="baseline").config
    config = dataclasses.replace(config, unet=dataclasses.replace(config.unet, diffusers_norm_eps=True))
    return vcut.load("tiny", preset=preset, config=config, device="cpu", **options)


def ours(preset: Any, cut: int) -> tuple[Tensor, Tensor]:
    """Latents and frames of vcut's own run, in float64."""
    svd = load(preset, dtype=torch.float64, vae_dtype=torch.float64)
    settings = Settings(seed=3, cut=cut, decode_chunk=None, frames=8, height=32, width=32, fps=7)
    run = resolve(settings, svd.config, svd.preset)
    latents = svd.sample_latents(run, pictures()[0])
    return latents, svd.decode(latents.double(), None).double()


def test_lossless_over_25_steps_and_removed_again(pipe: Any) -> None:
    expected = run(pipe)
    state = {name: tensor.clone() for name, tensor in pipe.unet.state_dict().items()}
    kinds = [(name, type(module)) for name, module in pipe.unet.named_modules()]
    accelerated = accelerate(pipe)
    assert relative_error(run(pipe), expected) < TOLERANCE
    accelerated.remove()
    assert [(name, type(module)) for name, module in pipe.unet.named_modules()] == kinds
    assert list(pipe.unet.state_dict()) == list(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in pipe.unet.state_dict().items())
    assert torch.equal(run(pipe), expected)


@pytest.mark.parametrize("preset", ["vcut", "lossless"])
def test_the_cut_at_17_is_vcuts_own(pipe: Any, preset: Any) -> None:
    expected, frames = ours(preset, 17)
    with accelerate(pipe, preset, cut=17):
        assert relative_error(run(pipe), expected) < TOLERANCE
        assert relative_error(run(pipe, output_type="pt", decode_chunk_size=8)[0], frames[0]) < TOLERANCE
    assert relative_error(run(pipe), expected) > 100 * TOLERANCE  # the control


def test_two_pictures_in_a_row_and_at_once(pipe: Any) -> None:
    first, second = pictures(2)
    expected = [run(pipe, each, 4) for each in (first, second)]
    together = run(pipe, [first, second], 4, num_videos_per_prompt=2)
    with accelerate(pipe):
        for each, latents in zip((first, second), expected, strict=True):
            assert relative_error(run(pipe, each, 4), latents) < TOLERANCE
        rows = set()
        for module in pipe.unet.modules():
            if isinstance(module, FoldedAttention):
                module.linear.register_forward_hook(
                    lambda _, given, __: rows.add(given[0].shape[:-1].numel())
                )
        assert relative_error(run(pipe, [first, second], 4, num_videos_per_prompt=2), together) < TOLERANCE
        assert rows == {2 * 2 * 2 * 8}  # branches, pictures, clips of each and frames: none a pixel
    with accelerate(pipe, "vcut"):  # its step of 4 is the fourth
        alone = [run(pipe, each, 4) for each in (first, second)]
        assert torch.equal(run(pipe, first, 4), alone[0])
        assert torch.equal(run(pipe, second, 4), alone[1])


def test_two_pipelines_at_once_in_two_threads(pipe: Any) -> None:
    other = copy.deepcopy(pipe)
    both = {"cut": (pipe, 4), "whole": (other, 6)}
    with accelerate(pipe, "lossless", cut=2), accelerate(other):
        expected = {name: run(*each[:1], steps=each[1]) for name, each in both.items()}
        got: dict[str, Tensor] = {}
        threads = [
            threading.Thread(target=lambda n=n, p=p, s=s: got.__setitem__(n, run(p, steps=s)))
            for n, (p, s) in both.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(torch.equal(got[name], expected[name]) for name in both)


def test_callbacks_offloading_and_another_scheduler(pipe: Any) -> None:
    with accelerate(pipe, "vcut", cut=3):
        expected = run(pipe, steps=4)
        seen: list[int] = []

        def note(_pipe: Any, step: int, _t: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            seen.append(step)
            return tensors

        assert torch.equal(run(pipe, steps=4, callback_on_step_end=note), expected)
        assert seen == [0, 1, 2, 3]
        # A pipeline takes its hooks off and puts them on again after every clip. Its weights then begin elsewhere in
        # memory, and some CPUs add in another order.
        pipe.enable_model_cpu_offload(device="cpu")
        for _ in range(2):
            assert relative_error(run(pipe, steps=4), expected) < TOLERANCE
        pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
        assert relative_error(run(pipe, steps=4), expected) < TOLERANCE
        batches: list[int] = []
        pipe.unet.conv_in.register_forward_hook(lambda _, given, __: batches.append(len(given[0])))
        run(pipe, steps=4)
        assert batches == [16, 16, 8, 8]


@pytest.mark.parametrize(("preset", "pack"), [("baseline", False), ("lossless", True), ("vcut", True)])
def test_a_unet_of_vcuts_inside(pipe: Any, preset: Any, pack: bool) -> None:
    with accelerate(pipe, preset, cut=17):
        expected = run(pipe)
    unet = load(preset, pack=pack).unet
    parts = {**pipe.components, "unet": as_diffusers(unet, num_frames=8)}
    other = quiet(StableVideoDiffusionPipeline(**parts))
    with accelerate(other, "baseline", cut=17):
        assert relative_error(run(other, num_frames=None), expected) < TOLERANCE


def test_as_diffusers_takes_a_context_per_frame() -> None:
    model = random_model(MICRO, preset="lossless")
    unet, ids = as_diffusers(model.unet), torch.rand(2, 3)
    x, context = torch.randn(2, 3, 8, 4, 4), torch.randn(6, 1, 64)
    assert torch.equal(
        unet(x, 0.3, context, ids, return_dict=False)[0], model.unet(x, 0.3, context.view(2, 3, 1, 64), ids)
    )
    with pytest.raises(ConfigError, match="takes a vcut UNet, got Linear"):
        as_diffusers(torch.nn.Linear(1, 1))  # type: ignore[arg-type]


def test_stock_processors_fold_and_an_adapters_does_not() -> None:
    unet = peers.unet(MICRO)
    unet.set_attn_processor(AttnProcessor())
    with accelerate(unet):
        pass
    adapter = IPAdapterAttnProcessor2_0(hidden_size=32, cross_attention_dim=64, num_tokens=(4,))
    unet.get_submodule(BLOCK).set_processor(adapter)
    with pytest.raises(ConfigError, match=rf"{BLOCK}: its processor is .*IPAdapterAttnProcessor2_0"):
        accelerate(unet)


@pytest.mark.slow
@pytest.mark.parametrize("first", ["compiled first", "accelerated first"])
def test_compiled(first: str) -> None:
    """Two graphs, one for two branches and one for one, with nothing to break them; backend eager, tracing alone."""
    unet = dataclasses.replace(MICRO.unet, levels=MICRO.unet.levels[:1])
    pipe = quiet(peers.pipeline(random_model(dataclasses.replace(MICRO, unet=unet), preset="baseline")))
    plain, small = pipe.unet, dict(steps=4, num_frames=3)
    with accelerate(pipe, "lossless", cut=3):
        expected = run(pipe, **small)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    if first == "accelerated first":
        accelerate(pipe, "lossless", cut=3)
    pipe.unet = torch.compile(plain, backend="eager", fullgraph=True)
    if first == "compiled first":
        accelerate(pipe, "lossless", cut=3)
    for _ in range(2):
        assert relative_error(run(pipe, **small), expected) < TOLERANCE
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2

"""What a pipeline understands: settings as one value or by name, other names, moving, embedding, and how it shows."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
import torch
from micro import MICRO, micro
from torch import nn

import vcut
from vcut.clip import preprocess
from vcut.config import PRESETS
from vcut.errors import ConfigError, UnknownSettingError
from vcut.layers import pack
from vcut.pipeline import KEYWORDS, Pipeline
from vcut.sampling import Branch, constant, plan
from vcut.settings import OTHER_NAMES, Settings, resolve
from vcut.unet import UNet

PICTURE = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(0))
QUICK: dict[str, Any] = dict(steps=2, frames=2)


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return micro()


def test_settings_may_be_one_value_and_names_win(pipe: Pipeline) -> None:
    settings = Settings(**QUICK, seed=3)
    expected = pipe.generate(PICTURE, **QUICK, seed=3)
    assert torch.equal(pipe.generate(PICTURE, settings=settings), expected)
    assert torch.equal(pipe.generate(PICTURE, settings=settings.replace(seed=4), seed=3), expected)
    assert torch.equal(pipe(PICTURE, settings=settings), expected)


def test_a_run_that_was_resolved_before_gives_the_same(pipe: Pipeline) -> None:
    run = resolve(Settings(**QUICK), pipe.config, pipe.preset)
    assert torch.equal(pipe.follow(run, PICTURE, seed=3), pipe.generate(PICTURE, **QUICK, seed=3))
    assert torch.equal(pipe.follow(run, PICTURE), pipe.generate(PICTURE, **QUICK))
    both = pipe.follow(run, [PICTURE, PICTURE], seed=(3, 0))
    torch.testing.assert_close(both[0], pipe.generate(PICTURE, **QUICK, seed=3))


@pytest.mark.parametrize(("name", "here"), OTHER_NAMES.items())
def test_names_of_other_programs_are_answered_with_ours(pipe: Pipeline, name: str, here: str) -> None:
    """With a keyword, with the first argument, or with the function that does it."""
    assert re.match(r"\w+", here)[0] in (*KEYWORDS, "image", "vcut", "the")  # type: ignore[index]
    with pytest.raises(UnknownSettingError) as error:
        pipe.generate(PICTURE, **{name: 1})
    assert f"no setting '{name}': did you mean {here}?" in str(error.value)


@pytest.mark.parametrize("name", KEYWORDS)
def test_a_slip_of_the_pen_is_answered_with_the_nearest(pipe: Pipeline, name: str) -> None:
    with pytest.raises(UnknownSettingError, match=f"did you mean {name}"):
        pipe.generate(PICTURE, **{f"{name}_": 1})


def test_help_says_where_settings_are_explained() -> None:
    assert "help(vcut.Settings)" in (inspect.getdoc(Pipeline.generate) or "")


def test_it_shows_in_one_line(pipe: Pipeline) -> None:
    assert repr(pipe) == "Pipeline('micro', preset='vcut', torch.float32 on cpu)"


def test_embed_is_clip_of_the_pixels(pipe: Pipeline) -> None:
    pixels = PICTURE[None] * 2 - 1
    expected = pipe.clip(preprocess(pixels, MICRO.clip.image_size))
    embedding = pipe.embed(pixels)
    assert embedding.shape == (1, 1, 64)
    assert torch.equal(embedding[:, 0], expected)
    assert not embedding.requires_grad


def test_to_casts_unet_and_clip_as_loading_does() -> None:
    moved = micro()
    assert moved.to("cpu", torch.bfloat16) is moved
    made = micro(dtype=torch.bfloat16)
    assert moved.vae.dtype == torch.float32
    for name in ("unet", "clip", "vae"):
        state = getattr(moved, name).state_dict()
        for key, value in getattr(made, name).state_dict().items():
            assert torch.equal(state[key], value), key
    assert moved.to(torch.float32).unet.dtype == torch.float32
    assert moved.to("cpu").to().unet.dtype == torch.float32
    assert torch.isfinite(moved.generate(PICTURE, **QUICK)).all()


def test_to_moves_every_network_and_frees_none_to_train() -> None:
    moved = micro()
    moved.unet.requires_grad_(True)
    moved.to("meta")
    networks: tuple[nn.Module, ...] = (moved.unet, moved.vae, moved.clip)
    assert {p.device.type for network in networks for p in network.parameters()} == {"meta"}
    assert not any(p.requires_grad for network in networks for p in network.parameters())
    assert str(moved.device) == "meta"


def test_to_refuses_what_it_cannot_do(pipe: Pipeline) -> None:
    with pytest.raises(ConfigError, match="there is no device 'gpu'"):
        micro().to("gpu")
    for dtype in ("float16", torch.int8, torch.complex64):
        with pytest.raises(ConfigError, match=r"dtype must be one of torch\.float64"):
            micro().to("cpu", dtype)  # type: ignore[arg-type]
    offloaded = vcut.Pipeline(
        pipe.unet, pipe.vae, pipe.clip, pipe.config, pipe.preset, run_on=torch.device("cpu")
    )
    with pytest.raises(ConfigError, match="offloaded"):
        offloaded.to("cpu")


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="no oneDNN")
def test_to_refuses_packed_weights_and_touches_nothing() -> None:
    packed = micro()
    if not pack(packed.unet):
        pytest.skip("nothing to pack on this CPU")
    with pytest.raises(ConfigError, match="load the model without pack=True"):
        packed.to(torch.float16)
    assert packed.clip.proj.weight.dtype == torch.float32
    assert torch.isfinite(packed.generate(PICTURE, **QUICK)).all()


@pytest.mark.parametrize(
    ("settings", "contexts"),
    [
        (dict(steps=4, cut=3), 2),
        (dict(steps=4, cut=None), 1),
        (dict(steps=4, cut=1), 1),
        (dict(steps=4, cut=None, guidance=constant(1)), 1),
        (dict(steps=4, cut=3, sequential=True), 3),
        (dict(steps=4, cut=3, after=Branch("cond", "cond"), sequential=True), 2),
    ],
)
def test_contexts_are_made_before_the_first_step(
    pipe: Pipeline, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], contexts: int
) -> None:
    order: list[str] = []
    cache, forward = UNet.cache_context, UNet.forward

    def cached(self: UNet, *args: Any, **options: Any) -> Any:
        order.append("context")
        return cache(self, *args, **options)

    def called(self: UNet, *args: Any, **options: Any) -> Any:
        order.append("call")
        return forward(self, *args, **options)

    monkeypatch.setattr(UNet, "cache_context", cached)
    monkeypatch.setattr(UNet, "forward", called)
    pipe.generate(PICTURE, frames=2, **settings)
    assert order[:contexts] == ["context"] * contexts
    assert set(order[contexts:]) == {"call"}


@pytest.mark.slow
def test_the_library_lists_its_names() -> None:
    names = {"Pipeline", "Settings", "audit", "cost", "load", "load_unet", "media", "unet", "__version__"}
    assert names <= set(dir(vcut))
    assert all(hasattr(vcut, name) for name in dir(vcut))
    assert all(callable(getattr(vcut, name)) for name in ("audit", "cost", "load", "load_unet"))
    assert vcut.cost(MICRO, preset=PRESETS["vcut"], steps=3, memory=False).to_dict()
    assert len(plan(3)) == 3

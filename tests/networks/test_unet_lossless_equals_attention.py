"""With one context token, 'linear_cached' changes nothing; with more it refuses; False changes the output."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import weights_tools.fold
from vcut.config import Mode
from vcut.errors import ConfigError
from vcut.unet import Context, Level, UNet, UNetConfig, fold
from vcut.unet.attention import CrossAttention, LinearCrossAttention
from vcut.unet.resnet import SpatioTemporalResnet
from vcut.unet.transformer import Transformer

CONFIG = UNetConfig(
    levels=(Level(32, 2), Level(64, 4, attention=False), Level(64, 2)),
    layers=1,
    context_dim=24,
    time_id_dim=16,
)


def random_unet(config: UNetConfig = CONFIG, seed: int = 0) -> UNet:
    torch.manual_seed(seed)
    return UNet(config).double().eval()


def inputs(b: int = 2, f: int = 3, tokens: int = 1, seed: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(b, f, 8, 8, 12, generator=g, dtype=torch.float64)
    c_noise = torch.randn(b, generator=g, dtype=torch.float64)
    context = torch.randn(b, tokens, 24, generator=g, dtype=torch.float64)
    return x, c_noise, context, torch.rand(b, 3, generator=g, dtype=torch.float64) * 100


@torch.no_grad()
def test_lossless_equals_softmax_attention() -> None:
    unet, args = random_unet(), inputs()
    expected = unet(*args)
    folded = fold(unet, tca="linear_cached", sca="linear_cached")
    torch.testing.assert_close(folded(*args), expected, rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=10)
@given(b=st.integers(1, 3), f=st.integers(1, 5), depth=st.integers(1, 2), seed=st.integers(0, 999))
def test_lossless_holds_for_any_batch_frames_and_depth(b: int, f: int, depth: int, seed: int) -> None:
    config = UNetConfig(levels=(Level(32, 2),), layers=1, depth=depth, context_dim=24, time_id_dim=16)
    unet, args = random_unet(config, seed), inputs(b, f, seed=seed)
    with torch.no_grad():
        expected = unet(*args)
        got = fold(unet, tca="linear_cached", sca="linear_cached")(*args)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_only_one_of_the_two_may_be_folded() -> None:
    unet, args = random_unet(), inputs()
    expected = unet(*args)
    for tca, sca in ((True, "linear_cached"), ("linear_cached", True)):
        torch.testing.assert_close(fold(unet, tca=tca, sca=sca)(*args), expected, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_dropping_temporal_cross_attention_changes_the_output() -> None:
    unet, args = random_unet(), inputs()
    dropped = fold(unet, tca=False, sca="linear_cached")(*args)
    assert (dropped - unet(*args)).abs().max() > 1e-4


@pytest.mark.parametrize("tokens", [0, 2, 5])
def test_linear_cached_refuses_other_than_one_token(tokens: int) -> None:
    folded = fold(random_unet(), tca=False, sca="linear_cached")
    with pytest.raises(ConfigError, match=rf"exactly one token, got {tokens}"):
        folded(*inputs(tokens=tokens))


@torch.no_grad()
def test_softmax_attention_takes_several_tokens() -> None:
    x, c_noise, context, ids = inputs(tokens=3)
    unet = random_unet()
    out = unet(x, c_noise, context, ids)
    assert torch.isfinite(out).all()
    assert (out - unet(x, c_noise, context[:, :1], ids)).abs().max() > 1e-4


@torch.no_grad()
def test_a_cached_context_is_a_value_that_two_clips_cannot_mix() -> None:
    """Caches made for two images are used in any order, and a second image never sees the first's."""
    unet = fold(random_unet(), tca="linear_cached", sca="linear_cached")
    x, c_noise, context, ids = inputs()
    other = context.flip(0) * 2
    first, second = (unet.cache_context(embedding, x.shape[1]) for embedding in (context, other))
    assert isinstance(first, Context)
    a = unet(x, c_noise, first, ids)
    b = unet(x, c_noise, second, ids)
    assert torch.equal(a, unet(x, c_noise, first, ids))
    assert torch.equal(b, unet(x, c_noise, other, ids))
    assert not torch.equal(a, b)
    assert not any("cache" in name for name in unet.state_dict())


@torch.no_grad()
def test_a_cached_context_equals_its_embedding_in_every_mode() -> None:
    unet, (x, c_noise, context, ids) = random_unet(), inputs()
    for tca in (True, "linear_cached", False):
        form = fold(unet, tca=tca, sca=True)
        cached = form.cache_context(context, x.shape[1])
        assert torch.equal(form(x, c_noise, context, ids), form(x, c_noise, cached, ids))


@torch.no_grad()
def test_positions_embedded_once_are_those_of_every_call() -> None:
    unet, (x, c_noise, context, ids) = random_unet(), inputs()
    frames = x.shape[1]
    cached = unet.cache_context(context, frames)
    assert torch.equal(unet(x, c_noise, cached, ids), unet(x, c_noise, context, ids))
    shifted = cached._replace(mid=cached.mid._replace(positions=cached.mid.positions.roll(1, 0)))
    assert not torch.equal(unet(x, c_noise, shifted, ids), unet(x, c_noise, context, ids)), "the control"
    with pytest.raises(
        ConfigError, match=f"2 clips of {frames} frames, the latents are 2 clips of {frames - 1}"
    ):
        unet(x[:, 1:], c_noise, cached, ids)


@torch.no_grad()
def test_a_batch_equals_its_clips_alone() -> None:
    """Every clip keeps its own context: the rows of temporal cross-attention cannot be interleaved."""
    for form in (random_unet(), fold(random_unet(), tca="linear_cached", sca="linear_cached")):
        x, c_noise, context, ids = inputs(b=3)
        together = form(x, c_noise, context, ids)
        for i in range(3):
            alone = form(x[i : i + 1], c_noise[i : i + 1], context[i : i + 1], ids[i : i + 1])
            torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-12, atol=1e-12)


def test_gradients_flow_through_a_cached_context() -> None:
    unet = fold(random_unet(), tca="linear_cached", sca="linear_cached")
    x, c_noise, context, ids = inputs()
    context.requires_grad_()
    unet(x, c_noise, unet.cache_context(context, x.shape[1]), ids).square().mean().backward()
    assert context.grad is not None
    assert (context.grad.abs().amax(dim=(1, 2)) > 0).all()
    assert all(p.grad is not None for name, p in unet.named_parameters() if "cross" in name)


@pytest.mark.parametrize(
    ("have", "want"),
    [
        (dict(tca="linear_cached", sca=True), dict(tca=True, sca=True)),
        (dict(tca=True, sca="linear_cached"), dict(tca=True, sca=True)),
        (dict(tca=False, sca=True), dict(tca=True, sca=True)),
        (dict(tca=False, sca=True), dict(tca="linear_cached", sca=True)),
    ],
)
def test_there_is_no_way_back(have: dict[str, object], want: dict[str, object]) -> None:
    form = fold(random_unet(), **have)
    with pytest.raises(ConfigError, match="cannot become"):
        fold(form, **want)


def test_folding_shares_the_other_weights_and_leaves_the_source_alone() -> None:
    unet = random_unet()
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    folded = fold(unet, tca=False, sca="linear_cached")
    assert folded.conv_in.weight.data_ptr() == unet.conv_in.weight.data_ptr()
    assert unet.config == CONFIG
    for name, value in unet.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(x=torch.zeros(2, 3, 4, 8, 12)), r"latents are \[b, f, 8, h, w\]"),
        (dict(x=torch.zeros(2, 8, 8, 12)), r"latents are \[b, f, 8, h, w\]"),
        (dict(x=torch.zeros(2, 3, 8, 6, 12)), "multiples of 4, got 6x12"),
        (dict(context=torch.zeros(2, 1, 23)), r"\[b, tokens, 24\]"),
        (dict(context=torch.zeros(3, 1, 24)), "context is for 3 clips"),
        (dict(context=torch.zeros(2, 2, 1, 24)), "each of 2 frames, the clips have 3"),
        (dict(time_ids=torch.zeros(2, 2)), r"time_ids are \[2, 3\]"),
        (dict(time_ids=torch.zeros(3)), r"time_ids are \[2, 3\]"),
        (dict(c_noise=torch.zeros(3)), r"c_noise"),
    ],
)
def test_bad_shapes_are_named(change: dict[str, Tensor], message: str) -> None:
    x, c_noise, context, time_ids = inputs()
    args = dict(x=x, c_noise=c_noise, context=context, time_ids=time_ids) | change
    with pytest.raises(ConfigError, match=message):
        random_unet()(**args)


@torch.no_grad()
def test_the_noise_level_is_a_number_or_a_tensor() -> None:
    unet, (x, _, context, ids) = random_unet(), inputs()
    expected = unet(x, torch.full((2,), 0.25), context, ids)
    for same in (0.25, torch.tensor(0.25), torch.tensor([0.25]), torch.tensor([0.25, 0.25])):
        assert torch.equal(unet(x, same, context, ids), expected)
    assert not torch.equal(unet(x, 1, context, ids), expected)


@torch.no_grad()
def test_every_frame_may_have_a_context_of_its_own() -> None:
    unet, (x, c_noise, context, ids) = random_unet(), inputs()
    per_frame = torch.stack([context, 2 * context, 3 * context], dim=1)
    cached = unet.cache_context(per_frame, frames=3)
    assert cached.frames == 3
    assert torch.equal(unet(x, c_noise, cached, ids), unet(x, c_noise, per_frame, ids))
    assert not torch.equal(unet(x, c_noise, cached, ids), unet(x, c_noise, context, ids))
    with pytest.raises(ConfigError, match="each of 3 frames, the clips have 4"):
        unet.cache_context(per_frame, frames=4)


def test_a_context_is_nested_as_the_unet_is() -> None:
    unet = random_unet()
    context = unet.cache_context(torch.randn(2, 1, 24), frames=3)
    for levels, contexts in ((unet.down, context.down), (unet.up, context.up)):
        assert len(levels) == len(contexts)
        for level, cached in zip(levels, contexts, strict=True):
            assert [layer.transformer is None for layer in level.layers] == [each is None for each in cached]
    assert [each.positions.shape[-1] for each in context.transformers] == [
        transformer.channels for transformer in unet.transformers()
    ]
    assert len(context.blocks) == len(context.transformers)


@pytest.mark.parametrize("mode", [None, 1, "linear", "True"])
def test_modes_are_checked(mode: object) -> None:
    for flag in ("tca", "sca"):
        with pytest.raises(ConfigError, match=f"{flag} must be True, 'linear_cached' or False"):
            UNetConfig(**{flag: mode})  # type: ignore[arg-type]


@torch.no_grad()
def test_a_context_of_another_form_is_refused() -> None:
    unet, (x, c_noise, context, ids) = random_unet(), inputs()
    for tca, sca in (("linear_cached", "linear_cached"), (False, "linear_cached"), (False, True)):
        other = fold(unet, tca=tca, sca=sca)
        for maker, user in ((unet, other), (other, unet)):
            with pytest.raises(ConfigError, match="cache it again"):
                user(x, c_noise, maker.cache_context(context, x.shape[1]), ids)


@torch.no_grad()
def test_a_context_of_other_widths_is_refused() -> None:
    x, c_noise, context, ids = inputs()
    levels = tuple(dataclasses.replace(level, channels=2 * level.channels) for level in CONFIG.levels)
    wider = random_unet(dataclasses.replace(CONFIG, levels=levels))
    with pytest.raises(ConfigError, match="channels, this one has"):
        random_unet()(x, c_noise, wider.cache_context(context, x.shape[1]), ids)


@torch.no_grad()
def test_softmax_attention_refuses_no_token() -> None:
    with pytest.raises(ConfigError, match="at least one token"):
        random_unet().cache_context(torch.zeros(2, 0, CONFIG.context_dim), 3)


@torch.no_grad()
def test_a_context_with_more_in_it_than_the_unet_has_is_not_cut() -> None:
    """It was made by a UNet of another build: computing with a part of it would give a clip of neither."""
    unet, (x, c_noise, context, ids) = random_unet(), inputs()
    cached = unet.cache_context(context, x.shape[1])
    deeper = random_unet(dataclasses.replace(CONFIG, depth=2)).cache_context(context, x.shape[1])
    for other in (
        cached._replace(down=(*cached.down, cached.down[-1])),
        cached._replace(up=(*cached.up, cached.up[-1])),
        cached._replace(mid=deeper.mid),
    ):
        with pytest.raises(ValueError, match=r"zip\(\)"):
            unet(x, c_noise, other, ids)


@torch.no_grad()
def test_maps_past_the_limit_of_a_kernel_are_attended_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    unet, args = random_unet(), inputs()
    expected = unet(*args)
    monkeypatch.setattr("vcut.kernels.attention.MOST_HEADS", 37)  # of the 192 and more of a clip, and a rest
    torch.testing.assert_close(unet(*args), expected, rtol=1e-12, atol=1e-12)


def test_every_part_can_be_checkpointed() -> None:
    """Recomputing a part for its gradient gives the same gradient: none consumes what another needs."""
    unet, args = random_unet(), inputs()
    unet(*args).square().mean().backward()
    expected = {name: p.grad.clone() for name, p in unet.named_parameters() if p.grad is not None}
    unet.zero_grad()
    for module in unet.modules():
        if isinstance(module, (SpatioTemporalResnet, Transformer)):
            forward = module.forward
            module.forward = partial(checkpoint, forward, use_reentrant=False)  # type: ignore[method-assign]
    unet(*args).square().mean().backward()
    for name, p in unet.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], rtol=1e-10, atol=1e-12)


def test_folding_parts_the_modules_and_not_the_memory() -> None:
    unet = random_unet()
    folded = fold(unet, tca="linear_cached", sca=True)
    ours, theirs = dict(unet.named_parameters()), dict(folded.named_parameters())
    assert not set(map(id, ours.values())) & set(map(id, theirs.values()))
    for name in ours.keys() & theirs.keys():
        assert ours[name].data_ptr() == theirs[name].data_ptr(), name
    assert ours.keys() - theirs.keys()
    folded.requires_grad_(False)
    assert all(p.requires_grad for p in unet.parameters())
    assert folded.config == dataclasses.replace(CONFIG, tca="linear_cached")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("tca", "sca"), [("linear_cached", "linear_cached"), (False, "linear_cached")])
def test_folding_modules_and_folding_files_give_the_same_bits(
    tca: Mode, sca: Mode, dtype: torch.dtype
) -> None:
    unet = random_unet().to(dtype)
    modules = fold(unet, tca=tca, sca=sca).state_dict()
    files = weights_tools.fold.fold(unet.state_dict(), tca=tca, sca=sca)
    assert modules.keys() == files.keys()
    for name, tensor in modules.items():
        assert torch.equal(tensor, files[name]), name


def test_folding_keeps_frozen_what_is_frozen() -> None:
    unet = random_unet()
    assert all(p.requires_grad for p in fold(unet, tca=False, sca="linear_cached").parameters())
    unet.requires_grad_(False)
    unet.conv_in.requires_grad_(True)
    folded = fold(unet, tca="linear_cached", sca="linear_cached")
    assert {n for n, p in folded.named_parameters() if p.requires_grad} == {
        "conv_in.weight",
        "conv_in.bias",
    }
    unet.requires_grad_(False)
    assert not any(p.requires_grad for p in fold(unet, tca="linear_cached", sca=False).parameters())


def test_a_folded_weight_is_trained_if_either_of_its_matrices_is() -> None:
    for trained in ("to_out.weight", "to_v.weight"):
        unet = random_unet().requires_grad_(False)
        for name, parameter in unet.named_parameters():
            parameter.requires_grad_(name.endswith(f"cross.{trained}"))
        folded = fold(unet, tca="linear_cached", sca=False)
        found = {name for name, parameter in folded.named_parameters() if parameter.requires_grad}
        assert found == {
            f"{name}.weight" for name, module in folded.named_modules() if name.endswith("cross.linear")
        }


def test_each_cross_attention_has_the_form_that_is_asked_for() -> None:
    """A form that is there already stays as it is, also after the other was folded."""
    kinds = {True: CrossAttention, "linear_cached": LinearCrossAttention, False: type(None)}
    unet = fold(random_unet(), tca=True, sca="linear_cached")
    for tca in (True, "linear_cached", False):
        for transformer in fold(unet, tca=tca, sca="linear_cached").transformers():
            assert [type(block.cross) for block in transformer.temporal] == [kinds[tca]]
            assert [type(block.cross) for block in transformer.spatial] == [LinearCrossAttention]

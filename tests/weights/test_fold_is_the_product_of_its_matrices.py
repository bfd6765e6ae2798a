"""Folding makes W_o W_v and b_o of a trained cross-attention, drops what is dead, and has no way back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product

import pytest
import torch
from torch import Tensor
from weights_samples import TINY, random_state

from weights_tools.errors import CheckpointError, ConfigError
from weights_tools.fold import Mode, fold, modes

STATE = random_state(TINY["unet"])
BLOCKS = sorted(key.removesuffix(".to_v.weight") for key in STATE if key.endswith(".cross.to_v.weight"))
MODES: tuple[Mode, ...] = (True, "linear_cached", False)
BACKWARD = [("linear_cached", True), (False, True), (False, "linear_cached")]


class Recording(Mapping[str, Tensor]):
    """Remembers which tensors were asked for."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors, self.asked = tensors, set[str]()

    def __getitem__(self, key: str) -> Tensor:
        self.asked.add(key)
        return self.tensors[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def test_the_folded_layer_is_to_out_of_to_v() -> None:
    state = {key: tensor.double() for key, tensor in STATE.items()}
    folded = fold(state, tca="linear_cached", sca="linear_cached")
    e = torch.randn(3, 1, 48, dtype=torch.float64)
    assert len(BLOCKS) == 14
    for block in BLOCKS:
        attended = torch.nn.functional.linear(e, state[f"{block}.to_v.weight"])
        expected = torch.nn.functional.linear(
            attended, state[f"{block}.to_out.weight"], state[f"{block}.to_out.bias"]
        )
        actual = torch.nn.functional.linear(
            e, folded[f"{block}.linear.weight"], folded[f"{block}.linear.bias"]
        )
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_folded_weight_is_the_exact_product_rounded_once(dtype: torch.dtype) -> None:
    state = {key: tensor.to(dtype) for key, tensor in STATE.items()}
    folded = fold(state, tca=False, sca="linear_cached")
    spatial = [block for block in BLOCKS if ".spatial." in block]
    for block in spatial:
        exact = state[f"{block}.to_out.weight"].double() @ state[f"{block}.to_v.weight"].double()
        weight = folded[f"{block}.linear.weight"]
        assert weight.dtype == dtype
        bound = exact.abs() * torch.finfo(dtype).eps / 2 + torch.finfo(dtype).smallest_normal
        assert ((weight.double() - exact).abs() <= bound).all()


@pytest.mark.parametrize(("tca", "sca"), list(product(MODES, MODES)))
def test_the_form_can_be_read_off_the_names(tca: Mode, sca: Mode) -> None:
    assert modes(fold(STATE, tca, sca)) == (tca, sca)


@pytest.mark.parametrize(("tca", "sca"), list(product(MODES, MODES)))
def test_everything_else_is_the_same_tensor(tca: Mode, sca: Mode) -> None:
    folded = fold(STATE, tca, sca)
    others = [key for key in STATE if ".cross." not in key]
    assert [key for key in folded if ".cross." not in key] == others
    assert all(folded[key] is STATE[key] for key in others)


def test_folding_twice_is_folding_once_and_no_change_is_no_change() -> None:
    once = fold(STATE, "linear_cached", "linear_cached")
    twice = fold(once, "linear_cached", "linear_cached")
    assert once.keys() == twice.keys()
    assert all(twice[key] is once[key] for key in once)
    assert all(tensor is STATE[key] for key, tensor in fold(STATE, True, True).items())


def test_a_folded_form_may_still_be_dropped() -> None:
    dropped = fold(fold(STATE, "linear_cached", "linear_cached"), tca=False, sca="linear_cached")
    direct = fold(STATE, tca=False, sca="linear_cached")
    assert dropped.keys() == direct.keys()
    assert all(torch.equal(dropped[key], direct[key]) for key in direct)


@pytest.mark.parametrize(("have", "want"), BACKWARD)
@pytest.mark.parametrize("flag", ["tca", "sca"])
def test_there_is_no_way_back_and_the_error_says_why(flag: str, have: Mode, want: Mode) -> None:
    start: dict[str, Mode] = {"tca": "linear_cached", "sca": "linear_cached", flag: have}
    state = fold(STATE, **start)
    with pytest.raises(
        ConfigError, match=rf"{flag}={have!r} cannot become {flag}={want!r}.*original checkpoint"
    ):
        fold(state, **{**start, flag: want})


@pytest.mark.parametrize("mode", ["linear", "cached", None, 2, "true"])
def test_an_unknown_form_is_refused(mode: object) -> None:
    with pytest.raises(ConfigError, match="tca must be True, 'linear_cached' or False"):
        fold(STATE, mode, True)  # type: ignore[arg-type]


def test_a_block_with_half_a_form_is_refused_by_name() -> None:
    state = dict(STATE)
    del state[f"{BLOCKS[3]}.to_k.weight"]
    with pytest.raises(CheckpointError, match=BLOCKS[3].replace(".", r"\.")):
        fold(state, True, True)


def test_blocks_of_different_forms_are_refused() -> None:
    state = fold(STATE, "linear_cached", True)
    block = next(block for block in BLOCKS if ".temporal." in block)
    mixed = {key: tensor for key, tensor in state.items() if not key.startswith(f"{block}.")}
    mixed |= {key: tensor for key, tensor in STATE.items() if key.startswith(f"{block}.")}
    with pytest.raises(
        CheckpointError, match="temporal cross-attentions are partly trained and partly folded"
    ):
        modes(mixed)


def test_shapes_fold_without_data() -> None:
    meta = fold({key: tensor.to("meta") for key, tensor in STATE.items()}, "linear_cached", False)
    real = fold(STATE, "linear_cached", False)
    assert {key: t.shape for key, t in meta.items()} == {key: t.shape for key, t in real.items()}
    assert all(tensor.is_meta for tensor in meta.values())


def test_dead_weights_are_never_read() -> None:
    state = Recording(STATE)
    fold(state, tca=False, sca="linear_cached")
    dead = {key for key in STATE if ".temporal." in key and ".cross." in key}
    dead |= {
        key for key in STATE if key.endswith((".cross.norm.weight", ".cross.norm.bias", ".cross.to_q.weight"))
    }
    dead |= {key for key in STATE if key.endswith(".cross.to_k.weight")}
    assert state.asked == set(STATE) - dead

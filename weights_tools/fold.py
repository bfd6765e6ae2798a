"""Folding trained cross-attention into one linear layer, on the names of a vcut UNet's state dict.

With one context token the softmax weight is exactly 1, so a cross-attention is ``W_o (W_v e) + b_o`` whatever its
query (Taghipour et al., arXiv 2407.19205, section III-A). ``W = W_o W_v`` and ``b_o`` make the paper's "simple
linear layer"; ``to_q``, ``to_k`` and the norm before them reach nothing and are dropped.

Shapes: c channels of the block, d width of the context. Needs torch alone, and works on the meta device.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from weights_tools.errors import CheckpointError, ConfigError
from weights_tools.model import Mode, check_mode

TRAINED = (
    "norm.weight",
    "norm.bias",
    "to_q.weight",
    "to_k.weight",
    "to_v.weight",
    "to_out.weight",
    "to_out.bias",
)
FOLDED = ("linear.weight", "linear.bias")

_CROSS = re.compile(r"(?P<block>.*transformer\.(?P<axis>temporal|spatial)\.\d+\.cross)\.(?P<leaf>.+)")
_FLAG = {"temporal": "tca", "spatial": "sca"}


def modes(keys: Iterable[str]) -> tuple[Mode, Mode]:
    """The modes ``(tca, sca)`` of a UNet with these names.

    Raises:
        CheckpointError: some blocks have one form and some another, or a block has only a part of a form.
    """
    blocks: dict[str, dict[str, set[str]]] = {"temporal": {}, "spatial": {}}
    for key in keys:
        if match := _CROSS.fullmatch(key):
            blocks[match["axis"]].setdefault(match["block"], set()).add(match["leaf"])
    return _mode("temporal", blocks["temporal"]), _mode("spatial", blocks["spatial"])


def fold(state: Mapping[str, Tensor], tca: Mode, sca: Mode) -> dict[str, Tensor]:
    """The state dict of the same UNet with cross-attentions of the modes ``tca`` and ``sca``.

    A folded weight is ``to_out.weight [c, c] @ to_v.weight [c, d]`` in float64, cast to the source's dtype; its bias
    is ``to_out.bias [c]``. All other tensors are passed on, not copied.

    Raises:
        ConfigError: the wanted form cannot be had from this one: folding and dropping have no way back.
        CheckpointError: the cross-attentions in ``state`` are mixed or incomplete.
    """
    return {name: made([state[s] for s in sources]) for name, sources in recipe(state, tca, sca).items()}


def recipe(names: Collection[str], tca: Mode, sca: Mode) -> dict[str, tuple[str, ...]]:
    """Sources of each tensor that :func:`fold` makes: name -> one name to pass on, or two to multiply.

    Raises:
        ConfigError: as :func:`fold`.
        CheckpointError: as :func:`fold`.
    """
    have = dict(zip(("temporal", "spatial"), modes(names), strict=True))
    want: dict[str, Mode] = {"temporal": tca, "spatial": sca}
    for axis, flag in _FLAG.items():
        check_fold(flag, have[axis], want[axis])

    sources: dict[str, tuple[str, ...]] = {}
    for name in names:
        match = _CROSS.fullmatch(name)
        if match is None or have[match["axis"]] == want[match["axis"]]:
            sources[name] = (name,)
        elif want[match["axis"]] == "linear_cached" and match["leaf"] == "to_out.weight":
            sources[f"{match['block']}.linear.weight"] = (name, f"{match['block']}.to_v.weight")
        elif want[match["axis"]] == "linear_cached" and match["leaf"] == "to_out.bias":
            sources[f"{match['block']}.linear.bias"] = (name,)
    return sources


def made(sources: Sequence[Tensor], dtype: torch.dtype | None = None) -> Tensor:
    """One tensor as it is, or the product ``w_o @ w_v`` of two.

    The product is taken in float64 and rounded once, to ``dtype``, by default that of ``w_o``.
    """
    if len(sources) == 1:
        return sources[0]
    w_o, w_v = sources
    exact = torch.device("cpu") if w_o.device.type == "mps" else w_o.device  # Apple's GPUs have no float64
    product = w_o.to(exact, torch.float64) @ w_v.to(exact, torch.float64)
    return product.to(w_o.device, dtype or w_o.dtype)


def _mode(axis: str, blocks: dict[str, set[str]]) -> Mode:
    forms: set[Mode] = set()
    for block, leaves in blocks.items():
        if leaves == set(TRAINED):
            forms.add(True)
        elif leaves == set(FOLDED):
            forms.add("linear_cached")
        else:
            raise CheckpointError(
                f"{block}: expected {', '.join(TRAINED)} or {', '.join(FOLDED)}, found {', '.join(sorted(leaves))}"
            )
    if len(forms) > 1:
        raise CheckpointError(
            f"the {axis} cross-attentions are partly trained and partly folded; all must have one form"
        )
    return forms.pop() if forms else False


def check_fold(flag: str, have: Mode, want: Mode) -> None:
    """Raise :class:`ConfigError` unless cross-attentions of the mode ``have`` can get the mode ``want``."""
    check_mode(flag, want)
    if have is False and want is not False:
        raise ConfigError(
            f"{flag}=False cannot become {flag}={want!r}: the weights of these cross-attentions were dropped; "
            "take preset vcut, or start from the original checkpoint"
        )
    if have == "linear_cached" and want is True:
        raise ConfigError(
            f"{flag}='linear_cached' cannot become {flag}=True: the product of to_out and to_v does not contain "
            "to_q, to_k and the norm; take preset lossless (--preset lossless), which gives the same clips, or start "
            "from the original checkpoint"
        )

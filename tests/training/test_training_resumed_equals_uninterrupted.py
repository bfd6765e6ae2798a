"""A run that was stopped and taken up again ends where an uninterrupted one does, to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor, nn

from training import common

RECIPE = common.Recipe(steps=12, batch=8, lr=1e-2, warmup=3)


class Line(nn.Module):
    """Learn y = 3 x - 1."""

    def __init__(self) -> None:
        super().__init__()
        self.fit = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return (self.fit(x) - (3 * x - 1)).square().mean()


def line() -> Line:
    torch.manual_seed(0)
    return Line()


def draw(g: Generator, size: int) -> Tensor:
    return torch.randn(size, 1, generator=g)


def test_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    whole, parts = line(), line()
    common.train(whole, draw, RECIPE, tmp_path / "whole", quiet=True)
    common.train(parts, draw, RECIPE, tmp_path / "parts", until=5, quiet=True)
    common.train(fresh := line(), draw, RECIPE, tmp_path / "parts", quiet=True)
    assert common.averaged_steps(tmp_path / "parts") == RECIPE.steps
    torch.testing.assert_close(fresh.state_dict(), whole.state_dict(), atol=0, rtol=0)
    for name, value in common.averaged(tmp_path / "whole").items():
        assert torch.equal(value, common.averaged(tmp_path / "parts")[name])
    one, other = (common.read_curve(tmp_path / run / "curve.jsonl") for run in ("whole", "parts"))
    assert [record["loss"] for record in one] == [record["loss"] for record in other]
    assert [record["step"] for record in other] == list(range(1, RECIPE.steps + 1))


def test_steps_after_the_last_checkpoint_are_repeated_once_in_the_curve(tmp_path: Path) -> None:
    common.train(line(), draw, RECIPE, tmp_path, until=5, quiet=True)
    with (tmp_path / "curve.jsonl").open("a") as curve:
        curve.write('{"step": 6, "loss": 9.0}\n')  # written, then killed before its checkpoint
    common.train(line(), draw, RECIPE, tmp_path, quiet=True)
    assert [record["step"] for record in common.read_curve(tmp_path / "curve.jsonl")] == list(range(1, 13))


def test_an_interrupted_save_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.pt"
    common.save({"step": 1}, path)

    def dies(state: object, file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        common.save({"step": 2}, path)
    assert common.load(path) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


def test_a_gradient_that_is_not_finite_stops_the_run_before_it_spoils_the_weights(tmp_path: Path) -> None:
    model = line()
    before = model.fit.weight.detach().clone()
    with pytest.raises(FloatingPointError, match="step 1"):
        common.train(model, lambda g, n: draw(g, n) * torch.inf, RECIPE, tmp_path, quiet=True)
    assert torch.equal(model.fit.weight, before)


def test_the_rate_rises_then_falls_as_a_cosine() -> None:
    rates = [RECIPE.rate(step) for step in range(RECIPE.steps)]
    assert rates[:3] == pytest.approx([RECIPE.lr / 3, RECIPE.lr * 2 / 3, RECIPE.lr])
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert RECIPE.rate(RECIPE.steps) == pytest.approx(RECIPE.lr_end)


def test_generators_of_neighbouring_steps_are_unrelated() -> None:
    draws = torch.stack([torch.randn(2000, generator=common.generator(0, step, 0)) for step in range(6)])
    off_diagonal = torch.corrcoef(draws) - torch.eye(6)
    assert off_diagonal.abs().max() < 0.1
    again = torch.randn(2000, generator=common.generator(0, 3, 0))
    assert torch.equal(again, draws[3])

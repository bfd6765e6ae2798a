"""``vcut audit``: a table or JSON, exit code 0 if the identity holds and 2 with a reason if not."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vcut import loading
from vcut.cli import audit as cli_audit
from vcut.errors import CheckpointError, VcutError
from vcut.pipeline import Pipeline

Command = Callable[..., str]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*words: str) -> str:
        parser = argparse.ArgumentParser()
        cli_audit.add(parser.add_subparsers())
        args = parser.parse_args(["audit", *words])
        args.run(args)
        return capsys.readouterr().out

    return run


def test_the_tiny_model_by_default(command: Command) -> None:
    lines = command().splitlines()
    assert sum(".cross" in line for line in lines) == 14
    assert "the identity holds" in lines[-1]
    assert "116,480 of" in lines[-1]


@pytest.mark.parametrize(("preset", "rows"), [("baseline", 14), ("lossless", 14), ("vcut", 7)])
def test_json_in_any_preset(command: Command, preset: str, rows: int) -> None:
    data = json.loads(command("tiny", "--preset", preset, "--json"))
    assert len(data["layers"]) == rows
    assert data["holds"] is True
    assert (data["worst_deviation"] is None) == (preset != "baseline")


def test_the_seed_decides_what_is_drawn(command: Command) -> None:
    assert command("--seed", "1") == command("--seed", "1")
    assert command("--seed", "1") != command("--seed", "2")


def test_a_picture_gives_the_embedding(command: Command, tmp_path: Path) -> None:
    for name, seed in (("a.png", 0), ("b.png", 1)):
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8)).save(
            tmp_path / name
        )
    first, second = (command("--image", str(tmp_path / name)) for name in ("a.png", "b.png"))
    assert "the identity holds" in first
    assert first != second != command()


def test_a_bad_picture_is_found_before_the_model_is_loaded(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    with pytest.raises(VcutError, match=r"missing\.png"):
        command("--image", "missing.png")


def test_weights_that_break_the_identity_end_in_an_error(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table is still printed; the error names the model and the first layer at fault."""
    pipe = loading.load("tiny", preset="baseline", device="cpu")
    layer = pipe.unet.get_submodule("down.1.layers.0.transformer.temporal.0.cross")
    layer.register_forward_hook(lambda _m, _a, out: out + 0.01 * torch.ones_like(out))

    def load(*_: object, **__: object) -> Pipeline:
        return dataclasses.replace(pipe)

    monkeypatch.setattr(loading, "load", load)
    with pytest.raises(
        CheckpointError, match=r"tiny: 1 of 14 .*down\.1\.layers\.0\.transformer\.temporal\.0\.cross"
    ):
        command()
    assert "THE IDENTITY DOES NOT HOLD" in capsys.readouterr().out

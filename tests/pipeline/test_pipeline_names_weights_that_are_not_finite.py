"""A run that ends in NaN says which weights hold it, so that a damaged file is not taken for a wrong setting."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from micro import micro
from model_files import write

from vcut.errors import NotFiniteError
from vcut.layers import Packing, pack
from vcut.pipeline import Pipeline
from weights_tools.cli import main as weights
from weights_tools.tensor_file import save

PICTURE = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))


def damaged(part: str, name: str, value: float) -> Pipeline:
    pipe = micro()
    with torch.no_grad():
        getattr(pipe, part).get_parameter(name).flatten()[1] = value
    return pipe


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("part", "name", "seen"),
    [
        ("unet", "conv_in.weight", "NaN or infinity in the latents after step 1"),
        ("vae", "decoder.conv_in.weight", "the decoded frames hold NaN or infinity"),
    ],
)
def test_the_tensor_is_named(part: str, name: str, seen: str, value: float) -> None:
    with pytest.raises(NotFiniteError, match=rf"{seen}.*weights hold NaN or infinity in {part}\.{name}:"):
        damaged(part, name, value).generate(PICTURE, steps=1)


def test_three_tensors_are_named_and_the_others_counted() -> None:
    pipe = micro()
    with torch.no_grad():
        for parameter in pipe.unet.mid.parameters():
            parameter.fill_(math.nan)
    count = len(list(pipe.unet.mid.parameters()))
    with pytest.raises(
        NotFiniteError, match=rf"in (unet\.mid\.[\w.]+, ){{2}}unet\.mid\.[\w.]+ and {count - 3} more:"
    ):
        pipe.generate(PICTURE, steps=1)


def test_packed_weights_are_not_looked_into() -> None:
    pipe = damaged("unet", "time_embed.linear_1.weight", math.nan)
    if not pack(pipe.unet, packing=Packing(matrices="blocks")):
        pytest.skip("nothing to pack on this CPU")
    with pytest.raises(NotFiniteError, match="inspect --deep"):
        pipe.generate(PICTURE, steps=1)


def test_a_run_that_overflows_with_sound_weights_says_where_to_look() -> None:
    noise = torch.full((1, 3, 4, 4, 4), 1e38)
    with pytest.raises(NotFiniteError, match="inspect --deep"):
        micro().generate(PICTURE, steps=1, noise=noise)


def test_inspect_reads_every_number_when_it_is_asked_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(damaged("vae", "decoder.conv_in.weight", math.nan), tmp_path / "bad.safetensors")
    assert weights(["inspect", str(tmp_path / "bad.safetensors")]) == 0
    assert weights(["inspect", str(tmp_path / "bad.safetensors"), "--deep"]) == 1
    assert "fault: vae.decoder.conv_in.weight holds NaN or infinity" in capsys.readouterr().out


def test_inspect_cuts_the_long_names_of_such_tensors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = dict(micro("baseline").unet.state_dict(prefix="unet."))
    state["unet." + "x" * 1000] = torch.tensor([math.inf])
    save(tmp_path / "long.safetensors", state, {})
    assert weights(["inspect", str(tmp_path / "long.safetensors"), "--deep"]) == 1
    assert f"fault: unet.{'x' * 195}... holds NaN or infinity" in capsys.readouterr().out

"""``vcut.load_unet`` gives the UNet of any layout, of a whole model or by itself, and touches nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import pytest
import torch
from micro import MICRO, micro
from model_files import write
from safetensors.torch import load_file

import vcut
from vcut.config import Mode, UNetConfig
from vcut.errors import CheckpointError, ConfigError
from vcut.unet import UNet
from weights_tools.cli import main as weights
from weights_tools.remap import to_layout
from weights_tools.structure import LAYOUTS, Layout
from weights_tools.tensor_file import Reader, save

BROKEN = b"not weights at all"


@pytest.fixture(scope="module")
def expected() -> UNet:
    return micro("baseline").unet


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``vcut.safetensors``, ``sgm.safetensors`` and ``diffusers/``, the same whole model in each."""
    folder = tmp_path_factory.mktemp("checkpoints")
    write(micro("baseline"), folder / "vcut.safetensors")
    for layout, name in (("sgm", "sgm.safetensors"), ("diffusers", "diffusers")):
        assert weights(["convert", str(folder / "vcut.safetensors"), str(folder / name), "--to", layout]) == 0
    return folder


def same(unet: UNet, expected: UNet) -> None:
    assert unet.config == expected.config
    state, wanted = unet.state_dict(), expected.state_dict()
    assert state.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(state[name], tensor), name


def alone(unet: UNet, layout: Layout, path: Path, prefix: str = "") -> Path:
    """A file of the UNet by itself."""
    state = to_layout(unet.state_dict(), "unet", layout)
    save(path, {prefix + name: tensor for name, tensor in state.items()}, {})
    return path


@pytest.mark.parametrize("name", ["vcut.safetensors", "sgm.safetensors", "diffusers", "diffusers/unet"])
def test_a_whole_model_in_any_layout(folder: Path, expected: UNet, name: str) -> None:
    same(vcut.load_unet(folder / name), expected)


def test_heads_that_nothing_tells_and_64_channels_do_not_give_are_asked_for(
    folder: Path, expected: UNet
) -> None:
    bare = folder / "bare.safetensors"
    save(bare, load_file(folder / "sgm.safetensors"), {})
    with pytest.raises(
        ConfigError, match=r"channels \[32, 32\] do not divide into heads of 64.*--head-dim N"
    ):
        vcut.load_unet(bare)
    path = alone(expected, "sgm", folder / "alone.safetensors")
    with pytest.raises(
        ConfigError, match=r"channels \[32, 32\] do not divide into heads of 64.*config=UNetConfig"
    ):
        vcut.load_unet(path)
    same(vcut.load_unet(bare, config=MICRO.unet), expected)


@pytest.mark.parametrize("prefix", ["", "whole"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_of_the_unet_by_itself(tmp_path: Path, expected: UNet, layout: Layout, prefix: str) -> None:
    if prefix:
        prefix = {"vcut": "unet.", "sgm": "model.diffusion_model.", "diffusers": ""}[layout]
    path = alone(expected, layout, tmp_path / "mine.safetensors", prefix)
    same(vcut.load_unet(path, config=MICRO.unet), expected)


def test_heads_of_64_channels_where_nothing_says_otherwise(tmp_path: Path) -> None:
    config = UNetConfig.from_dict(
        {
            **MICRO.to_dict()["unet"],
            "levels": [{"channels": 64, "heads": 1}, {"channels": 128, "heads": 2, "attention": False}],
        }
    )
    unet = UNet(config)
    same(vcut.load_unet(alone(unet, "sgm", tmp_path / "mine.safetensors")), unet)


def test_the_file_of_a_diffusers_folder_has_its_config_beside_it(folder: Path, expected: UNet) -> None:
    file = folder / "diffusers" / "unet" / "diffusion_pytorch_model.safetensors"
    assert json.loads((file.parent / "config.json").read_text())["num_attention_heads"] == [2, 2]
    same(vcut.load_unet(file), expected)


def test_nothing_of_vae_and_clip_is_read(
    folder: Path, tmp_path: Path, expected: UNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = Reader.__getitem__

    def getitem(self: Reader, key: str) -> torch.Tensor:
        read.append(key)
        return original(self, key)

    monkeypatch.setattr(Reader, "__getitem__", getitem)
    vcut.load_unet(folder / "vcut.safetensors")
    vcut.load_unet(folder / "sgm.safetensors")
    assert len(read) == 2 * len(expected.state_dict())
    assert all(key.startswith(("unet.", "model.diffusion_model.")) for key in read)
    # in a folder not even their headers: files that would be refused are not looked at
    (tmp_path / "diffusers").mkdir()
    (tmp_path / "diffusers" / "unet").symlink_to(folder / "diffusers" / "unet")
    for place in ("vae/diffusion_pytorch_model", "image_encoder/model"):
        path = tmp_path / "diffusers" / f"{place}.safetensors"
        path.parent.mkdir()
        path.write_bytes(BROKEN)
    same(vcut.load_unet(tmp_path / "diffusers"), expected)
    with pytest.raises(CheckpointError, match="is not a"):
        vcut.load(tmp_path / "diffusers")


def test_of_a_repository_the_unet_alone_is_fetched(
    folder: Path, tmp_path: Path, expected: UNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    patterns: list[str] = []

    def download(repository: str, *, allow_patterns: list[str], **options: object) -> str:
        patterns.extend(allow_patterns)
        (tmp_path / "unet").symlink_to(folder / "diffusers" / "unet")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    same(vcut.load_unet("svd-xt"), expected)
    assert patterns == ["unet/config.json", "unet/diffusion_pytorch_model.safetensors", "LICENSE*"]


@pytest.mark.parametrize(
    ("form", "modes"),
    [
        ({}, (True, True)),
        ({"preset": "vcut"}, (False, "linear_cached")),
        ({"tca": False}, (False, True)),
        ({"preset": "lossless", "tca": True}, (True, "linear_cached")),
    ],
)
def test_it_is_as_trained_unless_a_form_is_asked_for(
    folder: Path, form: dict[str, str], modes: tuple[Mode, Mode]
) -> None:
    unet = vcut.load_unet(folder / "vcut.safetensors", **form)  # type: ignore[arg-type]
    assert (unet.config.tca, unet.config.sca) == modes


def test_a_folded_file_stays_as_it_is(tmp_path: Path) -> None:
    write(micro("lossless"), tmp_path / "folded.safetensors")
    same(vcut.load_unet(tmp_path / "folded.safetensors"), micro("lossless").unet)
    with pytest.raises(ConfigError, match=r"tca='linear_cached' cannot become tca=True"):
        vcut.load_unet(tmp_path / "folded.safetensors", preset="baseline")


def test_dtype_and_freezing_are_those_of_a_loaded_model() -> None:
    unet = vcut.load_unet("tiny", dtype=torch.bfloat16, device="cpu")
    assert {parameter.dtype for parameter in unet.parameters()} == {torch.bfloat16}
    assert not unet.training
    assert not any(parameter.requires_grad for parameter in unet.parameters())
    same(vcut.load_unet(device="cpu"), vcut.load(preset="baseline", device="cpu").unet)


def test_what_is_no_unet_is_refused(folder: Path, tmp_path: Path, expected: UNet) -> None:
    with pytest.raises(CheckpointError, match="has no unet, only: vae"):
        vcut.load_unet(folder / "diffusers" / "vae")
    state = expected.state_dict()
    del state["conv_in.bias"]
    save(tmp_path / "bad.safetensors", state, {})
    with pytest.raises(CheckpointError, match=r"conv_in\.bias: expected \[32\], found nothing"):
        vcut.load_unet(tmp_path / "bad.safetensors", config=MICRO.unet)
    with pytest.raises(CheckpointError, match="is not of the configuration"):
        vcut.load_unet(folder / "vcut.safetensors", config=UNetConfig())
    with pytest.raises(ConfigError, match="there is no preset 'quick'"):
        vcut.load_unet("tiny", preset="quick")

"""A UNet by itself, in any layout and under any prefix, goes over a base that gives the VAE and CLIP."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import pytest
import torch
from micro import MICRO, micro
from model_files import write
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

import vcut
from vcut import hub
from vcut.cli import main
from vcut.config import SVDConfig
from vcut.errors import CheckpointError, ConfigError
from vcut.loading import find, random_model
from weights_tools.cli import main as weights
from weights_tools.remap import to_layout
from weights_tools.structure import Layout
from weights_tools.tensor_file import save


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base, as ``vcut.safetensors``, ``sgm.safetensors`` and ``diffusers/``."""
    folder = tmp_path_factory.mktemp("base")
    write(micro("baseline"), folder / "vcut.safetensors")
    for layout, name in (("sgm", "sgm.safetensors"), ("diffusers", "diffusers")):
        assert weights(["convert", str(folder / "vcut.safetensors"), str(folder / name), "--to", layout]) == 0
    return folder


@functools.cache
def tuned(config: SVDConfig = MICRO) -> dict[str, Tensor]:
    return random_model(config, preset="baseline", seed=5).unet.state_dict()


def of_layout(layout: Layout, prefix: str = "", config: SVDConfig = MICRO) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in to_layout(tuned(config), "unet", layout).items()}


def file(path: Path, tensors: dict[str, Tensor]) -> Path:
    save(path, tensors, {})
    return path


def is_tuned(pipe: vcut.Pipeline, config: SVDConfig = MICRO) -> None:
    wanted, base = tuned(config), micro("baseline")
    state = pipe.unet.state_dict()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in wanted.items())
    for part in ("vae", "clip"):
        state = getattr(pipe, part).state_dict()
        assert all(torch.equal(state[n], t) for n, t in getattr(base, part).state_dict().items())


PREFIXES = ["", "unet.", "module.", "_orig_mod.", "module.unet._orig_mod."]
NAMES = [("diffusers", prefix) for prefix in PREFIXES] + [
    (layout, PREFIXES[-1]) for layout in ("sgm", "vcut")
]


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "prefix"), NAMES)
def test_any_names_over_a_base(tmp_path: Path, folder: Path, layout: Layout, prefix: str) -> None:
    if layout == "sgm":
        prefix = prefix.replace("unet.", "model.diffusion_model.")
    path = file(tmp_path / "tuned.safetensors", of_layout(layout, prefix))
    is_tuned(vcut.load(folder / "vcut.safetensors", unet=path, preset="baseline"))


@pytest.mark.parametrize("base", ["vcut.safetensors", "diffusers"])
def test_any_base_and_it_samples(tmp_path: Path, folder: Path, base: str) -> None:
    """What a bare file does not say, the heads and the frames, comes from the base."""
    path = file(tmp_path / "tuned.safetensors", of_layout("diffusers"))
    pipe = vcut.load(folder / base, unet=path, preset="baseline")
    is_tuned(pipe)
    assert pipe.config.unet == MICRO.unet
    assert pipe.config.frames == MICRO.frames
    clip = dataclasses.replace(micro("baseline"), unet=pipe.unet).generate("examples/disc.png", steps=2)
    # to rounding: where weights begin in memory decides in which order some CPUs add
    torch.testing.assert_close(pipe.generate("examples/disc.png", steps=2), clip, rtol=0, atol=1e-5)


def test_a_folder_in_shards_says_its_heads_and_frames(tmp_path: Path, folder: Path) -> None:
    heads = [dataclasses.replace(level, heads=4) for level in MICRO.unet.levels]
    other = dataclasses.replace(MICRO, unet=dataclasses.replace(MICRO.unet, levels=tuple(heads)))
    said = json.loads((folder / "diffusers/unet/config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps({**said, "num_attention_heads": [4, 4], "num_frames": 6})
    )
    tensors = of_layout("diffusers", config=other)
    index = {}
    for i, part in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2]), start=1):
        name = f"diffusion_pytorch_model-0000{i}-of-00002.safetensors"
        file(tmp_path / name, {key: tensors[key] for key in part})
        index.update(dict.fromkeys(part, name))
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps({"weight_map": index})
    )
    pipe = vcut.load(folder / "diffusers", unet=tmp_path, preset="baseline")
    is_tuned(pipe, other)
    assert [level.heads for level in pipe.config.unet.levels] == [4, 4]
    assert pipe.config.frames == 6


@pytest.mark.parametrize("channels", [9, 12])
def test_other_inputs_load_and_are_not_sampled_from(tmp_path: Path, folder: Path, channels: int) -> None:
    other = dataclasses.replace(MICRO, unet=dataclasses.replace(MICRO.unet, in_channels=channels))
    path = file(tmp_path / "tuned.safetensors", of_layout("diffusers", config=other))
    pipe = vcut.load(folder / "vcut.safetensors", unet=path, preset="baseline")
    is_tuned(pipe, other)
    with pytest.raises(ConfigError, match=rf"the UNet takes {channels} channels .* clips are made from 8"):
        pipe.generate("examples/disc.png")


def test_every_fault_is_listed_under_the_file_of_the_unet(tmp_path: Path, folder: Path) -> None:
    tensors = of_layout("diffusers", "unet.")
    tensors["unet.conv_in.bias"] = torch.zeros(5)
    tensors["unet.conv_out.gain"] = torch.zeros(1)
    tensors["pose_net.weight"] = torch.zeros(1)
    del tensors["unet.time_embedding.linear_1.bias"]
    path = file(tmp_path / "tuned.safetensors", tensors)
    with pytest.raises(CheckpointError) as error:
        vcut.load(folder / "vcut.safetensors", unet=path)
    assert str(error.value).startswith(str(path))
    for name in (
        "unet.conv_in.bias",
        "unet.conv_out.gain",
        "pose_net.weight",
        "unet.time_embedding.linear_1.bias",
    ):
        assert name in str(error.value)
    del tensors["unet.conv_out.gain"]
    whole = {**tensors, **of_layout("diffusers", "unet.")}
    path = file(tmp_path / "whole.safetensors", whole)
    is_tuned(vcut.load(folder / "vcut.safetensors", unet=path, preset="baseline", ignore_unknown=True))


def test_unknown_tensors_of_the_base_are_faults_too(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "tuned.safetensors"  # it says its heads: of the base's UNet nothing is asked
    vcut.save(random_model(MICRO, preset="baseline", seed=5).unet, path)
    with safe_open(folder / "vcut.safetensors", "pt") as whole:
        metadata = whole.metadata()
    base = tmp_path / "base.safetensors"
    save(base, {**load_file(folder / "vcut.safetensors"), "stray": torch.zeros(2)}, metadata)
    with pytest.raises(CheckpointError, match="stray: expected no tensor of this name"):
        vcut.load(base, unet=path)
    is_tuned(vcut.load(base, unet=path, preset="baseline", ignore_unknown=True))


def test_a_context_that_the_bases_clip_does_not_make(tmp_path: Path, folder: Path) -> None:
    other = dataclasses.replace(
        MICRO,
        unet=dataclasses.replace(MICRO.unet, context_dim=32),
        clip=dataclasses.replace(MICRO.clip, embed_dim=32),
    )
    path = file(tmp_path / "tuned.safetensors", of_layout("sgm", config=other))
    with pytest.raises(CheckpointError, match="the unet takes a context of 32 numbers, clip makes 64"):
        vcut.load(folder / "vcut.safetensors", unet=path)


def test_without_a_base_the_error_names_one(tmp_path: Path) -> None:
    path = file(tmp_path / "tuned.safetensors", of_layout("diffusers"))
    with pytest.raises(CheckpointError, match=r"no vae, clip, only unet; .* --model svd-xt --unet PATH"):
        vcut.load(path)


def test_a_file_without_a_unet_and_no_file(tmp_path: Path, folder: Path) -> None:
    vae = {f"vae.{name}": tensor for name, tensor in micro().vae.state_dict().items()}
    with pytest.raises(CheckpointError, match="has no unet, only: vae"):
        vcut.load(folder / "vcut.safetensors", unet=file(tmp_path / "vae.safetensors", vae))
    with pytest.raises(CheckpointError, match=r"there is no file or folder .*nowhere"):
        vcut.load(unet=tmp_path / "nowhere")


def test_the_base_of_a_published_name_is_fetched_without_its_unet(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def found(model: object, *, parts: tuple[str, ...] = (), **_: object) -> Path:
        if parts:
            asked.append((model, tuple(parts)))
            return folder / "diffusers"
        return Path(str(model))

    monkeypatch.setattr(hub, "find", found)
    path = file(tmp_path / "tuned.safetensors", of_layout("sgm"))
    with pytest.raises(ConfigError, match="do not divide into heads of 64"):  # the published models'
        find("svd", unet=path)
    assert asked == [("svd", ("vae", "clip"))]


@pytest.mark.slow
def test_the_command(tmp_path: Path, folder: Path) -> None:
    path = file(tmp_path / "tuned.safetensors", of_layout("diffusers"))
    clip = tmp_path / "clip"
    words = ["generate", "examples/disc.png", "-o", str(clip), "--steps", "2", "--seed", "0", "--quiet"]
    assert main([*words, "--model", str(folder / "vcut.safetensors"), "--unet", str(path)]) == 0
    assert len(list(clip.iterdir())) == MICRO.frames
    assert load_file(path)

"""What training leaves around and beside the weights is no reason to refuse them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from weights_samples import random_model, read, sgm_file

from weights_tools.checkpoint import open_checkpoint
from weights_tools.cli import main
from weights_tools.errors import CheckpointError
from weights_tools.remap import to_layout

MODEL = random_model()
LEFT = (
    "model_ema.diffusion_modelinput_blocks00weight",
    "model_ema.decay",
    "denoiser.sigmas",
    "first_stage_model.loss.discriminator.main.0.weight",
    "conditioner.embedders.0.open_clip.model.transformer.resblocks.0.ln_1.weight",
    "conditioner.embedders.0.open_clip.model.attn_mask",
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "scale_factor",
)


@pytest.mark.parametrize("name", LEFT)
def test_known_leftovers_are_counted_and_passed_over(tmp_path: Path, name: str) -> None:
    path = tmp_path / "svd.safetensors"
    tensors = sgm_file(MODEL)
    save_file({**tensors, name: torch.zeros(2)}, path)
    found = open_checkpoint(path)
    assert found.faults == ()
    assert name in found.unused
    assert read(path, "unet").keys() == MODEL["unet"].keys()


@pytest.mark.parametrize(
    "name", ["model_emb.x", "betas2", "first_stage_model.lossy", "stray", "model.diffusion_model.new"]
)
def test_unknown_tensors_are_listed_and_can_be_passed_over_all_the_same(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "svd.safetensors"
    save_file({**sgm_file(MODEL), name: torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match=f"{name}: expected no tensor of this name"):
        read(path, "unet")
    assert open_checkpoint(path, ignore_unknown=True).read("unet").keys() == MODEL["unet"].keys()
    assert main(["inspect", str(path)]) == 1
    out = ["convert", str(path), str(tmp_path / "out.safetensors"), "--to", "vcut", "--head-dim", "32"]
    assert main([*out, "--clip-head-dim", "16"]) == 2
    assert main(["inspect", str(path), "--ignore-unknown"]) == 0
    assert main([*out, "--clip-head-dim", "16", "--ignore-unknown"]) == 0
    assert open_checkpoint(tmp_path / "out.safetensors").faults == ()


@pytest.mark.parametrize("place", ["", "unet"])
def test_unknown_tensors_of_a_folder_can_be_passed_over(tmp_path: Path, place: str) -> None:
    """The folder of a whole model, and that of one network."""
    (tmp_path / "unet").mkdir()
    state = to_layout(MODEL["unet"], "unet", "diffusers")
    save_file({**state, "stray": torch.zeros(2)}, tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(CheckpointError, match="stray: expected no tensor of this name"):
        read(tmp_path / place, "unet")
    assert open_checkpoint(tmp_path / place, ignore_unknown=True).read("unet").keys() == MODEL["unet"].keys()


def test_what_is_a_leftover_in_an_sgm_file_is_unknown_in_others(tmp_path: Path) -> None:
    unet = {f"unet.{name}": tensor for name, tensor in MODEL["unet"].items()}
    save_file({**unet, "betas": torch.zeros(2)}, tmp_path / "mine.safetensors")
    assert open_checkpoint(tmp_path / "mine.safetensors").faults == (
        "betas: expected no tensor of this name, found [2]",
    )


def test_what_is_passed_over_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "svd.safetensors"
    save_file({**sgm_file(MODEL), "stray": torch.zeros(2), "betas2": torch.zeros(2)}, path)
    for options, said in (([], False), (["--ignore-unknown"], True)):
        main(["inspect", str(path), *options])
        assert ("2 tensors of unknown names, passed over" in capsys.readouterr().out) == said


def test_what_is_missing_is_never_passed_over(tmp_path: Path) -> None:
    tensors = sgm_file(MODEL)
    tensors["model.diffusion_model.out.0.bios"] = tensors.pop("model.diffusion_model.out.0.bias")
    save_file(tensors, tmp_path / "svd.safetensors")
    with pytest.raises(CheckpointError, match=r"out\.0\.bias: expected \[32\], found nothing"):
        open_checkpoint(tmp_path / "svd.safetensors", ignore_unknown=True).read("unet")


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod.", "_fsdp_wrapped_module."])
@pytest.mark.parametrize("layout", ["sgm", "diffusers", "vcut"])
def test_what_wraps_a_network_is_taken_off_its_names(tmp_path: Path, wrapper: str, layout: str) -> None:
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    state = to_layout(MODEL["unet"], "unet", layout)  # type: ignore[arg-type]
    save_file({wrapper + name: tensor for name, tensor in state.items()}, path)
    found = read(path, "unet")
    assert all(torch.equal(found[name], tensor) for name, tensor in MODEL["unet"].items())


def test_a_wrapper_inside_a_whole_file_is_taken_off_too(tmp_path: Path) -> None:
    tensors = {
        name.replace("model.diffusion_model.", "model.diffusion_model._orig_mod."): tensor
        for name, tensor in sgm_file(MODEL).items()
    }
    save_file(tensors, tmp_path / "svd.safetensors")
    assert open_checkpoint(tmp_path / "svd.safetensors").faults == ()


def test_two_tensors_that_would_have_one_name_are_refused(tmp_path: Path) -> None:
    state = to_layout(MODEL["unet"], "unet", "sgm")
    name = next(iter(state))
    save_file({**state, f"module.{name}": torch.zeros(1)}, tmp_path / "unet.safetensors")
    with pytest.raises(CheckpointError, match="is there twice, the other as"):
        open_checkpoint(tmp_path / "unet.safetensors")

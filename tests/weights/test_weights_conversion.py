"""Converting there and back gives the same tensors; what an output carries besides them is complete and true."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from weights_samples import IMAGE_DECODER, TINY, random_model, read, sgm_file

import weights_tools.checkpoint
import weights_tools.tensor_file
from vcut.clip.preprocess import MEAN, STD
from vcut.config import SVDConfig
from weights_tools.checkpoint import FOLDERS, SCHEDULER, open_checkpoint
from weights_tools.configs import (
    Hints,
    clip_configuration,
    configuration,
    diffusers_files,
    guess_name,
    unet_configuration,
)
from weights_tools.convert import convert
from weights_tools.errors import CheckpointError, ConfigError, OutputExistsError, VcutError
from weights_tools.fold import fold
from weights_tools.structure import PARTS, Layout, Part, Structure
from weights_tools.tensor_file import save

HINTS = Hints(head_dim=32, clip_head_dim=16)
LAYERS = {"temporal": TINY, "image": IMAGE_DECODER}


@pytest.fixture(scope="module", params=LAYERS)
def original(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete single file, with and without temporal layers in the decoder. Tests have copies of it."""
    name = {"temporal": "svd_xt", "image": "svd_xt_image_decoder"}[request.param]
    path = tmp_path_factory.mktemp("original") / f"{name}.safetensors"
    save(path, sgm_file(random_model(LAYERS[request.param])), {})
    return path


@pytest.fixture
def source(original: Path, tmp_path: Path) -> Path:
    return shutil.copy(original, tmp_path / original.name)


@pytest.fixture(scope="module")
def exported(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as a folder of diffusers."""
    out = tmp_path_factory.mktemp("exported") / "out"
    convert(original, out, "diffusers", hints=HINTS)
    return out


def structures(source: Path) -> dict[Part, Structure]:
    return LAYERS["image" if "image" in source.name else "temporal"]


def assert_identical(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for key, tensor in actual.items():
        assert tensor.dtype == expected[key].dtype, key
        assert torch.equal(tensor, expected[key]), key


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata())


def test_sgm_to_sgm_keeps_every_key_even_those_vcut_does_not_use(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "again.safetensors", "sgm", hints=HINTS)
    assert_identical(load_file(tmp_path / "again.safetensors"), load_file(source))
    found = metadata(tmp_path / "again.safetensors")
    assert (sorted(found), found["format"]) == (["config", "format"], "pt")


@pytest.mark.slow
def test_all_layouts_lead_back_to_the_same_tensors(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "a.safetensors", "vcut", hints=HINTS)
    convert(tmp_path / "a.safetensors", tmp_path / "b", "diffusers")
    convert(tmp_path / "b", tmp_path / "c.safetensors", "sgm")
    convert(tmp_path / "c.safetensors", tmp_path / "d", "diffusers", hints=HINTS)
    convert(tmp_path / "d", tmp_path / "e.safetensors", "vcut", hints=Hints(name="svd-xt"))
    model = random_model(structures(source))
    for part in PARTS:
        for name in ("a.safetensors", "b", "c.safetensors", "d", "e.safetensors"):
            assert_identical(read(tmp_path / name, part), model[part])
    assert_identical(load_file(tmp_path / "a.safetensors"), load_file(tmp_path / "e.safetensors"))
    assert json.loads(metadata(tmp_path / "a.safetensors")["config"]) == json.loads(
        metadata(tmp_path / "e.safetensors")["config"]
    )


def test_an_export_to_sgm_has_all_official_keys_but_the_ones_it_says_it_lacks(
    source: Path, tmp_path: Path
) -> None:
    convert(source, tmp_path / "vcut.safetensors", "vcut", hints=HINTS)
    notes = convert(tmp_path / "vcut.safetensors", tmp_path / "sgm.safetensors", "sgm")
    official, ours = load_file(source), load_file(tmp_path / "sgm.safetensors")
    lacking = set(official) - set(ours)
    assert not set(ours) - set(official)
    assert {
        key.rsplit(".", 1)[0] if "embedders.0" in key else ".".join(key.split(".")[:5]) for key in lacking
    } <= {
        f"conditioner.embedders.0.open_clip.model{rest}" for rest in ("", ".token_embedding", ".ln_final")
    } | {f"conditioner.embedders.3.encoder.{rest}" for rest in ("decoder", "post_quant_conv")}
    assert any("left out" in note and "post_quant_conv" in note and "text tower" in note for note in notes)
    for key in ours:
        if key.startswith("first_stage_model.encoder."):  # what vcut has once is written twice
            twin = key.replace("first_stage_model.", "conditioner.embedders.3.encoder.")
            assert torch.equal(ours[key], ours[twin])


def test_nothing_is_left_out_of_sgm_made_from_sgm_and_nothing_is_said(source: Path, tmp_path: Path) -> None:
    notes = convert(source, tmp_path / "again.safetensors", "sgm", hints=HINTS)
    assert not any("left out" in note for note in notes)


def test_a_vcut_file_carries_a_configuration_that_vcut_reads(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "model.safetensors", "vcut", tca=False, sca="linear_cached", hints=HINTS)
    found = metadata(tmp_path / "model.safetensors")
    assert found["format"] == "vcut"
    config = SVDConfig.from_dict(json.loads(found["config"]))
    assert (config.name, config.frames, config.height, config.width) == ("svd-xt", 25, 576, 1024)
    assert (config.unet.tca, config.unet.sca) == (False, "linear_cached")
    assert [(level.channels, level.heads, level.attention) for level in config.unet.levels] == [
        (32, 1, True),
        (64, 2, True),
        (32, 1, False),
    ]
    assert config.vae.temporal == ("image" not in source.name)
    assert (config.clip.heads, config.clip.image_size) == (4, 224)


def test_folding_and_casting_happen_on_the_way(source: Path, tmp_path: Path) -> None:
    convert(
        source,
        tmp_path / "m.safetensors",
        "vcut",
        tca="linear_cached",
        sca="linear_cached",
        dtype=torch.bfloat16,
        hints=HINTS,
    )
    expected = fold(random_model()["unet"], "linear_cached", "linear_cached")
    assert_identical(read(tmp_path / "m.safetensors", "unet"), {k: t.bfloat16() for k, t in expected.items()})
    assert all(tensor.dtype == torch.bfloat16 for tensor in load_file(tmp_path / "m.safetensors").values())


@pytest.mark.parametrize("to", ["sgm", "diffusers"])
def test_a_folded_model_stays_in_vcut(source: Path, tmp_path: Path, to: str) -> None:
    out = tmp_path / "out.safetensors"
    with pytest.raises(ConfigError, match=f"the {to} layout has no form for cross-attentions"):
        convert(source, out, to, sca="linear_cached", hints=HINTS)  # type: ignore[arg-type]
    convert(source, tmp_path / "folded.safetensors", "vcut", sca="linear_cached", hints=HINTS)
    with pytest.raises(ConfigError, match=f"the {to} layout has no form for cross-attentions"):
        convert(tmp_path / "folded.safetensors", out, to)  # type: ignore[arg-type]
    assert not out.exists()


def test_diffusers_folders_say_their_heads_and_win_over_the_guess(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "folder", "diffusers", hints=HINTS)
    config = json.loads((tmp_path / "folder" / "unet" / "config.json").read_text())
    assert config["num_attention_heads"] == [1, 2, 1]
    config["num_attention_heads"] = [2, 4, 2]
    config["num_frames"] = 14
    (tmp_path / "folder" / "unet" / "config.json").write_text(json.dumps(config))
    made = configuration(open_checkpoint(tmp_path / "folder"), HINTS)
    assert [level["heads"] for level in made["unet"]["levels"]] == [2, 4, 2]
    assert made["frames"] == 14


def test_heads_that_do_not_divide_the_channels_ask_for_the_head_size(source: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"channels \[32, 64, 32\] do not divide into heads of 64.*--head-dim"
    ):
        convert(source, tmp_path / "out.safetensors", "vcut")
    with pytest.raises(ConfigError, match=r"width 64 does not divide into heads of 80.*--clip-head-dim"):
        convert(source, tmp_path / "out.safetensors", "vcut", hints=Hints(head_dim=32))


@pytest.mark.parametrize(
    ("path", "name", "frames"),
    [
        ("svd.safetensors", "svd", 14),
        ("svd_image_decoder.safetensors", "svd", 14),
        ("svd_xt.safetensors", "svd-xt", 25),
        ("svd_xt_1_1.safetensors", "svd-xt-1-1", 25),
        ("SVD-XT-1.1.safetensors", "svd-xt-1-1", 25),
        ("models--stabilityai--stable-video-diffusion-img2vid-xt/snapshots/5f/x.safetensors", "svd-xt", 25),
        ("models--stabilityai--stable-video-diffusion-img2vid/snapshots/5f/x.safetensors", "svd", 14),
        ("svd-experiments/mine.safetensors", "mine", 25),
    ],
)
def test_the_name_is_guessed_from_the_files(tmp_path: Path, path: str, name: str, frames: int) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    save(file, sgm_file(random_model()), {})
    found = open_checkpoint(file)
    assert guess_name(found) == name
    made = configuration(found, HINTS)
    assert (made["name"], made["frames"]) == (name, frames)


def test_a_configuration_that_contradicts_its_tensors_is_refused(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "a.safetensors", "vcut", hints=HINTS)
    config = json.loads(metadata(tmp_path / "a.safetensors")["config"])
    config["unet"]["layers"] = 2
    config["unet"]["levels"][1]["attention"] = False
    config["unet"]["time_id_dim"] = 8
    config["vae"]["latent_channels"] = 8
    config["clip"]["image_size"] = 112
    del config["clip"]["patch_size"]
    save(
        tmp_path / "b.safetensors",
        load_file(tmp_path / "a.safetensors"),
        {"format": "vcut", "config": json.dumps(config)},
    )
    with pytest.raises(CheckpointError, match="its configuration says") as caught:
        convert(tmp_path / "b.safetensors", tmp_path / "c.safetensors", "vcut")
    for fault in (
        "unet.attention = [True, False, False], its tensors [True, True, False]",
        "unet.layers = 2, its tensors 1",
        "unet.time_ids * time_id_dim = 24, its tensors 96",
        "vae.latent_channels = 8, its tensors 4",
        "clip.image_size = 112, its tensors 224",
        "clip.patch_size = None, its tensors 56",
    ):
        assert fault in str(caught.value)
    assert str(caught.value).count("its tensors") == 6
    assert "\n" not in str(caught.value)


def test_faults_of_all_networks_come_in_one_error(source: Path, tmp_path: Path) -> None:
    tensors = load_file(source)
    gone = ["model.diffusion_model.out.0.bias", "first_stage_model.decoder.norm_out.bias"]
    gone.append("conditioner.embedders.0.open_clip.model.visual.proj")
    for key in gone:
        del tensors[key]
    save(tmp_path / "bad.safetensors", {**tensors, "stray": torch.zeros(1)}, {})
    with pytest.raises(CheckpointError, match="4 faults") as caught:
        convert(tmp_path / "bad.safetensors", tmp_path / "out.safetensors", "vcut", hints=HINTS)
    for name in (*gone, "stray"):
        assert f"{name}: expected" in str(caught.value)
    assert not (tmp_path / "out.safetensors").exists()


def test_an_incomplete_model_is_not_converted(tmp_path: Path) -> None:
    model = random_model()
    save(tmp_path / "part.safetensors", {f"unet.{k}": t for k, t in model["unet"].items()}, {})
    with pytest.raises(
        CheckpointError, match=r"part\.safetensors is not a whole model: no vae, clip, only unet"
    ):
        convert(tmp_path / "part.safetensors", tmp_path / "out", "diffusers")


@pytest.mark.parametrize(("to", "out"), [("vcut", "out.safetensors"), ("diffusers", "out")])
def test_a_notice_lies_beside_the_output(source: Path, tmp_path: Path, to: str, out: str) -> None:
    notes = convert(source, tmp_path / out, to, hints=HINTS)  # type: ignore[arg-type]
    notice = tmp_path / ("out.NOTICE.txt" if to == "vcut" else "out/NOTICE")
    text = " ".join(notice.read_text().split())
    assert (
        "licensed under the Stability AI Community License, Copyright © Stability AI Ltd. All Rights Reserved."
        in text
    )
    assert any("licence" in note for note in notes)


def test_an_existing_output_is_kept_unless_overwritten(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    out.write_text("precious")
    with pytest.raises(OutputExistsError, match=r"out\.safetensors exists already"):
        convert(source, out, "vcut", hints=HINTS)
    assert out.read_text() == "precious"
    convert(source, out, "vcut", hints=HINTS, overwrite=True)
    assert open_checkpoint(out).faults == ()


def test_the_input_is_never_the_output_nor_inside_it_nor_around_it(source: Path, tmp_path: Path) -> None:
    before = source.read_bytes()
    (tmp_path / "link.safetensors").symlink_to(source)
    for out in (source, tmp_path / "link.safetensors"):
        with pytest.raises(ConfigError, match="is, contains or lies inside the input"):
            convert(source, out, "sgm", hints=HINTS, overwrite=True)
    assert source.read_bytes() == before
    convert(source, tmp_path / "folder", "diffusers", hints=HINTS)
    for out in (tmp_path / "folder" / "unet" / "new", tmp_path / "folder"):
        with pytest.raises(ConfigError, match="is, contains or lies inside the input"):
            convert(tmp_path / "folder", out, "diffusers", overwrite=True)


def test_overwriting_a_folder_never_loses_what_is_not_of_a_converted_model(
    source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    convert(source, out, "diffusers", hints=HINTS)
    convert(source, out, "diffusers", hints=HINTS, overwrite=True, dtype=torch.float16)
    (out / "unet" / "lora.safetensors").write_text("precious")
    with pytest.raises(OutputExistsError, match=r"would be lost \(unet/lora\.safetensors\)"):
        convert(source, out, "diffusers", hints=HINTS, overwrite=True)
    assert (out / "unet" / "lora.safetensors").read_text() == "precious"


def test_a_notice_of_another_kind_is_kept_and_nothing_is_written_without_one(
    source: Path, tmp_path: Path
) -> None:
    notice, out = tmp_path / "out.NOTICE.txt", tmp_path / "out.safetensors"
    notice.write_text("mine")
    with pytest.raises(OutputExistsError, match=r"out\.NOTICE\.txt exists already"):
        convert(source, out, "vcut", hints=HINTS)
    assert (notice.read_text(), out.exists()) == ("mine", False)
    convert(source, out, "vcut", hints=HINTS, overwrite=True)
    assert "Stability AI" in notice.read_text()
    out.unlink()
    convert(source, out, "vcut", hints=HINTS)  # our own notice is in nobody's way


@pytest.mark.parametrize(("to", "name"), [("sgm", "other.safetensors"), ("diffusers", "other")])
def test_what_a_vcut_file_says_survives_an_export(
    source: Path, tmp_path: Path, to: Layout, name: str
) -> None:
    convert(source, tmp_path / "a.safetensors", "vcut", hints=HINTS)
    config = json.loads(metadata(tmp_path / "a.safetensors")["config"])
    config |= {"name": "mine", "frames": 9, "height": 64, "width": 96, "fps": 12, "motion_bucket": 30}
    config["vae"]["scale"] = 0.5
    tensors = load_file(tmp_path / "a.safetensors")
    save(tmp_path / "b.safetensors", tensors, {"format": "vcut", "config": json.dumps(config)})
    convert(tmp_path / "b.safetensors", tmp_path / name, to)
    assert configuration(open_checkpoint(tmp_path / name)) == config


@pytest.mark.parametrize(
    ("file", "content", "error", "sentence"),
    [
        ("unet/config.json", [], CheckpointError, "holds list, expected a JSON object"),
        ("unet/config.json", {"num_attention_heads": [1, 2]}, CheckpointError, "expected a number or 3"),
        ("unet/config.json", {"num_attention_heads": [1, 2, "1"]}, CheckpointError, "expected a number or 3"),
        ("unet/config.json", {"num_attention_heads": "two"}, CheckpointError, "expected a number or 3"),
        ("unet/config.json", {"num_frames": "many"}, CheckpointError, "num_frames = 'many', expected"),
        ("image_encoder/config.json", {"num_attention_heads": [4]}, CheckpointError, "expected a positive"),
        # 12 is what transformers leaves out
        ("image_encoder/config.json", {"hidden_act": "gelu"}, CheckpointError, "do not divide into 12 heads"),
        ("vae/config.json", {"scaling_factor": "1"}, CheckpointError, "scaling_factor = '1', expected"),
        ("vae/config.json", {"scaling_factor": 0}, CheckpointError, "scaling_factor = 0, expected"),
        ("vae/config.json", {"norm_num_groups": 16}, CheckpointError, "norm_num_groups = 16, expected 32"),
        (
            "vcut.json",
            {"fps": "7"},
            CheckpointError,
            "fps is '7', expected a whole number of at least 0",
        ),
    ],
)
def test_an_ill_formed_configuration_of_a_folder_is_one_line(
    exported: Path, tmp_path: Path, file: str, content: object, error: type[VcutError], sentence: str
) -> None:
    shutil.copytree(exported, tmp_path / "out")
    (tmp_path / "out" / file).write_text(json.dumps(content))
    with pytest.raises(error, match=sentence) as caught:
        configuration(open_checkpoint(tmp_path / "out"), HINTS)
    assert "\n" not in str(caught.value)


def test_a_configuration_of_absurd_length_is_not_read(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_tools.checkpoint, "LARGEST_HEADER", 10)
    with pytest.raises(CheckpointError, match=r"config\.json is not readable JSON: too large"):
        open_checkpoint(exported)


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("image_encoder", "hidden_act", "quick_gelu"),
        ("image_encoder", "hidden_act", None),
        ("image_encoder", "layer_norm_eps", 1e-6),
        ("image_encoder", "hidden_size", 128),
        ("image_encoder", "image_size", 112),
        ("image_encoder", "intermediate_size", 64),
        ("image_encoder", "patch_size", 28),
        ("image_encoder", "num_hidden_layers", 3),
        ("image_encoder", "projection_dim", 64),
        ("image_encoder", "num_channels", 4),
        ("unet", "in_channels", 9),
        ("unet", "out_channels", 8),
        ("unet", "block_out_channels", [32, 64, 64]),
        ("unet", "addition_time_embed_dim", 64),
        ("unet", "norm_num_groups", 16),
        ("unet", "layers_per_block", 2),
        ("unet", "cross_attention_dim", 64),
        ("unet", "down_block_types", ["DownBlockSpatioTemporal"] * 3),
        ("unet", "up_block_types", ["UpBlockSpatioTemporal"] * 3),
        ("unet", "transformer_layers_per_block", [1, 1, 2]),
        ("unet", "projection_class_embeddings_input_dim", 48),
        ("vae", "in_channels", 1),
        ("vae", "out_channels", 4),
        ("vae", "block_out_channels", [32, 64, 64]),
        ("vae", "down_block_types", ["AttnDownEncoderBlock2D"] * 3),
        ("vae", "layers_per_block", 1),
        ("vae", "mid_block_add_attention", False),
        ("vae", "use_quant_conv", False),
        ("vae", "use_post_quant_conv", False),
        ("vae", "latent_channels", 8),
        ("vae", "act_fn", "relu"),
        ("vae", "shift_factor", 0.1),
        ("vae", "latents_mean", [0.0] * 4),
        ("vae", "latents_std", [1.0] * 4),
        ("scheduler", "prediction_type", "epsilon"),
        ("scheduler", "sigma_max", 80.0),
        ("scheduler", "sigma_min", 0.03),
        ("scheduler", "timestep_type", "discrete"),
        ("scheduler", "use_karras_sigmas", False),
    ],
)
def test_a_field_that_vcut_does_not_follow_is_refused_by_name(
    exported: Path, tmp_path: Path, part: str, field: str, value: object
) -> None:
    shutil.copytree(exported, tmp_path / "out")
    (file,) = (tmp_path / "out" / part).glob("*config.json")
    config = json.loads(file.read_text())
    config[field] = value
    if value is None:  # transformers leaves out what has its class's default, which is quick_gelu
        del config[field]
    file.write_text(json.dumps(config))
    alone = {"unet": unet_configuration, "image_encoder": clip_configuration}
    for judge in (configuration, alone.get(part, configuration)):
        with pytest.raises(CheckpointError, match=f"config.json has {field} = "):
            judge(open_checkpoint(tmp_path / "out"), HINTS)


def test_fields_said_once_for_all_levels_and_unknown_ones_are_taken(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "out")
    file = tmp_path / "out" / "unet" / "config.json"
    config = json.loads(file.read_text())
    config |= {"num_attention_heads": 1, "sample_size": 7, "_name_or_path": "x", "zzz": 3}
    config["norm_num_groups"] = 32  # as all UNets of this kind have it, whether they say it or not
    file.write_text(json.dumps(config))
    scheduler = {"_class_name": "HeunDiscreteScheduler", "sigma_max": 700, "interpolation_type": "log_linear"}
    (tmp_path / "out" / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    levels = configuration(open_checkpoint(tmp_path / "out"), HINTS)["unet"]["levels"]
    assert [level["heads"] for level in levels] == [1, 1, 1]


@pytest.mark.parametrize("layers", [1, 3])
def test_a_vae_that_diffusers_cannot_hold_is_not_written_for_it(tmp_path: Path, layers: int) -> None:
    odd = dict(TINY)
    odd["vae"] = dataclasses.replace(TINY["vae"], layers=layers)  # type: ignore[type-var]
    save(tmp_path / "svd.safetensors", sgm_file(random_model(odd)), {})
    with pytest.raises(ConfigError, match=f"this vae has {layers} layers"):
        convert(tmp_path / "svd.safetensors", tmp_path / "out", "diffusers", hints=HINTS)
    assert not (tmp_path / "out").exists()


def test_a_vae_of_pictures_has_any_number_of_layers_of_one_kind(tmp_path: Path) -> None:
    model = dict(IMAGE_DECODER)
    model["vae"] = dataclasses.replace(IMAGE_DECODER["vae"], layers=1)  # type: ignore[type-var]
    save(tmp_path / "svd.safetensors", sgm_file(random_model(model)), {})
    convert(tmp_path / "svd.safetensors", tmp_path / "out", "diffusers", hints=HINTS)
    assert configuration(open_checkpoint(tmp_path / "out"))["vae"]["layers"] == 1
    file = tmp_path / "out" / "vae" / "config.json"
    file.write_text(file.read_text().replace('"UpDecoderBlock2D"', '"AttnUpDecoderBlock2D"'))
    with pytest.raises(CheckpointError, match=r"config\.json has up_block_types = "):
        configuration(open_checkpoint(tmp_path / "out"))


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_norm_groups_that_diffusers_has_not_are_not_written_for_it(exported: Path, part: str) -> None:
    config = configuration(open_checkpoint(exported), HINTS)
    config[part]["norm_groups"] = 16
    with pytest.raises(ConfigError, match=r"this model has .*16 in the"):
        diffusers_files(config)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_conversion_leaves_nothing(
    source: Path, tmp_path: Path, stop: type[BaseException]
) -> None:
    def interrupt(done: int, total: int) -> None:
        if done > total // 2:
            raise stop

    before = sorted(tmp_path.iterdir())
    with pytest.raises(stop):
        convert(source, tmp_path / "out", "diffusers", hints=HINTS, progress=interrupt)
    assert sorted(tmp_path.iterdir()) == before


def test_too_little_room_is_said_before_writing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = weights_tools.tensor_file.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        weights_tools.tensor_file.shutil, "disk_usage", lambda path: usage._replace(free=1000)
    )
    with pytest.raises(VcutError, match=r"out\.safetensors needs [\d,]+ bytes, the disk has 1,000 left"):
        convert(source, tmp_path / "out.safetensors", "vcut", hints=HINTS)
    assert not (tmp_path / "out.safetensors").exists()


def test_as_much_room_as_the_file_needs_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, out = {"a": torch.ones(8)}, tmp_path / "out.safetensors"
    save(out, tensors, {})
    size, usage = out.stat().st_size, weights_tools.tensor_file.shutil.disk_usage(tmp_path)
    for free in (size, size - 1):
        monkeypatch.setattr(
            weights_tools.tensor_file.shutil, "disk_usage", lambda path, free=free: usage._replace(free=free)
        )
        if free == size:
            save(out, tensors, {}, overwrite=True)
        else:
            with pytest.raises(VcutError, match=f"needs {size} bytes, the disk has {size - 1} left"):
                save(out, tensors, {}, overwrite=True)


def test_the_files_of_a_folder_are_where_diffusers_looks(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out", "diffusers", dtype=torch.float16, hints=HINTS)
    for folder, stem in FOLDERS.values():
        path = tmp_path / "out" / folder / f"{stem}.safetensors"
        assert metadata(path) == {"format": "pt"}
        assert all(tensor.dtype == torch.float16 for tensor in load_file(path).values())
        assert (tmp_path / "out" / folder / "config.json").is_file()
    for name in ("model_index", "scheduler/scheduler_config", "feature_extractor/preprocessor_config"):
        assert json.loads((tmp_path / "out" / f"{name}.json").read_text())


def test_the_files_of_a_folder_say_what_vcut_computes_with(exported: Path) -> None:
    """How pictures reach CLIP is said in full; of the noise levels also what the published files say besides."""
    pictures = json.loads((exported / "feature_extractor" / "preprocessor_config.json").read_text())
    assert (pictures["image_mean"], pictures["image_std"]) == (list(MEAN), list(STD))
    assert pictures["rescale_factor"] * 255 == 1
    assert pictures["size"]["shortest_edge"] == pictures["crop_size"]["height"] == 224
    assert pictures["resample"] == Image.Resampling.BICUBIC
    steps = ("convert_rgb", "resize", "center_crop", "rescale", "normalize")
    assert all(pictures[f"do_{step}"] is True for step in steps)
    levels = json.loads((exported / SCHEDULER).read_text())
    betas = levels["beta_start"], levels["beta_end"], levels["num_train_timesteps"], levels["steps_offset"]
    assert betas == (0.00085, 0.012, 1000, 1)
    vae = json.loads((exported / "vae" / "config.json").read_text())
    assert (vae["in_channels"], vae["out_channels"], vae["force_upcast"]) == (3, 3, True)
    assert (vae["sample_size"], vae["scaling_factor"]) == (768, 0.18215)

"""A converted folder opens in diffusers and transformers, and gives what the original tensors give there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from weights_samples import IMAGE_DECODER, TINY, random_model, sgm_file

from weights_tools.configs import Hints
from weights_tools.convert import convert
from weights_tools.remap import to_layout
from weights_tools.structure import Part, Structure
from weights_tools.tensor_file import save

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("structures", [TINY, IMAGE_DECODER], ids=["temporal", "image decoder"])
def test_the_pipeline_loads_every_tensor_and_runs(tmp_path: Path, structures: dict[Part, Structure]) -> None:
    from diffusers import StableVideoDiffusionPipeline
    from PIL import Image

    model = random_model(structures)
    save(tmp_path / "svd_xt.safetensors", sgm_file(model), {})
    convert(tmp_path / "svd_xt.safetensors", tmp_path / "out", "diffusers", hints=Hints(32, 16))
    pipeline = StableVideoDiffusionPipeline.from_pretrained(tmp_path / "out", local_files_only=True)
    networks: dict[Part, torch.nn.Module] = {
        "unet": pipeline.unet,
        "vae": pipeline.vae,
        "clip": pipeline.image_encoder,
    }
    for part, network in networks.items():
        expected = to_layout(model[part], part, "diffusers")
        actual = network.state_dict()
        actual = {key if key in expected else f"vision_model.{key}": tensor for key, tensor in actual.items()}
        assert actual.keys() == expected.keys()
        assert all(torch.equal(actual[key], expected[key]) for key in expected)
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    pipeline.set_progress_bar_config(disable=True)
    image = Image.new("RGB", (64, 32), (200, 90, 10))
    frames = pipeline(
        image, height=32, width=64, num_frames=2, num_inference_steps=1, output_type="pt"
    ).frames
    assert frames.shape == (1, 2, 3, 32, 64)
    assert torch.isfinite(frames).all()

"""The one-line acceleration under releases of diffusers from 0.27, each in an environment of its own.

    python tests/parity/versions.py FOLDER             # makes the environments in FOLDER, and runs all
    python tests/parity/versions.py FOLDER 0.27.2      # this release alone

Each release comes with packages of its time; torch, and what a release does not pin, are those of the environment
that runs this. docs/integrations.md has the result.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
OLD = (
    "huggingface_hub==0.25.2",
    "transformers==4.44.2",
    "tokenizers==0.19.1",
    "accelerate==0.34.2",
    "numpy==1.26.4",
)
RELEASES = {
    "0.27.2": OLD,  # the last with the old order of rows
    "0.28.2": OLD,
    "0.30.3": OLD,
    "0.33.1": ("huggingface_hub==0.30.2", "transformers==4.51.3", "tokenizers==0.21.1", "accelerate==1.6.0"),
    "0.36.0": (
        "huggingface_hub==0.36.0",
        "transformers==4.57.3",
        "tokenizers==0.22.1",
        "accelerate==1.12.0",
        "httpx==0.28.1",
        "httpcore==1.0.9",
    ),
    "0.39.0": ("httpx==0.28.1", "httpcore==1.0.9"),
    "0.42.1": (),
}


def main() -> None:
    folder, *chosen = sys.argv[1:]
    print(
        "| diffusers | transformers | accelerate | rows | lossless | cut | removed |\n|---|---|---|---|--:|--:|---|"
    )
    for release in chosen or RELEASES:
        python = environment(Path(folder) / release, release)
        done = subprocess.run(
            [python, __file__, "--check"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        print(
            done.stdout.splitlines()[-1] if done.returncode == 0 else f"| {release} | {done.stderr[-500:]} |",
            flush=True,
        )


def environment(folder: Path, release: str) -> Path:
    """The interpreter of an environment with this release, made if it is not there."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        own = next((folder / "lib").glob("python*/site-packages"))
        (own / "zz_shared.pth").write_text(sysconfig.get_path("purelib"))
        pip = [python, "-m", "pip", "install", "-q", "--no-deps", "--ignore-installed"]
        subprocess.run([*pip, f"diffusers=={release}", *RELEASES[release]], check=True)
    return python


def check() -> None:
    """Print a line of the table: what the release that is installed here gives."""
    import accelerate as accelerate_
    import diffusers
    import numpy as np
    import torch
    import transformers
    from PIL import Image

    from vcut.integrations.diffusers import accelerate

    def error(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a - b).abs().max() / b.abs().max())

    def run(**further: Any) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        settings = dict(height=32, width=32, num_frames=3, num_inference_steps=25, output_type="latent")
        return pipe(picture, generator=generator, **settings, **further).frames

    pipe = small(diffusers, transformers)
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    expected = run()
    rows: set[int] = set()
    with accelerate(pipe):
        for name, module in pipe.unet.named_modules():
            if name.endswith("attn2.linear"):
                module.register_forward_hook(lambda _, given, __: rows.add(given[0].shape[:-1].numel()))
        lossless = error(run(), expected)
    assert rows == {2 * 3}, f"branches and frames, got {rows}"
    with accelerate(pipe, "baseline", cut=17):
        cut = run()
    with accelerate(pipe, "lossless", cut=17) as accelerated:
        batches: list[int] = []
        hook = pipe.unet.conv_in.register_forward_hook(lambda _, given, __: batches.append(len(given[0])))
        cut_too = error(run(), cut)
        hook.remove()
        assert batches == [6] * 16 + [3] * 9, batches
        assert len(accelerated.folds.folded) == 8
    removed = "equal" if torch.equal(run(), expected) else "not equal"

    # a batch of two clips of different contexts gives what each gives alone only in the new order
    x, ids = torch.randn(2, 3, 8, 4, 4), torch.zeros(2, 3)
    contexts = torch.randn(2, 1, 64)
    with torch.no_grad():
        both = pipe.unet(x, 0.3, contexts, ids).sample[:1]
        order = "new" if error(both, pipe.unet(x[:1], 0.3, contexts[:1], ids[:1]).sample) < 1e-4 else "old"
    versions = " | ".join(module.__version__ for module in (diffusers, transformers, accelerate_))
    print(f"| {versions} | {order} | {lossless:.0e} | {cut_too:.0e} | {removed} |")


def small(diffusers: Any, transformers: Any) -> Any:
    """A pipeline with small random networks."""
    import torch

    torch.manual_seed(0)
    pipe = diffusers.StableVideoDiffusionPipeline(
        vae=diffusers.AutoencoderKLTemporalDecoder(
            down_block_types=["DownEncoderBlock2D"] * 4, block_out_channels=[32] * 4, layers_per_block=1
        ),
        image_encoder=transformers.CLIPVisionModelWithProjection(
            transformers.CLIPVisionConfig(
                hidden_size=32,
                intermediate_size=32,
                projection_dim=64,
                num_hidden_layers=1,
                num_attention_heads=2,
            )
        ),
        unet=diffusers.UNetSpatioTemporalConditionModel(
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            block_out_channels=(32, 64),
            num_attention_heads=(2, 4),
            addition_time_embed_dim=32,
            projection_class_embeddings_input_dim=96,
            layers_per_block=1,
            cross_attention_dim=64,
        ),
        scheduler=diffusers.EulerDiscreteScheduler(
            prediction_type="v_prediction",
            timestep_type="continuous",
            use_karras_sigmas=True,
            sigma_min=0.002,
            sigma_max=700.0,
        ),
        feature_extractor=transformers.CLIPImageProcessor(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


if __name__ == "__main__":
    check() if sys.argv[1:] == ["--check"] else main()

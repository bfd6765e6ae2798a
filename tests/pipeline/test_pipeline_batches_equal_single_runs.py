"""A clip depends on its own image, seed and settings alone: not on its batch, nor on what ran before."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from micro import micro
from numpy.typing import NDArray
from PIL import Image

from vcut.pipeline import Pipeline
from vcut.sampling import Churn

QUICK = dict(steps=4, cut=3, frames=3, decode_chunk=2)


def picture(seed: int, height: int = 64, width: int = 64) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    """In float64, so that another order of summation in a batch shows only in the last digits of float32."""
    return micro("lossless", dtype=torch.float64, vae_dtype=torch.float64)


@pytest.mark.parametrize(
    "churn", [None, pytest.param(Churn(s_churn=2.0), marks=pytest.mark.slow)], ids=["deterministic", "churn"]
)
def test_k_images_with_m_clips_equal_the_single_runs(pipe: Pipeline, churn: Churn | None) -> None:
    """Images of different content and shape; conditioning rows in the order [a, a, b, b] throughout."""
    images = [picture(1), picture(2, 80, 48), picture(3)]
    together = pipe.generate(images, clips=2, seed=10, churn=churn, **QUICK)
    assert together.shape == (6, 3, 3, 32, 32)
    for i, image in enumerate(images):
        for j in range(2):
            alone = pipe.generate(image, seed=10 + j, churn=churn, **QUICK)
            torch.testing.assert_close(together[2 * i + j], alone, rtol=0, atol=2e-6)
    for a in range(6):
        for b in range(a):
            assert (together[a] - together[b]).abs().max() > 1e-3, "two clips are the same"


def test_seeds_may_be_given_one_by_one(pipe: Pipeline) -> None:
    clips = pipe.generate(picture(1), clips=2, seed=[7, 3], **QUICK)
    torch.testing.assert_close(clips[1], pipe.generate(picture(1), seed=3, **QUICK), rtol=0, atol=2e-6)


def test_a_seed_reproduces_and_another_does_not(pipe: Pipeline) -> None:
    first = pipe.generate(picture(1), seed=5, **QUICK)
    torch.manual_seed(99)  # the global generator has no part in it
    assert torch.equal(first, pipe.generate(picture(1), seed=5, **QUICK))
    assert not torch.equal(first, pipe.generate(picture(1), seed=6, **QUICK))


def test_a_second_image_never_sees_the_first(pipe: Pipeline) -> None:
    a = pipe.generate(picture(1), seed=5, **QUICK)
    pipe.generate(picture(2), seed=5, height=16, width=48, **QUICK)
    assert torch.equal(a, pipe.generate(picture(1), seed=5, **QUICK))


def test_the_branches_may_run_one_after_the_other(pipe: Pipeline) -> None:
    together = pipe.generate(picture(1), seed=5, **QUICK)
    torch.testing.assert_close(
        pipe.generate(picture(1), seed=5, sequential=True, **QUICK), together, rtol=0, atol=2e-6
    )


def test_every_form_of_a_picture_conditions_alike(pipe: Pipeline, tmp_path) -> None:  # type: ignore[no-untyped-def]
    array = picture(4, 90, 120)
    Image.fromarray(array).save(tmp_path / "picture.png")
    forms = [
        tmp_path / "picture.png",
        str(tmp_path / "picture.png"),
        Image.fromarray(array),
        array,
        array.astype(np.float32) / 255,
        torch.from_numpy(array.copy()).permute(2, 0, 1),
        torch.from_numpy(array.copy()).permute(2, 0, 1)[None],
    ]
    expected = pipe.generate(forms[0], seed=1, **QUICK)
    for form in forms[1:]:
        torch.testing.assert_close(pipe.generate(form, seed=1, **QUICK), expected, rtol=0, atol=2e-6)


def test_a_stack_is_a_batch(pipe: Pipeline) -> None:
    stack = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    clips = pipe.generate(stack, **QUICK)
    assert clips.shape == (2, 3, 3, 32, 32)
    torch.testing.assert_close(clips, pipe.generate(list(stack), **QUICK), rtol=0, atol=2e-6)
    assert not torch.equal(clips[0], clips[1])


def test_one_image_gives_a_clip_and_a_list_gives_a_batch(pipe: Pipeline) -> None:
    assert pipe.generate(picture(1), **QUICK).shape == (3, 3, 32, 32)
    assert pipe.generate([picture(1)], **QUICK).shape == (1, 3, 3, 32, 32)
    assert pipe.generate(picture(1), clips=1, **QUICK).shape == (1, 3, 3, 32, 32)

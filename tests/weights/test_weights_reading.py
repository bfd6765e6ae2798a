"""Any layout is read into vcut's names, lazily: as views of the file, or cast and folded one tensor at a time."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from weights_samples import IMAGE_DECODER, TINY, random_model, read, sgm_file

import weights_tools.tensor_file
from weights_tools.checkpoint import FOLDERS, is_finite, open_checkpoint
from weights_tools.errors import CheckpointError
from weights_tools.fold import fold
from weights_tools.remap import to_layout
from weights_tools.structure import PARTS, Layout, Part
from weights_tools.tensor_file import save

MODEL = random_model()


def write_folder(folder: Path, model: dict[Part, dict[str, Tensor]], variant: str = "") -> Path:
    for part, (name, stem) in FOLDERS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        save(
            folder / name / f"{stem}{variant}.safetensors",
            to_layout(model[part], part, "diffusers"),
            {"format": "pt"},
        )
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[Layout, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    save(folder / "svd_xt.safetensors", sgm_file(MODEL), {})
    flat = {f"{part}.{name}": tensor for part in PARTS for name, tensor in MODEL[part].items()}
    save(folder / "vcut.safetensors", flat, {"format": "vcut"})
    return {
        "sgm": folder / "svd_xt.safetensors",
        "vcut": folder / "vcut.safetensors",
        "diffusers": write_folder(folder / "diffusers", MODEL),
    }


def assert_identical(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for key, tensor in actual.items():
        assert tensor.dtype == expected[key].dtype, key
        assert tensor.is_contiguous(), key
        assert torch.equal(tensor, expected[key]), key


def file_behind(tensor: Tensor) -> str | None:
    """The file that is mapped where the tensor's bytes are."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, _, end = line.split()[0].partition("-")
        if int(start, 16) <= tensor.data_ptr() < int(end, 16):
            return line.split(maxsplit=5)[5] if len(line.split()) > 5 else None
    return None


@pytest.mark.parametrize("prefix", ["", "unet."], ids=["the UNet alone", "all networks"])
def test_a_file_with_the_former_names_of_upsampling_is_read(tmp_path: Path, prefix: str) -> None:
    def former(name: str) -> str:
        return re.sub(r"^up\.(\d+)\.upsample", lambda up: f"up.{int(up[1]) - 1}.upsample", name)

    tensors = {prefix + former(name): tensor for name, tensor in MODEL["unet"].items()}
    assert f"{prefix}up.0.upsample.weight" in tensors
    if prefix:
        tensors |= {f"vae.{name}": tensor for name, tensor in MODEL["vae"].items()}
        assert "vae.decoder.up.0.upsample.weight" in tensors
    save(tmp_path / "former.safetensors", tensors, {})
    opened = open_checkpoint(tmp_path / "former.safetensors")
    assert not opened.faults
    assert_identical(opened.read("unet"), MODEL["unet"])


@pytest.mark.parametrize("layout", ["sgm", "diffusers", "vcut"])
@pytest.mark.parametrize("part", PARTS)
def test_every_layout_reads_the_same(checkpoints: dict[Layout, Path], layout: Layout, part: Part) -> None:
    assert_identical(read(checkpoints[layout], part), MODEL[part])


@pytest.mark.parametrize("layout", ["sgm", "diffusers", "vcut"])
def test_a_unet_is_folded_and_cast_while_it_is_read(checkpoints: dict[Layout, Path], layout: Layout) -> None:
    expected = fold(MODEL["unet"], tca=False, sca="linear_cached")
    assert_identical(read(checkpoints[layout], "unet", tca=False, sca="linear_cached"), expected)
    half = {key: tensor.bfloat16() for key, tensor in expected.items()}
    actual = read(checkpoints[layout], "unet", tca=False, sca="linear_cached", dtype=torch.bfloat16)
    assert_identical(actual, half)


def test_a_product_of_half_precision_weights_is_rounded_to_what_is_asked_for(tmp_path: Path) -> None:
    """Not to the file's precision first: lossless in float32 then equals the attention in float32."""
    half = {name: tensor.half() for name, tensor in MODEL["unet"].items()}
    save(tmp_path / "half.safetensors", half, {})
    wide = fold({name: tensor.float() for name, tensor in half.items()}, "linear_cached", "linear_cached")
    form = {"tca": "linear_cached", "sca": "linear_cached"}
    assert_identical(read(tmp_path / "half.safetensors", "unet", dtype=torch.float32, **form), wide)


def test_reading_in_small_windows_reads_the_same(
    checkpoints: dict[Layout, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_tools.tensor_file, "WINDOW", 100_000)
    state = read(checkpoints["sgm"], "unet", dtype=torch.float64)
    assert_identical(state, {key: tensor.double() for key, tensor in MODEL["unet"].items()})


def test_the_file_is_mapped_anew_once_more_than_a_window_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So what was read and let go no longer counts as this process's memory."""
    opened: list[Path] = []
    plain = weights_tools.tensor_file._opened
    monkeypatch.setattr(weights_tools.tensor_file, "_opened", lambda path: opened.append(path) or plain(path))
    monkeypatch.setattr(weights_tools.tensor_file, "WINDOW", 8)
    save(tmp_path / "a.safetensors", {name: torch.ones(2) for name in "abcde"}, {})
    reader = weights_tools.tensor_file.Reader(tmp_path / "a.safetensors")
    counts = []
    for name in "abcde":
        assert reader[name].sum() == 2
        counts.append(len(opened))
    assert counts == [1, 1, 2, 2, 3]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks Linux what is mapped where")
def test_without_a_cast_tensors_are_views_of_the_file(checkpoints: dict[Layout, Path]) -> None:
    state = read(checkpoints["vcut"], "unet")
    backing = [file_behind(tensor) for tensor in state.values()]
    assert backing == [str(checkpoints["vcut"])] * len(state)
    assert file_behind(torch.zeros(10**6)) != str(checkpoints["vcut"])


def test_writing_into_a_view_does_not_touch_the_file(checkpoints: dict[Layout, Path]) -> None:
    read(checkpoints["vcut"], "vae")["quant_conv.bias"].zero_()
    assert_identical(read(checkpoints["vcut"], "vae"), MODEL["vae"])


def test_the_vae_comes_from_where_the_official_pipeline_takes_it(checkpoints: dict[Layout, Path]) -> None:
    """The encoder is the conditioner's, not the first stage's own, which holds other numbers in this file."""
    file = sgm_file(MODEL)
    own = file["first_stage_model.encoder.conv_in.weight"]
    conditioner = file["conditioner.embedders.3.encoder.encoder.conv_in.weight"]
    assert not torch.equal(own, conditioner)
    assert torch.equal(read(checkpoints["sgm"], "vae")["encoder.conv_in.weight"], conditioner)


def test_an_image_decoder_file_has_its_post_quant_conv_in_the_first_stage(tmp_path: Path) -> None:
    model = random_model(IMAGE_DECODER)
    save(tmp_path / "svd_image_decoder.safetensors", sgm_file(model), {})
    assert_identical(read(tmp_path / "svd_image_decoder.safetensors", "vae"), model["vae"])


def test_half_precision_files_are_taken_on_request_or_when_alone(tmp_path: Path) -> None:
    half = {part: {k: t.half() for k, t in state.items()} for part, state in MODEL.items()}
    both = write_folder(write_folder(tmp_path / "both", MODEL), half, ".fp16")
    alone = write_folder(tmp_path / "alone", half, ".fp16")
    assert read(both, "clip")["class_embedding"].dtype == torch.float32
    assert read(both, "clip", variant="fp16")["class_embedding"].dtype == torch.float16
    assert read(alone, "clip")["class_embedding"].dtype == torch.float16
    (both / "vae" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"vae has no diffusion_pytorch_model\.fp16\.safetensors"):
        open_checkpoint(both, "fp16")
    with pytest.raises(CheckpointError, match="is one file, of one precision"):
        open_checkpoint(both / "vae" / "diffusion_pytorch_model.safetensors", "fp16")


@pytest.mark.parametrize("layout", ["sgm", "diffusers", "vcut"])
@pytest.mark.parametrize("part", PARTS)
def test_a_single_network_is_recognised_by_itself(tmp_path: Path, layout: Layout, part: Part) -> None:
    save(tmp_path / "part.safetensors", to_layout(MODEL[part], part, layout), {})
    found = open_checkpoint(tmp_path / "part.safetensors")
    assert (found.layout, list(found.parts), found.faults) == (layout, [part], ())
    assert_identical(read(tmp_path / "part.safetensors", part), MODEL[part])


def test_a_component_folder_is_a_checkpoint_too(checkpoints: dict[Layout, Path]) -> None:
    assert_identical(read(checkpoints["diffusers"] / "image_encoder", "clip"), MODEL["clip"])


@pytest.mark.parametrize("layout", ["sgm", "diffusers", "vcut"])
def test_a_description_counts_tensors_and_parameters(checkpoints: dict[Layout, Path], layout: Layout) -> None:
    found = open_checkpoint(checkpoints[layout])
    assert found.layout == layout
    assert found.faults == found.missing_parts == ()
    assert {part: description.structure for part, description in found.parts.items()} == TINY
    for part, description in found.parts.items():
        assert description.parameters == sum(tensor.numel() for tensor in MODEL[part].values())
        assert description.dtypes == ("float32",)
    used = sum(len(description.tensors) for description in found.parts.values())
    assert len(found.unused) == (len(sgm_file(MODEL)) - used if layout == "sgm" else 0)


def test_networks_that_do_not_fit_together_are_a_fault(tmp_path: Path) -> None:
    flat = {f"unet.{name}": tensor for name, tensor in MODEL["unet"].items()}
    clip = dict(MODEL["clip"])
    clip["proj.weight"] = torch.zeros(40, 64)
    save(tmp_path / "model.safetensors", {**flat, **{f"clip.{k}": t for k, t in clip.items()}}, {})
    assert open_checkpoint(tmp_path / "model.safetensors").faults == (
        "the unet takes a context of 48 numbers, clip makes 40",
    )


def test_our_files_are_byte_for_byte_those_of_the_safetensors_library(tmp_path: Path) -> None:
    tensors = {**MODEL["clip"], "scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3), "ä": torch.ones(1)}
    save(tmp_path / "ours.safetensors", tensors, {"format": "pt"})
    save_file(tensors, tmp_path / "theirs.safetensors", {"format": "pt"})
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()


@pytest.mark.parametrize("length", range(8))
def test_tensors_begin_at_a_multiple_of_8_bytes(tmp_path: Path, length: int) -> None:
    save(tmp_path / "padded.safetensors", {"a": torch.ones(1)}, {"note": length * "x"})
    assert ((tmp_path / "padded.safetensors").stat().st_size - 4) % 8 == 0


def test_a_tensor_that_is_not_what_was_promised_is_not_written(tmp_path: Path) -> None:
    """Offsets are written before it is asked for."""
    promised: dict[str, Any] = {"a": (torch.float32, (3,))}
    for tensor in (torch.zeros(4), torch.zeros(3, dtype=torch.float16)):
        with pytest.raises(CheckpointError, match=r"a: expected .*float32, .*found"):
            weights_tools.tensor_file.write(tmp_path / "a.safetensors", promised, {"a": tensor}, {})


def test_a_dtype_that_the_format_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a: torch\.complex64 cannot be stored"):
        save(tmp_path / "a.safetensors", {"a": torch.zeros(1, dtype=torch.complex64)}, {})
    assert not list(tmp_path.iterdir())


def test_writing_tells_how_far_it_is(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(2), "b": torch.ones(3)}
    told: list[tuple[int, int]] = []
    path = tmp_path / "told.safetensors"
    weights_tools.tensor_file.write(
        path, weights_tools.tensor_file.specs(tensors), tensors, {}, lambda *done: told.append(done)
    )
    size = path.stat().st_size
    assert told == [(size - 12, size), (size, size)]


def test_a_file_that_the_system_does_not_give_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "mine.safetensors", {"a": torch.ones(1)}, {})

    def refuse(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CheckpointError, match=r"mine\.safetensors cannot be read: Input/output error"):
        weights_tools.tensor_file.read_header(tmp_path / "mine.safetensors")


def test_views_shared_and_strided_tensors_are_written_in_full(tmp_path: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    parameter = torch.nn.Parameter(base)
    tensors = {
        "a": base,
        "b": base,
        "t": base.t(),
        "row": base[1],
        "p": parameter,
        "h": base.half(),
        "f8": base.to(torch.float8_e4m3fn),
    }
    save(tmp_path / "views.safetensors", tensors, {"format": "pt", "note": "ü"})
    reader = weights_tools.tensor_file.Reader(tmp_path / "views.safetensors")
    for name, tensor in tensors.items():
        assert torch.equal(reader[name].float(), tensor.float()), name
    assert json.loads((tmp_path / "views.safetensors").read_bytes()[8:].split(b"}")[0] + b"}}")[
        "__metadata__"
    ] == {"format": "pt", "note": "ü"}


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2],
)
def test_the_largest_number_of_a_dtype_is_finite_and_nan_is_not(dtype: torch.dtype) -> None:
    numbers = torch.tensor([0.0, torch.finfo(dtype).max], dtype=torch.float64).to(dtype)
    assert is_finite(numbers)
    assert not is_finite(torch.tensor([0.0, float("nan")]).to(dtype))


def test_a_large_tensor_is_looked_at_to_its_end() -> None:
    numbers = torch.zeros((1 << 24) + 1, dtype=torch.float16)
    assert is_finite(numbers)
    numbers[-1] = float("inf")
    assert not is_finite(numbers)

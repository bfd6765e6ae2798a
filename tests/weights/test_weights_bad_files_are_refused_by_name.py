"""Whatever is not a whole checkpoint is refused in one sentence that names the file and says what to do."""

from __future__ import annotations

import contextlib
import json
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from weights_samples import TINY, random_state, read

import weights_tools.tensor_file
from weights_tools.checkpoint import open_checkpoint
from weights_tools.errors import CheckpointError
from weights_tools.remap import to_layout

WHOLE = save(to_layout(random_state(TINY["clip"]), "clip", "diffusers"))
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab\nsize 9559625980\n"
HTML = b"<!DOCTYPE html>\n<html><title>Log in</title></html>"

NOT_READABLE = r"is damaged \(its header is not readable\)"


def header(content: object) -> bytes:
    text = json.dumps(content).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin", ".pkl", ".CKPT"])
def test_a_pickle_is_refused_by_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"svd{suffix}"
    path.write_bytes(WHOLE)
    with pytest.raises(CheckpointError, match=rf"svd\{suffix} is a pickle.*take the \.safetensors file"):
        open_checkpoint(path)


def test_a_pickle_under_another_name_is_not_opened_either(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, tmp_path / "zip.safetensors")
    protocols = range(2, 6)
    for protocol in protocols:
        content = pickle.dumps({"a": list(range(1000))}, protocol=protocol)
        (tmp_path / f"plain{protocol}.safetensors").write_bytes(content)
    for name in ("zip", *(f"plain{protocol}" for protocol in protocols)):
        with pytest.raises(CheckpointError, match=rf"{name}\.safetensors is a pickle \(.*run any program"):
            open_checkpoint(tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty: download it again"),
        (HTML, "is a web page .*accept the licence"),
        (b"\n  <html>", "is a web page"),
        (LFS, "is a git-lfs pointer.*git lfs pull"),
        (WHOLE[:5], "is not a .safetensors file"),
        (WHOLE[:300], r"is cut short: 300 bytes .* the download is incomplete"),
        (WHOLE[:-1000], rf"is cut short: {len(WHOLE) - 1000:,} bytes where {len(WHOLE):,} were expected"),
        (WHOLE + b"more", rf"is damaged: {len(WHOLE) + 4:,} bytes where {len(WHOLE):,} were expected"),
        (WHOLE[:8] + b"x" * (len(WHOLE) - 8), "is damaged"),
        (b"GIF89a;;;;;;;;;;", "is not a .safetensors file"),
        (header({}), "holds no tensors"),
        (header({"a": {"dtype": "F32", "shape": [2]}}), "is damaged"),
        (header([1, 2]), NOT_READABLE),
        (header("text"), NOT_READABLE),
        ((100_000).to_bytes(8, "little") + b"[" * 100_000, NOT_READABLE),
        *(
            (header({"a": {"dtype": "U8", "shape": shape, "data_offsets": [0, 0]}}), NOT_READABLE)
            for shape in ("", "00", {}, 0, None, ["0"], [0, -1], [0.0], [False], [[0]], {"0": 0}, [10**30])
        ),
        (header({"a": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0, 0]}}), NOT_READABLE),
        (
            header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 0]}}),
            r"is damaged \(a has 0 bytes for F32 \[2\]\)",
        ),
        (
            header({"__metadata__": [], "a": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}),
            "is damaged",
        ),
        (
            header({"a": {"dtype": "F3", "shape": [0], "data_offsets": [0, 0]}}),
            "of type F3, which cannot be read",
        ),
        (
            save({"model.weight": torch.zeros(3)}),
            "is no Stable Video Diffusion checkpoint: its tensors are model.weight",
        ),
        (
            save({f"{i}{'x' * 1000}": torch.zeros(3) for i in range(9)}),
            r"its tensors are 0x{199}\.\.\., 1x{199}\.\.\., 2x{199}\.\.\., \.\.\.$",
        ),
    ],
)
def test_what_the_file_is_instead_is_said(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "svd_xt.safetensors"
    path.write_bytes(content)
    for use in (open_checkpoint, lambda path: read(path, "unet")):
        with pytest.raises(CheckpointError, match=sentence) as caught:
            use(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shorter", [0, 1])
def test_a_header_may_be_as_long_as_the_limit(
    tmp_path: Path, shorter: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clip.safetensors").write_bytes(WHOLE)
    length = int.from_bytes(WHOLE[:8], "little")
    monkeypatch.setattr(weights_tools.tensor_file, "LARGEST_HEADER", length - shorter)
    with contextlib.nullcontext() if not shorter else pytest.raises(CheckpointError, match="is not a"):
        assert weights_tools.tensor_file.read_header(tmp_path / "clip.safetensors").shapes


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing\.safetensors: no such file"):
        open_checkpoint(tmp_path / "nothing.safetensors")


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="this system has no such device")
def test_a_device_is_named() -> None:
    with pytest.raises(CheckpointError, match="/dev/null: no such file, but a device"):
        open_checkpoint("/dev/null")


def test_a_folder_without_weights_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"no weights in the folder .*unet/diffusion_pytorch_model\.safetensors"
    ):
        open_checkpoint(tmp_path)
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"only pickles \(diffusion_pytorch_model\.bin\)"):
        open_checkpoint(tmp_path)


def test_a_network_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(WHOLE)
    with pytest.raises(CheckpointError, match=r"model\.safetensors has no unet, only: clip"):
        read(path, "unet")


def test_tensors_that_belong_to_nothing_are_faults(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    state = {f"clip.{name}": tensor for name, tensor in random_state(TINY["clip"]).items()}
    path.write_bytes(save({**state, "optimizer.step": torch.zeros(2)}))
    with pytest.raises(
        CheckpointError, match=r"optimizer\.step: expected no tensor of this name, found \[2\]"
    ):
        read(path, "clip")
    assert open_checkpoint(path).faults == ("optimizer.step: expected no tensor of this name, found [2]",)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_file_with_any_header_byte_changed_is_read_or_refused_but_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(WHOLE)
    end = 8 + int.from_bytes(WHOLE[:8], "little")
    for position in data.draw(st.lists(st.integers(0, end - 1), min_size=1, max_size=3)):
        content[position] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "model.safetensors"
    path.write_bytes(content)
    with contextlib.suppress(CheckpointError):  # anything else fails the test
        assert read(path, "clip")

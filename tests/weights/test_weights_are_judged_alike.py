"""What one command refuses a checkpoint for, all refuse it for: inspect, convert, audit and generate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from micro import micro
from model_files import write
from PIL import Image
from safetensors import safe_open

from vcut.cli import main as vcut
from weights_tools.cli import main as weights
from weights_tools.errors import ConfigError
from weights_tools.model import CLIPConfig, SVDConfig, VAEConfig

Header = dict[str, Any]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "mine.safetensors"
    write(micro("baseline"), path)
    Image.new("RGB", (32, 32)).save(path.parent / "one.png")
    return path


def opened(path: Path) -> tuple[Header, bytes]:
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def stored(path: Path, header: Header | str, body: bytes) -> Path:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path


def every_command(path: Path, folder: Path) -> dict[str, list[str]]:
    """Command lines that take a model, without anything that takes long."""
    return {
        "inspect": ["inspect", str(path)],
        "convert": ["convert", str(path), str(folder / "out.safetensors"), "--to", "vcut"],
        "audit": ["audit", str(path)],
        "generate": [
            "generate",
            str(folder / "one.png"),
            "--model",
            str(path),
            "--steps",
            "1",
            "--overwrite",
        ],
    }


def verdicts(path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What each command says against a file; empty for a command that takes it."""
    said = {}
    for name, argv in every_command(path, folder).items():
        code = (weights if name in ("inspect", "convert") else vcut)(argv)
        printed = capsys.readouterr()
        said[name] = printed.out + printed.err if code else ""
    (folder / "out.safetensors").unlink(missing_ok=True)
    return said


def configured(change: Callable[[Any], None]) -> Callable[[Header], None]:
    def apply(header: Header) -> None:
        config = json.loads(header["__metadata__"]["config"])
        change(config)
        header["__metadata__"]["config"] = json.dumps(config)

    return apply


def replace(header: Header, **metadata: Any) -> None:
    header["__metadata__"].update(metadata)


def overlap(header: Header) -> None:
    same = [key for key, said in header.items() if said.get("shape") == [32] and said["dtype"] == "F32"]
    header[same[1]]["data_offsets"] = header[same[0]]["data_offsets"]


CONFIGS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "float": (lambda c: c["unet"]["levels"][0].update(channels=32.0), "Level.channels"),
    "heads": (lambda c: c["unet"]["levels"][0].update(heads=0), "Level.heads"),
    "no_heads": (lambda c: c["unet"]["levels"][0].pop("heads"), "heads"),
    "text": (lambda c: c["clip"].update(heads="4"), "CLIPConfig.heads"),
    "scale": (lambda c: c["vae"].update(scale=10**400), "VAEConfig.scale"),
    "nan": (lambda c: c["vae"].update(scale=float("nan")), "VAEConfig.scale"),
    "huge": (lambda c: c.update(frames=10**13), "SVDConfig.frames"),
    "bucket": (lambda c: c.update(motion_bucket=-1), "SVDConfig.motion_bucket"),
    "size": (lambda c: c.update(height=64.0), "SVDConfig.height"),
    "name": (lambda c: c.update(name=7), "SVDConfig.name"),
    "extra": (lambda c: c.update(zzz=1), "zzz"),
    "groups": (lambda c: c["unet"].update(norm_groups=3), "norm groups"),
    "mode": (lambda c: c["unet"].update(tca="maybe"), "tca"),
    "levels": (lambda c: c["unet"].update(levels=5), "channels"),
    "no_vae": (lambda c: c.pop("vae"), "vae"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_bad_configuration(
    sound: Path, tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, says = CONFIGS[case]
    header, body = opened(sound)
    configured(change)(header)
    for name, said in verdicts(
        stored(tmp_path / "bad.safetensors", header, body), sound.parent, capsys
    ).items():
        # the UNet alone is audited: the rest of the configuration is not its
        if name != "audit" or "unet" in says or "Level" in says:
            assert says in said, (name, said)
            assert "bad.safetensors" in said, (name, said)


def test_a_configuration_is_taken_up_to_its_bounds() -> None:
    assert len(SVDConfig(name="x" * 255).name) == 255
    with pytest.raises(ConfigError, match="1 to 255 characters"):
        SVDConfig(name="x" * 256)
    assert VAEConfig(channels=(1,), norm_groups=1).stride == 1
    with pytest.raises(ConfigError, match="context_dim 1024 is not CLIP's embed_dim 512"):
        SVDConfig(clip=CLIPConfig(embed_dim=512))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (overlap, "overlaps the tensor before it"),
        (lambda h: h.pop("unet.conv_in.bias"), "comes after a gap"),
        (lambda h: replace(h, config="[" * 100_000), "configuration in its header cannot be read"),
        (lambda h: replace(h, config="nonsense"), "configuration in its header cannot be read"),
        (lambda h: replace(h, config=7), "header is not readable"),
        (lambda h: h.update({"\ud800": h.popitem()[1]}), "header is not readable"),
        (lambda h: h["unet.conv_in.bias"].update(shape=[32.0]), "header is not readable"),
        (lambda h: h["unet.conv_in.bias"].update(shape=[-0.0]), "header is not readable"),
        (lambda h: h["unet.conv_in.bias"].update(shape=[1] * 1000 + [32]), "header is not readable"),
        (lambda h: h["unet.conv_in.bias"].update(shape=[2**40, 2**40, 0]), "is damaged"),
        (lambda h: h["unet.conv_in.bias"].update(dtype="F3"), "of type F3"),
        (lambda h: h.update({"unet.\x1b[31mred": h.pop("unet.conv_in.bias")}), r"unet.\x1b[31mred"),
    ],
)
def test_a_bad_header(
    sound: Path,
    tmp_path: Path,
    change: Callable[[Header], object],
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    header, body = opened(sound)
    change(header)
    for name, said in verdicts(
        stored(tmp_path / "bad.safetensors", header, body), sound.parent, capsys
    ).items():
        assert says in said, (name, said)
        assert said.rstrip("\n").replace("\n", "").isprintable()


def test_a_name_that_is_there_twice(sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header, body = opened(sound)
    text = json.dumps(header).replace(
        '"unet.conv_in.bias": {', '"unet.conv_in.bias": {"dtype": "F32"}, "unet.conv_in.bias": {'
    )
    for said in verdicts(stored(tmp_path / "bad.safetensors", text, body), sound.parent, capsys).values():
        assert "header is not readable" in said


def test_a_header_that_only_the_library_refuses(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header, body = opened(sound)
    text = json.dumps(header).replace('"data_offsets": [0,', '"data_offsets": [-0,')
    path = stored(tmp_path / "bad.safetensors", text, body)
    with pytest.raises(Exception, match=r"(?i)header"):
        safe_open(path, framework="pt")
    assert all("is damaged" in said for said in verdicts(path, sound.parent, capsys).values())


def test_a_configuration_without_a_name_is_named_after_the_file(sound: Path, tmp_path: Path) -> None:
    header, body = opened(sound)
    configured(lambda config: config.pop("name"))(header)
    path = stored(tmp_path / "moon.safetensors", header, body)
    assert weights(["convert", str(path), str(tmp_path / "out"), "--to", "diffusers"]) == 0
    assert json.loads((tmp_path / "out" / "vcut.json").read_text())["name"] == "moon"


def test_a_sound_file_is_taken_by_all(
    sound: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    assert set(verdicts(sound, sound.parent, capsys).values()) == {""}


def test_many_faults_and_long_names_are_cut(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header, body = opened(sound)
    end = len(body)
    for i in range(2_000):
        header[f"unet.{i}." + "x" * 1000] = {"dtype": "U8", "shape": [0], "data_offsets": [end, end]}
    path = stored(tmp_path / "bad.safetensors", header, body)
    for name, said in verdicts(path, sound.parent, capsys).items():
        assert len(said) < 30_000, name
        assert "more" in said, name
    assert weights(["inspect", str(path), "--json"]) == 1
    assert len(capsys.readouterr().out) < 200_000

"""What one command refuses a checkpoint for, all refuse it for: inspect, convert, audit and generate."""

from __future__ import annotations

import json
import shutil
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
from vcut.loading import load_clip, load_unet
from weights_tools.checkpoint import open_checkpoint
from weights_tools.cli import main as weights
from weights_tools.errors import CheckpointError, ConfigError
from weights_tools.model import CLIPConfig, Level, SVDConfig, UNetConfig, VAEConfig

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
    "bool": (lambda c: c.update(frames=True), "SVDConfig.frames"),
    "scale_text": (lambda c: c["vae"].update(scale="1"), "VAEConfig.scale"),
    "name": (lambda c: c.update(name=7), "SVDConfig.name"),
    "extra": (lambda c: c.update(zzz=1), "zzz"),
    "groups": (lambda c: c["unet"].update(norm_groups=3), "norm groups"),
    "mode": (lambda c: c["unet"].update(tca="maybe"), "tca"),
    "levels": (lambda c: c["unet"].update(levels=5), "channels"),
    "level": (lambda c: c["unet"].update(levels=[5, 5]), "unet.channels"),
    "ids": (lambda c: c["unet"].update(time_ids="3", time_id_dim="x"), "unet.time_ids"),
    "no_vae": (lambda c: c.pop("vae"), "vae"),
}


@pytest.mark.slow
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


@pytest.mark.parametrize("said", [{"layers": 3}, {"zzz": 1}])
@pytest.mark.parametrize(("part", "load"), [("unet", load_unet), ("clip", load_clip)])
def test_a_bad_configuration_of_a_network_that_is_loaded_alone(
    sound: Path, tmp_path: Path, part: str, load: Callable[[Path], object], said: dict[str, int]
) -> None:
    header, body = opened(sound)
    configured(lambda config: config[part].update(said))(header)
    with pytest.raises(CheckpointError, match=rf"bad\.safetensors: its configuration .*{next(iter(said))}"):
        load(stored(tmp_path / "bad.safetensors", header, body))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: VAEConfig(channels=(32 * 10**6,)), "VAEConfig.channels must be .* to 1000000, got 32000000"),
        (lambda: VAEConfig(channels=()), "VAEConfig.channels must be"),
        (lambda: VAEConfig(channels=32), "VAEConfig.channels must be"),  # type: ignore[arg-type]
        (lambda: VAEConfig(channels=(48,)), "VAE channels 48 do not divide into 32 norm groups"),
        (lambda: VAEConfig(temporal=1), "VAEConfig.temporal must be True or False"),  # type: ignore[arg-type]
        (lambda: UNetConfig(levels=()), "levels must be at least one"),
        (lambda: UNetConfig(levels=(320,)), "levels must be at least one"),  # type: ignore[arg-type]
        (lambda: UNetConfig(levels=(Level(48, 1),)), "UNet channels 48 do not divide into 32 norm groups"),
        (lambda: UNetConfig(levels=(Level(32, 3),)), "UNet channels 32 do not divide into 3 heads"),
        (lambda: UNetConfig(time_id_dim=15), "sinusoid 15 do not divide into 2"),
        (lambda: UNetConfig(tca="maybe"), "tca must be True"),  # type: ignore[arg-type]
        (lambda: UNetConfig(sca="maybe"), "sca must be True"),  # type: ignore[arg-type]
        (lambda: CLIPConfig(heads=3), "CLIP's width 1280 do not divide into 3 heads"),
        (lambda: CLIPConfig(patch_size=15), "CLIP's image size 224 do not divide into 15"),
        (lambda: UNetConfig.from_dict({}), "not a configuration of a UNet: KeyError.*levels"),
        (
            lambda: UNetConfig.from_dict({"levels": [{"channels": 32}]}),
            "not a configuration of a UNet: .*heads",
        ),
        (lambda: SVDConfig.from_dict({}), "not a model configuration: KeyError.*unet"),
        (
            lambda: SVDConfig.from_dict({**SVDConfig().to_dict(), "zzz": 1}),
            "not a model configuration: .*zzz",
        ),
    ],
)
def test_a_bad_configuration_made_in_python(make: Callable[[], object], says: str) -> None:
    """Of a file the tensors deny most of these first."""
    with pytest.raises(ConfigError, match=says):
        make()


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
        (lambda h: replace(h, config="{}"), "configuration in its header cannot be read"),
        (lambda h: replace(h, config='"unet"'), "configuration in its header cannot be read"),
        (lambda h: replace(h, config=7), "header is not readable"),
        (lambda h: h.update({"\ud800": h.popitem()[1]}), "header is not readable"),
        (lambda h: replace(h, note="\ud800"), "header is not readable"),
        (lambda h: replace(h, **{"\ud800": "note"}), "header is not readable"),
        (lambda h: h["unet.conv_in.bias"].update(shape=[32.0]), "header is not readable"),
        (lambda h: h["unet.conv_in.bias"].update(shape=[-0.0]), "header is not readable"),
        (lambda h: h["unet.conv_in.bias"].update(shape=[1] * 1000 + [32]), "header is not readable"),
        (lambda h: h["unet.conv_in.bias"].update(shape=[2**40, 2**40, 0]), "is damaged"),
        (lambda h: h["unet.conv_in.bias"].update(dtype="F3"), "of type F3"),
        (lambda h: h["unet.conv_in.bias"].update(dtype="F\n  3"), r"of type F\n  3"),
        (lambda h: h.update({"unet.\x1b[31mred": h.pop("unet.conv_in.bias")}), r"unet.\x1b[31mred"),
        # as the next line of a list of faults would begin
        (lambda h: h.update({"unet.\n  red": h.pop("unet.conv_in.bias")}), r"unet.\n  red"),
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


def test_the_names_of_files_are_escaped_too(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "a\n\x1b[31mred.safetensors", tmp_path / "b\n\x1b[31mred.safetensors"
    shutil.copy(sound, path)
    converting = ["convert", str(path), str(out), "--to", "vcut"]
    for argv, code, name in ((["inspect", str(path)], 0, "a"), (converting, 0, "b"), (converting, 2, "b")):
        assert weights(argv) == code
        printed = "".join(capsys.readouterr())
        assert rf"{name}\n\x1b[31mred" in printed
        assert "\x1b" not in printed
    with pytest.raises(CheckpointError, match=r"c\\x1b\[31mred\.safetensors: no such file"):
        open_checkpoint(tmp_path / "c\x1b[31mred.safetensors")


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

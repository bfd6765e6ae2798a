"""``vcut generate``: what the options ask of the library, where clips go, what is printed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vcut import cli, media
from vcut.config import CONFIGS, SVDConfig
from vcut.errors import OutOfMemoryError
from vcut.sampling import Branch


@dataclasses.dataclass
class Calls:
    """What a stand-in for the library was asked."""

    load: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    generate: list[dict[str, Any]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Stub:
    """Makes clips from black to white at once."""

    config: SVDConfig
    calls: Calls
    note: str | None = "a note about the weights"

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def unet(self) -> torch.Tensor:
        return torch.zeros(1)

    def generate(self, image: Path, **options: Any) -> torch.Tensor:
        self.calls.generate.append({"image": image, **options})
        f = options["frames"] or 3
        grey = torch.linspace(0, 1, f)[:, None, None, None]
        return grey.expand(f, 3, options["height"] or 64, options["width"] or 64)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Calls:
    recorded = Calls()

    def load(model: str, **options: Any) -> Stub:
        recorded.load.append({"model": model, **options})
        return Stub(CONFIGS[model], recorded)

    monkeypatch.setattr("vcut.loading.load", load)
    monkeypatch.chdir(tmp_path)
    return recorded


@pytest.fixture
def photo(calls: Calls) -> str:
    return picture("photo.jpg")


def picture(name: str) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)).save(name)
    return name


def vcut(*args: str) -> int:
    return cli.main(["generate", *args])


def files(folder: str = ".") -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())


def test_defaults_leave_everything_to_the_library(photo: str, calls: Calls) -> None:
    assert cli.main(["generate", photo, "--seed", "7"]) == 0
    assert calls.load == [
        {
            "model": "tiny",
            "preset": "vcut",
            "tca": None,
            "sca": None,
            "dtype": None,
            "device": None,
            "vae_dtype": torch.float32,
            "decode_dtype": None,
            "offload": False,
            "pack": True,
            "variant": None,
        }
    ]
    assert calls.generate == [
        {
            "image": Path("photo.jpg"),
            "seed": 7,
            "frames": None,
            "height": None,
            "width": None,
            "fit": "crop",
            "steps": 25,
            "cut": "preset",
            "after": Branch("mean", "cond"),
            "embedding": None,
            "guidance": (1.0, 3.0),
            "fps": 7,
            "motion_bucket": None,
            "noise_aug": 0.02,
            "decode_chunk": 14,
            "sequential": False,
            "progress": True,
        }
    ]
    assert Path("photo.mp4").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--size 128x64", {"width": 128, "height": 64}),
        ("--fit pad", {"fit": "pad"}),
        ("--steps 30 --cut 31", {"steps": 30, "cut": 31}),
        ("--cut none", {"cut": None}),
        ("--cut 1", {"cut": 1}),
        ("--cut preset", {"cut": "preset"}),
        ("--after-context cond --after-latents uncond", {"after": Branch("cond", "uncond")}),
        ("--guidance-min 3 --guidance-max -1.5", {"guidance": (3.0, -1.5)}),
        ("--embedding all", {"embedding": None}),
        ("--embedding none", {"embedding": ()}),
        ("--embedding 1-10", {"embedding": range(1, 11)}),
        ("--frames 1", {"frames": 1}),
        ("--fps 12", {"fps": 12}),
        ("--motion-bucket 0", {"motion_bucket": 0}),
        ("--noise-aug 0", {"noise_aug": 0.0}),
        ("--decode-chunk 1", {"decode_chunk": 1}),
        ("--sequential", {"sequential": True}),
        ("--quiet", {"progress": False}),
        ("--seed 9223372036854775807", {"seed": 2**63 - 1}),
    ],
)
def test_an_option_reaches_the_sampler(
    photo: str, calls: Calls, options: str, expected: dict[str, Any]
) -> None:
    assert vcut(photo, *options.split()) == 0
    assert {key: calls.generate[0][key] for key in expected} == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--preset baseline", {"preset": "baseline"}),
        ("--tca linear_cached --sca true", {"tca": "linear_cached", "sca": True}),
        ("--tca false", {"tca": False, "sca": None}),
        ("--dtype bfloat16 --vae-dtype float16", {"dtype": torch.bfloat16, "vae_dtype": torch.float16}),
        ("--vae-dtype float32 --decode-dtype float16", {"decode_dtype": torch.float16}),
        ("--device cpu --offload", {"device": "cpu", "offload": True}),
        ("--variant fp16", {"variant": "fp16"}),
        ("--model svd", {"model": "svd"}),
    ],
)
def test_an_option_reaches_the_loader(
    photo: str, calls: Calls, options: str, expected: dict[str, Any]
) -> None:
    assert vcut(photo, *options.split()) == 0
    assert {key: calls.load[0][key] for key in expected} == expected


def test_what_is_printed(photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert vcut(photo, "-o", "clip.mp4", "--seed", "3", "--sheet", "sheet.png") == 0
    model, note, preset, seed, clip, sheet = capsys.readouterr().out.splitlines()
    assert model.startswith("model    tiny, float32 on cpu, loaded in ")
    assert note == "note     a note about the weights"
    assert preset == "preset   vcut: 16 guided and 9 cut steps, 41 network passes"
    assert seed == "seed     3"
    assert clip.startswith("wrote    clip.mp4: 3 frames, 64x64, 7 fps, seed 3, in ")
    assert sheet == "wrote    sheet.png"


def test_quiet_prints_nothing_but_the_note(
    photo: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vcut(photo, "--quiet") == 0
    assert capsys.readouterr() == ("", "vcut: note: a note about the weights\n")
    monkeypatch.setattr("vcut.loading.load", lambda model, **_: Stub(CONFIGS[model], Calls(), None))
    assert vcut(photo, "--quiet", "--overwrite") == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", "16 guided and 9 cut steps, 41 network passes"),
        ("--guidance-max 1", "0 guided and 9 cut steps, 25 network passes"),
        ("--guidance-max 1 --guidance-shape triangle", "0 guided and 9 cut steps, 25 network passes"),
        ("--frames 1", "0 guided and 9 cut steps, 25 network passes"),
        ("--frames 1 --guidance-min 2", "16 guided and 9 cut steps, 41 network passes"),
    ],
)
def test_the_cost_printed_is_of_the_plan_that_runs(
    photo: str, capsys: pytest.CaptureFixture[str], options: str, expected: str
) -> None:
    assert vcut(photo, *options.split()) == 0
    assert f"preset   vcut: {expected}\n" in capsys.readouterr().out


def test_a_random_seed_is_printed_and_used(
    photo: str, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert vcut(photo, "--overwrite") == 0
        seed = calls.generate[-1]["seed"]
        assert f"seed     {seed}\n" in capsys.readouterr().out
    assert calls.generate[0]["seed"] != calls.generate[1]["seed"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", "photo.mp4"),
        ("-o clip.mp4", "clip.mp4"),
        ("-o clip.GIF", "clip.GIF"),
        ("-o clip.webp --format webp", "clip.webp"),
        ("-o frames --frames 1", "frames/000.png"),
        ("-o ./frames --frames 1", "frames/000.png"),
        ("-o .", "photo.mp4"),
        ("-o clips/", "clips/photo.mp4"),
        ("-o clips/deep/", "clips/deep/photo.mp4"),
        ("-o clips.d/", "clips.d/photo.mp4"),
        ("--format gif", "photo.gif"),
        ("-o clips --format webp", "clips/photo.webp"),
        ("-o clips --format png --frames 1", "clips/photo/000.png"),
        ("--format png --frames 1", "photo/000.png"),
    ],
)
def test_where_a_clip_goes(photo: str, options: str, expected: str) -> None:
    assert vcut(photo, *options.split()) == 0
    assert files() == sorted(["photo.jpg", expected])


def test_a_path_that_is_a_folder_takes_the_clip_whatever_its_name(photo: str) -> None:
    Path("clips.mp4").mkdir()
    assert vcut(photo, "-o", "clips.mp4") == 0
    assert files("clips.mp4") == ["photo.mp4"]


def test_the_rate_of_the_file_is_the_rate_of_the_model(photo: str) -> None:
    assert vcut(photo, "--fps", "12") == 0
    assert media.read("photo.mp4")[1] == 12


def test_several_clips_of_a_picture_have_consecutive_seeds(photo: str, calls: Calls) -> None:
    assert vcut(photo, "--clips", "3", "--seed", "10", "-o", "clips") == 0
    assert [call["seed"] for call in calls.generate] == [10, 11, 12]
    assert files("clips") == ["photo-0.mp4", "photo-1.mp4", "photo-2.mp4"]


def test_a_pictures_seeds_do_not_depend_on_its_neighbours(calls: Calls) -> None:
    for name in ("in/a.jpg", "in/b.png"):
        picture(name)
    assert vcut("in", "--clips", "2", "--seed", "5", "-o", "both") == 0
    assert vcut("in/b.png", "--clips", "2", "--seed", "5", "-o", "alone") == 0
    seeds = [(call["image"].name, call["seed"]) for call in calls.generate]
    assert seeds == [("a.jpg", 5), ("a.jpg", 6), ("b.png", 5), ("b.png", 6), ("b.png", 5), ("b.png", 6)]


def test_a_folder_is_worked_through_and_what_exists_is_skipped(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("in/b.PNG", "in/a.jpg", "in/c.webp", "in/deeper/d.jpg"):
        picture(name)
    Path("in/notes.txt").write_text("not a picture")
    Path("out").mkdir()
    Path("out/b.mp4").write_bytes(b"made before")
    assert vcut("in", "-o", "out") == 0
    assert [call["image"] for call in calls.generate] == [Path("in/a.jpg"), Path("in/c.webp")]
    assert "skipped  out/b.mp4 exists\n" in capsys.readouterr().out
    assert Path("out/b.mp4").read_bytes() == b"made before"
    assert files("out") == ["a.mp4", "b.mp4", "c.mp4"]
    assert len(calls.load) == 1

    assert vcut("in", "-o", "out") == 0  # nothing left: not even the model is loaded
    assert len(calls.load) == 1
    assert vcut("in", "-o", "out", "--overwrite") == 0
    assert len(calls.generate) == 5
    assert Path("out/b.mp4").read_bytes() != b"made before"


def test_clips_beside_their_pictures_are_not_taken_for_pictures(calls: Calls) -> None:
    picture("in/a.jpg")
    for _ in range(2):
        assert vcut("in", "--format", "webp", "--clips", "2") == 0
    assert files("in") == ["a-0.webp", "a-1.webp", "a.jpg"]
    assert len(calls.generate) == 2


def test_pictures_of_one_name_keep_their_suffixes(calls: Calls) -> None:
    for name in ("in/a.jpg", "in/a.png", "in/a.jpg.png", "in/b.gif"):
        picture(name)
    expected = ["a.jpg.mp4", "a.jpg.png.mp4", "a.png.mp4", "b.mp4"]
    Path("out").mkdir()
    Path("out/a.mp4").write_bytes(b"made before there was a second one")
    for _ in range(2):
        assert vcut("in", "-o", "out") == 0
        assert files("out") == sorted(["a.mp4", *expected])
    assert len(calls.generate) == 4


def test_such_clips_beside_their_pictures_are_not_taken_for_pictures_either(calls: Calls) -> None:
    picture("in/a.jpg")
    picture("in/a.webp")
    for _ in range(2):
        assert vcut("in", "--format", "webp", "--overwrite") == 0
        assert files("in") == ["a.jpg", "a.jpg.webp", "a.webp", "a.webp.webp"]
    assert {call["image"].name for call in calls.generate} == {"a.jpg", "a.webp"}


def test_a_picture_of_a_folder_is_not_replaced_by_its_own_clip(calls: Calls) -> None:
    photo = Path(picture("in/a.webp")).read_bytes()
    assert vcut("in", "--format", "webp", "--overwrite") == 0
    assert files("in") == ["a.webp", "a.webp.webp"]
    assert Path("in/a.webp").read_bytes() == photo


def test_a_broken_picture_of_a_folder_is_skipped_and_the_others_are_made(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    picture("in/a.jpg")
    Path("in/b.jpg").write_text("not a picture")
    picture("in/c.jpg")
    assert vcut("in", "-o", "out", "--clips", "2") == 2
    assert files("out") == ["a-0.mp4", "a-1.mp4", "c-0.mp4", "c-1.mp4"]
    assert capsys.readouterr().err.splitlines() == [
        "vcut: skipped: in/b.jpg is not a picture that Pillow can read",
        "vcut: error: 1 of 3 pictures cannot be used",
    ]


def test_a_folder_of_frames_is_replaced_only_when_asked(photo: str) -> None:
    assert vcut(photo, "-o", "frames", "--frames", "2") == 0
    assert vcut(photo, "-o", "frames", "--frames", "1") == 2
    assert files("frames") == ["000.png", "001.png"]
    assert vcut(photo, "-o", "frames", "--frames", "1", "--overwrite") == 0
    assert files("frames") == ["000.png"]


def test_several_pictures_and_one_given_twice(calls: Calls) -> None:
    names = [picture("a.jpg"), picture("other/b.jpg"), "./a.jpg"]
    assert vcut(*names) == 0
    assert files() == ["a.jpg", "a.mp4", "other/b.jpg", "other/b.mp4"]
    assert len(calls.generate) == 2


def test_overwrite_replaces_clip_and_sheet(photo: str) -> None:
    for name in ("photo.mp4", "sheet.png"):
        Path(name).write_bytes(b"made before")
    assert vcut(photo, "--sheet", "sheet.png", "--overwrite") == 0
    assert b"made before" not in (Path("photo.mp4").read_bytes(), Path("sheet.png").read_bytes())


def test_pixels_are_enlarged_by_repetition(photo: str) -> None:
    assert vcut(photo, "-o", "frames", "--enlarge", "2", "--size", "32x16") == 0
    frame = np.asarray(Image.open("frames/001.png"))
    assert frame.shape == (32, 64, 3)
    assert (frame[::2, ::2] == frame[1::2, 1::2]).all()


def test_decoding_that_does_not_fit_is_tried_again_with_fewer_frames(
    photo: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    latents = torch.zeros(1, 9, 4, 1, 1)
    chunks: list[int] = []

    def generate(*_: Any, **__: Any) -> torch.Tensor:
        raise OutOfMemoryError("decoding does not fit", latents)

    def decode(_: Stub, given: torch.Tensor, chunk: int) -> torch.Tensor:
        assert given is latents
        chunks.append(chunk)
        if chunk > 2:
            raise OutOfMemoryError("decoding does not fit", latents)
        return torch.zeros(1, 9, 3, 16, 16)

    monkeypatch.setattr(Stub, "generate", generate)
    monkeypatch.setattr(Stub, "decode", decode, raising=False)
    assert vcut(photo, "-o", "clip.mp4") == 0
    assert chunks == [4, 2]
    assert "now 2 frames at a time" in capsys.readouterr().out
    assert media.read("clip.mp4")[0].shape[0] == 9


def test_what_cannot_be_combined_is_refused(photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert vcut(photo, "--compile", "--offload") == 2
    assert "exclude each other" in capsys.readouterr().err

"""``vcut generate``: what the options ask of the library, where clips go, what is printed."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vcut import cli, media
from vcut.cli import models, options
from vcut.config import CONFIGS, PRESETS, TINY, SVDConfig, choose_preset
from vcut.errors import OutOfMemoryError
from vcut.layers import Packing
from vcut.media import images
from vcut.pipeline import Pipeline
from vcut.sampling import Branch, Ramp
from vcut.settings import FAST, NAMES, Run, Settings, resolve
from vcut.sweeps.jobs import Outputs, find_work


@dataclasses.dataclass
class Call:
    """One clip that was asked for."""

    run: Run
    pixels: torch.Tensor
    seed: int
    progress: bool


@dataclasses.dataclass
class Calls:
    """What a stand-in for the library was asked."""

    load: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    sample: list[Call] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Stub:
    """Makes clips from black to white at once, of 3 frames of 64x64 where nothing else is asked for."""

    config: SVDConfig
    calls: Calls
    note: str | None = "a note about the weights"
    packing: Packing | None = None

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def unet(self) -> torch.Tensor:
        return torch.zeros(1)

    def sample_latents(self, run: Run, pixels: torch.Tensor, *, seed: int, progress: bool) -> torch.Tensor:
        self.calls.sample.append(Call(run, pixels, seed, progress))
        f = run.settings.frames or 3
        grey = torch.linspace(0, 1, f)[:, None, None, None]
        return grey.expand(1, f, 3, run.settings.height or 64, run.settings.width or 64)

    def decode(self, latents: torch.Tensor, chunk: int | None) -> torch.Tensor:
        return latents


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
            "preset": PRESETS["vcut"],
            "dtype": None,
            "device": None,
            "vae_dtype": torch.float32,
            "decode_dtype": None,
            "offload": False,
            "pack": True,
            "unet": None,
            "variant": None,
            "revision": None,
            "ignore_unknown": False,
        }
    ]
    (call,) = calls.sample
    assert call.run == resolve(Settings(), TINY, PRESETS["vcut"])
    assert (call.seed, call.progress) == (7, True)
    assert torch.equal(call.pixels, images.fitted(photo, TINY.width, TINY.height))
    assert Path("photo.mp4").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--size 128x64", {"width": 128, "height": 64}),
        ("--fit pad", {"fit": "pad"}),
        ("--steps 30 --cut 31", {"steps": 30, "cut": 31}),
        ("--sampler dpmpp_2m --sigmas ays --steps 10", {"sampler": "dpmpp_2m", "sigmas": "ays", "steps": 10}),
        ("--cut none", {"cut": None}),
        ("--cut 1", {"cut": 1}),
        ("--cut preset", {"cut": "preset"}),
        ("--after-context cond --after-latents uncond", {"after": Branch("cond", "uncond")}),
        ("--guidance-min 3 --guidance-max -1.5", {"guidance": Ramp(3.0, -1.5)}),
        ("--guidance-shape triangle", {"guidance": Ramp(1.0, 3.0, "triangle")}),
        ("--model svd --defaults official", {"guidance": Ramp(1.0, 2.5)}),
        ("--model svd-xt --defaults official", {"steps": 30, "guidance": Ramp(1.5, 3.0)}),
        ("--model svd-xt --defaults official --steps 25 --guidance-max 2", {"guidance": Ramp(1.5, 2.0)}),
        ("--model svd-xt --defaults official --guidance-min 1", {"steps": 30}),
        ("--model svd-xt --defaults paper", {}),
        ("--model svd-xt --preset fast", FAST),
        ("--model svd-xt --preset fast --steps 20", {**FAST, "steps": 20}),
        ("--model svd-xt --preset fast --defaults paper", {}),
        ("--guidance-interval 0.3 25", {"guidance_interval": (0.3, 25.0)}),
        ("--embedding all", {"embedding": None}),
        ("--embedding none", {"embedding": ()}),
        ("--embedding 1-10", {"embedding": tuple(range(1, 11))}),
        ("--frames 1", {"frames": 1}),
        ("--fps 12", {"fps": 12}),
        ("--motion-bucket 0", {"motion_bucket": 0}),
        ("--noise-aug 0", {"noise_aug": 0.0}),
        ("--decode-chunk 1", {"decode_chunk": 1}),
        ("--decode-chunk none", {"decode_chunk": None}),
        ("--sequential", {"sequential": True}),
    ],
)
def test_an_option_reaches_the_sampler(
    photo: str, calls: Calls, options: str, expected: dict[str, Any]
) -> None:
    assert vcut(photo, *options.split()) == 0
    assert calls.sample[0].run.settings == Settings(**expected)


def test_seed_and_quiet_reach_the_sampler(photo: str, calls: Calls) -> None:
    assert vcut(photo, "--seed", "9223372036854775807", "--quiet") == 0
    assert [(call.seed, call.progress) for call in calls.sample] == [(2**63 - 1, False)]


def test_there_is_an_option_for_every_setting_but_two(photo: str, calls: Calls) -> None:
    """Churn is for programs, as are levels that have no name."""
    parser = options.Subcommand()
    group = parser.add_argument_group()
    options.add_settings(group, "defaults", "size", "after", "guidance", *options.FORMS)
    several = {"size": {"width", "height"}, "after_context": {"after"}, "guidance_min": {"guidance"}}
    offered = set().union(*(several.get(action.dest, {action.dest}) for action in group._group_actions))
    assert set(NAMES) - offered == {"churn", "seed", "clips"}
    assert options.settings(parser.parse_args([]), TINY, PRESETS["vcut"]) == Settings()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--preset baseline", {"preset": PRESETS["baseline"]}),
        ("--tca linear_cached --sca true", {"preset": choose_preset("vcut", "linear_cached", True)}),
        ("--preset lossless --tca false", {"preset": choose_preset("lossless", False, None)}),
        ("--dtype bfloat16 --vae-dtype float16", {"dtype": torch.bfloat16, "vae_dtype": torch.float16}),
        ("--vae-dtype float32 --decode-dtype float16", {"decode_dtype": torch.float16}),
        ("--device cpu --offload", {"device": "cpu", "offload": True}),
        ("", {"pack": True}),
        ("--no-pack", {"pack": False}),
        ("--pack matrices=blocks,filtering=2", {"pack": Packing(matrices="blocks", filtering="2")}),
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
    model, note, preset, sampling, seed, clip, sheet = capsys.readouterr().out.splitlines()
    assert model.startswith("model    tiny, float32 on cpu, loaded in ")
    assert note == "note     a note about the weights"
    assert preset == (
        "preset   vcut (lossy): temporal cross-attention dropped, 16 guided and 9 cut steps, 41 network passes"
    )
    assert sampling == "sampling 25 steps, guidance 1 to 3 (defaults: paper)"
    assert seed == "seed     3"
    assert clip.startswith(f"wrote    clip.mp4: 3 frames, 64x64, {TINY.fps} fps, seed 3, in ")
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
    assert f"preset   vcut (lossy): temporal cross-attention dropped, {expected}\n" in capsys.readouterr().out


def test_a_random_seed_is_printed_and_used(
    photo: str, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert vcut(photo, "--overwrite") == 0
        seed = calls.sample[-1].seed
        assert f"seed     {seed}\n" in capsys.readouterr().out
    assert calls.sample[0].seed != calls.sample[1].seed


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
        ("-o clips\\", "clips/photo.mp4"),
        ("-o ./- --frames 1", "-/000.png"),
        ("-o ~/clips/", "home/clips/photo.mp4"),
        ("-o photo.mp4 --sheet ~/sheet.png", "home/sheet.png"),
        ("--format gif", "photo.gif"),
        ("-o clips --format webp", "clips/photo.webp"),
        ("-o clips --format png --frames 1", "clips/photo/000.png"),
        ("--format png --frames 1", "photo/000.png"),
    ],
)
def test_where_a_clip_goes(photo: str, monkeypatch: pytest.MonkeyPatch, options: str, expected: str) -> None:
    Path("home").mkdir()
    monkeypatch.setenv("HOME", "home")
    assert vcut(photo, *options.split()) == 0
    assert files() == sorted({"photo.jpg", expected, *(["photo.mp4"] if "sheet" in options else [])})


def test_a_path_that_is_a_folder_takes_the_clip_whatever_its_name(photo: str) -> None:
    Path("clips.mp4").mkdir()
    assert vcut(photo, "-o", "clips.mp4") == 0
    assert files("clips.mp4") == ["photo.mp4"]


def test_the_rate_of_the_file_is_the_rate_of_the_model(photo: str) -> None:
    assert vcut(photo, "--fps", "12") == 0
    assert media.read("photo.mp4")[1] == 12


def test_several_clips_of_a_picture_have_consecutive_seeds(photo: str, calls: Calls) -> None:
    assert vcut(photo, "--clips", "3", "--seed", "10", "-o", "clips") == 0
    assert [call.seed for call in calls.sample] == [10, 11, 12]
    assert files("clips") == ["photo-0.mp4", "photo-1.mp4", "photo-2.mp4"]


def test_a_pictures_seeds_do_not_depend_on_its_neighbours(calls: Calls) -> None:
    for name in ("in/a.jpg", "in/b.png"):
        picture(name)
    assert vcut("in", "--clips", "2", "--seed", "5", "-o", "both") == 0
    assert vcut("in/b.png", "--clips", "2", "--seed", "5", "-o", "alone") == 0
    assert [call.seed for call in calls.sample] == [5, 6] * 3
    assert files("both") == ["a-0.mp4", "a-1.mp4", "b-0.mp4", "b-1.mp4"]
    assert files("alone") == ["b-0.mp4", "b-1.mp4"]


def test_a_folder_is_worked_through_and_what_exists_is_skipped(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("in/b.PNG", "in/a.jpg", "in/c.webp", "in/deeper/d.jpg"):
        picture(name)
    Path("in/notes.txt").write_text("not a picture")
    Path("out").mkdir()
    Path("out/b.mp4").write_bytes(b"made before")
    assert vcut("in", "-o", "out") == 0
    assert len(calls.sample) == 2
    assert "skipped  out/b.mp4 exists\n" in capsys.readouterr().out
    assert Path("out/b.mp4").read_bytes() == b"made before"
    assert files("out") == ["a.mp4", "b.mp4", "c.mp4"]
    assert len(calls.load) == 1

    assert vcut("in", "-o", "out") == 0  # nothing left: not even the model is loaded
    assert len(calls.load) == 1
    assert vcut("in", "-o", "out", "--overwrite") == 0
    assert len(calls.sample) == 5
    assert Path("out/b.mp4").read_bytes() != b"made before"


@pytest.mark.parametrize("options", ["", "-o in", "-o ./in/", "-o link/"])
def test_clips_of_a_folder_go_elsewhere(
    calls: Calls, capsys: pytest.CaptureFixture[str], options: str
) -> None:
    """A second run would take those beside the pictures for pictures."""
    picture("in/a.jpg")
    Path("link").symlink_to("in")
    assert vcut("in", "--format", "webp", *options.split()) == 2
    assert "folder of" in capsys.readouterr().err
    assert files("in") == ["a.jpg"]
    assert vcut("in", "-o", "in/clips/", "--format", "webp") == 0
    assert files("in") == ["a.jpg", "clips/a.webp"]


def test_pictures_of_one_name_keep_their_suffixes(calls: Calls) -> None:
    for name in ("in/a.jpg", "in/a.png", "in/a.jpg.png", "in/b.gif"):
        picture(name)
    expected = ["a.jpg.mp4", "a.jpg.png.mp4", "a.png.mp4", "b.mp4"]
    Path("out").mkdir()
    Path("out/a.mp4").write_bytes(b"made before there was a second one")
    for _ in range(2):
        assert vcut("in", "-o", "out") == 0
        assert files("out") == sorted(["a.mp4", *expected])
    assert len(calls.sample) == 4


def test_named_pictures_of_one_name_keep_their_suffixes_where_clips_meet(calls: Calls) -> None:
    names = [picture("in/a.jpg"), picture("in/a.png"), picture("other/a.jpg")]
    assert vcut(*names) == 0
    assert files("in") == ["a.jpg", "a.jpg.mp4", "a.png", "a.png.mp4"]
    assert files("other") == ["a.jpg", "a.mp4"]


@given(
    st.lists(
        st.text(st.sampled_from("a.1-"), min_size=1, max_size=5).filter(lambda s: not s.startswith(".")),
        min_size=1,
        max_size=6,
        unique=True,
    ),
    st.integers(1, 3),
)
def test_no_two_clips_of_a_folder_share_a_name(names: list[str], clips: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "in")
        place.mkdir()
        for name in names:
            place.joinpath(f"{name}.png").touch()
            place.joinpath(f"{name}.png.jpg").touch()
        work = find_work([place], Outputs(f"{folder}/out"), seed=0, clips=clips)
    assert len({job.output for job in work.jobs}) == 2 * len(names) * clips


def test_a_broken_picture_of_a_folder_is_skipped_and_the_others_are_made(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    picture("in/a.jpg")
    Path("in/b.jpg").write_text("not a picture")
    picture("in/c.jpg")
    assert vcut("in", "-o", "out", "--clips", "2") == 2
    assert files("out") == ["a-0.mp4", "a-1.mp4", "c-0.mp4", "c-1.mp4"]
    assert capsys.readouterr().err.splitlines() == [
        "vcut: skipped: in/b.jpg is not a picture that can be read",
        "vcut: error: 2 of 6 clips could not be made",
    ]


def test_pictures_of_a_folder_are_taken_by_number_and_those_that_are_not_are_named(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("10.jpg", "2.jfif", "1.jp2", "a.tga"):
        picture(f"in/{name}")
    for name in ("b.heic", "._2.jfif", "notes.txt"):
        Path(f"in/{name}").touch()
    assert vcut("in", "-o", "out", "--quiet") == 0
    assert files("out") == ["1.mp4", "10.mp4", "2.mp4", "a.mp4"]
    assert "vcut: passed over in/b.heic: save it as JPEG or PNG" in capsys.readouterr().err.splitlines()


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
    assert len(calls.sample) == 2


def test_a_picture_by_several_paths_gives_one_clip(calls: Calls) -> None:
    picture("in/a.jpg")
    Path("link").symlink_to("in")
    assert vcut("in/a.jpg", "link/a.jpg", "in/../in/a.jpg") == 0
    assert vcut("in", "link", "link/a.jpg", "-o", "out/") == 0
    assert (files("in"), files("out")) == (["a.jpg", "a.mp4"], ["a.mp4"])
    assert len(calls.sample) == 2


def test_pictures_of_one_folder_by_two_names_keep_their_suffixes_where_clips_meet(calls: Calls) -> None:
    picture("in/a.jpg")
    picture("in/a.png")
    Path("link").symlink_to("in")
    assert vcut("in/a.jpg", "link/a.png") == 0
    assert files("in") == ["a.jpg", "a.jpg.mp4", "a.png", "a.png.mp4"]


@pytest.mark.parametrize(
    "names", [("A.jpg", "a.png"), ("caf\u00e9.jpg", "cafe\u0301.png"), ("straße.jpg", "STRASSE.png")]
)
def test_names_that_some_disks_take_for_one_keep_their_suffixes(calls: Calls, names: tuple[str, str]) -> None:
    for name in names:
        picture(f"in/{name}")
    assert vcut("in", "-o", "out") == 0
    assert files("out") == sorted(f"{name}.mp4" for name in names)


def test_where_two_names_are_one_file_the_first_clip_is_kept(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As ``A.jpg`` and ``a.jpg`` give on a disk that ignores capitals: here that is told of the disk."""

    def identity(path: str) -> object:
        name = Path(path).name.casefold()
        return name if name in map(str.casefold, files("out")) else None

    for name in ("in/A.jpg", "in/a.jpg"):
        picture(name)
    monkeypatch.setattr("vcut.sweeps.runner.identity", identity)
    assert vcut("in", "-o", "out", "--overwrite") == 2
    assert files("out") == ["A.jpg.mp4"]
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "vcut: skipped: out/a.jpg.mp4 is one file with out/A.jpg.mp4 on this disk: rename a picture",
        "vcut: error: 1 of 2 clips could not be made",
    ]


@pytest.mark.parametrize("length", [236, 246, 251])
def test_a_name_that_just_fits_is_written(calls: Calls, length: int) -> None:
    picture("in/a.jpg")
    picture(f"in/{'x' * (length - 3)}.png")
    assert vcut("in", "-o", "out") == 0
    assert files("out") == sorted(["a.mp4", f"{'x' * (length - 3)}.mp4"])


def test_a_name_that_no_file_can_have_stops_no_other_clip(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    picture("in/a.jpg")
    picture(f"in/{'x' * 251}.png")
    assert vcut("in", "-o", "out", "--format", "webp") == 2
    assert files("out") == ["a.webp"]
    skipped, error = capsys.readouterr().err.splitlines()
    assert skipped.endswith(f"{'x' * 251}.webp cannot be written: File name too long")
    assert error == "vcut: error: 1 of 2 clips could not be made"


def test_clips_that_another_command_makes_meanwhile_are_skipped(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other is faster by one clip: it finishes the one that is being made, and the one after it."""
    for name in ("in/a.jpg", "in/b.jpg", "in/c.jpg"):
        picture(name)
    sample = Stub.sample_latents

    def overtaken(self: Stub, *args: Any, **options: Any) -> torch.Tensor:
        if len(self.calls.sample) == 0:
            for name in "ab":
                Path(f"out/{name}.mp4").write_bytes(b"theirs")
        return sample(self, *args, **options)

    monkeypatch.setattr(Stub, "sample_latents", overtaken)
    Path("out").mkdir()
    assert vcut("in", "-o", "out") == 0
    said = capsys.readouterr().out
    assert [f"skipped  out/{name}.mp4 exists\n" in said for name in "abc"] == [True, True, False]
    assert len(calls.sample) == 2
    assert [Path(f"out/{name}.mp4").read_bytes() == b"theirs" for name in "abc"] == [True, True, False]


def test_one_clip_that_another_command_makes_meanwhile_is_a_fault(
    photo: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def overtaken(self: Stub, *args: Any, **options: Any) -> torch.Tensor:
        Path("clip.mp4").write_bytes(b"theirs")
        return torch.zeros(1, 3, 3, 32, 32)

    monkeypatch.setattr(Stub, "sample_latents", overtaken)
    assert vcut(photo, "-o", "clip.mp4") == 2
    assert "clip.mp4 exists already" in capsys.readouterr().err
    assert Path("clip.mp4").read_bytes() == b"theirs"


def test_what_a_killed_run_left_is_removed_also_where_nothing_is_left_to_do(photo: str, calls: Calls) -> None:
    room = Path("out/.vcut-a8_bcdef/new")
    room.mkdir(parents=True)
    (room / "photo.mp4").write_text("half")
    (room.parent / "lock").touch()
    Path("out/photo-0.mp4").touch()
    Path("out/photo-1.mp4").touch()
    assert vcut(photo, "--clips", "2", "-o", "out/") == 0
    assert calls.load == []
    assert [path.name for path in sorted(Path("out").iterdir())] == ["photo-0.mp4", "photo-1.mp4"]


def test_a_folder_that_is_removed_meanwhile_is_made_again(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("in/a.jpg", "in/b.jpg"):
        picture(name)
    sample = Stub.sample_latents

    def removed(self: Stub, *args: Any, **options: Any) -> torch.Tensor:
        shutil.rmtree("out", ignore_errors=True)
        return sample(self, *args, **options)

    monkeypatch.setattr(Stub, "sample_latents", removed)
    assert vcut("in", "-o", "out") == 0
    assert files("out") == ["b.mp4"]


def test_a_clip_that_is_moved_away_at_once_stops_no_other(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("in/a.jpg", "in/b.jpg", "in/c.jpg"):
        picture(name)
    write = media.write

    def moved(frames: Any, path: Any, *args: Any, **options: Any) -> None:
        Path(write(frames, path, *args, **options)).unlink()

    monkeypatch.setattr("vcut.media.write", moved)
    assert vcut("in", "-o", "out") == 0
    assert len(calls.sample) == 3
    assert "done     3 clips in " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "times"), [("--size 1024x576", "144"), ("--frames 100", "7"), ("--size 128x64", None)]
)
def test_a_run_far_beyond_the_model_is_warned_about_first(
    photo: str, capsys: pytest.CaptureFixture[str], options: str, times: str | None
) -> None:
    assert vcut(photo, *options.split(), "-o", "frames") == 0
    warnings = capsys.readouterr().err
    if times is None:
        assert "note" not in warnings
    else:
        assert "vcut: note: tiny was made for 14 frames of 64x64: " in warnings
        assert f" are {times} times as many pixels" in warnings


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--guidance-interval 1000 2000", "cut, 700 to 3.87, none is in the guidance interval 1000 to 2000"),
        ("--preset fast --cut 3", "cut, 700 to 54.5, none is in the guidance interval 0.3 to 25"),
        ("--guidance-interval 1 2 --steps 1", "cut, 700 to 700, none is in the guidance interval 1 to 2"),
        ("--guidance-interval 1000 2000 --guidance-max 1", None),
        ("--guidance-interval 600 2000", None),
        ("--cut 1", None),
        ("--preset fast --cut 1", None),
    ],
)
def test_an_interval_that_guides_no_step_is_noted(
    photo: str, capsys: pytest.CaptureFixture[str], options: str, says: str | None
) -> None:
    """A cut at step 1, or guidance 1, says by itself that nothing is guided."""
    assert vcut(photo, *options.split()) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vcut: note: no step")]
    assert notes == (
        [f"vcut: note: no step is guided: of the noise levels before the {says}"] if says else []
    )


@pytest.mark.parametrize(
    ("options", "slow"),
    [
        ("--vae-dtype float16", "--vae-dtype float16"),
        ("--decode-dtype float16", "--decode-dtype float16"),
        ("--vae-dtype float16 --decode-dtype float16", "--vae-dtype float16 and --decode-dtype float16"),
        ("--vae-dtype bfloat16", None),
    ],
)
def test_a_number_type_that_the_cpu_lacks_is_noted_for_the_option_that_asks_for_it(
    photo: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: str,
    slow: str | None,
) -> None:
    monkeypatch.setattr("vcut.kernels.runtime.is_emulated", lambda dtype: dtype == torch.float16)
    assert vcut(photo, *options.split()) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if "no arithmetic" in line]
    says = f"note     this CPU has no arithmetic for {slow}: float32 is several times faster"
    assert notes == ([says] if slow else [])


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

    def decode(_: Stub, given: torch.Tensor, chunk: int) -> torch.Tensor:
        assert given is latents
        chunks.append(chunk)
        if chunk > 2:
            raise OutOfMemoryError("decoding does not fit", latents)
        return torch.zeros(1, 9, 3, 16, 16)

    monkeypatch.setattr(Stub, "sample_latents", lambda *_, **__: latents)
    monkeypatch.setattr(Stub, "decode", decode)
    assert vcut(photo, "--frames", "9", "-o", "clip.mp4") == 0
    assert chunks == [14, 4, 2]
    assert "now 2 frames at a time" in capsys.readouterr().out
    assert media.read("clip.mp4")[0].shape[0] == 9


def test_what_cannot_be_combined_is_refused(photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert vcut(photo, "--compile", "--offload") == 2
    assert "exclude each other" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "said", "threads"), [("tiny", None, 1), ("tiny", "7", 7), ("svd-xt", None, 7)]
)
def test_small_layers_are_for_one_thread(
    monkeypatch: pytest.MonkeyPatch, config: str, said: str | None, threads: int
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert models.threads(CONFIGS[config]) == threads


@pytest.mark.parametrize(
    ("environment", "options", "expected"),
    [
        ({}, [], [1, "two halves"]),
        ({}, ["--compile"], [1]),
        ({"OMP_NUM_THREADS": "7"}, [], []),
    ],
)
def test_small_models_are_computed_by_two_threads_of_one_each(
    photo: str,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    options: list[str],
    expected: list[object],
) -> None:
    found: list[object] = []

    def halved(pipe: Pipeline) -> Pipeline:
        found.append("two halves")
        return pipe

    monkeypatch.setattr("vcut.parallel.on_two_threads", halved)
    monkeypatch.setattr(Stub, "unet", SimpleNamespace(dtype=torch.float32, compile=lambda: None))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.setattr(torch, "set_num_threads", found.append)
    monkeypatch.setattr("vcut.kernels.runtime.keep_within_quota", lambda: None)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    assert vcut(photo, "-o", "clip.gif", *options) == 0
    assert found == expected

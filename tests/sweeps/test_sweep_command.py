"""``vcut sweep``: what its options ask for, what it says, and how it ends."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from micro import MICRO
from model_files import write
from sweep_stub import Stub, make_pictures

from vcut import cli
from vcut.layers import Packing
from vcut.loading import random_model
from vcut.sweeps import manifest, sweep
from weights_tools.tensor_file import save


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Presets that models were loaded in; in a folder with three pictures, far from any cluster."""
    presets: list[str] = []

    def load(model: Any, *, preset: Any, **options: Any) -> Stub:
        presets.append(preset.name)
        return Stub(preset)

    monkeypatch.setattr("vcut.loading.load", load)
    for name in [name for name in os.environ if name.startswith("SLURM") or name in ("RANK", "WORLD_SIZE")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    make_pictures(Path("pictures"), 3)
    return presets


def vcut_sweep(*words: str) -> int:
    return cli.main(["sweep", "pictures", "-o", "OUT", *words])


def test_presets_and_cuts_are_compared_with_the_same_seeds(
    loaded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = (
        "--preset",
        "baseline",
        "--preset",
        "vcut",
        "--cut",
        "10",
        "--cut",
        "17",
        "--clips",
        "2",
        "--seed",
        "3",
    )
    assert vcut_sweep(*words, "--steps", "20") == 0
    assert loaded == ["baseline", "vcut"]
    records = manifest.read(Path("OUT"))
    assert [record.key for record in records] == [
        (setting, f"picture {i}", index)
        for setting in ("baseline", "vcut-c10", "vcut-c17")
        for i in range(3)
        for index in range(2)
    ]
    assert all(record.seed == sweep.seed_of(record.name, record.index, 3) for record in records)
    assert {str(record.settings) for record in records} == {
        "{'steps': 20}",
        "{'steps': 20, 'cut': 10}",
        "{'steps': 20, 'cut': 17}",
    }
    out, err = capsys.readouterr()
    assert "setting  vcut-c10: 20 steps, guidance 1 to 3\n" in out
    assert "sweep    18 clips in OUT, 0 of them there already" in out
    assert out.count("made     ") == 18
    assert err == ""
    assert vcut_sweep(*words, "--steps", "20") == 0
    assert "sweep    18 clips in OUT, 18 of them there already" in capsys.readouterr().out
    assert vcut_sweep(*words, "--steps", "21") == 2
    assert (
        "baseline/picture 0-0.mp4 is of another sweep: its steps is 20, asked for is 21"
        in capsys.readouterr().err
    )


def test_the_precision_of_products_is_set_and_recorded(
    loaded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    assert vcut_sweep("--steps", "2", "--matmul-precision", "medium") == 0
    whole = manifest.read_sweep(Path("OUT"))
    assert whole is not None
    assert whole.dtypes["matmul"] == "medium"
    assert asked == ["medium"]


def test_a_fine_tuned_unet_is_recorded_and_another_one_is_of_another_sweep(
    loaded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    base, tuned = random_model(MICRO, seed=0), random_model(MICRO, preset="baseline", seed=1).unet
    write(base, Path("base.safetensors"))
    for name in ("one", "two"):
        save(Path(f"{name}.safetensors"), tuned.state_dict(), {"name": name})
    words = ("--model", "base.safetensors", "--preset", "baseline", "--steps", "2")
    one, two = ((*words, "--unet", f"{name}.safetensors") for name in ("one", "two"))
    assert vcut_sweep(*one) == 0
    whole, records = manifest.read_sweep(Path("OUT")), manifest.read(Path("OUT"))
    assert whole is not None
    assert {whole.unet, *(record.unet for record in records)} == {"one.safetensors"}
    files = [Path("base.safetensors"), Path("one.safetensors")]
    assert {record.weights_sha256 for record in records} == {sweep.weights_sha256(files)}
    capsys.readouterr()
    for other in (two, words):
        assert vcut_sweep(*other) == 2
        assert "baseline/picture 0-0.mp4 is of another sweep: its weights is " in capsys.readouterr().err
    assert vcut_sweep(*one) == 0
    assert "3 of them there already" in capsys.readouterr().out


@pytest.mark.slow
def test_a_dry_run_says_what_is_left_and_loads_and_writes_nothing(
    loaded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--preset", "baseline", "--preset", "vcut", "--clips", "2")
    assert vcut_sweep(*words, "--dry-run") == 0
    assert not Path("OUT").exists()
    rows = {line.split()[0]: line.split()[1:5] for line in capsys.readouterr().out.splitlines() if line}
    assert rows["baseline"] == ["6", "0", "6", "300"]
    assert rows["vcut"] == ["6", "0", "6", "246"]
    assert rows["all"] == ["12", "0", "12", "546"]
    assert vcut_sweep("--preset", "vcut") == 0
    capsys.readouterr()
    assert vcut_sweep(*words, "--dry-run") == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line}
    assert rows["vcut"][:4] == ["6", "3", "3", "123"]
    size = sum(record.bytes for record in manifest.read(Path("OUT")))
    assert rows["vcut"][5] == f"{size / 1e6:.2f}"
    assert loaded == ["vcut"]


@pytest.mark.slow
def test_a_published_model_is_priced_before_it_is_looked_for(
    loaded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert vcut_sweep("--model", "svd-xt", "--preset", "baseline", "--keep-latents", "--dry-run") == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("baseline"))
    assert line.split()[4] == "150"
    clips, megabytes = 3, 25 * 576 * 1024 / 8 / 1e6 + 25 * 4 * 72 * 128 * 4 / 1e6
    assert line.split()[-1] == f"{clips * megabytes:.2f}"


@pytest.mark.parametrize(("option", "kernels"), [("--quiet", "packed"), ("--no-pack", "plain")])
def test_the_kernels_are_recorded(loaded: list[str], option: str, kernels: str) -> None:
    assert vcut_sweep(option) == 0
    assert json.loads(Path("OUT/sweep.json").read_text())["kernels"] == kernels


@pytest.mark.parametrize(("options", "threads"), [((), 1), (("--threads", "3"), 3)])
def test_the_threads_are_recorded_and_kept(
    loaded: list[str], options: tuple[str, ...], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new sweep of a small model takes one; a sweep that was begun goes on with its own."""
    found: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", found.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert vcut_sweep(*options) == 0
    assert vcut_sweep("--clips", "2") == 0
    assert json.loads(Path("OUT/sweep.json").read_text())["threads"] == threads
    assert set(found) == {threads}


@pytest.mark.parametrize(
    ("options", "packing"),
    [
        ("--quiet", Packing()),
        ("--pack matrices=blocks,filtering=2", Packing(matrices="blocks", filtering="2")),
        ("--no-pack", None),
        ("--compile", None),
        ("--offload", None),
    ],
)
def test_the_forms_of_packed_weights_are_recorded(
    loaded: list[str], options: str, packing: Packing | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stub, "unet", SimpleNamespace(dtype=torch.float32, compile=lambda: None))
    assert vcut_sweep(*options.split(), "--device", "cpu") == 0
    assert json.loads(Path("OUT/sweep.json").read_text())["packing"] == (packing and str(packing))


def test_the_forms_are_those_that_the_sweep_began_with(
    loaded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    other = Packing(matrices="plain" if Packing().matrices == "blocks" else "blocks")
    assert vcut_sweep("--pack", str(other), "--device", "cpu") == 0
    assert "packed as" not in capsys.readouterr().err
    assert vcut_sweep("--device", "cpu") == 0
    says = f"note: packed as the sweep began, {other}; faster here may be {Packing()}"
    assert says in capsys.readouterr().err
    assert json.loads(Path("OUT/sweep.json").read_text())["packing"] == str(other)
    for _ in range(2):
        assert vcut_sweep("--pack", str(Packing()), "--device", "cpu") == 2
        assert "its packing is" in capsys.readouterr().err
        # then the manifest says the rest
        Path("OUT/sweep.json").unlink(missing_ok=True)
    assert vcut_sweep("--device", "cpu") == 0
    assert json.loads(Path("OUT/sweep.json").read_text())["packing"] == str(other)


def test_forms_that_are_none_are_refused_with_the_name_of_the_file(
    loaded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert vcut_sweep("--device", "cpu") == 0
    file = Path("OUT/sweep.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"packing": "matrices=rows"}))
    assert vcut_sweep("--device", "cpu") == 2
    says = "OUT/sweep.json: packing: matrices: expected blocks or plain, got 'rows'"
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", ["--enlarge 2", "--vae-dtype bfloat16", "--threads 2", "--no-pack", "--matmul-precision high"]
)
def test_a_damaged_sweep_json_can_be_removed_as_the_message_says(
    option: str, loaded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert vcut_sweep("--steps", "2", "--threads", "3", "--device", "cpu") == 0
    file = Path("OUT/sweep.json")
    file.write_text("{")
    assert vcut_sweep("--steps", "2", "--device", "cpu") == 2
    assert (
        "or remove it, which is enough if the manifests say the dtypes of each clip"
        in capsys.readouterr().err
    )
    file.unlink()
    assert vcut_sweep("--steps", "2", "--device", "cpu", *option.split()) == 2
    assert "vcut/picture 0-0.mp4 is of another sweep: its " in capsys.readouterr().err
    assert not file.exists()
    assert vcut_sweep("--steps", "2", "--device", "cpu", "--clips", "2") == 0
    assert "3 of them there already" in capsys.readouterr().out
    assert json.loads(file.read_text())["threads"] == 3


def test_beside_a_process_at_work_nothing_is_written(
    loaded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert vcut_sweep("--steps", "2", "--clips", "1") == 0
    Path("OUT/manifest.jsonl").write_text("")
    before = Path("OUT/sweep.json").read_bytes()
    with manifest.alone(Path("OUT/manifest.jsonl")):
        assert vcut_sweep("--steps", "2", "--enlarge", "2") == 2
        assert "another process is at work on OUT/manifest.jsonl" in capsys.readouterr().err
        assert Path("OUT/sweep.json").read_bytes() == before


@pytest.mark.parametrize(
    "words",
    [
        "--fps 12",
        "--size 64x64",
        "--frames 14",
        "--motion-bucket 127",
        "--sequential",
        "--decode-chunk none",
        "--guidance-min 1 --guidance-max 3 --noise-aug 0.02",
    ],
)
def test_a_default_may_be_said_and_left_out(
    words: str, loaded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert vcut_sweep("--steps", "2") == 0
    assert vcut_sweep("--steps", "2", *words.split()) == 0
    assert "3 of them there already" in capsys.readouterr().out
    assert vcut_sweep("--steps", "2") == 0
    assert "3 of them there already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--fps 11", "its fps is 12, asked for is 11"),
        ("--frames 13", "its frames is 14, asked for is 13"),
        ("--decode-chunk 13", "its decode_chunk is 14, asked for is 13"),
        ("--steps 3", "its steps is 2, asked for is 3"),
        ("--guidance-max 2", "its guidance is Ramp(minimum=1.0, maximum=3.0"),
    ],
)
def test_what_the_run_makes_of_it_is_compared(
    words: str, says: str, loaded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert vcut_sweep("--steps", "2") == 0
    assert vcut_sweep("--steps", "2", *words.split()) == 2
    assert says in capsys.readouterr().err


def test_damaged_settings_are_refused_by_line(loaded: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert vcut_sweep("--steps", "2") == 0
    record = manifest.read(Path("OUT"))[1]
    manifest.append(Path("OUT/manifest.jsonl"), dataclasses.replace(record, settings={"steps": "x"}))
    says = "OUT/manifest.jsonl, line 4: damaged settings: steps must be a whole number"
    for words in (["sweep", "pictures", "-o", "OUT", "--steps", "2"], ["score", "OUT", "--device", "cpu"]):
        assert cli.main(words) == 2
        err = capsys.readouterr().err.splitlines()
        assert err[-1].startswith(f"vcut: error: {says}")


@pytest.mark.parametrize("fault", ["cut off", "changed", "gone"])
def test_damaged_latents_are_made_again(
    fault: str, loaded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--steps", "2", "--keep-latents", "--preset", "baseline", "--preset", "vcut")
    assert vcut_sweep(*words) == 0
    kept = Path("OUT/vcut/latents/picture 1-0.safetensors")
    whole = kept.read_bytes()
    kept.unlink()
    if fault != "gone":
        kept.write_bytes(whole[:-9] if fault == "cut off" else whole[:-1] + b"x")
    capsys.readouterr()
    score = ["score", "OUT", "--device", "cpu", "--quiet"]
    assert cli.main(score) == 2
    says = f"{kept} has not the latents of the manifest, or is gone: run the sweep again"
    skipped, failed = (line for line in capsys.readouterr().err.splitlines() if "note" not in line)
    assert skipped == f"vcut: skipped: {says}"
    assert failed.startswith("vcut: error: 1 of 6 clips could not be scored")
    for options in (("--keep-latents",), ()):
        assert vcut_sweep(*words[:2], *words[3:], *options) == 0
        assert "5 of them there" in capsys.readouterr().out if options else True
    assert kept.read_bytes() == whole
    assert cli.main(score) == 0


def test_settings_far_beyond_the_model_are_noted_once(
    loaded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert vcut_sweep("--size", "160x128", "--preset", "baseline", "--preset", "vcut") == 0
    (note,) = capsys.readouterr().err.splitlines()
    assert note.startswith(
        "vcut: note: tiny was made for 14 frames of 64x64: 14 of 160x128 are 5 times as many pixels"
    )


def test_an_interval_that_guides_no_step_is_noted_once(
    loaded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        vcut_sweep("--preset", "baseline", "--preset", "lossless", "--guidance-interval", "1e3", "2e3") == 0
    )
    (note,) = capsys.readouterr().err.splitlines()
    assert note.endswith("none is in the guidance interval 1000 to 2000")


def test_a_toml_file_names_the_settings(loaded: list[str]) -> None:
    Path("settings.toml").write_text('[whole]\npreset = "baseline"\n[mine]\ntca = true\ncut = 9\nsteps = 10')
    assert vcut_sweep("--settings", "settings.toml", "--steps", "30") == 0
    settings = json.loads(Path("OUT/sweep.json").read_text())["settings"]
    assert settings["whole"] == {"preset": "baseline", "tca": True, "sca": True, "settings": {"steps": 30}}
    assert settings["mine"]["settings"] == {"steps": 10, "cut": 9}
    assert loaded == ["baseline", "vcut*"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--settings", "settings.toml", "--cut", "3"), "--preset and --cut do not go with it"),
        (("--shard", "3/3"), "expected I/N with I from 0 to N - 1, as in 0/3, got '3/3'"),
        (("--shard", "1"), "expected I/N"),
        (("--cpus-per-worker", "2"), "--cpus-per-worker goes with --ray"),
        (("--suite", "full"), "go with VBench's JSON file"),
        (("--clips", "1000000000"), "expected a whole number from 1 to 10000"),
        (("-o", "pictures"), "--output pictures is the folder of the pictures"),
        (
            (
                "--size",
                "33x32",
            ),
            "setting vcut: width 33 is not a multiple of 8",
        ),
        (("--preset", "lossless", "--cut", "3"), "--cut goes with --preset vcut"),
        (("--fps", "7", "--steps", "5", "--cut", "9"), "cut must be a whole number from 1 to 6, got 9"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line_before_anything(
    words: tuple[str, ...], says: str, loaded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert vcut_sweep(*words) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.startswith("vcut: error: ")
    assert err.count("\n") == 1
    assert not Path("OUT").exists()
    assert loaded == []


def test_shards_write_manifests_of_their_own_and_share_one_sweep(
    loaded: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vcut_sweep("--clips", "2", "--shard", "1/2") == 0
    assert sorted(path.name for path in Path("OUT").iterdir()) == [
        "manifest-1-of-2.jsonl",
        "sweep.json",
        "vcut",
    ]
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    capsys.readouterr()
    assert vcut_sweep("--clips", "2") == 0
    assert "shard    0 of 2, from RANK and WORLD_SIZE" in capsys.readouterr().out
    assert len(manifest.read(Path("OUT"))) == 6
    assert vcut_sweep("--clips", "2", "--shard", "9/10") == 0
    assert "note: there are 10 shards, and only 6 clips" in capsys.readouterr().err


def test_a_bad_picture_ends_with_2_except_where_that_would_end_other_ranks(
    loaded: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("pictures/picture 1.png").write_text("no picture")
    assert vcut_sweep("--clips", "2") == 2
    err = capsys.readouterr().err.splitlines()
    assert err[0].startswith("vcut: skipped vcut/picture 1-0.mp4: pictures/picture 1.png ")
    assert err[1] == "vcut: error: 2 of 6 clips are missing: vcut/picture 1-0.mp4, vcut/picture 1-1.mp4"
    assert len(err) == 2
    # torchrun stops all ranks when one has failed, and with the same picture it would stop them at every start
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert vcut_sweep("--clips", "2") == 0
    assert "vcut: 1 of 3 clips are missing: vcut/picture 1-0.mp4" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_said_before_the_model_is_loaded(
    loaded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("OUT").write_text("a file")
    assert vcut_sweep() == 2
    assert capsys.readouterr().err == "vcut: error: the folder OUT cannot be made: File exists\n"
    assert loaded == []


def test_latents_are_kept_when_asked_for(loaded: list[str]) -> None:
    assert vcut_sweep("--keep-latents", "--enlarge", "2") == 0
    records = manifest.read(Path("OUT"))
    assert all((Path("OUT") / (record.latents or "none")).exists() for record in records)
    assert {(record.height, record.width) for record in records} == {(128, 128)}


def test_each_rank_of_a_machine_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from vcut.cli.sweep import _own_device

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.delenv("SLURM_LOCALID", raising=False)
    assert _own_device(None) is None
    monkeypatch.setenv("SLURM_LOCALID", "1")
    assert _own_device(None) == "cuda:1"
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert _own_device(None) == "cuda:0"
    assert _own_device("cpu") == "cpu"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly_and_it_goes_on(
    number: signal.Signals,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_pictures(tmp_path / "pictures", 6)
    words = ["sweep", "pictures", "-o", "OUT", "--steps", "2", "--frames", "1", "--device", "cpu"]
    inherited = signal.signal(
        number, signal.SIG_DFL
    )  # a shell in the background ignores SIGINT, and so would it
    process = subprocess.Popen(
        [sys.executable, "-m", "vcut", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(number, inherited)
    with process:
        assert process.stdout is not None
        assert next(line for line in process.stdout if line.startswith("made"))
        process.send_signal(number)
        _, err = process.communicate()
    made = len(manifest.read(tmp_path / "OUT"))
    assert process.returncode == 128 + number
    assert err.splitlines() == [
        f"vcut: {made} of 6 clips are safe in OUT, and the same command goes on from there",
        "vcut: interrupted",
    ]
    assert 1 <= made < 6
    assert not list(tmp_path.rglob(".*"))
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 0
    assert f"sweep    6 clips in OUT, {made} of them there already" in capsys.readouterr().out

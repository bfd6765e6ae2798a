"""Bad command lines: exit code 2, one line on stderr that names the fault, before the model is loaded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vcut import cli
from vcut.errors import NotFiniteError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def workplace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with a photo, a clip, and other things; loading a model here is a failure."""

    def load(*args: object, **options: object) -> None:
        raise AssertionError("the model was loaded before the fault was found")

    monkeypatch.setattr("vcut.loading.load", load)
    monkeypatch.chdir(tmp_path)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
    photo.save("photo.jpg")
    photo.save("still.webp")
    Path("cut.jpg").write_bytes(Path("photo.jpg").read_bytes()[:700])
    Path("text.jpg").write_text("hello")
    Path("clip.mp4").write_bytes(b"precious")
    Path("sheet.png").write_bytes(b"precious")
    Path("weights.ckpt").touch()
    Path("broken.safetensors").write_bytes(b"broken")
    for folder in ("empty", "twins", "bad", "work", "frames", "phone"):
        Path(folder).mkdir()
    Path("phone/a.heic").touch()
    os.mkfifo("pipe.png")
    Path("postscript.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    photo.save("frames/000.png")
    Path("link.webp").symlink_to("still.webp")
    Path("hard.webp").hardlink_to("still.webp")
    Path("linked").symlink_to(".")
    photo.save("twins/a.jpg")
    photo.save("twins/a.png")
    for name in ("a", "b"):
        Path(f"bad/{name}.jpg").write_text("hello")
    Path("work/thesis.tex").touch()
    return tmp_path


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {str(p): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


FAULTS = {
    "": "the following arguments are required: COMMAND",
    "make": "invalid choice: 'make'",
    "generate": "the following arguments are required: PICTURE",
    "photo.jpg": "there is no command 'photo.jpg': did you mean vcut generate photo.jpg?",
    "missing.jpg -o x.mp4": "did you mean vcut generate missing.jpg?",
    "twins": "did you mean vcut generate twins?",
    "generate photo.jpg --frame 3": "unrecognized arguments: --frame 3: did you mean --frames? (see vcut gener",
    "cost --preset vcut extra more": "unrecognized arguments: more (see vcut cost --help)",
    "--verbos generate photo.jpg": "did you mean --verbose? (see vcut --help)",
    "generate gone\x1b[31m.jpg": r"gone\x1b[31m.jpg: no such file",
    "generate photo.jpg --steps": "expected one argument",
    # pictures
    "generate missing.jpg": "missing.jpg: no such file",
    "generate text.jpg": "text.jpg is not a picture",
    "generate cut.jpg": "cut.jpg is cut short or damaged",
    "generate photo.jpg missing.jpg": "missing.jpg: no such file",
    "generate pipe.png": "pipe.png is a pipe",
    "generate postscript.png": "postscript.png is not a picture",
    "generate phone -o work": "but a.heic, which is of a format that is not taken",
    # what a format holds
    "generate photo.jpg -o new.webp --enlarge 600": "new.webp: .webp holds at most 16383 pixels a side, got 38",
    "generate photo.jpg -o new.gif --enlarge 3000": "new.gif: .gif holds at most 65535 pixels a side",
    "generate photo.jpg -o new.mp4 --enlarge 600": "new.mp4: .mp4 holds at most 16384 pixels a side",
    "generate photo.jpg -o new --enlarge 1500": "new: 14 frames of 96000x96000 take 360.5 GiB",
    "generate photo.jpg -o new/ --format png --enlarge 1500": "14 frames of 96000x96000 take 360.5 GiB",
    "generate empty -o work": "there are no pictures in this folder",
    # outputs
    "generate photo.jpg -o clip.mp4": "clip.mp4 exists already",
    "generate photo.jpg -o new.avi": "a clip is .mp4, .gif, .webp",
    "generate photo.jpg -o new.png": "a single .png holds one picture",
    "generate photo.jpg -o nowhere/new.mp4": "there is no folder nowhere",
    "generate photo.jpg -o new.mp4 --format gif": "contradict each other",
    "generate photo.jpg -o new.mp4 --clips 2": "is one file for several clips",
    "generate twins -o new.mp4": "is one file for several clips",
    "generate photo.jpg -o text.jpg/deep": "there is no folder text.jpg",
    "generate photo.jpg -o text.jpg/deep/": "text.jpg is not a writable folder",
    "generate photo.jpg -o work": "work exists already; choose another name or overwrite it",
    "generate photo.jpg -o ./work": "; ./work/ puts the clip into it",
    "generate photo.jpg -o work --overwrite": "work is not a folder of PNG frames only and is not overwritten",
    "generate photo.jpg -o frames": "frames exists already",
    "generate frames/000.png -o frames --overwrite": "would replace the picture frames/000.png",
    "generate photo.jpg -o -": "clips are not written to stdout: expected a path (./- is one)",
    f"generate photo.jpg -o {'x' * 252}.mp4": "cannot be written: File name too long",
    f"generate photo.jpg -o new/{'x' * 256}/": "cannot be written: File name too long",
    f"generate photo.jpg --sheet {'x' * 252}.png": "cannot be written: File name too long",
    "generate photo.jpg -o v1.0": "a folder whose name has a dot needs a / at its end",
    "generate photo.jpg -o sheet.png/deep/": "sheet.png is not a writable folder",
    "generate twins/a.jpg bad/a.jpg -o work/": "twins/a.jpg and bad/a.jpg would both become work/a.jpg.mp4",
    "generate twins": "twins is a folder of pictures: say where the clips go",
    "generate twins -o twins/": "twins/ is the folder of the pictures",
    "generate twins bad -o bad": "bad is the folder of the pictures",
    "generate still.webp -o still.webp --overwrite": "would replace the picture still.webp",
    "generate still.webp -o work/../still.webp --overwrite": "would replace the picture still.webp",
    "generate still.webp -o link.webp --overwrite": "would replace the picture still.webp",
    "generate hard.webp -o still.webp --overwrite": "would replace the picture hard.webp",
    "generate photo.jpg still.webp --format webp -o linked/ --overwrite": "would replace the picture still.webp",
    "generate still.webp --format webp --overwrite": "would replace the picture still.webp",
    "generate twins/a.png -o new.mp4 --sheet twins/a.png --overwrite": "would replace the picture twins/a.png",
    "generate twins/a.png -o new.mp4 --sheet linked/twins/a.png --overwrite": "would replace the picture twins/a.png",
    "generate photo.jpg -o ./new.png --sheet new.png": "a single .png holds one picture",
    "generate photo.jpg --format mov": "invalid choice: 'mov'",
    "generate photo.jpg --sheet sheet.jpg": "a contact sheet is a .png",
    "generate photo.jpg --sheet sheet.png": "sheet.png exists already",
    "generate photo.jpg --sheet nowhere/sheet.png": "there is no folder nowhere",
    "generate photo.jpg --clips 2 --sheet new.png": "--sheet goes with one clip",
    "generate photo.jpg -o new.gif --fps 51": "at most 50 frames per second",
    "generate photo.jpg --fps 241": "--fps: expected a whole number from 1 to 240, got '241'",
    "generate text.jpg cut.jpg": "2 pictures cannot be used: text.jpg is not a picture",
    # forms of packed weights
    "generate photo.jpg --pack matrices=rows": "--pack: matrices: expected blocks or plain, got 'rows'",
    "generate photo.jpg --pack rows=plain": "--pack: expected some of matrices=, filters=, filtering=, upsampling=,",
    "generate photo.jpg --pack filtering=2 --no-pack": "--no-pack: not allowed with argument --pack",
    "sweep photo.jpg -o new --no-pack --pack filtering=2": "--pack: not allowed with argument --no-pack",
    "generate photo.jpg --pack filtering=2 --compile": "--pack and --compile exclude each other",
    "sweep photo.jpg -o new --pack filtering=2 --offload": "--pack and --offload exclude each other",
    # numbers
    "generate photo.jpg --steps 0": "--steps: expected a whole number from 1 to 10000, got '0'",
    "generate photo.jpg --steps 2.5": "--steps: expected a whole number",
    "generate photo.jpg --frames -3": "--frames: expected a whole number",
    "generate photo.jpg --clips 0": "--clips: expected a whole number",
    "generate photo.jpg --fps 0": "--fps: expected a whole number",
    "generate photo.jpg --decode-chunk 0": "--decode-chunk: expected none or a whole number",
    "generate photo.jpg --motion-bucket -1": "--motion-bucket: expected a whole number",
    "generate photo.jpg --seed -1": "--seed: expected a whole number from 0",
    "generate photo.jpg --seed 9223372036854775808": "--seed: expected a whole number from 0",
    "generate photo.jpg --noise-aug -0.1": "--noise-aug: expected a number of at least 0",
    "generate photo.jpg --noise-aug nan": "--noise-aug: expected a number of at least 0",
    "generate photo.jpg --guidance-min inf": "--guidance-min: expected a number",
    "generate photo.jpg --guidance-max much": "--guidance-max: expected a number",
    "generate photo.jpg --memory 0": "--memory: expected auto or a number of GiB from 0.001 to 1000000, got '0'",
    "generate photo.jpg --memory 2e6": "--memory: expected auto or a number of GiB from 0.001 to 1000000",
    "generate photo.jpg --guidance-interval 25 0.3": "the lowest noise level and the highest",
    "generate photo.jpg --guidance-interval -1 25": "--guidance-interval: expected a number of at least 0",
    "generate photo.jpg --seed 9223372036854775807 --clips 2 -o work/": "must be below 2^63",
    # slips of the hand
    "generate photo.jpg --steps 1000000000": "--steps: expected a whole number from 1 to 10000",
    "generate photo.jpg --frames 10000000000000": "--frames: expected a whole number from 1 to 10000",
    f"generate photo.jpg --frames {'9' * 400}": "got '9999999999999999999999999999999999999999'... (400 characters)",
    f"generate photo.jpg --frames {'9' * 5000}": "'9999999999999999999999999999999999999999'... (5000 characters)",
    "generate photo.jpg --clips 1000000000 -o work/": "--clips: expected a whole number from 1 to 10000",
    "generate photo.jpg --enlarge 1000000000": "--enlarge: expected a whole number from 1 to 10000",
    "generate photo.jpg --size 64000000000000x64000000000000": "height must be a whole number from 1 to 10000",
    f"generate photo.jpg --size {'9' * 5000}x64": "--size: expected WIDTHxHEIGHT",
    f"generate photo.jpg --embedding 1-{'9' * 400}": "from 1 to 25, got 26",
    "generate photo.jpg --motion-bucket 1000000000": "--motion-bucket: expected a whole number from 0 to 10000",
    "generate photo.jpg --noise-aug 1e300": "noise_aug must be a number from 0 to 10000, got 1e+300",
    f"sweep twins -o out --shard 0/{'9' * 5000}": "--shard: expected I/N",
    "generate photo.jpg --cut 0": "--cut: expected a step counted from 1",
    "generate photo.jpg --cut 27": "27",
    "generate photo.jpg --cut 5 --steps 3": "5",
    "generate photo.jpg --cut never": "--cut: expected a step counted from 1",
    "generate photo.jpg --size 1024": "--size: expected WIDTHxHEIGHT",
    "generate photo.jpg --size x": "--size: expected WIDTHxHEIGHT",
    "generate photo.jpg --size -64x64": "--size: expected",
    "generate photo.jpg --size 1001x576": "width 1001 is not a multiple of 8 (nearest: 1000 or 1008)",
    "generate photo.jpg --size 0x0": "height must be a whole number from 1 to 10000, got 0",
    "generate photo.jpg --size 1056x576 --model svd": "width 1056 is not a multiple of 64 (nearest: 1024 or 1088)",
    "generate photo.jpg --embedding some": "--embedding: expected all, none or steps such as 1-10",
    "generate photo.jpg --embedding 0-3": "--embedding: expected all, none or steps such as 1-10",
    "generate photo.jpg --embedding 20-26": "from 1 to 25, got 26",
    # choices
    "generate photo.jpg --preset quick": "invalid choice: 'quick'",
    "generate photo.jpg --defaults best": "invalid choice: 'best'",
    "generate photo.jpg --fit stretch": "invalid choice: 'stretch'",
    "generate photo.jpg --tca maybe": "expected true, linear_cached or false",
    "generate photo.jpg --after-context some": "invalid choice: 'some'",
    "generate photo.jpg --dtype int8": "invalid choice: 'int8'",
    "generate photo.jpg --device abacus": "there is no device 'abacus' here; there is cpu",
    "generate photo.jpg --device meta": "nothing is computed there",
    "generate photo.jpg --device cuda:99": "there is no device 'cuda:99' here; there is cpu",
    # models
    "generate photo.jpg --model nowhere": "no model of that name",
    "generate photo.jpg --model SVD": "did you mean svd?",
    "generate photo.jpg --model weights.ckpt": "is a pickle",
    "generate photo.jpg --model broken.safetensors": "broken.safetensors",
}


@pytest.mark.parametrize("line", FAULTS)
def test_a_fault_is_one_line_and_exit_code_2(
    workplace: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    before = snapshot(workplace)
    assert cli.main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("vcut: error: ")
    assert FAULTS[line] in err
    assert err.count("\n") == 1
    assert snapshot(workplace) == before


@pytest.mark.parametrize(
    "line",
    [
        ["", "-o", "x.mp4"],
        ["photo.jpg", "-o", ""],
        ["photo.jpg", "--sheet", ""],
        ["photo.jpg", "--model", ""],
    ],
)
def test_an_empty_path_is_not_the_current_folder(
    workplace: Path, capsys: pytest.CaptureFixture[str], line: list[str]
) -> None:
    before = snapshot(workplace)
    assert cli.main(["generate", *line]) == 2
    assert "expected a name, got an empty one" in capsys.readouterr().err
    assert snapshot(workplace) == before


def test_a_folder_of_bad_pictures_names_each_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", "bad", "-o", "work"]) == 2
    *skipped, last = capsys.readouterr().err.splitlines()
    assert [line.split()[:3] for line in skipped] == [["vcut:", "skipped:", f"bad/{x}.jpg"] for x in "ab"]
    assert last == "vcut: error: 2 of 2 clips could not be made"


def test_a_folder_with_other_things_in_it_is_not_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    Path("photo.jpg").rename("work.jpg")
    assert cli.main(["generate", "work.jpg", "--format", "png", "--overwrite"]) == 2
    assert "not overwritten" in capsys.readouterr().err
    assert Path("work/thesis.tex").exists()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("work").chmod(0o500)
    assert cli.main(["generate", "photo.jpg", "-o", "work/new.mp4"]) == 2
    assert "is not writable" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (NotFiniteError("NaN at step 3"), "error: NaN at step 3"),
        (MemoryError(), "out of memory; reduce --decode-chunk"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"), "out of memory; reduce"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out of memory; reduce"),
        (RuntimeError("MPS backend out of memory"), "out of memory; reduce"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_a_run_that_fails_says_so_and_leaves_nothing(
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    says: str,
) -> None:
    def load(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("vcut.loading.load", load)
    before = snapshot(workplace)
    assert cli.main(["generate", "photo.jpg", "--model", "tiny"]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
    assert snapshot(workplace) == before


def test_an_interrupt_ends_as_shells_expect(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vcut.loading.load", load)
    assert cli.main(["generate", "photo.jpg", "--model", "tiny"]) == 130
    assert capsys.readouterr().err == "vcut: interrupted\n"


@pytest.mark.parametrize(("given", "then"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_that_wait_sleep_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, given: str | None, then: str
) -> None:
    """OpenMP reads it when torch is loaded, which no import of the command does."""
    monkeypatch.setenv("OMP_WAIT_POLICY", given or "")
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setattr(cli, "main", lambda: 0)
    with pytest.raises(SystemExit):
        cli.run()
    assert os.environ["OMP_WAIT_POLICY"] == then


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*args: object, **options: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr("vcut.loading.load", load)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        cli.main(["generate", "photo.jpg", "--model", "tiny"])


@pytest.mark.parametrize("line", ["--help", "generate --help", "--version"])
def test_help_and_version_succeed(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(line.split()) == 0
    out, err = capsys.readouterr()
    assert "vcut" in out
    assert err == ""
    assert max(len(text) for text in out.splitlines()) < 110


@pytest.mark.parametrize("command", ["generate", "cost"])
def test_the_help_names_the_words_that_a_fault_offers(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command, "--help"]) == 0
    assert "--cut N|none|preset" in capsys.readouterr().out


def start(*args: str, **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "vcut", *args],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.slow
def test_the_module_runs_as_the_command(workplace: Path) -> None:
    process = start("generate", "missing.jpg")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (2, "", "vcut: error: missing.jpg: no such file\n")
    process = start("--version")
    assert process.communicate(timeout=60)[0].startswith("vcut ")
    assert process.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_no_partial_file(workplace: Path, stop: signal.Signals) -> None:
    before = snapshot(workplace)
    options = ("--model", "tiny", "--steps", "10000", "-o", "new.mp4", "--seed", "0")
    # A shell without job control starts its background jobs deaf to SIGINT, and so are their children. A signal
    # with a handler, as opposed to an ignored one, is at its default in a new process.
    before_start = signal.signal(stop, signal.default_int_handler)
    process = start("generate", "photo.jpg", *options)
    signal.signal(stop, before_start)
    assert process.stdout is not None
    while not (line := process.stdout.readline()).startswith("seed"):
        assert line, "the run ended by itself"
    time.sleep(0.5)
    process.send_signal(stop)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + stop
    assert err.splitlines()[-1] == "vcut: interrupted"
    assert "Traceback" not in err
    assert snapshot(workplace) == before


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="pipes")
def test_a_reader_that_leaves_does_not_stop_the_clip(workplace: Path) -> None:
    process = start("generate", "photo.jpg", "--model", "tiny", "--steps", "1", "-o", "new.mp4")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()  # as `| head -0` would
    err = process.stderr.read()
    assert process.wait(timeout=60) == 0
    assert "Traceback" not in err
    assert "BrokenPipe" not in err
    assert Path("new.mp4").exists()

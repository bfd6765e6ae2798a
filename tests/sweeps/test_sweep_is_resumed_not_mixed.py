"""A folder goes on with its own sweep: clips are verified, additions are taken, contradictions refused by name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from sweep_stub import Stub, make_pictures, make_sweep

from vcut import media
from vcut.config import TINY, Preset, choose_preset
from vcut.errors import ConfigError, NotFiniteError, VcutError
from vcut.sweeps import clip, loop, manifest, sweep
from vcut.sweeps.clip import Outcome
from vcut.sweeps.manifest import Key, Record, Sweep
from vcut.sweeps.settings_table import Setting, from_presets
from vcut.sweeps.suite import Picture
from vcut.sweeps.sweep import Task
from weights_tools.outputs import lock_alone


@dataclasses.dataclass
class Said:
    """What the loop said, and how often it loaded a model."""

    lines: list[str] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    loaded: list[str] = dataclasses.field(default_factory=list)
    missing: list[str] = dataclasses.field(default_factory=list)


def go_on(
    out: Path,
    asked: Sweep,
    tasks: list[Task],
    *,
    latents: bool = False,
    bar: bool = False,
    before: Callable[[], None] = lambda: None,
) -> Said:
    """What the command does: look at the folder, and make the clips that are not there."""
    said = Said()

    def load(preset: Preset) -> Stub:
        said.loaded.append(preset.name)
        return Stub(preset, before=before)

    records = manifest.read(out)
    whole = sweep.join(out, asked, records, TINY)
    with manifest.alone(out / "manifest.jsonl") as file:
        complete = sweep.find_complete(out, tasks, records, latents=latents)
        manifest.write_sweep(out, whole)
        left = [task for task in tasks if task.key not in complete]
        make = clip.clip_maker(load, whole, out, latents=latents)  # type: ignore[arg-type]
        said.missing = loop.gather(
            left,
            loop.one_by_one(left, make),
            file,
            complete=len(complete),
            say=said.lines.append,
            warn=said.warnings.append,
            bar=bar,
        )
    return said


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[Picture, ...]:
    return make_pictures(tmp_path / "pictures", 3)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "OUT"


def frames(out: Path) -> dict[Key, str]:
    return {record.key: record.frames_sha256 for record in manifest.read(out)}


def test_a_clip_is_where_vbench_looks_and_its_record_says_how_it_was_made(
    out: Path, pictures: tuple[Picture, ...]
) -> None:
    asked, tasks = make_sweep(pictures)
    said = go_on(out, asked, tasks, latents=True)
    assert said.loaded == ["baseline", "lossless", "vcut"]
    assert len(said.lines) == len(tasks) == 18
    assert "1 of 18, about" in said.lines[0]
    assert said.lines[-1].endswith("18 of 18")
    records = manifest.read(out)
    assert [record.key for record in records] == [task.key for task in tasks]
    record = records[-1]
    assert record.file == "vcut/picture 2-1.mp4"
    decoded, fps = media.read(out / record.file)
    assert list(decoded.shape) == [record.frames, 3, record.height, record.width] == [14, 3, 64, 64]
    assert fps == record.fps == 12
    assert record.latents == "vcut/latents/picture 2-1.safetensors"
    from safetensors.torch import load_file

    kept = load_file(out / record.latents)["latents"]
    assert list(kept.shape) == list(tasks[-1].run.latent)
    stub = Stub(tasks[-1].run.preset)
    again = media.clips.to_bytes(stub.decode(kept[None], None)[0], 1)
    assert manifest.frames_sha256(again) == record.frames_sha256
    assert dataclasses.asdict(asked) == json.loads((out / "sweep.json").read_text())


def test_a_terminal_gets_a_bar_instead_of_lines(
    out: Path, pictures: tuple[Picture, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    asked, tasks = make_sweep(pictures)
    go_on(out, asked, tasks[:6])
    assert not go_on(out, asked, tasks, bar=True).lines
    shown = capsys.readouterr().err.split("\r")
    assert "33% |" in shown[1]
    assert "6 of 18 clips" in shown[1]
    assert re.search(r"100% \|.*\| 18 of 18 clips, 00:0\d gone, about 0 s left", shown[-1])


def test_what_is_complete_is_not_made_again(out: Path, pictures: tuple[Picture, ...]) -> None:
    asked, tasks = make_sweep(pictures)
    go_on(out, asked, tasks)
    before = (out / "manifest.jsonl").read_bytes()
    said = go_on(out, asked, tasks)
    assert (said.loaded, said.lines, said.warnings) == ([], [], [])
    assert (out / "manifest.jsonl").read_bytes() == before


def test_a_clip_that_is_gone_changed_or_without_a_record_is_made_again(
    out: Path, pictures: tuple[Picture, ...]
) -> None:
    asked, tasks = make_sweep(pictures)
    go_on(out, asked, tasks)
    before = frames(out)
    (out / "vcut/picture 0-0.mp4").unlink()
    changed = out / "baseline/picture 1-1.mp4"
    changed.write_bytes(changed.read_bytes()[:-1] + b"x")
    lines = (out / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    # the last record was cut off by a kill; its clip is in place
    (out / "manifest.jsonl").write_bytes(b"".join(lines[:-1]) + lines[-1][:40])
    said = go_on(out, asked, tasks)
    made = [line.split()[1:3] for line in said.lines]
    assert made == [["baseline/picture", "1-1.mp4"], ["vcut/picture", "0-0.mp4"], ["vcut/picture", "2-1.mp4"]]
    assert frames(out) == before
    assert all(manifest.is_complete(out, record) for record in manifest.read(out))


def test_latents_that_were_not_kept_are_made_when_they_are_wanted(
    out: Path, pictures: tuple[Picture, ...]
) -> None:
    asked, tasks = make_sweep(pictures[:1])
    go_on(out, asked, tasks)
    assert len(go_on(out, asked, tasks, latents=True).lines) == len(tasks)
    assert not go_on(out, asked, tasks).lines


def test_settings_pictures_and_clips_can_be_added(out: Path, pictures: tuple[Picture, ...]) -> None:
    few, tasks = make_sweep(pictures[1:2], from_presets(["baseline"], [], lambda *_: {}), clips=1)
    go_on(out, few, tasks)
    asked, tasks = make_sweep(pictures, clips=2)
    assert len(go_on(out, asked, tasks).lines) == len(tasks) - 1
    # a part of the sweep again, which does not become smaller
    assert not go_on(
        out, few, make_sweep(pictures[1:2], from_presets(["baseline"], [], lambda *_: {}), clips=1)[1]
    ).lines
    whole = manifest.read_sweep(out)
    assert whole is not None
    assert (whole.clips, list(whole.settings), len(whole.images)) == (2, ["baseline", "lossless", "vcut"], 3)
    assert frames(out).keys() == {task.key for task in tasks}


def test_a_gpu_that_packs_nothing_may_go_on(out: Path, pictures: tuple[Picture, ...]) -> None:
    asked, tasks = make_sweep(pictures[:1])
    for packing, kept in ((None, None), ("matrices=plain", "matrices=plain"), (None, "matrices=plain")):
        go_on(out, dataclasses.replace(asked, packing=packing), tasks)
        whole = manifest.read_sweep(out)
        assert whole is not None
        assert whole.packing == kept


def other(setting: Setting, **changes: object) -> Setting:
    return dataclasses.replace(setting, settings=setting.settings.replace(**changes))


@pytest.mark.parametrize("keep", [("sweep.json", "manifest.jsonl"), ("manifest.jsonl",)])
def test_what_contradicts_is_refused_by_name(
    keep: tuple[str, ...], out: Path, pictures: tuple[Picture, ...]
) -> None:
    baseline, vcut = from_presets(["baseline", "vcut"], [], lambda *_: {})
    asked, tasks = make_sweep(pictures, (baseline, vcut))
    asked = dataclasses.replace(asked, packing="matrices=plain")
    go_on(out, asked, tasks)
    for file in ("sweep.json", "manifest.jsonl"):
        if file not in keep:
            (out / file).unlink()

    def refused(says: str, changed: tuple[Sweep, list[Task]]) -> None:
        before = sorted(file.stat().st_mtime_ns for file in out.rglob("*"))
        with pytest.raises(ConfigError, match=says):
            go_on(out, *changed)
        assert sorted(file.stat().st_mtime_ns for file in out.rglob("*")) == before

    steps = make_sweep(pictures, (baseline, other(vcut, steps=30)))
    refused(r"vcut.* is of another sweep: its .*steps.* asked for is .*30", steps)
    refused(
        r"vcut.* its preset is 'vcut', asked for is 'lossless'",
        make_sweep(
            pictures, (dataclasses.replace(from_presets(["lossless"], [], lambda *_: {})[0], name="vcut"),)
        ),
    )
    refused("its seed is ", make_sweep(pictures, (baseline, vcut), seed=1))
    weights = dataclasses.replace(asked, weights_sha256="1" * 64)
    refused("its weights is '000000000000', asked for is '1{12}'", (weights, tasks))
    for says, change in (
        ("its dtypes is .*float32.*float16", {"dtypes": {"unet": "float16"}}),
        ("its threads is 1, asked for is 2", {"threads": 2}),
        ("its enlarge is 1, asked for is 2", {"enlarge": 2}),
        ("its kernels is 'packed', asked for is 'plain'", {"kernels": "plain"}),
        (
            "its packing is 'matrices=plain', asked for is 'matrices=blocks'",
            {"packing": "matrices=blocks"},
        ),
    ):
        refused(says, (dataclasses.replace(asked, **change), tasks))  # type: ignore[arg-type]
    other_form = dataclasses.replace(vcut, preset=choose_preset("vcut", tca=True))
    refused("its preset is 'vcut', asked for is 'vcut", make_sweep(pictures, (baseline, other_form)))
    pictures[1].path.write_bytes(pictures[0].path.read_bytes())
    says = r"pictures/picture 1.png is another picture than .*baseline/picture 1-0.mp4 was made of"
    refused(says, (asked, tasks))
    # a new setting would be compared with clips of the old picture
    refused(says, make_sweep(pictures, from_presets(["lossless"], [], lambda *_: {})))


def test_two_forms_that_have_one_name_of_a_preset_are_two(out: Path, pictures: tuple[Picture, ...]) -> None:
    (vcut,) = from_presets(["vcut"], [], lambda *_: {})
    one, two = (
        dataclasses.replace(vcut, preset=choose_preset("vcut", tca=mode, sca=mode)) for mode in (True, False)
    )
    go_on(out, *make_sweep(pictures, (one,), clips=1))
    for gone in (False, True):
        if gone:
            (out / "sweep.json").unlink()
        with pytest.raises(ConfigError, match=r"picture 0-0.mp4 .*: its tca is True, asked for is False"):
            go_on(out, *make_sweep(pictures, (two,), clips=2))


def older(out: Path) -> None:
    """Make the manifest one of a version that left these fields to sweep.json."""
    fields = ("tca", "sca", "dtypes", "threads", "enlarge", "kernels", "packing")
    records = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    left = [{key: value for key, value in record.items() if key not in fields} for record in records]
    (out / "manifest.jsonl").write_text("".join(json.dumps(record) + "\n" for record in left))


def test_an_older_manifest_needs_its_sweep_json(out: Path, pictures: tuple[Picture, ...]) -> None:
    (vcut,) = from_presets(["vcut"], [], lambda *_: {})
    changed = dataclasses.replace(vcut, preset=choose_preset("vcut", tca=True))
    asked, tasks = make_sweep(pictures[:1], (changed,), clips=1)
    go_on(out, asked, tasks)
    older(out)
    assert not go_on(out, asked, tasks).lines
    with pytest.raises(ConfigError, match="its enlarge is 1, asked for is 2"):
        go_on(out, dataclasses.replace(asked, enlarge=2), tasks)
    other_form = dataclasses.replace(vcut, preset=choose_preset("vcut", tca=True, sca=True))
    with pytest.raises(ConfigError, match="its sca is 'linear_cached', asked for is True"):
        go_on(out, *make_sweep(pictures[:1], (other_form,), clips=1))
    (out / "sweep.json").unlink()
    with pytest.raises(ConfigError, match=r"is of an older sweep whose sweep.json, .*, is gone: put it back"):
        go_on(out, asked, tasks)


def test_what_has_no_clip_yet_may_change(out: Path, pictures: tuple[Picture, ...]) -> None:
    asked, tasks = make_sweep(pictures[:1], from_presets(["baseline"], [], lambda *_: {}))
    manifest.write_sweep(out, asked)
    changed, tasks = make_sweep(pictures[:1], from_presets(["baseline"], [], lambda *_: {"steps": 3}), seed=5)
    assert len(go_on(out, changed, tasks).lines) == 2
    assert manifest.read_sweep(out) == changed


def test_files_of_no_sweep_are_left_alone(out: Path, pictures: tuple[Picture, ...]) -> None:
    (out / "vcut").mkdir(parents=True)
    (out / "vcut" / "picture 0-0.mp4").write_text("mine")
    with pytest.raises(ConfigError, match="OUT/vcut exists and is of no sweep"):
        go_on(out, *make_sweep(pictures))
    for text in ('{"settings": {}}', "[]", "{"):
        (out / "sweep.json").write_text(text)
        with pytest.raises(ConfigError, match=r"sweep.json is not what a sweep writes"):
            go_on(out, *make_sweep(pictures))


@pytest.mark.parametrize("place", ["vcut", "vcut/picture 0-0.mp4"])
def test_what_is_in_the_way_is_said_before_a_model_is_loaded(
    place: str, out: Path, pictures: tuple[Picture, ...]
) -> None:
    asked, tasks = make_sweep(pictures)
    manifest.write_sweep(out, asked)
    if place == "vcut":
        (out / place).write_text("a file")
    else:
        (out / place).mkdir(parents=True)
    with pytest.raises(ConfigError, match=rf"OUT/{place} "):
        go_on(out, asked, tasks)


def test_a_bad_picture_is_said_once_and_stops_nothing(out: Path, pictures: tuple[Picture, ...]) -> None:
    asked, tasks = make_sweep(pictures)
    pictures[0].path.write_text("no picture")
    pictures[2].path.unlink()
    said = go_on(out, asked, tasks)
    assert said.missing == [task.file for task in tasks if task.name != "picture 1"]
    assert len(said.warnings) == 2
    assert "skipped baseline/picture 0-0.mp4: " in said.warnings[0]
    assert frames(out).keys() == {task.key for task in tasks if task.name == "picture 1"}
    make_pictures(pictures[0].path.parent, 3)
    said = go_on(out, asked, tasks)
    assert len(said.lines) == 12


def test_numbers_that_overflow_cost_their_clip_unless_it_is_the_first(
    out: Path, pictures: tuple[Picture, ...]
) -> None:
    asked, tasks = make_sweep(pictures[:1], from_presets(["baseline"], [], lambda *_: {}), clips=3)
    made = iter(range(10))

    def overflow_at(number: int) -> Callable[[], None]:
        def before() -> None:
            if next(made) == number:
                raise NotFiniteError("NaN in the latents")

        return before

    with pytest.raises(VcutError, match="NaN in the latents; 0 of 3 clips are safe"):
        go_on(out, asked, tasks, before=overflow_at(0))
    made = iter(range(10))
    said = go_on(out, asked, tasks, before=overflow_at(1))
    assert said.missing == ["baseline/picture 0-1.mp4"]
    assert len(frames(out)) == 2


def test_a_full_disk_stops_in_one_line_that_says_what_is_safe(
    out: Path, pictures: tuple[Picture, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, tasks = make_sweep(pictures)
    write = media.write

    def full(frames: torch.Tensor, path: Path, *rest: object, **options: object) -> Path:
        if path.name == "picture 1-0.mp4":
            raise OSError(28, "No space left on device", str(path))
        return write(frames, path, *rest, **options)

    monkeypatch.setattr(clip.media, "write", full)
    with pytest.raises(
        VcutError, match=r"No space left on device.*; 2 of 18 clips are safe in .*OUT, and the same"
    ):
        go_on(out, asked, tasks)
    monkeypatch.undo()
    assert len(go_on(out, asked, tasks).lines) == 16


def test_an_interrupt_says_what_is_safe(out: Path, pictures: tuple[Picture, ...]) -> None:
    asked, tasks = make_sweep(pictures)
    made = iter(range(100))

    def interrupt() -> None:
        if next(made) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go_on(out, asked, tasks, before=interrupt)
    assert len(go_on(out, asked, tasks).lines) == 15


def test_leftovers_of_a_killed_run_go_and_those_of_a_run_at_work_stay(
    out: Path, pictures: tuple[Picture, ...]
) -> None:
    asked, tasks = make_sweep(pictures)
    manifest.write_sweep(out, asked)
    left, at_work = (out / folder / ".vcut-a8_bcdef" for folder in ("vcut/latents", "vcut"))
    for room in (left, at_work):
        (room / "new").mkdir(parents=True)
        (room / "new" / "picture 0-0.mp4").write_text("half a clip")
        (room / "lock").touch()
    with (at_work / "lock").open() as lock:
        assert lock_alone(lock)
        go_on(out, asked, tasks)
    assert not left.exists()
    assert (at_work / "new" / "picture 0-0.mp4").exists()


def test_weights_are_hashed_by_what_is_in_their_files_wherever_they_lie(tmp_path: Path) -> None:
    hashes = set()
    for place in ("a", "b"):
        files = [tmp_path / place / folder / "model.safetensors" for folder in ("unet", "vae")]
        for number, file in enumerate(files):
            file.parent.mkdir(parents=True)
            file.write_bytes(bytes([number]))
        assert sweep.weights_sha256(files[:1]) == hashlib.sha256(b"\0").hexdigest()
        hashes |= {sweep.weights_sha256(files), sweep.weights_sha256(files[::-1])}
    assert len(hashes) == 1
    files[1].write_bytes(b"other")
    assert sweep.weights_sha256(files) not in hashes


def test_two_processes_do_not_write_one_manifest(out: Path) -> None:
    out.mkdir()
    with (
        manifest.alone(out / "manifest.jsonl"),
        pytest.raises(VcutError, match=r"another process is at work on .*manifest.jsonl"),
        manifest.alone(out / "manifest.jsonl"),
    ):
        pass
    with manifest.alone(out / "manifest.jsonl"):
        pass


def test_an_estimate_goes_by_the_passes_that_are_left_and_the_time_that_has_gone(
    out: Path, pictures: tuple[Picture, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, tasks = make_sweep(pictures[:1], from_presets(["baseline", "vcut"], [], lambda *_: {}))
    assert [task.run.passes.passes for task in tasks] == [50, 50, 41, 41]
    manifest.write_sweep(out, asked)
    now = 100.0
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: now))

    def outcomes() -> Iterator[tuple[Task, Outcome]]:
        nonlocal now
        for task, record in loop.one_by_one(tasks, clip.clip_maker(Stub, asked, out)):  # type: ignore[arg-type]
            # of which the model took most, or two workers side by side took half
            now += 50
            yield task, record

    lines: list[str] = []
    loop.gather(tasks, outcomes(), out / "manifest.jsonl", say=lines.append, warn=pytest.fail)
    # 132 of 182 passes are left after 50 s, 82 after 100 s, 41 after 150 s
    assert [line.rpartition("; ")[2] for line in lines] == [
        "1 of 4, about 2 min left",
        "2 of 4, about 82 s left",
        "3 of 4, about 44 s left",
        "4 of 4",
    ]


def test_records_are_of_one_clip_each(out: Path, pictures: tuple[Picture, ...]) -> None:
    asked, tasks = make_sweep(pictures[:1])
    record = clip.make_clip(Stub(tasks[0].run.preset), tasks[0], asked, out, False, print)  # type: ignore[arg-type]
    assert isinstance(record, Record)
    assert manifest.read(out) == []
    again = clip.make_clip(Stub(tasks[0].run.preset), tasks[0], asked, out, False, print)  # type: ignore[arg-type]
    assert again.frames_sha256 == record.frames_sha256

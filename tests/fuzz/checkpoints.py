"""Mutated checkpoints against inspect, load and convert: each is taken by all three or refused by all in our words.

    nice -n 19 python tests/fuzz/checkpoints.py --cases 20000

A micro model is written in every layout. Each case damages one copy: the header's text or its JSON (names, dtypes,
shapes, offsets, metadata, the configuration in it), the JSON files of a folder, the index of shards, or the length of
a file. A case has a number: ``--first N --cases 1`` repeats it. Counted as faults: an exception that is not a
VcutError, commands that disagree, more than 5 s of a case, 2 GiB of memory for the whole run.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import vcut
from vcut.config import CLIPConfig, Level, SVDConfig, UNetConfig, VAEConfig
from vcut.errors import VcutError
from vcut.loading import random_model
from weights_tools.checkpoint import open_checkpoint
from weights_tools.cli import main as weights
from weights_tools.configs import judge
from weights_tools.convert import convert
from weights_tools.tensor_file import save

SECONDS, MEMORY = 5, 2 << 30
SMALLEST = SVDConfig(
    "smallest",
    unet=UNetConfig(levels=(Level(32, 2),), layers=1, context_dim=8, time_id_dim=8),
    vae=VAEConfig(channels=(32, 32)),
    clip=CLIPConfig(image_size=8, patch_size=4, width=32, layers=1, heads=2, mlp_dim=8, embed_dim=8),
    frames=2,
    height=32,
    width=32,
)
ODD: tuple[Any, ...] = (
    *(0, 1, -1, 2, 3, 31, 32, 64, 28.0, 0.5, 1e308, 2**31, 2**63, 2**64, 10**30, 10**400, float("nan")),
    *(
        float("inf"),
        True,
        False,
        None,
        "",
        "7",
        "\ud800",
        "\x1b[31m",
        "x" * 5000,
        [],
        [1],
        [[]],
        {},
        {"a": 1},
    ),
    *(
        "linear_cached",
        "gelu",
        "quick_gelu",
        [32, 32],
        [2, 2],
        0.18215,
        [None],
        ["CrossAttnDownBlockSpatioTemporal"],
    ),
)
DTYPES = (
    "F64",
    "F32",
    "F16",
    "BF16",
    "F8_E4M3",
    "F8_E5M2",
    "F4",
    "C64",
    "I64",
    "U8",
    "BOOL",
    "F3",
    "",
    7,
    None,
)
NAMES = (
    "model_ema.x",
    "module.",
    "_orig_mod.",
    "betas",
    "lora_up.weight",
    "../x",
    "\x00",
    "a" * 3000,
    "unet.",
    "",
)


class TooLong(BaseException):
    """The time of a case is over."""


def models(folder: Path) -> dict[str, Path]:
    """The micro model in every layout, and its UNet alone."""
    single = folder / "vcut.safetensors"
    pipe = random_model(SMALLEST, preset="baseline")
    state = {
        f"{part}.{name}": tensor
        for part in ("unet", "vae", "clip")
        for name, tensor in getattr(pipe, part).state_dict().items()
    }
    save(single, state, {"format": "vcut", "config": json.dumps(pipe.config.to_dict())})
    made = {"vcut": single, "sgm": folder / "sgm.safetensors", "diffusers": folder / "diffusers"}
    for layout in ("sgm", "diffusers"):
        assert weights(["convert", str(single), str(made[layout]), "--to", layout, "--dtype", "float16"]) == 0
    made["unet"] = folder / "diffusers" / "unet" / "diffusion_pytorch_model.safetensors"
    made["shards"] = shutil.copytree(made["diffusers"], folder / "shards")
    _shard(made["shards"] / "unet")
    return made


def _shard(unet: Path) -> None:
    header, body = opened((unet / "diffusion_pytorch_model.safetensors").read_bytes())
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    names = sorted(key for key in header if key != "__metadata__")
    weight_map: dict[str, str] = {}
    for i in range(2):
        file, new, parts, end = f"diffusion_pytorch_model-0000{i + 1}-of-00002.safetensors", {}, [], 0
        for name in names[i::2]:
            start, stop = header[name]["data_offsets"]
            parts.append(body[start:stop])
            new[name] = {**header[name], "data_offsets": [end, end + stop - start]}
            end += stop - start
            weight_map[name] = file
        (unet / file).write_bytes(packed(new) + b"".join(parts))
    index = {"metadata": {}, "weight_map": weight_map}
    (unet / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


def opened(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and tensors of a file."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def packed(header: object, text: bytes | None = None) -> bytes:
    """A header with its length before it."""
    text = json.dumps(header).encode() if text is None else text
    return len(text).to_bytes(8, "little") + text


def mutate_json(data: Any, draw: random.Random) -> Any:
    """``data`` with one value, somewhere in it, changed, removed, added or renamed."""
    places: list[tuple[Any, Any]] = []
    todo = [data]
    while todo:
        here = todo.pop()
        keys = here.keys() if isinstance(here, dict) else range(len(here)) if isinstance(here, list) else ()
        places += [(here, key) for key in keys]
        todo += [here[key] for key in keys]
    if not places or draw.random() < 0.02:
        return draw.choice(ODD)
    here, key = draw.choice(places)
    act = draw.randrange(5)
    if act == 0:
        del here[key]
    elif act == 1 and isinstance(here, dict):
        here[draw.choice((*NAMES, f"{key}x", "zzz"))] = here.pop(key)
    elif act == 2 and isinstance(here[key], int) and not isinstance(here[key], bool):
        here[key] += draw.choice((-1, 1, 8, -here[key], here[key]))
    elif act == 3 and isinstance(here, list):
        here.insert(key, here[key])
    else:
        here[key] = draw.choice(ODD)
    return data


def mutate_tensors(header: dict[str, Any], draw: random.Random) -> None:
    """Change one tensor's entry, or exchange what two have."""
    keys = [key for key in header if key != "__metadata__"]
    a, b = draw.choice(keys), draw.choice(keys)
    act = draw.randrange(8)
    if act == 0:
        header[draw.choice(NAMES) + a] = header.pop(a)
    elif act == 1:
        header[a]["dtype"] = draw.choice(DTYPES)
    elif act == 2:
        header[a]["shape"], header[b]["shape"] = header[b]["shape"], header[a]["shape"]
    elif act == 3:
        header[a]["data_offsets"] = header[b]["data_offsets"]
    elif act == 4:
        header[a], header[b] = header[b], header[a]
    elif act == 5:
        header[a]["shape"] = header[a]["shape"][::-1] + [1] * draw.choice((0, 1, 30))
    elif act == 6:
        header[draw.choice(NAMES) + b] = dict(header[b])
    else:
        mutate_json(header[a], draw)


def _readable(header: dict[str, Any]) -> bool:
    """Whether there is still a configuration to change."""
    metadata = header.get("__metadata__")
    config = metadata.get("config") if isinstance(metadata, dict) else None
    return isinstance(config, str) and config.startswith(("{", "["))


def mutate_weights(content: bytes, draw: random.Random) -> bytes:
    """A .safetensors file with one to three changes."""
    kind = draw.random()
    if kind < 0.1:
        return content[: draw.choice((0, 7, 8, 9, 100, draw.randrange(len(content)), len(content) - 1))]
    if kind < 0.13:
        return content + draw.randbytes(draw.choice((1, 8, 1000)))
    end = 8 + int.from_bytes(content[:8], "little")
    if kind < 0.35:
        changed = bytearray(content)
        for _ in range(draw.randint(1, 3)):
            likely = draw.choice(b'{}[]",:-0e.\\\x00\xff ')
            changed[draw.randrange(end)] = likely if draw.random() < 0.7 else draw.randrange(256)
        return bytes(changed)
    header, body = opened(content)
    for _ in range(draw.randint(1, 2)):
        if kind < 0.6:
            mutate_tensors(header, draw)
        elif kind < 0.9 and _readable(header):
            config = mutate_json(json.loads(header["__metadata__"]["config"]), draw)
            header["__metadata__"]["config"] = json.dumps(config)
            if draw.random() < 0.1:
                mutate_json(header["__metadata__"], draw)
        else:
            mutate_json(header, draw)
        if not (isinstance(header, dict) and len(header) > 2):
            break
    return packed(header) + body


def damaged(model: Path, at: Path, draw: random.Random) -> Path:
    """A copy of a model with one of its files changed."""
    if model.is_file():
        if (model.parent / "config.json").exists():
            shutil.copy(model.parent / "config.json", at)
        at = at / model.name
        at.write_bytes(mutate_weights(model.read_bytes(), draw))
        return at
    shutil.copytree(model, at, dirs_exist_ok=True, copy_function=shutil.copyfile)
    files = sorted(path for path in at.rglob("*") if path.suffix in (".json", ".safetensors"))
    file = draw.choice([path for path in files if draw.random() < 0.7 or path.suffix == ".json"] or files)
    if file.suffix == ".safetensors":
        file.write_bytes(mutate_weights(file.read_bytes(), draw))
    elif draw.random() < 0.15:
        content = bytearray(file.read_bytes())
        content[draw.randrange(len(content))] = draw.randrange(256)
        file.write_bytes(content[: draw.choice((len(content), draw.randrange(len(content))))])
    else:
        data = json.loads(file.read_text())
        for _ in range(draw.randint(1, 2)):
            data = mutate_json(data, draw)
        file.write_text(json.dumps(data))
    return at


def verdict(act: Callable[[], object]) -> str:
    """Empty if ``act`` goes through, else the message of our own error; others are raised."""
    try:
        act()
    except VcutError as error:
        return str(error) or "?"
    return ""


def trial(path: Path, out: Path) -> tuple[str, str, str]:
    """What inspect, load and convert say against a checkpoint."""

    def inspect() -> None:
        found = open_checkpoint(path)
        faults, notes = judge(found)
        if faults or notes or (found.missing_parts and not alone):
            raise VcutError(str(faults or notes or found.missing_parts))

    alone = path.name.startswith("diffusion_pytorch_model")
    load = vcut.load_unet if alone else lambda place: vcut.load(place, preset="baseline")
    said = (
        verdict(inspect),
        verdict(lambda: load(path)),
        verdict(lambda: convert(path, out, "vcut", overwrite=True)),
    )
    return said[0], said[1], said[0] if alone else said[2]


def run(first: int, cases: int, seed: int) -> dict[str, Any]:
    """All cases, and what came of them."""
    torch.set_num_threads(1)
    counts: collections.Counter[str] = collections.Counter()
    faults: list[str] = []
    slowest = 0.0

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooLong

    signal.signal(signal.SIGALRM, stop)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = models(folder)
        for case in range(first, first + cases):
            draw = random.Random(f"{seed} {case}")
            layout = draw.choice(sorted(made))
            room = folder / "room"
            room.mkdir()
            path = damaged(made[layout], room, draw)
            begun = time.process_time()
            signal.alarm(60)
            try:
                said = trial(path, folder / "out.safetensors")
                agree = len({bool(each) for each in said}) == 1
                counts[f"{layout}: {'refused' if said[0] else 'taken'}"] += 1
                if not agree:
                    faults.append(f"case {case} ({layout}): the commands disagree: {said}")
            except TooLong:
                faults.append(f"case {case} ({layout}): over 60 s by the clock")
            except Exception:
                faults.append(f"case {case} ({layout}): {traceback.format_exc()}")
            finally:
                signal.alarm(0)
                shutil.rmtree(room)
            seconds = time.process_time() - begun
            slowest = max(slowest, seconds)
            if seconds > SECONDS:
                faults.append(f"case {case} ({layout}): {seconds:.1f} s")
            if (case - first + 1) % 500 == 0 or (faults[-1:] and faults[-1].startswith(f"case {case} ")):
                print(case - first + 1, dict(counts), *faults[-1:], sep="\n  ", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if peak > MEMORY:
        faults.append(f"the run took {peak:,} bytes")
    return {"counts": dict(counts), "slowest": slowest, "peak": peak, "faults": faults}


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    done = run(arguments.first, arguments.cases, arguments.seed)
    print(json.dumps(done, indent=2))
    return 1 if done["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())

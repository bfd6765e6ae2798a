"""One contender in a process of its own: ``python -m benchmarks.harness.worker CONTENDER MODULE``.

The allocator's settings and the peak of memory belong to a process, so each contender has one. Commands come as lines
of JSON on standard input and each is answered by one line; whatever a library prints goes to standard error.

    {"do": "build", ...}                                           MODULE.build(CONTENDER, ...): makes variants
    {"do": "run", "variant": V, "output": PATH, "trim": true}      runs one of them
    {"do": "call", "function": "module:name", "arguments": {}}     calls a function that returns plain values

A worker ends with its parent, however that ends.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vcut.kernels import runtime

CONTENDERS = {
    "diffusers": "diffusers as installed",
    "diffusers-same": "diffusers, same settings",
    "vcut": "vcut",
}
"""The processes by name, and what the report calls them."""

Variants = Mapping[str, Callable[[], Tensor]]
"""Functions that a worker can run: each returns its result, to be compared."""

Built = tuple[Variants, Mapping[str, str]]
"""Variants, and why others could not be made."""


def settings(contender: str) -> dict[str, str]:
    """Apply the settings of the process, and say what they are."""
    if contender != "diffusers":
        torch.set_float32_matmul_precision("medium")
        kept = runtime.keep_large_blocks()
        allocator = "keeps large blocks" if kept else "default (could not be set)"
    else:
        allocator = "default"
    return {"allocator": allocator, "float32 matmul precision": torch.get_float32_matmul_precision()}


def run(variant: Callable[[], Tensor], output: str | None, trim: bool) -> dict[str, Any]:
    """Run once: seconds, page faults, and with ``trim`` the peak of memory.

    ``peak`` is what was resident at the most, in bytes, above what was resident before, once the allocator had given
    back what it keeps. Weights, which are mapped from their file, are resident before. The result goes to ``output``
    as float32.
    """
    gc.collect()
    if trim:
        _trim()
    measurable = trim and reset_peak()
    before, faults = memory()["VmRSS"], resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    with torch.no_grad():
        result = variant()
    seconds = time.perf_counter() - start
    after, peak = resource.getrusage(resource.RUSAGE_SELF), memory()["VmHWM"]
    if output is not None:
        np.save(output, result.float().contiguous().numpy())
    return {
        "seconds": seconds,
        "peak": peak - before if measurable else None,
        "faults": after.ru_minflt - faults.ru_minflt,
        "disk_faults": after.ru_majflt - faults.ru_majflt,
    }


def memory() -> dict[str, int]:
    """Bytes of this process's memory as Linux counts them: resident now, at the peak, and of which kind."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: 1024 * int(fields[name].split()[0]) for name in ("VmHWM", "VmRSS", "RssFile", "RssAnon")}


def first_line(error: BaseException) -> str:
    """An exception in one line, without the path of the file that some end with."""
    text = re.sub(r" \(/[^)]*\)$", "", (str(error).strip().splitlines() or [""])[0])
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def main() -> None:
    contender, module = sys.argv[1:]
    _end_with_parent()
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not mix with replies
    hello = {**settings(contender), "threads": torch.get_num_threads()}
    script = importlib.import_module(module)
    print(json.dumps(hello), file=replies)

    variants: dict[str, Callable[[], Tensor]] = {}
    for line in sys.stdin:
        command = json.loads(line)
        try:
            reply = _do(command, script, contender, variants)
        except Exception as error:
            import traceback

            traceback.print_exc()
            reply = {"error": first_line(error)}
        print(json.dumps(reply), file=replies)


def _do(
    command: dict[str, Any], script: Any, contender: str, variants: dict[str, Callable[[], Tensor]]
) -> dict[str, Any]:
    kind = command.pop("do")
    if kind == "build":
        made, missing = script.build(contender, **command)
        variants.update(made)
        return {"variants": list(made), "missing": dict(missing)}
    if kind == "run":
        return run(variants[command["variant"]], command["output"], command["trim"])
    module, _, name = command["function"].partition(":")
    result: dict[str, Any] = getattr(importlib.import_module(module), name)(**command["arguments"])
    return result


def _end_with_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and decides
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        pr_set_pdeathsig = 1
        prctl(pr_set_pdeathsig, signal.SIGKILL)


def _trim() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def reset_peak() -> bool:
    """Whether VmHWM now starts again from what is resident."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()

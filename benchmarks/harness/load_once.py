"""Loading of a checkpoint, once, in a fresh worker. Nothing is imported here that contenders import themselves."""

from __future__ import annotations

import importlib
import time
from typing import Any

import torch
from torch import nn

from benchmarks.harness.worker import memory, reset_peak


def measure(
    contender: str, path: str, dtype: str, preset: str, pack: bool, compare: bool
) -> dict[str, float]:
    """Seconds and bytes of loading everything and touching every page.

    ``compare`` adds ``total``, the sum of all absolute values.
    """
    start = time.perf_counter()
    if contender == "vcut":
        load: Any = importlib.import_module("vcut.loading").load
    else:
        load = importlib.import_module("diffusers").StableVideoDiffusionPipeline.from_pretrained
    imported = time.perf_counter() - start

    measurable = reset_peak()
    before = memory()
    start = time.perf_counter()
    precision = getattr(torch, dtype)
    if contender == "vcut":
        model = load(path, preset=preset, dtype=precision, vae_dtype=precision, device="cpu", pack=pack)
        networks: list[nn.Module] = [model.unet, model.vae, model.clip]
    else:
        model = load(path, torch_dtype=precision, local_files_only=True)
        networks = [model.unet, model.vae, model.image_encoder]
    loaded = time.perf_counter() - start

    tensors = [tensor.detach() for network in networks for tensor in network.parameters()]
    start = time.perf_counter()
    for tensor in tensors:
        if tensor.is_mkldnn:
            continue  # made by reading all of it
        flat = tensor.as_strided((tensor.numel(),), (1,))  # dense, whatever the order of its axes
        flat[:: 4096 // tensor.itemsize].sum()
    touched = time.perf_counter() - start
    after = memory()
    total = sum(_total(tensor) for tensor in tensors if not tensor.is_mkldnn) if compare else 0.0
    return {
        "import": imported,
        "load": loaded,
        "touch": touched,
        "peak": after["VmHWM"] - before["VmRSS"] if measurable else 0,
        "own": after["RssAnon"] - before["RssAnon"],
        "mapped": after["RssFile"] - before["RssFile"],
        "bytes": sum(tensor.numel() * tensor.itemsize for tensor in tensors),
        "total": total,
        "threads": torch.get_num_threads(),
    }


def _total(tensor: torch.Tensor) -> float:
    return float(tensor.abs().sum(dtype=torch.float64))

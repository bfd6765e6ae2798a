"""The largest memory that tensors hold at one time, measured on the meta device, where they hold none.

Python frees a tensor on the meta device exactly when it would free a real one, so following the storages through
one run gives the true peak: on the CPU it equals what torch's allocator reports (tests). It leaves out what is
no tensor of the program: a kernel's workspace, the allocator's rounding and fragments.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vcut.analysis.counting import build_unet, on_meta, unet_call
from vcut.analysis.text_table import Table
from vcut.clip import CLIPVisionEncoder
from vcut.config import SVDConfig
from vcut.vae import VAE


def peak_bytes(run: Callable[[], object]) -> int:
    """Bytes of the tensors that ``run`` makes, at their peak. What exists before (weights, inputs) is not counted.

    Attention is taken as a fused kernel, which keeps no weights: on the meta device torch would write out the
    logits that no fused kernel holds.
    """
    live = _LiveStorages()
    with torch.no_grad(), live, _FusedAttention():
        run()
    return live.peak


@dataclass(frozen=True)
class Memory:
    """Bytes of weights, and of live tensors at the peak of one call: inputs and kernel workspaces excluded.

    ``guided`` is a UNet call on both guidance branches, ``single`` on one, ``decode`` the VAE's decoder on
    ``decode_frames`` frames, the frames that it returns included.
    """

    dtype: str
    vae_dtype: str
    unet_weights: int
    vae_weights: int
    clip_weights: int
    guided: int
    single: int
    decode: int
    decode_frames: int

    def table(self) -> Table:
        """A table of the sizes in GiB."""
        rows = (
            (f"UNet, weights in {self.dtype}", self.unet_weights),
            (f"CLIP, weights in {self.dtype}", self.clip_weights),
            (f"VAE, weights in {self.vae_dtype}", self.vae_weights),
            ("UNet call on both branches, live tensors", self.guided),
            ("UNet call on one branch, live tensors", self.single),
            (f"decoding {self.decode_frames} frames together, live tensors", self.decode),
        )
        note = "live tensors: their peak within the call; weights, inputs and kernel workspaces excluded."
        return Table(
            "Memory", ("", "GiB"), tuple((name, f"{size / 2**30:.3f}") for name, size in rows), (note,)
        )


def estimate(
    config: SVDConfig,
    *,
    frames: int,
    height: int,
    width: int,
    decode_chunk: int | None,
    dtype: torch.dtype,
    vae_dtype: torch.dtype,
) -> Memory:
    """The memory of one clip of ``frames`` latents ``height`` x ``width``; ``dtype`` is UNet's and CLIP's."""
    unet = build_unet(config.unet).to(dtype)
    with torch.device("meta"):
        vae, clip = VAE(config.vae).to(vae_dtype), CLIPVisionEncoder(config.clip).to(dtype)
    chunk = min(frames, decode_chunk or frames)
    latents = on_meta(1, chunk, config.vae.latent_channels, height, width, dtype=vae_dtype)
    return Memory(
        dtype=str(dtype).removeprefix("torch."),
        vae_dtype=str(vae_dtype).removeprefix("torch."),
        unet_weights=weight_bytes(unet),
        vae_weights=weight_bytes(vae),
        clip_weights=weight_bytes(clip),
        guided=peak_bytes(unet_call(unet, 2, frames, height, width)),
        single=peak_bytes(unet_call(unet, 1, frames, height, width)),
        decode=peak_bytes(lambda: vae.decode(latents)),
        decode_frames=chunk,
    )


def weight_bytes(module: nn.Module) -> int:
    """Bytes of the parameters of ``module``."""
    return sum(p.numel() * p.element_size() for p in module.parameters())


class _LiveStorages(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak: int = 0
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **kwargs)
        if func is torch.ops.aten.convolution.default:
            result = in_the_layout_of(args[0], result)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if id(storage) not in given and id(storage) not in self._alive:
                    self._follow(storage)
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()

        def gone(_: weakref.ref[torch.UntypedStorage]) -> None:
            del self._alive[key]
            self.now -= size

        self._alive[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def in_the_layout_of(x: Tensor, y: Tensor) -> Tensor:
    """The convolution ``y`` of ``x``, channels-last if x is: as every backend leaves it, but not the meta device."""
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.empty_like(y, memory_format=torch.channels_last) if x.is_meta and channels_last else y


class _FusedAttention(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention and args[0].is_meta:
            return torch.empty_like(args[0])  # in the layout of the queries, as the kernels write it
        return func(*args, **(kwargs or {}))

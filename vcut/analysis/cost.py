"""What a run costs: parameters, multiply-accumulates (MACs) and memory, before any weight is loaded.

Two countings stand side by side: linear and convolution layers only, which is the paper's (Taghipour et al.,
arXiv 2407.19205), and the same with the products of attention. So do two ways of computing: *as vcut computes*
and *as published*, where the published code repeats some projections (:func:`vcut.analysis.counting.unet_counts`).
Savings compare like with like: as published, on both sides. The paper's own counting has LayerNorms in
it besides; its saving is there too, under its name.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import torch

from vcut.analysis.counting import Count, Network, UNetCounts, clip_network, total, unet_counts, vae_networks
from vcut.analysis.memory import Memory, estimate
from vcut.analysis.text_table import Table
from vcut.config import PRESETS, Mode, Preset, SVDConfig, UNetConfig, check_mode
from vcut.errors import ConfigError
from vcut.sampling import Summary, plan, summarize
from vcut.sampling.schedule import check_steps
from vcut.settings import check_size


@dataclass(frozen=True)
class Saving:
    """MACs of a whole run's UNet calls without and with the cut form; ``counting`` says what was counted."""

    name: str
    counting: str
    baseline: int
    run: int

    @property
    def saved(self) -> int:
        """MACs that need not be computed."""
        return self.baseline - self.run

    @property
    def share(self) -> float:
        """What is saved, of the baseline."""
        return self.saved / self.baseline


@dataclass(frozen=True)
class CostReport:
    """The bill of one clip. MACs are exact integers; ``cut`` is the first step without guidance."""

    model: str
    width: int
    height: int
    frames: int
    steps: int
    preset: str
    tca: Mode
    sca: Mode
    cut: int
    summary: Summary
    baseline: UNetCounts
    unet: UNetCounts
    paper: UNetCounts | None  # the form that the paper counts in place of this one: tca=False, sca=True
    networks: tuple[Network, ...]
    memory: Memory | None

    def baseline_run(self, *, published: bool = True) -> Count:
        """All UNet calls of the run as published: softmax attention, every step guided."""
        return self._run(self.baseline, Summary(self.steps, 0, 2 * self.steps), published)

    def run(self, *, published: bool = False) -> Count:
        """All UNet calls of this run; as vcut computes it with the contexts projected once."""
        return self._run(self.unet, self.summary, published)

    def whole_run(self, *, baseline: bool = False) -> Count:
        """The run with CLIP, VAE encoder and decoder: the baseline as published, this as vcut computes it."""
        once = total(network.macs for network in self.networks)
        return (self.baseline_run() if baseline else self.run()) + once

    def savings(self) -> tuple[Saving, ...]:
        """Against the baseline run, in every counting that applies, the UNet calls alone."""
        base, run = self.baseline_run(), self.run(published=True)
        method = (
            Saving("method, layers", "this form, layers only", base.layers, run.layers),
            Saving("method, with products", "this form, with attention products", base.total, run.total),
        )
        if self.paper is None:
            return method
        guided, single = self._steps(self.summary)
        paper = self.paper.paper_call(2) * guided + self.paper.paper_call(1) * single
        form = "temporal cross-attention dropped, spatial counted as trained"
        return (
            Saving(
                "paper",
                f"{form}; layers and LayerNorms, as the paper's printed figures",
                self.baseline.paper_call(2) * self.steps,
                paper,
            ),
            Saving(
                "paper, layers",
                f"{form}; layers only",
                base.layers,
                self._run(self.paper, self.summary, published=True).layers,
            ),
            *method,
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values; MACs and bytes as integers."""

        def unet(counts: UNetCounts) -> dict[str, Any]:
            return {
                "parameters": counts.parameters,
                "parts": [dataclasses.asdict(part) for part in counts.parts],
                "positions": dataclasses.asdict(counts.positions),
                "context": dataclasses.asdict(counts.context),
                "repeats": {name: dataclasses.asdict(count) for name, count in counts.repeats},
                "call": {
                    key: {str(clips): _json(counts.call(clips, published=published)) for clips in (1, 2)}
                    for key, published in (("as_vcut", False), ("as_published", True))
                },
            }

        return {
            "model": self.model,
            "width": self.width,
            "height": self.height,
            "frames": self.frames,
            "steps": self.steps,
            "preset": self.preset,
            "tca": self.tca,
            "sca": self.sca,
            "cut": self.cut,
            "summary": dataclasses.asdict(self.summary),
            "baseline": unet(self.baseline),
            "unet": unet(self.unet),
            "runs": {
                "baseline_as_published": _json(self.baseline_run()),
                "baseline_as_vcut": _json(self.baseline_run(published=False)),
                "as_published": _json(self.run(published=True)),
                "as_vcut": _json(self.run()),
                "whole_baseline_as_published": _json(self.whole_run(baseline=True)),
                "whole_as_vcut": _json(self.whole_run()),
            },
            "savings": [
                {**dataclasses.asdict(saving), "saved": saving.saved, "share": saving.share}
                for saving in self.savings()
            ],
            "networks": [
                {"name": n.name, "parameters": n.parameters, **_json(n.macs)} for n in self.networks
            ],
            "memory": None if self.memory is None else dataclasses.asdict(self.memory),
        }

    def _run(self, unet: UNetCounts, summary: Summary, published: bool) -> Count:
        guided, single = self._steps(summary)
        calls = unet.call(2, published=published) * guided + unet.call(1, published=published) * single
        if published:
            return calls
        kinds = (2 * bool(guided), 1 * bool(single))  # of steps, by their branches: each caches what it needs
        return calls + unet.context * sum(kinds) + unet.positions * sum(map(bool, kinds))

    @staticmethod
    def _steps(summary: Summary) -> tuple[int, int]:
        """Steps on both guidance branches, and steps on one."""
        return summary.guided, summary.passes - 2 * summary.guided

    def tables(self) -> tuple[Table, ...]:
        """The report as tables."""
        tables = (self._call_table(), self._run_table(), self._saving_table(), self._once_table())
        return tables if self.memory is None else (*tables, self.memory.table())

    @property
    def title(self) -> str:
        """The run in one line."""
        cut = f"cut at step {self.cut} of {self.steps}" if self.cut <= self.steps else "no cut"
        return (
            f"{self.model}, {self.width}x{self.height}, {self.frames} frames; preset {self.preset} "
            f"(tca={self.tca!r}, sca={self.sca!r}), {cut}: {self.summary}"
        )

    def __str__(self) -> str:
        return "\n\n".join([self.title, *map(str, self.tables())])

    def markdown(self) -> str:
        """As Markdown tables."""
        return "\n\n".join([self.title, *(table.markdown() for table in self.tables())])

    def _call_table(self) -> Table:
        base, this = self.baseline, self.unet
        unit = _unit(base.call(2, published=True).total)

        def row(
            name: str, a: Count, b: Count, sizes: tuple[int | str, int | str] = ("", "")
        ) -> tuple[str, ...]:
            return (
                name,
                *(f"{sizes[0]:,}" if sizes[0] != "" else "", _macs(a.layers, unit), _macs(a.total, unit)),
                *(f"{sizes[1]:,}" if sizes[1] != "" else "", _macs(b.layers, unit), _macs(b.total, unit)),
            )

        rows = [
            row(a.name, a.macs * 2, b.macs * 2, (a.parameters, b.parameters))
            for a, b in zip(base.parts, this.parts, strict=True)
        ]
        sizes = (base.parameters, this.parameters)
        rows.append(row("= as vcut computes it", base.call(2), this.call(2), sizes))
        repeats = dict(this.repeats)
        rows += [row(f"+ {name}", c * 2, repeats.get(name, Count()) * 2) for name, c in base.repeats]
        rows.append(row("+ positions of the frames, for every clip", base.positions * 2, this.positions * 2))
        rows.append(row("= as published", base.call(2, published=True), this.call(2, published=True)))
        rows.append(row("one branch, as vcut computes it", base.call(1), this.call(1)))
        rows.append(row("context, once per run", base.context * 2, this.context * 2))
        rows.append(row("positions of the frames, once per run", base.positions, this.positions))
        columns = ("parameters", "layers", "+ products")
        return Table(
            f"One UNet call on both guidance branches, {unit[1]} MACs, of the baseline and of {self.preset}",
            ("", *columns, *(f"{self.preset} {column}" for column in columns)),
            tuple(rows),
            (
                "layers: linear and convolution layers only. + products: with the matrix products of attention.",
                "Lines with + are rows that the published code repeats in every call and vcut does not.",
            ),
        )

    def _run_table(self) -> Table:
        unit = _unit(self.baseline_run().total)
        rows = [
            (name, _macs(count.layers, unit, 1), _macs(count.total, unit, 1))
            for name, count in (
                ("baseline, as published", self.baseline_run()),
                ("baseline, as vcut computes it", self.baseline_run(published=False)),
                (f"{self.preset}, as published", self.run(published=True)),
                (f"{self.preset}, as vcut computes it", self.run()),
                ("baseline, with CLIP and VAE", self.whole_run(baseline=True)),
                (f"{self.preset}, with CLIP and VAE", self.whole_run()),
            )
        ]
        return Table(f"The whole run, {unit[1]} MACs", ("", "layers", "+ products"), tuple(rows))

    def _saving_table(self) -> Table:
        unit = _unit(self.baseline_run().total)
        rows = [
            (s.name, *(_macs(v, unit, 1) for v in (s.baseline, s.run, s.saved)), f"{s.share:.1%}")
            for s in self.savings()
        ]
        return Table(
            f"Saved by {self.preset}, {unit[1]} MACs of all UNet calls, both sides as published",
            ("", "baseline", self.preset, "saved", "share"),
            tuple(rows),
            tuple(f"{s.name}: {s.counting}." for s in self.savings()),
        )

    def _once_table(self) -> Table:
        unit = _unit(max(network.macs.total for network in self.networks))
        rows = [
            (n.name, f"{n.parameters:,}", _macs(n.macs.layers, unit), _macs(n.macs.total, unit))
            for n in self.networks
        ]
        return Table(
            f"Once per clip, {unit[1]} MACs", ("", "parameters", "layers", "+ products"), tuple(rows)
        )


def cost(
    config: SVDConfig,
    *,
    height: int | None = None,
    width: int | None = None,
    frames: int | None = None,
    steps: int = 25,
    preset: str | Preset = "vcut",
    tca: Mode | None = None,
    sca: Mode | None = None,
    cut: int | Literal["preset"] | None = "preset",
    decode_chunk: int | None = 14,
    dtype: torch.dtype = torch.float16,
    vae_dtype: torch.dtype = torch.float32,
    memory: bool = True,
) -> CostReport:
    """Price one clip on the meta device: seconds, and no memory.

    Args:
        config: a model, e.g. one of ``vcut.config.CONFIGS``. Its own ``tca`` and ``sca`` do not matter.
        height: of the frames in pixels, by default what the model was made for; so are width and frames.
        width: in pixels.
        frames: per clip.
        steps: denoising steps N.
        preset: the form to price against the baseline (softmax attention, never cut).
        tca: another mode of temporal cross-attention than the preset's.
        sca: another mode of spatial cross-attention than the preset's.
        cut: the first step without guidance, 1 to N + 1; None never cuts; 'preset' follows the preset.
        decode_chunk: frames decoded at a time; changes the memory, not the MACs.
        dtype: of UNet and CLIP, for the memory.
        vae_dtype: of the VAE, for the memory.
        memory: whether to estimate the memory as well, which takes longer than the counting.

    Raises:
        ConfigError: a setting out of range.
    """
    height = config.height if height is None else height
    width = config.width if width is None else width
    frames = config.frames if frames is None else frames
    check_size(height, width, config.stride)
    for what, number in (("frames", frames), ("decode_chunk", 1 if decode_chunk is None else decode_chunk)):
        if not isinstance(number, int) or number < 1:
            raise ConfigError(f"{what} must be a whole number of at least 1, got {number!r}")
    steps = check_steps(steps)
    form, name = _form(preset, tca, sca)
    cut = form.cut_step(steps) if cut == "preset" else cut
    run = plan(steps, cut)

    h, w = height // config.vae.stride, width // config.vae.stride

    def count(tca: Mode, sca: Mode) -> UNetCounts:
        return unet_counts(_with_modes(config.unet, tca, sca), frames, h, w)

    as_paper = form.tca is False and form.sca == "linear_cached"
    return CostReport(
        model=config.name,
        width=width,
        height=height,
        frames=frames,
        steps=steps,
        preset=name,
        tca=form.tca,
        sca=form.sca,
        cut=steps + 1 if cut is None else cut,
        summary=summarize(run),
        baseline=count(True, True),
        unet=count(form.tca, form.sca),
        paper=count(False, True) if as_paper else None,
        networks=(clip_network(config.clip), *vae_networks(config.vae, frames, height, width)),
        memory=estimate(
            dataclasses.replace(config, unet=_with_modes(config.unet, form.tca, form.sca)),
            frames=frames,
            height=h,
            width=w,
            decode_chunk=decode_chunk,
            dtype=dtype,
            vae_dtype=vae_dtype,
        )
        if memory
        else None,
    )


def _form(preset: str | Preset, tca: Mode | None, sca: Mode | None) -> tuple[Preset, str]:
    """The preset with its modes replaced, and a name for it."""
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise ConfigError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
        preset = PRESETS[preset]
    form = dataclasses.replace(
        preset, tca=preset.tca if tca is None else tca, sca=preset.sca if sca is None else sca
    )
    check_mode("tca", form.tca)
    check_mode("sca", form.sca)
    return form, preset.name if form == preset else f"{preset.name}*"


def _with_modes(config: UNetConfig, tca: Mode, sca: Mode) -> UNetConfig:
    return dataclasses.replace(config, tca=tca, sca=sca)


def _json(count: Count) -> dict[str, int]:
    return {"layers": count.layers, "products": count.products, "total": count.total}


def _unit(largest: int) -> tuple[float, str]:
    units = ((1e12, "tera"), (1e9, "giga"), (1e6, "mega"))
    return next((unit for unit in units if largest >= unit[0]), (1.0, "single"))


def _macs(value: int, unit: tuple[float, str], digits: int = 3) -> str:
    return f"{value / unit[0]:,.{digits}f}" if value else "-"

"""Cost of a run: parameters, multiply-accumulates (MACs) and memory, before any weight is loaded.

Two ways of counting stand side by side. *Layers* are linear and convolution layers only, as the paper counts
(Taghipour et al., arXiv 2407.19205); *+ products* adds the matrix products of attention. The paper's own counting
also has LayerNorms in it: its saving is listed under the name "paper".

There are also two ways of computing: *as vcut computes it*, and *as published*, where the published code repeats
some projections (:func:`vcut.analysis.counting.unet_counts`). Savings are taken with both sides as published.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any

import torch

from vcut.analysis.counting import (
    Count,
    NetworkCount,
    UNetCounts,
    clip_network,
    total,
    unet_counts,
    vae_networks,
)
from vcut.analysis.memory import Memory, estimate
from vcut.analysis.text_table import Column, Table, table
from vcut.config import Mode, Preset, PresetName, SVDConfig, UNetConfig, choose_preset
from vcut.errors import check_type
from vcut.settings import Run, Settings, defaults, resolve

Row = dict[str, Any]
"""A row of a table: its name and its exact numbers by key, as in JSON."""


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
        """Share of the baseline that is saved."""
        return self.saved / self.baseline


@dataclass(frozen=True)
class CostReport:
    """The bill of one clip. MACs are exact integers.

    Attributes:
        model: the model's name.
        preset: the form that is priced against the baseline.
        resolved: the run, every setting filled in.
        baseline: the UNet with softmax attention.
        unet: the UNet in the form of the preset.
        paper: the UNet that the paper counts in place of ``unet`` (tca=False, sca=True), if it does.
        networks: CLIP, the VAE's encoder and its decoder.
        memory: the memory, unless it was not asked for.
    """

    model: str
    preset: Preset
    resolved: Run
    baseline: UNetCounts
    unet: UNetCounts
    paper: UNetCounts | None
    networks: tuple[NetworkCount, ...]
    memory: Memory | None

    @property
    def steps(self) -> int:
        """Denoising steps of the run."""
        return len(self.resolved.plan)

    def baseline_run(self, *, published: bool = True) -> Count:
        """MACs of all UNet calls of the published run: softmax attention, every evaluation guided."""
        return _calls(self.baseline, self.resolved.passes.evaluations, 0, published)

    def run(self, *, published: bool = False) -> Count:
        """MACs of all UNet calls of this run."""
        return _calls(self.unet, *self.resolved.passes.calls, published)

    def whole_run(self, *, baseline: bool = False) -> Count:
        """MACs of the run with CLIP and VAE: this one as vcut computes it, or the baseline as published."""
        once = total(network.macs for network in self.networks)
        return (self.baseline_run() if baseline else self.run()) + once

    def savings(self) -> tuple[Saving, ...]:
        """Savings of this run against the baseline's UNet calls, in every counting that applies."""
        base, run = self.baseline_run(), self.run(published=True)
        method = (
            Saving("method, layers", "this form, layers only", base.layers, run.layers),
            Saving("method, with products", "this form, with attention products", base.total, run.total),
        )
        if self.paper is None:
            return method
        guided, single = self.resolved.passes.calls
        norms = self.baseline.paper_call(2) * (guided + single)
        counted = self.paper.paper_call(2) * guided + self.paper.paper_call(1) * single
        layers = _calls(self.paper, guided, single, published=True).layers
        form = "temporal cross-attention dropped, spatial counted as trained"
        return (
            Saving("paper", f"{form}; layers and LayerNorms, as the paper's printed figures", norms, counted),
            Saving("paper, layers", f"{form}; layers only", base.layers, layers),
            *method,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: the run, and the rows of the tables with every digit."""
        run, preset = self.resolved, self.preset
        return {
            "model": self.model,
            "width": run.width,
            "height": run.height,
            "frames": run.frames,
            "steps": self.steps,
            "sampler": run.settings.sampler,
            "preset": preset.name,
            "tca": preset.tca,
            "sca": preset.sca,
            "cut": run.cut,
            "summary": dataclasses.asdict(run.passes),
            **self.rows(),
            "memory": None if self.memory is None else dataclasses.asdict(self.memory),
        }

    def rows(self) -> dict[str, list[Row]]:
        """Rows of the tables: of one UNet call, of whole runs, of the savings, and of the other networks."""
        this = self.preset.name
        return {
            "call": self._call_rows(),
            "runs": [
                _row("baseline, as published", self.baseline_run()),
                _row("baseline, as vcut computes it", self.baseline_run(published=False)),
                _row(f"{this}, as published", self.run(published=True)),
                _row(f"{this}, as vcut computes it", self.run()),
                _row("baseline, with CLIP and VAE", self.whole_run(baseline=True)),
                _row(f"{this}, with CLIP and VAE", self.whole_run()),
            ],
            "savings": [
                {**dataclasses.asdict(saving), "saved": saving.saved, "share": saving.share}
                for saving in self.savings()
            ],
            "networks": [_row(each.name, each.macs, sizes=(each.parameters,)) for each in self.networks],
        }

    def tables(self) -> tuple[Table, ...]:
        """The report as tables."""
        this, rows = self.preset.name, self.rows()
        call, unit = _macs(self.baseline.call(2, published=True).total)
        run, run_unit = _macs(self.baseline_run().total, digits=1)
        once, once_unit = _macs(max(network.macs.total for network in self.networks))
        return (
            table(
                f"One UNet call on both guidance branches, {unit} MACs, of the baseline and of {this}",
                (*_columns(call, key="baseline_"), *_columns(call, head=f"{this} ")),
                rows["call"],
                (
                    "layers: linear and convolution layers only. + products: with the matrix products of attention.",
                    "Lines with + are rows that the published code repeats in every call and vcut does not.",
                ),
            ),
            table(f"The whole run, {run_unit} MACs", _columns(run)[1:], rows["runs"]),
            table(
                f"Saved by {this}, {run_unit} MACs of all UNet calls, both sides as published",
                (
                    Column("baseline", "baseline", run),
                    Column("run", this, run),
                    Column("saved", "saved", run),
                    Column("share", "share", "{:.1%}".format),
                ),
                rows["savings"],
                tuple(f"{saving.name}: {saving.counting}." for saving in self.savings()),
            ),
            table(f"Once per clip, {once_unit} MACs", _columns(once), rows["networks"]),
            *([] if self.memory is None else [self.memory.table()]),
        )

    @property
    def title(self) -> str:
        """The run in one line."""
        run, form = self.resolved, self.preset
        cut = f"cut at step {run.cut} of {self.steps}" if run.cut <= self.steps else "no cut"
        return (
            f"{self.model}, {run.width}x{run.height}, {run.frames} frames; preset {form.name} "
            f"(tca={form.tca!r}, sca={form.sca!r}), {cut}: {run.passes}"
        )

    def __str__(self) -> str:
        return "\n\n".join([self.title, *map(str, self.tables())])

    def markdown(self) -> str:
        """Markdown of the tables, under the title."""
        return "\n\n".join([self.title, *(table.markdown() for table in self.tables())])

    def _call_rows(self) -> list[Row]:
        """Rows of one UNet call on both branches, of the baseline and of this form."""
        base, this = self.baseline, self.unet
        repeats = dict(this.repeats)
        rows = [
            _row(a.name, b.macs * 2, a.macs * 2, (b.parameters, a.parameters))
            for a, b in zip(base.parts, this.parts, strict=True)
        ]
        sizes = (this.parameters, base.parameters)
        return [
            *rows,
            _row("= as vcut computes it", this.call(2), base.call(2), sizes),
            *(_row(f"+ {name}", repeats.get(name, Count()) * 2, count * 2) for name, count in base.repeats),
            _row("+ positions of the frames, for every clip", this.positions * 2, base.positions * 2),
            _row("= as published", this.call(2, published=True), base.call(2, published=True)),
            _row("one branch, as vcut computes it", this.call(1), base.call(1)),
            _row("context, once per run", this.context * 2, base.context * 2),
            _row("positions of the frames, once per run", this.positions, base.positions),
        ]


def cost(
    config: SVDConfig,
    *,
    settings: Settings | None = None,
    preset: PresetName | Preset = "vcut",
    tca: Mode | None = None,
    sca: Mode | None = None,
    dtype: torch.dtype = torch.float16,
    vae_dtype: torch.dtype = torch.float32,
    memory: bool = True,
    **changes: Any,
) -> CostReport:
    """Price one clip on the meta device: seconds, and no memory.

    Args:
        config: a model, e.g. one of ``vcut.config.CONFIGS``; its own ``tca`` and ``sca`` do not matter.
        settings: the run, by default the preset's: :class:`vcut.settings.Settings` as it is, but for ``fast``. The
            price depends on the size, the frames, the steps, the cut and the guidance, and the memory on
            ``decode_chunk`` too.
        preset: the form to price against the baseline, which is the published run: softmax attention, every step
            guided.
        tca: mode of temporal cross-attention, by default the preset's.
        sca: mode of spatial cross-attention, by default the preset's.
        dtype: of UNet and CLIP, for the memory.
        vae_dtype: of the VAE, for the memory.
        memory: whether to estimate the memory as well, which takes longer than the counting.
        changes: settings by name, in place of those in ``settings``: ``frames=14``, ``cut=17``.

    Raises:
        ConfigError: a setting out of range, or no such preset.
        UnknownSettingError: a name that is no setting.
    """
    check_type("config", config, SVDConfig)
    check_type("settings", settings, Settings, NoneType)
    form = choose_preset(preset, tca, sca)
    start = settings or defaults(form.defaults, config)
    run = resolve(start.replace(**changes), config, form)
    frames, _, height, width = run.latent

    def unet(tca: Mode, sca: Mode) -> UNetConfig:
        return dataclasses.replace(config.unet, tca=tca, sca=sca)

    def count(tca: Mode, sca: Mode) -> UNetCounts:
        return unet_counts(unet(tca, sca), frames, height, width)

    priced = dataclasses.replace(config, unet=unet(form.tca, form.sca))
    return CostReport(
        model=config.name,
        preset=form,
        resolved=run,
        baseline=count(True, True),
        unet=count(form.tca, form.sca),
        paper=count(False, True) if (form.tca, form.sca) == (False, "linear_cached") else None,
        networks=(clip_network(config.clip), *vae_networks(config.vae, frames, run.height, run.width)),
        memory=estimate(
            priced,
            frames=frames,
            height=height,
            width=width,
            decode_chunk=run.settings.decode_chunk,
            dtype=dtype,
            vae_dtype=vae_dtype,
        )
        if memory
        else None,
    )


def _calls(unet: UNetCounts, guided: int, single: int, published: bool) -> Count:
    """MACs of the UNet calls of ``guided`` steps on two branches and ``single`` steps on one.

    As vcut computes it, a run makes one context for its guided steps (two branches) and one for its single-branch
    steps, and embeds the frames' positions once for each.
    """
    calls = unet.call(2, published=published) * guided + unet.call(1, published=published) * single
    if published:
        return calls
    branches = [number for number, steps in ((2, guided), (1, single)) if steps]
    return calls + unet.context * sum(branches) + unet.positions * len(branches)


def _row(name: str, count: Count, baseline: Count | None = None, sizes: tuple[int, ...] = ()) -> Row:
    """A row of MACs, with the baseline's beside them and the numbers of parameters where there are any."""
    row: Row = {"name": name}
    for prefix, macs, size in zip(("", "baseline_"), (count, baseline), (*sizes, None, None), strict=False):
        if size is not None:
            row[f"{prefix}parameters"] = size
        if macs is not None:
            row |= {f"{prefix}{key}": getattr(macs, key) for key in ("layers", "products", "total")}
    return row


def _columns(write: Callable[[int], str], *, key: str = "", head: str = "") -> Sequence[Column]:
    """Columns of parameters and MACs; ``key`` and ``head`` stand before the columns' own."""
    return (
        Column(f"{key}parameters", f"{head}parameters", "{:,}".format),
        Column(f"{key}layers", f"{head}layers", write),
        Column(f"{key}total", f"{head}+ products", write),
    )


def _macs(largest: int, digits: int = 3) -> tuple[Callable[[int], str], str]:
    """A function that writes MACs in the unit that fits ``largest``, and the unit's name."""
    units = ((1e12, "tera"), (1e9, "giga"), (1e6, "mega"), (1.0, "single"))
    size, name = next((unit for unit in units if largest >= unit[0]), units[-1])
    return (lambda macs: f"{macs / size:,.{digits}f}" if macs else "-"), name

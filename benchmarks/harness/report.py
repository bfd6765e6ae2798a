"""Numbers of the benchmarks: plain values, kept in a JSON file and shown as a page of tables."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.harness.rounds import ROOT
from benchmarks.harness.worker import CONTENDERS
from vcut.analysis.text_table import Table

PACKAGES = ("torch", "diffusers", "transformers", "safetensors", "tgate", "DeepCache", "numpy")
REFERENCES = {"diffusers": "x installed", "diffusers-same": "x same settings"}
"""Contenders whose time is divided by a row's, and the name of that column."""
CHANGING = ("date", "commit", "load average")
"""Properties of a machine that differ from one run to the next."""


@dataclass(frozen=True)
class Row:
    """One contender in one case; rows of the same case are compared.

    Attributes:
        case: what was run.
        contender: who ran it.
        seconds: time of each round.
        peak: most bytes that were resident at one time, above what was resident before.
        flop: twice the multiply-accumulates of one run, as :mod:`vcut.analysis.counting` counts what this contender
            computes.
        difference: from the case's first row: largest over largest, and norm over norm.
        details: further columns by name.
    """

    case: str
    contender: str
    seconds: list[float]
    peak: int | None = None
    flop: int | None = None
    difference: tuple[float, float] | None = None
    details: dict[str, float] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Median of the seconds."""
        return statistics.median(self.seconds)

    @property
    def rate(self) -> float | None:
        """Counted GFLOP per second."""
        return None if self.flop is None else self.flop / self.median / 1e9


class Found(NamedTuple):
    """Result of measuring: rows, remarks, and the reasons why something did not run, by its name."""

    rows: Sequence[Row]
    notes: Sequence[str] = ()
    missing: Mapping[str, str] = {}


@dataclass(frozen=True)
class Section:
    """One chapter of the report, as it was measured by ``command`` on ``machine``: see :class:`Found`."""

    name: str
    title: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    missing: dict[str, str] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)
    command: str = ""

    def tables(self) -> tuple[Table, ...]:
        """One table for each case, or one of all where there are many."""
        cases = list(dict.fromkeys(row.case for row in self.rows))
        if len(cases) <= 4:
            return tuple(self._table(case, [case]) for case in cases)
        return (self._table(self.title, cases),)

    def _table(self, title: str, cases: Sequence[str]) -> Table:
        lines = []
        for case in cases:
            rows = [row for row in self.rows if row.case == case]
            for row in rows:
                name = row.contender if len(cases) == 1 else f"{case}: {row.contender}"
                lines.append({"": name, **_cells(row, rows)})
        head = list(dict.fromkeys(name for line in lines for name in line))
        body = tuple(tuple(line.get(name, "") for name in head) for line in lines)
        return Table(title, tuple(head), body)

    def lines(self) -> list[str]:
        """Lines below the tables: notes, what did not run, and how, when and at which commit it was measured."""
        failed = [f"{name} did not run: `{reason}`" for name, reason in self.missing.items()]
        when = [self.machine.get("date", "date unknown")]
        when += [f"commit {self.machine['commit']}"] if "commit" in self.machine else []
        when += [self.machine["instructions"]] if "instructions" in self.machine else []
        load = self.machine.get("load average", "?")
        return [*self.notes, *failed, f"`{self.command}`, {', '.join(when)}, load before: {load}."]

    def __str__(self) -> str:
        tables = "\n\n".join(map(str, self.tables()))
        machine = [f"{name}: {text}" for name, text in self.machine.items()]
        return "\n".join([self.title, "", tables, "", *self.lines(), *machine])

    def markdown(self) -> str:
        """The chapter in Markdown."""
        tables = [text for table in self.tables() for text in (table.markdown(), "")]
        return "\n".join([f"## {self.title}", "", *tables, *(f"- {line}" for line in self.lines())])


def _cells(row: Row, rows: Sequence[Row]) -> dict[str, str]:
    """The cells of ``row`` by column; ``rows`` are those of its case."""
    named = {other.contender: other for other in rows}
    spread = f"{min(row.seconds):.2f} to {max(row.seconds):.2f}"
    cells = {"seconds": f"{row.median:.2f}", "spread": f"{spread} ({len(row.seconds)})"}
    for reference, column in REFERENCES.items():
        if (other := named.get(CONTENDERS[reference])) is not None:
            cells[column] = f"{other.median / row.median:.2f}"
    if (rate := row.rate) is not None:
        cells["GFLOP/s"] = f"{rate:.0f}"
    if row.peak is not None:
        cells["memory, GiB"] = f"{row.peak / 2**30:.2f}"
        same = named.get(CONTENDERS["diffusers-same"])
        if same is not None and same.peak:
            cells["memory of same"] = f"{row.peak / same.peak:.0%}"
    cells |= {name: f"{value:.2f}" for name, value in row.details.items()}
    if row.difference is not None:
        cells["difference, max"], cells["norm"] = (f"{value:.1e}" for value in row.difference)
    return cells


HELD = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
"""Environment in which torch and its two libraries compute as on a CPU that has AVX2 and no more."""


def machine(*, held: bool = False, threads: int = 0) -> dict[str, str]:
    """This machine and what is installed, in words.

    ``held`` is for processes that have :data:`HELD`, ``threads`` for those that have not as many as torch takes.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    settings = [f"{name}={os.environ[name]}" for name in HELD if name in os.environ]
    if held:
        capability, settings = "AVX2", [f"{name}={value}" for name, value in HELD.items()]
    cpu = next(
        (line.split(":", 1)[1].strip() for line in _read("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor() or platform.machine(),
    )
    total = next((line.split()[1] for line in _read("/proc/meminfo") if line.startswith("MemTotal")), "0")
    flags = next((line for line in _read("/proc/cpuinfo") if line.startswith("flags")), "").split()
    vectors = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    pages = " ".join(_read("/sys/kernel/mm/transparent_hugepage/enabled")) or "?"
    return {
        "CPU": f"{cpu} ({', '.join(vectors) or 'vector extensions unknown'})",
        "instructions": f"{capability}, held by {' '.join(settings)}" if settings else capability,
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "memory": f"{int(total) / 2**20:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, {' '.join(platform.libc_ver())}, huge pages {pages}",
        "Python": platform.python_version(),
        "versions": ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
        "threads": str(threads or torch.get_num_threads()),
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "load average": f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "?",
    }


def save(path: Path, sections: Sequence[Section]) -> None:
    """Write sections as JSON."""
    path.write_text(json.dumps([dataclasses.asdict(section) for section in sections], indent=1) + "\n")


def load(path: Path) -> list[Section]:
    """Read what :func:`save` wrote; an empty list if there is no such file."""
    if not path.is_file():
        return []
    return [_section(data) for data in json.loads(path.read_text())]


def merged(old: Sequence[Section], new: Sequence[Section], order: Sequence[str]) -> list[Section]:
    """``new`` in the place of the sections of the same name, all in ``order``."""
    sections = {section.name: section for section in (*old, *new)}
    return [sections[name] for name in order if name in sections]


def _section(data: dict[str, Any]) -> Section:
    rows = tuple(Row(**{**row, "difference": _pair(row["difference"])}) for row in data["rows"])
    return Section(**{**data, "rows": rows, "notes": tuple(data["notes"])})


def _pair(values: list[float] | None) -> tuple[float, float] | None:
    return None if values is None else (values[0], values[1])


INTRODUCTION = """\
Each table is one run of one script. All contenders have the same random weights and inputs. Each is a process of its
own, and they take turns: all warm up, then all run, round after round.

- *seconds* is the median of the rounds, *spread* goes from the fastest to the slowest; the number of rounds follows.
- *x installed* says how many times as fast as diffusers a row is, when nothing is set for diffusers.
- *x same settings* says the same of diffusers with the two settings that vcut's process has here: an allocator that
  keeps large blocks (`vcut.runtime.keep_large_blocks`, which the command calls), and
  `torch.set_float32_matmul_precision("medium")` (the command's `--matmul-precision medium`).
- *GFLOP/s* is twice the multiply-accumulates that `vcut.analysis.counting` counts, over the seconds. It counts each
  convolution as its plain sum, though kernels leave out products with the zeros around a map, and vcut's packed
  convolutions need fewer products: it says how fast the work is done, and has no upper limit.
- *memory* is the most that was resident beyond the weights, *memory of same* its share of what diffusers with the
  same settings takes.
- *difference* is how far the output is from the first row's: largest over largest, and norm over norm.
  On a CPU with AMX, "medium" rounds float32 products to bfloat16, in diffusers as in vcut: differences of 1e-3 to
  1e-2 in float32 rows are then that setting's.

vcut's weights are packed for the CPU before the clock starts (`vcut.layers.pack`, which the command calls once),
unless the row says otherwise. The forms are those that `vcut --version --verbose` names; a contender such as
`packed:matrices=blocks` has others, which the command's `--pack matrices=blocks` takes.

The forms follow from the instructions of the CPU alone. On the CPU with AVX2 alone each other value of a field was
tried beside them, but for `narrow`, which has no effect there. At 4 frames of 128x128 all took longer, 1.05 to 1.32
times the seconds. At one frame of 64x64 they took 0.94 to 1.79 times; what was faster there (`filtering=2`,
`matrices=blocks`) was so within the spread. Four runs of `python -m benchmarks.unet --only scaling --dtype float32
--rounds 3 --clips 1x64x64 4x128x128 --contenders packed` with, beside it, `packed:matrices=blocks
packed:filtering=none`; `packed:filtering=4`; `packed:filtering=2 packed:upsampling=four`; `packed:upsampling=plain
packed:filters=blocks`.

The chapter *One call, held to AVX2* holds every process to it, by `ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2
MKL_ENABLE_INSTRUCTIONS=AVX2`. Its figures are from a CPU that has AVX2 alone. A CPU with AVX-512 that is held to AVX2
is no substitute, since its caches, its bandwidth and the two libraries' ways with it are others: at commit b6ee887 a
Xeon held so showed vcut 1.71, 1.62, 1.44 and 1.51 times as fast as diffusers with the same settings, where the CPU of
this chapter showed 1.30, 1.31, 1.21 and 1.09. Matrices were in oneDNN's blocks then. With AVX2 alone, torch's own
library multiplies plain ones faster, and they stay plain since.

The chapter *Where the time of a call goes* says what is left to gain. *% of the peak* is the time that the products
would take in the faster of the two libraries, shape by shape, over the time that they took, and in the last row over
the time of the call. GFLOP/s count what is multiplied, but in the last row what a plain convolution would multiply.
*GB/s* are of what is bound by memory, in place of a rate of products. Call, operators and peaks are measured one
after the other, and the machine's speed moved meanwhile: under the clocks the operators of the largest clip took
45.8 s, the call 38.3 s. So its share of the peak is between 75 % (over the operators) and 90 % (over the call).

The chapter *Threads that wait* says why the command sets `OMP_WAIT_POLICY=PASSIVE`, and why two threads that share no
layer compute half of each clip of the model in the box. For 4 frames of 128x128 threads that sleep need 1.07 times
the time of torch's own on an idle machine, and 0.58 times where a neighbour has a core. The layers of the model in
the box are so small that waking a thread for each costs half of what it gives. As torch has them, threads stay awake:
that saves an eighth of the time on an idle machine, and takes nearly twice as long on a busy one.
"""


def page(sections: Sequence[Section]) -> str:
    """The report, in Markdown."""
    lines = ["# Benchmarks", "", INTRODUCTION, "![The same numbers as bars and curves](benchmarks.png)", ""]
    for found, names in _machines(sections).items():
        lines += [f"Measured on this machine: {', '.join(names)}.", ""]
        lines += [f"- {name}: {text}" for name, text in found] + [""]
    for section in sections:
        lines += [section.markdown(), ""]
    lines += [
        "## Again",
        "",
        '`pip install -e ".[bench]"`, then `python -m benchmarks`; `--only unet_call` measures one chapter and',
        "leaves the others as they are, `--report` builds this page anew from `benchmarks.json`.",
    ]
    return "\n".join(lines) + "\n"


def _machines(sections: Sequence[Section]) -> dict[tuple[tuple[str, str], ...], list[str]]:
    """Machines, each with the sections that were measured there; one, unless the chapters are from several."""
    machines: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for section in sections:
        fixed = [(name, text) for name, text in section.machine.items() if name not in CHANGING]
        machines.setdefault(tuple(fixed), []).append(section.name)
    return machines


def _read(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.is_file() else []


def _commit() -> str:
    """The commit of this repository, marked if files were changed since; ``?`` without git."""
    words = ["git", "describe", "--always", "--dirty"]
    try:
        return subprocess.run(words, cwd=ROOT, capture_output=True, check=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "?"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"

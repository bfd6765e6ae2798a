"""Under torchrun the workers share one model: they end with the same weights, from different batches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]

WORKER = """
import sys
from pathlib import Path
import torch
from torch import nn
from training import common

class Square(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fit = nn.Linear(3, 3)
    def forward(self, x):
        return (self.fit(x) - x).square().mean()

folder = Path(sys.argv[1])
sizes = []
def draw(g, size):
    sizes.append(size)
    return torch.randn(size, 3, generator=g)

with common.process_group():
    model = Square()
    common.train(model, draw, common.Recipe(steps=4, batch=6, lr=1e-2, warmup=0), folder / "run", quiet=True)
    rank, workers = common.workers()
    torch.save((model.state_dict(), sizes), folder / f"rank{rank}of{workers}.pt")
"""


@pytest.mark.slow
def test_workers_agree_and_share_the_batch(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*command, str(script), str(tmp_path)], check=True, env=environment, timeout=300, capture_output=True
    )
    (first, sizes), (second, _) = (torch.load(tmp_path / f"rank{i}of2.pt") for i in range(2))
    torch.testing.assert_close(first, second, atol=0, rtol=0)
    assert sizes == [3] * 4
    assert len((tmp_path / "run" / "curve.jsonl").read_text().splitlines()) == 4

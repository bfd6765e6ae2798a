"""Shared by all tests: the helpers beside this file can be imported from any folder below."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

settings.register_profile("suite", max_examples=40, deadline=None)  # where a test does not say
settings.load_profile("suite")

if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):
    # tests side by side share the cores, and so do the processes that they start
    threads = max(1, (os.cpu_count() or 1) // workers)
    torch.set_num_threads(threads)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))

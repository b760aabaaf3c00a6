"""Every test: tables are as wide as anywhere, and processes that share the machine each compute with their share."""

from __future__ import annotations

import os

import torch

os.environ["COLUMNS"] = "100"

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))

if WORKERS > 1:
    cores = max(1, torch.get_num_threads() // WORKERS)
    torch.set_num_threads(cores)
    os.environ["OMP_NUM_THREADS"] = str(cores)  # for the processes that tests start

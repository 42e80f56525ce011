"""What all tests share: the reference data beside the repository, one thread per process, visible skips."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of reference data and fixtures beside the repository; skip where there is none."""
    if not SHARED.is_dir():
        pytest.skip("no reference data: the folder 'shared' does not lie beside the repository")
    return SHARED


def pytest_configure(config: pytest.Config) -> None:
    """Let property tests take the time they need on a busy machine, and draw the same examples every time."""
    from hypothesis import settings

    settings.register_profile("gen", deadline=None, derandomize=True, max_examples=50)
    settings.load_profile("gen")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Begin every test alike, whatever ran before: the numbers of draws without a generator, the levels of our log."""
    import logging
    import random

    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    for name in ("gen", "autoencoders", "diffusion", "forecast", "downscaling"):  # commands with --quiet change them
        logging.getLogger(name).setLevel(logging.NOTSET)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked `gpu` where there is no accelerator."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no accelerator on this machine"))

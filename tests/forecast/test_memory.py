"""forecast.memory: a block that fits, and the same one when the free memory changes a little."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from forecast import memory
from forecast.memory import PEAK_RESULTS, SHARE, WAITING_CALLS, fitting_block, free_memory, largest_result

CPU = torch.device("cpu")


def test_the_largest_result_is_that_of_the_widest_layer() -> None:
    """4 rows through 8 -> 1000 -> 2: the widest result has 4 x 1000 float32; the view of a weight counts not."""
    network = nn.Sequential(nn.Linear(8, 1000), nn.ReLU(), nn.Linear(1000, 2))
    with torch.no_grad():
        assert largest_result(lambda: network(torch.zeros(4, 8))) == 4 * 1000 * 4


def test_blocks_are_powers_of_two_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of 1.6 GB over 16 x 1 MB + 6 x 1 MB per member is 36: 32. A tenth more or less does not matter."""
    for free in (1.5e9, 1.6e9, 1.7e9):
        monkeypatch.setattr(memory, "free_memory", lambda device, free=free: free)
        assert fitting_block(1000, 10**6, 10**6, CPU) == 32
        assert fitting_block(20, 10**6, 10**6, CPU) == 20
    assert SHARE * 1.7e9 / ((PEAK_RESULTS + WAITING_CALLS) * 1e6) > 32


def test_at_least_one_member_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing fits, one member is."""
    monkeypatch.setattr(memory, "free_memory", lambda device: 1e6)
    assert fitting_block(50, 10**9, 10**9, CPU) == 1


def test_fields_in_the_memory_of_the_host_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """On an accelerator with room for 64 members the host's memory for 8 decides."""
    room = {"cuda": 2 * 64.5 * PEAK_RESULTS * 1e6, "cpu": 2 * 8.5 * WAITING_CALLS * 1e6}
    monkeypatch.setattr(memory, "free_memory", lambda device: room[device.type])
    assert fitting_block(1000, 10**6, 10**6, torch.device("cuda")) == 8
    assert fitting_block(1000, 10**6, 10**3, torch.device("cuda")) == 64


def test_free_memory_is_that_of_the_machine() -> None:
    """Between 1 MB and 100 TB."""
    assert 1e6 < free_memory(CPU) < 1e14

"""The device that is asked for, or one clear line."""

from __future__ import annotations

import pytest
import torch

from gen.device import choose_device


def test_a_device_is_found_or_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an accelerator the CPU is chosen; with two, each local process gets its own; others are refused."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(None).type == "cpu" and choose_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match="there is no 'cuda' here; CUDA devices found: 0"):
        choose_device("cuda")
    with pytest.raises(ValueError, match="device must look like cpu, cuda or cuda:1; got 'gpu'"):
        choose_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert choose_device(None) == torch.device("cuda:1")

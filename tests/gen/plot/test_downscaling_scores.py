"""gen.plot.downscaling_scores: axes that panels share hold what all of them draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from gen.plot import downscaling_scores


def group(factor: float, outermost: float) -> dict[str, Any]:
    """Return what is drawn of one system, with so large a first rank."""
    rank = np.array([outermost, *[1.0] * 9])
    return {"factor": factor, "region": None, "systems": {"model": {"wet_rank": rank / rank.sum()}}}


def test_a_later_panel_is_not_cut_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The second factor has the larger first rank; the common axis begins at zero and reaches beyond it."""
    seen: list[Axes] = []

    def kept(figure: Any, ax: Axes, path: Path) -> Path:
        seen.append(ax)
        return path

    monkeypatch.setattr(downscaling_scores, "_finished", kept)
    downscaling_scores._ranks([group(2.5, 2.0), group(8.0, 5.0)], tmp_path / "ranks.png")
    low, high = seen[0].get_ylim()
    assert low == 0 and high > 10 * 5.0 / 14

"""gen.writers.recorded: what files say of themselves, finished or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gen.data.variables import make_channels
from gen.grid import LatLonGrid
from gen.writers.recorded import recorded_attributes
from gen.writers.spec import FileSpec
from gen.writers.staged import StagedWriter

SPEC = FileSpec(
    channels=make_channels(["2m_temperature"], []),
    grid=LatLonGrid.gaussian(4, 8),
    members=2,
    inits=np.array(["2020-01-01"], "datetime64[h]"),
    leads=np.array([6], "timedelta64[h]"),
    attrs={"members_per_block": "7"},
    layout="weatherbench",
)


@pytest.mark.parametrize(("name", "format"), [("f.nc", "netcdf"), ("f.zarr", "zarr")])
def test_attributes_of_stopped_and_finished_files(tmp_path: Path, name: str, format: Any) -> None:
    """Half written, the journal tells; finished, the file itself."""
    path, values = tmp_path / name, np.zeros((1, 1, 1, 4, 8), np.float32)
    with pytest.raises(RuntimeError, match="stopped"), StagedWriter(path, SPEC, format) as writer:
        writer.write(0, slice(0, 1), values)
        writer.commit(0, slice(0, 1))
        while not writer.has(0, slice(0, 1)):
            pass
        raise RuntimeError("stopped")
    assert not path.exists() and recorded_attributes(path)["members_per_block"] == "7"
    with StagedWriter(path, SPEC, format, resume=True) as writer:
        writer.write(0, slice(1, 2), values)
        writer.commit(0, slice(1, 2))
    assert path.exists() and recorded_attributes(path)["members_per_block"] == "7"


def test_other_files_record_nothing(tmp_path: Path) -> None:
    """No file, a text file and an empty folder have no attributes."""
    (tmp_path / "text").write_text("hello")
    assert [recorded_attributes(tmp_path / n) for n in ("text", "nothing", ".")] == [{}, {}, {}]

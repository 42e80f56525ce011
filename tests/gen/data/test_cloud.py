"""Cloud stores answer within seconds when there is no network, and their layouts are understood."""

from __future__ import annotations

import socket
import time

import numpy as np
import pytest

from gen.data import cloud
from gen.data.sources import SourceError, open_source


@pytest.mark.parametrize("name", cloud.STORES)
def test_no_network_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused connection is reported with the host and a way out."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(cloud.check_network, "__defaults__", (f"http://127.0.0.1:{port}", 4.0))
    with pytest.raises(SourceError, match=f"no network for {name}.*give a local file") as caught:
        open_source(name)
    assert "\n" not in str(caught.value)


def test_a_silent_network_is_given_up_in_five_seconds() -> None:
    """A host that accepts and never answers costs the patience asked for, not a minute."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        with pytest.raises(SourceError, match="no answer|timed out"):
            cloud.check_network("wb2", f"http://127.0.0.1:{silent.getsockname()[1]}", patience=0.5)
        assert time.monotonic() - began < 1.5
    assert cloud.PATIENCE_SECONDS < 5


def test_only_the_covered_part_of_arco_is_offered() -> None:
    """The store's time axis reaches beyond its data; its attributes say where they end."""
    import xarray as xr

    times = np.arange("2022-12-30", "2023-01-03", dtype="datetime64[h]").astype("datetime64[ns]")
    ds = xr.Dataset({"x": ("time", np.zeros(times.size))}, {"time": times})
    marked = ds.assign_attrs(valid_time_start="2022-12-31", valid_time_stop="2023-01-01")
    assert cloud.covered(marked)["time"].values[[0, -1]].astype("datetime64[h]").astype(str).tolist() == [
        "2022-12-31T00",
        "2023-01-01T23",
    ]
    assert cloud.covered(ds).sizes["time"] == times.size

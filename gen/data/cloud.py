"""ERA5 in public cloud stores, read anonymously: WeatherBench 2 and ARCO-ERA5.

Both are Zarr. The WeatherBench store is hourly, 1.5 degrees with poles, conservatively regridded (Rasp et al. 2024,
arXiv 2308.15560); ARCO-ERA5 is hourly at 0.25 degrees (Carver and Merose 2023). ERA5 data: Copernicus licence.
"""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

__all__ = ["STORES", "open_cloud"]

import numpy as np

from gen.data.sources import Source, SourceError
from gen.fields import Field

STORES = {
    "wb2": "weatherbench2/datasets/era5/1959-2023_01_10-1h-240x121_equiangular_with_poles_conservative.zarr",
    "arco-era5": "gcp-public-data-arco-era5/ar/full_37-1h-0p25deg-chunk-1.zarr-v3",
}
HOST = "https://storage.googleapis.com"
PATIENCE_SECONDS = 4.0


def open_cloud(name: str, *, fill: Mapping[str, float] | None = None, orography: Field | None = None) -> Source:
    """Open a store of `STORES`.

    Raises:
        SourceError: without the `cloud` extra or without network, within five seconds.
    """
    from gen.data.dataset_source import DatasetSource

    check_network(name)
    try:
        import gcsfs  # noqa: F401
    except ImportError as error:
        raise SourceError(f"{name} needs the cloud extra: pip install 'gen-earth[cloud]'") from error
    return DatasetSource(name, [covered(_open(STORES[name]))], fill=fill, orography=orography, synthetic=False)


def check_network(name: str, host: str = HOST, patience: float = PATIENCE_SECONDS) -> None:
    """Raise SourceError unless the host answers within `patience` seconds, name look-up included."""
    outcome: list[str] = []

    def knock() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(host, method="HEAD"), timeout=patience):
                outcome.append("")
        except urllib.error.HTTPError:
            outcome.append("")  # an answer is an answer
        except OSError as error:
            outcome.append(str(getattr(error, "reason", error)))

    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(patience)
    reason = outcome[0] if outcome else f"no answer in {patience:g} s"
    if reason:
        raise SourceError(f"no network for {name}: {host} cannot be reached ({reason}); give a local file as source")


def covered(dataset: Any) -> Any:
    """Return the part of a store that holds data, which ARCO-ERA5 states in its attributes."""
    start, stop = (dataset.attrs.get(f"valid_time_{end}") for end in ("start", "stop"))
    if start is None or stop is None:
        return dataset
    return dataset.sel(time=slice(np.datetime64(start), np.datetime64(stop) + np.timedelta64(23, "h")))


def _open(path: str) -> Any:
    import xarray as xr

    try:
        return xr.open_zarr(f"gs://{path}", chunks=None, storage_options={"token": "anon"}, decode_timedelta=True)
    except Exception as error:  # gcsfs, aiohttp and zarr each have their own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SourceError(f"gs://{path} cannot be opened: {reason}") from error

"""ERA5 in public cloud stores, read anonymously: WeatherBench 2 and ARCO-ERA5.

Both are Zarr. The WeatherBench store is hourly, 1.5 degrees with poles, conservatively regridded (Rasp et al. 2024,
arXiv 2308.15560); ARCO-ERA5 is hourly at 0.25 degrees (Carver and Merose 2023). ERA5 data: Copernicus licence.
"""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Mapping

__all__ = ["STORES", "open_cloud", "open_cloud_store"]

from gen.data.sources import Source, SourceError
from gen.data.stores import Store, covered, open_zarr
from gen.fields import Field

STORES = {
    "wb2": "weatherbench2/datasets/era5/1959-2023_01_10-1h-240x121_equiangular_with_poles_conservative.zarr",
    "arco-era5": "gcp-public-data-arco-era5/ar/full_37-1h-0p25deg-chunk-1.zarr-v3",
}
HOST = "https://storage.googleapis.com"
PATIENCE_SECONDS = 4.0
ANONYMOUS = {"token": "anon"}


def open_cloud(name: str, *, fill: Mapping[str, float] | None = None, orography: Field | None = None) -> Source:
    """Open a store of `STORES`.

    Raises:
        SourceError: without the `cloud` extra or without network, within five seconds.
    """
    from gen.data.dataset_source import DatasetSource

    dataset = covered(open_cloud_store(name).dataset)
    return DatasetSource(name, [dataset], fill=fill, orography=orography, synthetic=False)


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


def open_cloud_store(name: str) -> Store:
    """Open a store of `STORES` for reading chunk by chunk.

    Raises:
        SourceError: without the `cloud` extra or without network, within five seconds.
    """
    check_network(name)
    try:
        import gcsfs  # noqa: F401
    except ImportError as error:
        raise SourceError(f"{name} needs the cloud extra: pip install 'gen-earth[cloud]'") from error
    url = f"gs://{STORES[name]}"
    try:
        import zarr

        group = zarr.open_group(url, mode="r", storage_options=ANONYMOUS)
        return Store(name, open_zarr(url, storage_options=ANONYMOUS), group)
    except Exception as error:  # gcsfs, aiohttp and zarr each have their own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SourceError(f"{url} cannot be opened: {reason}") from error

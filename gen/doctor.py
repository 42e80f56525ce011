"""Doctor: are our imports really ours, and what can this machine do?

The names `gen`, `autoencoders`, `diffusion` and `forecast` are all taken on PyPI by unrelated wheels that ship exactly
these packages, and pip overwrites files without a word. `check_origin` is the cheap check at every start; `report`
adds the installed distributions, changed files and the environment.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import os
import platform
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

__all__ = ["DISTRIBUTION", "Finding", "PACKAGES", "changed_files", "check_origin", "report", "strangers"]

DISTRIBUTION = "gen-earth"
PACKAGES = ("gen", "autoencoders", "diffusion", "forecast", "downscaling")
OPTIONAL = {
    "cartopy": "viz",
    "rasterio": "geo",
    "gcsfs": "cloud",
    "cfgrib": "grib",
    "xformers": "xformers",
    "scoringrules": "eval",
    "compliance_checker": "eval",
}
REQUIRED = ("torch", "diffusers", "accelerate", "numpy", "xarray", "zarr", "netCDF4", "h5netcdf", "omegaconf", "click")


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked at, what was found, and whether it must be mended."""

    topic: str
    text: str
    wrong: bool = False


def check_origin(home: Path | None = None) -> None:
    """Check that the sibling packages lie beside `gen`.

    Raises:
        RuntimeError: another package of the same name would be imported instead.
    """
    for finding in _origins(Path(__file__).resolve().parent.parent if home is None else home):
        if finding.wrong:
            raise RuntimeError(f"{finding.text}; run `gen doctor`")


def strangers() -> list[str]:
    """Return the installed distributions, other than ours, that carry the name of one of our packages."""
    found = set()
    for name in PACKAGES:
        try:
            found.add(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return sorted(found)


def changed_files(files: Iterable[metadata.PackagePath] | None = None) -> list[str]:
    """Return our installed files whose bytes differ from what our wheel recorded (none for an editable install)."""
    if files is None:
        try:
            files = metadata.files(DISTRIBUTION) or []
        except metadata.PackageNotFoundError:
            files = []
    ours = [f for f in files if f.parts[0] in PACKAGES and f.hash is not None]
    return [str(f) for f in ours if not _matches(f)]


def report() -> list[Finding]:
    """Examine origin, versions, processor, accelerators and optional packages."""
    return [*_origins(Path(__file__).resolve().parent.parent), *_installed(), *_system(), *_torch(), *_optional()]


def _origins(home: Path) -> Iterator[Finding]:
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        places = [Path(p).resolve() for p in (spec.submodule_search_locations or [])] if spec else []
        if not places:
            yield Finding(name, f"the package {name!r} is not installed; reinstall {DISTRIBUTION}", wrong=True)
        elif places[0] != home / name:
            text = f"{name!r} is imported from {places[0]}, not from {home / name}: another package of that name"
            yield Finding(name, f"{text} hides ours; give {DISTRIBUTION} an environment of its own", wrong=True)
        else:
            yield Finding(name, str(places[0]))


def _installed() -> Iterator[Finding]:
    for name in strangers():
        text = f"{name} is installed and is not ours: pip uninstall it, reinstall {DISTRIBUTION}"
        yield Finding("PyPI", text, wrong=True)
    if changed := changed_files():
        text = f"{len(changed)} of our files were overwritten, first {changed[0]}: reinstall {DISTRIBUTION}"
        yield Finding("files", text, wrong=True)


def _matches(path: metadata.PackagePath) -> bool:
    assert path.hash is not None
    located = Path(str(path.locate()))
    if not located.exists():
        return False
    digest = hashlib.new(path.hash.mode, located.read_bytes()).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=") == path.hash.value


def _system() -> Iterator[Finding]:
    yield Finding("python", f"{platform.python_version()} ({sys.executable})")
    yield Finding("platform", f"{platform.system()} {platform.machine()}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("cores", str(cores))
    for name in REQUIRED:
        version = _version(name)
        yield Finding(name, version or f"missing: pip install {name}", wrong=version is None)


def _torch() -> Iterator[Finding]:
    if importlib.util.find_spec("torch") is None:
        return
    import torch

    from gen.nn.attention import available_backends

    limit = os.environ.get("OMP_NUM_THREADS", "unset")
    yield Finding("threads", f"{torch.get_num_threads()} (OMP_NUM_THREADS={limit})")
    native = bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())
    kernels = torch.backends.cpu.get_cpu_capability()
    yield Finding("CPU kernels", f"{kernels}, bf16 {'native' if native else 'emulated'}")
    for index in range(torch.cuda.device_count()):
        name, memory = torch.cuda.get_device_name(index), torch.cuda.get_device_properties(index).total_memory
        bf16 = "yes" if torch.cuda.is_bf16_supported() else "no"
        yield Finding(f"cuda:{index}", f"{name}, {memory / 2**30:.0f} GiB, bf16 {bf16}")
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        yield Finding(f"attention on {device}", ", ".join(available_backends(device)))
    if not torch.cuda.is_available():
        yield Finding("accelerator", "none: everything runs on the CPU")


def _optional() -> Iterator[Finding]:
    for name, extra in OPTIONAL.items():
        yield Finding(name, _version(name) or f"not installed (optional): pip install '{DISTRIBUTION}[{extra}]'")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None

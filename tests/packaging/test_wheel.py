"""The wheel: our five packages, their data, nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"gen", "autoencoders", "diffusion", "forecast", "downscaling"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Build the wheel without a network and open it."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_exactly_our_packages(wheel: zipfile.ZipFile) -> None:
    """Five import packages and the metadata; no tests, no configurations, no caches."""
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES
    assert not [name for name in wheel.namelist() if "__pycache__" in name or name.endswith((".pyc", ".log"))]


def test_the_wheel_holds_every_tracked_file_of_our_packages(wheel: zipfile.ZipFile) -> None:
    """Whatever is under version control in the packages ships: code, weights, archive, outline."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: the list of tracked files is not known")
    listed = subprocess.run(["git", "ls-files", "-z", *sorted(PACKAGES)], cwd=ROOT, capture_output=True, text=True)
    tracked = {name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()}
    assert tracked and tracked <= set(wheel.namelist())


def test_the_demo_model_ships_and_is_small(wheel: zipfile.ZipFile) -> None:
    """Weights of at most 8 MB and an archive of starting states of at most 6 MB, with index and hashes."""
    sizes = {i.filename: i.file_size for i in wheel.infolist() if i.filename.startswith("forecast/weights/demo/")}
    if not sizes:
        pytest.skip("the demo weights are not in this checkout yet")
    names = {name.removeprefix("forecast/weights/demo/") for name in sizes}
    assert {"model_index.json", "SHA256SUMS", "README.md"} <= names
    weights = sum(size for name, size in sizes.items() if name.endswith(".safetensors"))
    assert weights <= 8e6 and sum(sizes.values()) <= 14.5e6


def test_the_metadata_name_version_python_and_command(wheel: zipfile.ZipFile) -> None:
    """Distribution gen-earth, the version of gen/__init__.py, Python 3.11 to 3.13, a torch range, the command gen."""
    import gen

    (folder,) = {name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    meta = message_from_string(wheel.read(f"{folder}/METADATA").decode())
    assert (meta["Name"], meta["Version"], meta["License-Expression"]) == ("gen-earth", gen.__version__, "Apache-2.0")
    assert set(meta["Requires-Python"].split(",")) == {">=3.11", "<3.14"}
    assert "torch>=2.10" in meta.get_all("Requires-Dist", [])
    assert set(meta.get_all("Provides-Extra", [])) == {"viz", "geo", "cloud", "grib", "xformers", "eval", "test"}
    assert "gen = gen.cli:main" in wheel.read(f"{folder}/entry_points.txt").decode()
    assert "Apache License" in wheel.read(f"{folder}/licenses/LICENSE").decode()


def test_torchvision_is_asked_for_nowhere(wheel: zipfile.ZipFile) -> None:
    """Its matching wheel is a CUDA build that breaks diffusers beside a CPU torch."""
    (name,) = (n for n in wheel.namelist() if n.endswith("METADATA"))
    assert "torchvision" not in wheel.read(name).decode()
    assert "torchvision" not in (ROOT / "constraints.txt").read_text()

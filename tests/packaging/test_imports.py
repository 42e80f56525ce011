"""Imports: cheap at the top, honest about layers."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BELOW = {
    "gen": set[str](),
    "autoencoders": {"gen"},
    "diffusion": {"gen"},
    "forecast": {"gen", "autoencoders", "diffusion"},
    "downscaling": {"gen", "autoencoders", "diffusion"},
}


def test_import_gen_takes_less_than_50_milliseconds() -> None:
    """`import gen` is a version and nothing else: the best of five in a fresh interpreter."""
    code = "from time import perf_counter as t; a = t(); import gen; print(t() - a)"
    times = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout) for _ in "12345"
    ]
    assert min(times) < 0.05


@pytest.mark.parametrize(
    "module", ["gen", "gen.cli", "gen.tasks", "gen.config", "gen.doctor", "gen.provenance", "gen.progress"]
)
def test_light_modules_load_nothing_heavy(module: str) -> None:
    """What the command line touches before it knows the command loads no array library and no network."""
    heavy = "{'torch', 'numpy', 'xarray', 'matplotlib', 'diffusers', 'zarr', 'omegaconf'}"
    code = f"import sys, {module}; sys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, f"{module} loads {done.stderr}"


@pytest.mark.parametrize("package", sorted(BELOW))
def test_packages_import_only_what_lies_below_them(package: str) -> None:
    """Every import statement of every file, also inside functions: tasks -> codecs | dynamics -> gen.

    Independent of import-linter, which `make lint` runs; tables of strings are not imports.
    """
    allowed = BELOW[package] | {package}
    for path in sorted((ROOT / package).rglob("*.py")):
        for name in _imported(path):
            assert name not in BELOW or name in allowed, f"{path.relative_to(ROOT)} imports {name}"


def test_no_module_is_named_after_the_standard_library() -> None:
    """A top-level package or script of ours must not hide a module of Python's."""
    for path in (*ROOT.glob("*.py"), *(ROOT / name for name in BELOW)):
        assert path.stem not in sys.stdlib_module_names


def _imported(path: Path) -> set[str]:
    names = set[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(str(node.module).partition(".")[0])
    return names

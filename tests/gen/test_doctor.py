"""gen.doctor: packages of the same name from elsewhere are noticed."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import gen
from gen import doctor

HOME = Path(gen.__file__).resolve().parent.parent


def test_this_installation_is_sound() -> None:
    """Here the four packages lie side by side and nothing was overwritten."""
    doctor.check_origin()
    assert doctor.changed_files() == []
    assert [f for f in doctor.report() if f.wrong and f.topic != "PyPI"] == []


def test_a_package_that_hides_ours_is_refused(tmp_path: Path) -> None:
    """Another package `diffusion` earlier on the path: one line that names both places, exit code 1."""
    (tmp_path / "diffusion").mkdir()
    (tmp_path / "diffusion" / "__init__.py").write_text("")
    path = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(HOME)!r}]; "
    code = path + "from gen.cli import main; sys.exit(main(['info', 'x']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: 'diffusion' is imported from")
    assert str(tmp_path) in done.stderr and "gen doctor" in done.stderr


def test_a_missing_sibling_is_refused(tmp_path: Path) -> None:
    """Seen from a folder without siblings, nothing lies where it should."""
    with pytest.raises(RuntimeError, match="another package of that name"):
        doctor.check_origin(tmp_path)


def test_strangers_are_distributions_that_carry_our_import_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution called like one of our packages is not ours: ours is called gen-earth."""

    def version(name: str) -> str:
        if name == "diffusion":
            return "6.10"
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "version", version)
    assert doctor.strangers() == ["diffusion 6.10"]


def test_an_overwritten_file_is_found_by_its_hash(tmp_path: Path) -> None:
    """pip overwrites silently; the hash in our wheel's record tells."""
    info = tmp_path / "gen_earth-0.dist-info"
    info.mkdir()
    (tmp_path / "gen").mkdir()
    for name in ("same", "other"):
        (tmp_path / "gen" / f"{name}.py").write_text("")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gen-earth\nVersion: 0\n")
    empty = "sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"
    rows = [f"gen/{name}.py,{empty},0" for name in ("same", "other", "gone")] + ["gen_earth-0.dist-info/RECORD,,"]
    (info / "RECORD").write_text("\n".join(rows) + "\n")
    (tmp_path / "gen" / "other.py").write_text("print('not ours')")
    files = metadata.PathDistribution(info).files
    assert doctor.changed_files(files) == ["gen/other.py", "gen/gone.py"]

"""Projections have the properties they are chosen for, and agree with cartopy."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest

from gen.plot.projections import by_cartopy, conic, equal_earth, stereographic

LAT = np.linspace(-70, 70, 29)
LON = np.linspace(-170, 170, 35)


def jacobian(project, lon, lat, step=1e-4):
    """Return derivatives by longitude and latitude [2, 2, ...] per radian, central differences (error 1e-9)."""
    rad = np.deg2rad(step)
    by_lon = (np.array(project(lon + step, lat)) - project(lon - step, lat)) / (2 * rad)
    by_lat = (np.array(project(lon, lat + step)) - project(lon, lat - step)) / (2 * rad)
    return np.stack([by_lon, by_lat])


def test_equal_earth_keeps_areas():
    """det(J) / cos(lat) is 1 everywhere on the unit sphere (Šavrič et al. 2018 scale it so); 1e-5: coefficients."""
    lon, lat = np.meshgrid(LON, LAT)
    j = jacobian(equal_earth(0.0), lon, lat)
    area = (j[0, 0] * j[1, 1] - j[0, 1] * j[1, 0]) / np.cos(np.deg2rad(lat))
    assert np.abs(area - 1).max() < 1e-5


@pytest.mark.parametrize(
    ("project", "lats"),
    [
        (stereographic(True), np.linspace(20, 85, 14)),
        (stereographic(False), np.linspace(-85, -20, 14)),
        (conic(10.0, 35.0, 65.0), np.linspace(25, 80, 12)),
        (conic(-60.0, -65.0, -35.0), np.linspace(-80, -25, 12)),
    ],
)
def test_stereographic_and_conic_keep_angles(project, lats):
    """The scale along the parallel (divided by cos lat) equals that along the meridian, and they are orthogonal."""
    lon, lat = np.meshgrid(np.linspace(-60, 60, 13), lats)
    j = jacobian(project, lon, lat)
    east, north = j[0] / np.cos(np.deg2rad(lat)), j[1]
    assert np.allclose(np.hypot(*east), np.hypot(*north), rtol=1e-6)
    assert np.abs((east * north).sum(axis=0)).max() < 1e-6


def test_conic_is_true_along_its_parallels():
    """At both standard parallels the scale is 1 (Snyder 1987, Eq. 15-4)."""
    for lat in (35.0, 65.0):
        j = jacobian(conic(10.0, 35.0, 65.0), np.array(30.0), np.array(lat))
        assert np.hypot(*j[1]) == pytest.approx(1.0, abs=1e-7)


def test_projections_agree_with_cartopy():
    """PROJ on a sphere of radius 1 gives the same coordinates; in a process of its own (see the module's text)."""
    if importlib.util.find_spec("cartopy") is None:
        pytest.skip("needs pip install 'gen-earth[viz]'")
    code = """
import json, numpy as np, cartopy.crs as c
g = c.Globe(semimajor_axis=1.0, semiminor_axis=1.0, ellipse=None)
flat = c.PlateCarree(globe=g)
lon, lat = np.meshgrid(np.linspace(-170, 170, 35), np.linspace(25, 70, 10))
crs = {
    "equal_earth": c.EqualEarth(globe=g),
    "stereographic": c.NorthPolarStereo(globe=g),
    "conic": c.LambertConformal(10.0, 50.0, standard_parallels=(35.0, 65.0), globe=g),
}
print(json.dumps({k: p.transform_points(flat, lon, lat)[..., :2].tolist() for k, p in crs.items()}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lon, lat = np.meshgrid(np.linspace(-170, 170, 35), np.linspace(25, 70, 10))
    ours = {"equal_earth": equal_earth(0.0), "stereographic": stereographic(True), "conic": conic(10.0, 35.0, 65.0)}
    for name, theirs in json.loads(done.stdout).items():
        assert np.allclose(np.stack(ours[name](lon, lat), -1), theirs, atol=1e-6), name


def test_cartopy_is_refused_beside_eccodes(monkeypatch):
    """Both in one process end it with a segmentation fault, so the request gets one clear line instead."""
    monkeypatch.setitem(sys.modules, "eccodes", object())
    with pytest.raises(ValueError, match="cannot be loaded after ecCodes"):
        by_cartopy("Mollweide", 0.0)


def test_a_missing_cartopy_names_the_package(monkeypatch):
    """The message holds the pip line."""
    for name in ("eccodes", "gribapi"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "cartopy.crs", None)
    with pytest.raises(ValueError, match="pip install"):
        by_cartopy("Mollweide", 0.0)

"""Regions: 18 boxes on the Earth, found by name, whatever the longitudes they were written in."""

from __future__ import annotations

import numpy as np
import pytest

from downscaling.regions import REGIONS, normalised, region
from gen.grid import LatLonGrid, Region


def test_every_region_is_a_box_of_200_by_200_cells_of_a_tenth_of_a_degree() -> None:
    """18 boxes of 20 x 20 degrees hold 80 x 80 ERA5 and 200 x 200 IMERG cell centres on centred grids."""
    assert len(REGIONS) == 18
    imerg = LatLonGrid(np.arange(-89.95, 90, 0.1), np.arange(0.05, 360, 0.1))
    for box in REGIONS.values():
        assert -180 <= box.west < box.east < 180 and box.width == 20 and box.north - box.south == 20
        assert imerg.subset(box).shape == (200, 200)


def test_longitudes_beyond_180_go_west_of_greenwich() -> None:
    """The table's 300..320 and 230..250 are 60 W..40 W and 130 W..110 W."""
    assert region("amazon-basin") == Region(-20, 0, -60, -40)
    assert region("northamerica-west") == Region(40, 60, -130, -110)
    assert region("europe_west") == Region(40, 60, -5, 15)


def test_boxes_across_the_date_line_keep_their_width() -> None:
    """170..190 becomes 170..-170; 160..180 keeps 180; the whole circle stays whole."""
    assert normalised(0, 10, 170, 190) == Region(0, 10, 170, -170) and normalised(0, 10, 170, 190).width == 20
    assert normalised(0, 10, 160, 180).width == 20 and normalised(0, 10, -190, -170).width == 20
    assert normalised(-90, 90, 0, 360).width == 360


def test_names_are_forgiving_and_errors_helpful() -> None:
    """Separators and capitals do not matter; a near miss is answered with the region that was meant."""
    assert region("Europe West") == region("europe_west") == region("europe-west")
    with pytest.raises(ValueError, match=r"no region 'tibet-plateau'; did you mean tibetan-plateau"):
        region("tibet-plateau")
    with pytest.raises(ValueError, match=r"no region 'zzz'; known are africa-south, amazon-basin"):
        region("zzz")

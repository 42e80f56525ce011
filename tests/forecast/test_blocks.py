"""forecast.blocks: blocks of one size hold everything once, in the order of the file."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from forecast.blocks import Part, pack, rows


@given(st.integers(1, 12), st.integers(1, 70), st.integers(1, 70))
def test_every_member_of_every_start_is_there_once(starts: int, members: int, size: int) -> None:
    """The rows of all units are the file's order of members; only the last unit is short; parts have one start."""
    units = pack(starts, members, size)
    asked = [row for unit in units for row in rows(unit, unit.size)]
    assert asked == [(i, m) for i in range(starts) for m in range(members)]
    assert [u.size for u in units[:-1]] == [size] * (len(units) - 1) and 1 <= units[-1].size <= size
    assert all(p.size > 0 and len({q.init_index for q in u.parts}) == len(u.parts) for u in units for p in u.parts)
    assert all(len(rows(unit, size)) == size for unit in units)


def test_a_small_ensemble_shares_its_block() -> None:
    """Two members of five starts fill two blocks of four rows; the third is padded with its last row."""
    units = pack(5, 2, 4)
    assert [[p.init_index for p in u.parts] for u in units] == [[0, 1], [2, 3], [4]]
    assert units[2].parts == (Part(4, slice(0, 2)),) and rows(units[2], 4) == [(4, 0), (4, 1), (4, 1), (4, 1)]

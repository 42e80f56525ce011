"""Which channels of a model or file a person asks for."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["choose_channels"]

from gen.data.variables import Channel, make_channels, parse_channel


def choose_channels(
    have: Sequence[Channel], variables: Sequence[str] = (), levels: Sequence[int] = (), owner: str = "the model"
) -> tuple[Channel, ...]:
    """Return the channels of `variables` (names or codes; default all) on `levels` in hPa (default all), in file order.

    Raises:
        ValueError: one of them is not there; names what `owner` has.
    """
    wanted = list(have)
    if variables:
        wanted = []
        for text in variables:
            same = [c for c in have if c.name == text] or [c for c in have if c == parse_channel(text)]
            if not same:
                raise ValueError(f"{owner} has no {text!r}; it has {', '.join(c.code for c in have)}")
            wanted += same
    if levels:
        known = {c.level for c in have if c.level is not None}
        if absent := sorted(set(levels) - known):
            raise ValueError(f"{owner} has no level {absent[0]} hPa; it has {sorted(known)}")
        wanted = [c for c in wanted if c.level is None or c.level in levels]
    names = list(dict.fromkeys(c.name for c in have))
    ordered = make_channels(names, sorted({c.level for c in have if c.level is not None}))
    return tuple(c for c in ordered if c in wanted)

"""gen.progress: the same work looks right on a terminal, in a log and in silence."""

from __future__ import annotations

import io
import logging

import pytest

from gen.progress import SILENT, Reporter


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_now_and_then_with_the_time_left(caplog: pytest.LogCaptureFixture) -> None:
    """Ten parts of 4 s each: a line when the last one is 10 s old, and at the end; the rest takes as long a part."""
    clock = Clock()
    with (
        caplog.at_level(logging.INFO),
        Reporter(stream=io.StringIO(), clock=clock).bar("members", 10, "members") as bar,
    ):
        for _ in range(10):
            clock.now += 4
            bar.advance(1, "240 h, 3 MB")
    assert caplog.messages == [
        "members: 3/10 members, 240 h, 3 MB, 12 s, about 28 s left",
        "members: 6/10 members, 240 h, 3 MB, 24 s, about 16 s left",
        "members: 9/10 members, 240 h, 3 MB, 36 s, about 4 s left",
        "members: 10/10 members, 240 h, 3 MB, 40 s",
    ]


def test_a_callback_can_set_the_total_later(caplog: pytest.LogCaptureFixture) -> None:
    """`report(done, total)` is what lower layers know; the end is logged once."""
    with caplog.at_level(logging.INFO), Reporter(stream=io.StringIO()).bar("chunks", unit="chunks") as bar:
        bar.report(1, 2)
        bar.report(2, 2)
    assert [message.split(",")[0] for message in caplog.messages] == ["chunks: 2/2 chunks"]


def test_a_terminal_gets_a_bar() -> None:
    """On a terminal the bar shows label, count and note."""
    terminal = Terminal()
    with Reporter(stream=terminal).bar("members", 2, "members") as bar:
        bar.advance(2, "48 h")
    text = terminal.getvalue()
    assert "members: 100%" in text and "2/2" in text and "48 h" in text


def test_quiet_says_nothing(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    """With --quiet neither bars nor lines nor results appear."""
    terminal = Terminal()
    with caplog.at_level(logging.INFO):
        for reporter in (SILENT, Reporter(quiet=True, stream=terminal)):
            with reporter.bar("members", 2) as bar:
                bar.advance(2)
            reporter.say("a result")
    assert terminal.getvalue() == "" and caplog.messages == [] and capsys.readouterr().out == ""


def test_an_interrupted_bar_still_says_how_far_it_came(caplog: pytest.LogCaptureFixture) -> None:
    """After an error the last line holds the number of finished parts."""
    with caplog.at_level(logging.INFO), pytest.raises(KeyError), Reporter(stream=io.StringIO()).bar("x", 5) as bar:
        bar.advance(3)
        raise KeyError
    assert caplog.messages[-1].startswith("x: 3/5")

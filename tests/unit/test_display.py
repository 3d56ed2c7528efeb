from __future__ import annotations

import time
from io import StringIO

import pytest
from rich.console import Console

from rsd.cluster.display import Count, LineDisplay, LiveDisplay, Standing, make_display

HALFWAY = Standing(
    planned=40,
    recorded_before=10,
    outcomes={("a", "success"): 6, ("a", "timeout"): 2, ("b", "error"): 2},
    workers=2,
    running=2,
    elapsed_s=36.0,
)


def test_a_resumed_runs_rate_counts_this_session_only() -> None:
    assert (HALFWAY.recorded_now, HALFWAY.recorded, HALFWAY.errors) == (10, 20, 2)
    assert HALFWAY.per_hour == pytest.approx(1000)
    assert HALFWAY.left_s == pytest.approx(72)


def test_an_error_is_not_counted_as_a_finished_episode() -> None:
    assert HALFWAY.arm("a") == (6, 8, 0)
    assert HALFWAY.arm("b") == (0, 0, 2)


def test_a_line_says_it_all() -> None:
    line = HALFWAY.line()
    assert line == "20/40 episodes, a 6/8 (75 %); b 0/0, 2 errors, 1,000 an hour, 0:01:12 left"


def test_before_the_first_episode_nothing_is_promised() -> None:
    standing = Standing(40, 0, {}, 2, 2, elapsed_s=5.0)
    assert standing.left_s is None
    assert "? left" in standing.line()


def test_what_is_left_of_a_count_goes_by_this_sessions_pace() -> None:
    count = Count(40, "rollouts", before=10, noted={"failed": 0}, started=time.monotonic() - 36)
    assert count.line() == "10/40 rollouts, 0 failed, ? left"
    count.now += 10
    count.noted["failed"] += 1
    assert count.line() == "20/40 rollouts, 1 failed, 0:01:12 left" and not count.over
    count.now += 20
    assert count.over


def test_a_log_gets_a_line_now_and_then_and_a_terminal_a_panel() -> None:
    now = [0.0]
    text = StringIO()
    display = LineDisplay(Console(file=text), clock=lambda: now[0])
    for now[0] in range(31):
        display.show(HALFWAY)
    assert len(text.getvalue().splitlines()) == 2
    assert isinstance(make_display(Console(file=StringIO())), LineDisplay)
    terminal = Console(file=StringIO(), force_terminal=True, width=100)
    assert isinstance(make_display(terminal), LiveDisplay)
    terminal.print(HALFWAY.panel())
    shown = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert "6/8 (75 %)" in shown
    assert "1,000 an hour" in shown

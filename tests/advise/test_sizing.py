"""The suggested size follows from the measured curve and the server's capacity."""

from __future__ import annotations

from typing import Any

import pytest

from geventpool.advise.sizing import (
    Capacity,
    Point,
    format_seconds,
    sizes_to_try,
    suggest,
)


def curve(**rates: float) -> list[Point]:
    """A curve from ``s8=100.0``: 100 loans a second with 8 connections."""
    return [
        Point(int(name[1:]), rate, 0.01, 1.0 / int(name[1:]), 0.5)
        for name, rate in rates.items()
    ]


def test_the_smallest_size_that_is_nearly_as_fast_as_the_best_is_suggested() -> None:
    """Within 5 % of the best rate, fewer connections win."""
    advice = suggest(curve(s1=50, s4=96, s8=100, s16=99), Capacity(), 100)
    assert advice.size == 4
    assert "96 loans/s" in advice.reasons[0] and "with 8" in advice.reasons[0]


def test_a_limit_of_the_wait_selects_a_larger_size() -> None:
    """Of the fast sizes, the first whose p99 wait is within the limit."""
    points = curve(s4=96, s8=100, s16=99)
    assert suggest(points, Capacity(), 100, wait=0.1).size == 16
    advice = suggest(points, Capacity(), 100, wait=0.001)
    assert advice.size == 4 and "No size" in advice.reasons[1]


def test_the_free_connections_are_divided_among_the_processes() -> None:
    """All processes together stay below what is free, less a tenth."""
    advice = suggest(curve(s4=50, s16=100), Capacity(100, 50), 100, processes=9)
    assert advice.size == 5 and advice.size * 9 <= 45
    assert "9 processes with 16 each would need 144" in advice.reasons[-1]
    assert suggest(curve(s4=100), Capacity(2, 2), 100).size == 1
    fits = suggest(curve(s4=100), Capacity(50, 0), 100)
    assert "One process with 4 each need 4; 50 of 50" in fits.reasons[-1]


def test_the_reasons_say_what_more_connections_would_change() -> None:
    """No CPU time left, everybody served, a limit reached, or a busy server."""

    def reason(size: int, **more: Any) -> str:
        chosen = Point(size, 100.0, 0.0, 0.0, **{"cpu": 0.5, **more})
        last = Point(50, 101.0, 0.0, 0.0, 0.5)
        points = [last] if size == 50 else [chosen, last]
        return suggest(points, Capacity(), 80, bound="--limit").reasons[1]

    assert "this process runs 95%" in reason(8, cpu=0.95)
    assert "longer than expected" in reason(8, excess=0.1)
    assert "the server or the network" in reason(8)
    assert "largest size that was tried because of --limit" in reason(50)
    every = suggest([Point(80, 1.0, 0.0, 0.0, 0.1)], Capacity(), 80).reasons[1]
    assert "nobody waits" in every


def test_the_sizes_to_try_reach_from_one_to_the_largest() -> None:
    """Each once, both ends included, no more than asked for."""
    assert sizes_to_try(1, 10) == [1]
    assert sizes_to_try(100, 5)[0] == 1 and sizes_to_try(100, 5)[-1] == 100
    for count in (0, 3, 7, 50):
        sizes = sizes_to_try(100, count)
        assert sizes == sorted(set(sizes)) and len(sizes) <= max(3, count)


@pytest.mark.parametrize(
    "seconds, text", [(5e-5, "50 us"), (0.0213, "21.3 ms"), (2.5, "2.50 s")]
)
def test_a_duration_has_the_unit_that_fits_it(seconds: float, text: str) -> None:
    """In ASCII, for terminals of any encoding."""
    assert format_seconds(seconds) == text

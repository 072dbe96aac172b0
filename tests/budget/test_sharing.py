"""The rule by which processes share places."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from geventpool.budget.sharing import (
    Part,
    fair_share,
    in_force,
    may_take,
    next_waiter,
    refill,
    to_give,
)

NOW = 1000.0


def part(row: int, **values: float) -> Part:
    numbers = dict.fromkeys(Part._fields, 0) | {"pid": 1, "total": 40, "reserve": 1}
    numbers |= {"written": NOW, "wanted": NOW, "name": ""}  # type: ignore[dict-item]
    return Part(**{**numbers, "row": row, **values})  # type: ignore[arg-type]


TOTAL = 40


@st.composite
def hosts(draw: st.DrawFn) -> list[Part]:
    """Processes that hold no more places than there are."""
    parts: list[Part] = []
    left = TOTAL
    for row in range(draw(st.integers(1, 12))):
        held = draw(st.integers(0, left))
        left -= held
        idle = draw(st.integers(0, held))
        leaving = draw(st.integers(0, held - idle))
        ago = draw(st.sampled_from([0.0, 0.1, 0.5, 3.0]))
        waiting = draw(st.integers(0, 50)) if not idle else 0
        wanted = NOW if waiting else NOW - ago
        parts.append(
            part(
                row,
                held=held,
                idle=idle,
                leaving=leaving,
                waiting=waiting,
                wanted=wanted,
                since=draw(st.integers(0, 999)),
                reserve=draw(st.integers(0, 3)),
            )
        )
    return parts


@given(hosts())
def test_no_more_is_given_than_is_lacking(parts: list[Part]) -> None:
    """Else eight processes would give eight places for one that waits for one."""
    gifts = [to_give(each.row, parts, TOTAL, NOW) for each in parts]
    given = sum(idle + used for idle, used in gifts)
    assert given <= sum(each.lacks(NOW) for each in parts)
    for each, (idle, used) in zip(parts, gifts):
        assert idle <= each.idle
        assert used <= max(0, each.held - fair_share(TOTAL, parts, NOW))


@given(hosts())
def test_the_first_process_that_waits_can_be_served(parts: list[Part]) -> None:
    """If a place is free, the next waiter may take it: no deadlock."""
    waiter = next_waiter(parts, TOTAL, NOW)
    if waiter is not None:
        below = [
            p for p in parts if p.lacks(NOW) and p.held < fair_share(40, parts, NOW)
        ]
        assert may_take(waiter, parts, TOTAL, NOW) or below


@given(hosts())
def test_a_process_below_its_share_gets_places(parts: list[Part]) -> None:
    """If one below its share waits and all places are taken, another gives one."""
    share = fair_share(TOTAL, parts, NOW)
    busy = sum(each.held for each in parts) == TOTAL
    leaving = sum(each.leaving for each in parts)
    below = any(each.lacks(NOW) and each.held < share for each in parts)
    above = any(each.held > share for each in parts)
    if busy and below and above and not leaving:
        assert any(any(to_give(each.row, parts, TOTAL, NOW)) for each in parts)


def test_idle_places_go_to_any_that_waits() -> None:
    """A hot process must not be short while idle connections lie elsewhere."""
    parts = [part(0, held=35, waiting=10), part(1, held=5, idle=5, wanted=0)]
    assert to_give(1, parts, TOTAL, NOW) == (5, 0)
    assert to_give(0, parts, TOTAL, NOW) == (0, 0)


def test_the_reserve_is_left_to_a_process_that_used_it_lately() -> None:
    """It lapses, because a place that nobody uses is of use to others."""
    hot = part(0, held=35, waiting=10)
    assert to_give(1, [hot, part(1, held=5, idle=5)], TOTAL, NOW) == (4, 0)
    old = part(1, held=5, idle=5, wanted=NOW - 3)
    assert to_give(1, [hot, old], TOTAL, NOW) == (5, 0)
    urgent = part(2, waiting=1)
    parts = [part(0, held=39), part(1, held=1, idle=1), urgent]
    assert to_give(1, parts, TOTAL, NOW) == (1, 0)


def test_a_process_above_its_share_gives_places_in_use() -> None:
    """A newcomer is not starved by one that has all places in use."""
    parts = [part(0, held=40), part(1, waiting=30)]
    assert to_give(0, parts, TOTAL, NOW) == (0, 20)
    parts = [part(0, held=40, leaving=20), part(1, waiting=30)]
    assert to_give(0, parts, TOTAL, NOW) == (0, 0)


def test_a_wish_that_is_not_repeated_lapses() -> None:
    """A process that was stopped must not hold up the others."""
    stopped = part(1, waiting=30, written=NOW - 1)
    assert to_give(0, [part(0, held=40), stopped], TOTAL, NOW) == (0, 0)
    assert next_waiter([stopped], TOTAL, NOW) is None


def test_places_are_left_to_those_below_their_share() -> None:
    """The others are served when none of those waits."""
    above, below = part(0, held=30, waiting=5), part(1, waiting=5)
    assert not may_take(above, [above, below], TOTAL, NOW)
    assert may_take(below, [above, below], TOTAL, NOW)
    assert may_take(above, [above, part(1, held=5)], TOTAL, NOW)


def test_the_order_is_reserve_then_share_then_time() -> None:
    """A process with nothing is first; then the longest waiting of equals."""
    none = part(0, waiting=1, since=9)
    few = part(1, waiting=1, held=2, since=5)
    many = part(2, waiting=1, held=30, since=1)
    parts = [many, few, none]
    assert next_waiter(parts, TOTAL, NOW) == none
    assert next_waiter(parts[:2], TOTAL, NOW) == few
    assert next_waiter(parts[:1], TOTAL, NOW) == many


def test_the_share_is_at_least_one() -> None:
    """With more processes than places they are served in turn."""
    assert fair_share(2, [part(row) for row in range(5)], NOW) == 1
    assert fair_share(40, [], NOW) == 40


def test_the_smallest_total_is_in_force() -> None:
    """A rolling restart with another total never exceeds either."""
    assert in_force(40, [part(0, total=30), part(1, total=50)]) == 30


def test_tokens_never_exceed_the_total_nor_shrink() -> None:
    """A clock that was set back takes nothing away."""
    assert refill(3.0, -5.0, 40) == 3.0
    assert refill(3.0, 100.0, 40) == 40.0

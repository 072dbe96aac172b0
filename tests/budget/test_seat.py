"""The part of a pool in a budget: two in one process share as two processes do."""

from __future__ import annotations

import errno
import gc
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from geventpool import BudgetError
from geventpool.budget import seat as module
from geventpool.budget.client import Standing
from geventpool.budget.seat import Seat
from geventpool.budget.table import read
from geventpool.budget.wakeups import WISH, Mailbox
from geventpool.testing import Clock, wait_until


def is_looking(one: Any) -> bool:
    """Whether its seat looks for places at intervals."""
    return bool(one.seat.is_looking)


class Client:
    """A pool of nothing but numbers."""

    def __init__(self, seat: Seat) -> None:
        self.seat = seat
        self.waiting = self.settled = 0
        self.idle = self.used = self.leaving = self.promised = 0
        seat.join(self)

    def lacking(self) -> int:
        return self.waiting

    def serve(self) -> None:
        while self.waiting and self.seat.lease():
            self.waiting -= 1
            self.used += 1

    def standing(self) -> Standing:
        return Standing(self.idle, self.used, self.leaving, self.promised)

    def settle(self) -> None:
        self.settled += 1

    def give_idle(self, number: int) -> int:
        number = min(number, self.idle)
        for _ in range(number):
            self.idle -= 1
            self.seat.give_back()
        return number

    def give_used(self, number: int) -> None:
        self.promised = number

    def come_back(self) -> None:
        """A connection in use comes back."""
        self.used -= 1
        if self.promised:
            self.promised -= 1
            self.seat.give_back()
        else:
            self.idle += 1

    def want(self, number: int) -> None:
        self.waiting += number
        self.serve()


Make = Callable[..., Client]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "b")


@pytest.fixture
def make(path: str) -> Iterator[Make]:
    seats: list[Seat] = []

    def make(total: int = 4, reserve: int = 1, **options: Any) -> Client:
        seats.append(Seat(path, total, reserve, gevent.get_hub().loop, **options))
        return Client(seats[-1])

    yield make
    for seat in seats:
        seat.close()


def until(condition: Callable[[], Any]) -> None:
    """Let the loop run until *condition* holds."""
    wait_until(condition)


def test_all_places_of_a_budget_are_for_one_that_wants_them(make: Make) -> None:
    """A limit for the host is no limit for a process of its own."""
    one = make()
    one.want(5)
    assert (one.used, one.waiting) == (4, 1)


def test_idle_places_are_given_to_a_seat_that_waits(make: Make) -> None:
    """It is told by a message, and the other one gives at once."""
    one, other = make(reserve=0), make()
    one.want(4)
    one.used, one.idle = 0, 4
    other.want(2)
    until(lambda: other.used == 2)
    assert one.idle == 2
    assert one.seat.moved == 2


def test_processes_that_look_anyhow_are_not_told_again(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With eight workers under load each message would wake seven of them."""
    clock = Clock(time.monotonic())
    one, other = make(clock=clock), make(clock=clock)
    one.want(4)
    sent: list[bytes] = []
    send = Mailbox.send

    def note(mailbox: Mailbox, row: int, message: bytes) -> None:
        sent.append(message)
        send(mailbox, row, message)

    monkeypatch.setattr(Mailbox, "send", note)
    other.want(1)
    assert sent == [WISH]
    until(lambda: is_looking(one) and other.settled > 3)
    assert sent == [WISH]
    # The other one has written nothing for a while.
    monkeypatch.setattr(one.seat.table, "write", lambda part: None)
    clock.advance(1)
    until(lambda: len(sent) > 1)
    assert set(sent) == {WISH}


def test_places_in_use_come_when_they_come_back(make: Make) -> None:
    """A seat above its share gives up the next that come back, and no more."""
    one, other = make(), make()
    one.want(4)
    other.want(3)
    until(lambda: one.promised == 2)
    one.come_back()
    until(lambda: other.used == 1)
    assert one.idle == 0
    one.come_back()
    until(lambda: other.used == 2)
    one.come_back()
    until(lambda: other.used == 3)
    assert one.used == 1


def test_a_promise_is_taken_back_when_nobody_waits_any_more(make: Make) -> None:
    """Else a connection would be closed for nothing."""
    one, other = make(), make()
    one.want(4)
    other.want(1)
    until(lambda: one.promised == 1)
    other.waiting = 0
    until(lambda: one.promised == 0)
    assert one.used == 4


def test_nothing_runs_when_nobody_waits(make: Make) -> None:
    """An idle process must not wake up 20 times a second."""
    one, other = make(), make()
    one.want(4)
    other.want(1)
    until(lambda: one.promised == 1)
    assert is_looking(one)
    one.come_back()
    until(lambda: other.used == 1)
    until(lambda: not is_looking(one) and not is_looking(other))


def test_a_place_that_is_given_is_not_taken_back(make: Make) -> None:
    """The giver is faster than the one that has to wake first."""
    one, other = make(total=1), make(total=1)
    one.want(1)
    other.want(1)
    one.used = 0
    one.seat.give_back()
    assert not one.seat.lease(wish=False)
    until(lambda: other.used == 1)


def test_who_waits_for_itself_is_served_by_what_it_gives(make: Make) -> None:
    """Two pools of one process may share a budget."""
    one = make(total=1)
    second = Client(one.seat)
    one.want(1)
    second.want(1)
    assert second.waiting == 1
    one.used = 0
    one.seat.give_back()
    until(lambda: second.used == 1)


def test_nothing_is_tried_again_before_anything_changes(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a thousand waiters each newcomer would cost system calls."""
    one = make(total=1)
    one.want(2)
    monkeypatch.setattr(one.seat.table, "write", lambda part: pytest.fail("again"))
    assert not one.seat.lease()


def test_restocking_expresses_no_wish(make: Make) -> None:
    """Else the minimum sizes of two pools would take each other's places in turn."""
    one, other = make(total=1, reserve=0), make(total=1)
    one.want(1)
    one.used, one.idle = 0, 1
    assert not other.seat.lease(wish=False)
    assert not is_looking(other)
    gevent.idle()
    assert one.idle == 1


def test_without_messages_it_is_found_by_trying_again(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Messages may be lost, and a folder may take no sockets."""

    def refused(*args: object) -> None:
        raise OSError(1, "not permitted")

    monkeypatch.setattr(module, "Mailbox", refused)
    with caplog.at_level(logging.WARNING):
        one, other = make(), make()
    assert "are not woken, but poll" in caplog.text
    one.want(4)
    other.want(1)
    one.used -= 1
    one.seat.give_back()
    until(lambda: other.used == 1)


def test_the_place_of_a_dead_process_is_used_after_a_pause(make: Make) -> None:
    """Its sockets may be open a little longer than its locks are held."""
    dead, one = make(total=1), make(total=1)
    dead.want(1)
    dead.seat.table.close()
    one.want(1)
    assert one.waiting == 1
    until(lambda: one.used == 1)
    assert one.seat.recovered == 1


def test_the_place_of_a_dead_process_is_given_on_if_nobody_wants_it(
    make: Make,
) -> None:
    """The waiter may have been served otherwise meanwhile."""
    dead, one = make(total=1), make(total=1)
    dead.want(1)
    dead.seat.table.close()
    one.want(1)
    one.waiting = 0
    until(lambda: one.seat.recovered and not one.seat.table.held)
    assert one.used == 0


def test_a_smaller_total_is_in_force_at_once(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """At a restart with a smaller total the old processes shrink."""
    old = make(total=4)
    old.want(4)
    old.used, old.idle = 2, 2
    with caplog.at_level(logging.WARNING):
        new = make(total=1)
        until(lambda: old.idle == 0 and old.promised == 1)
    assert "the total is 4 here and 1 in process" in caplog.text
    new.want(1)
    old.come_back()
    old.want(1)
    old.waiting = 0
    until(lambda: old.used == 1)
    new.seat.close()
    old.want(3)
    until(lambda: old.used == 4)


def test_a_file_that_was_replaced_is_left(
    make: Make, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Two groups of processes would have all places each; that must not last."""
    one = make()
    one.want(2)
    one.used, one.idle = 1, 1
    os.unlink(path)
    one.want(1)
    until(lambda: one.idle == 0 and one.promised == 1)
    assert one.waiting == 1
    assert "removed or replaced" in caplog.text
    one.come_back()
    until(lambda: one.used == 1)
    assert [part.held for part in read(path)[0]] == [1]


def test_a_file_without_locks_gives_no_place_and_no_error(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The waiters keep their time limits, and a returned connection may serve one."""
    one = make()

    def fails(*args: object) -> None:
        raise OSError(37, "no locks available")

    monkeypatch.setattr(one.seat.table, "take", fails)
    one.want(1)
    assert one.waiting == 1
    assert "no place could be leased" in caplog.text


def test_a_full_disk_costs_no_place(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that is written is a hint; also the row of the process itself."""
    one = make()
    os.pwrite(one.seat.table.fd, bytes(128), 128)

    def fails(*args: object) -> int:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "pwrite", fails)
    one.want(2)
    assert one.used == 2


@pytest.mark.parametrize("size", [0, 3, 97, 200, 65540])
def test_a_file_that_is_cut_off_costs_no_place(
    make: Make, path: str, size: int
) -> None:
    """The locks are beyond its end, and stay."""
    one, other = make(), make()
    one.want(1)
    os.truncate(path, size)
    other.want(1)
    one.want(1)
    assert (one.used, other.used) == (2, 1)
    assert not one.seat.table.held & other.seat.table.held


def test_what_another_process_has_is_left_alone(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that no hook told of the fork must not unlock what its parent holds."""
    one = make()
    one.want(1)
    parent = one.seat.table
    copy = os.dup(parent.fd)
    pid = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: pid + 1)
    one.seat.give_back()
    assert parent.held == {0}
    one.want(1)
    assert one.seat.table is not parent
    assert one.seat.table.held == {1}
    one.seat.give_back()
    one.seat.give_back()
    assert one.seat.table.held == set()
    os.close(copy)


def test_a_seat_that_no_client_uses_is_closed(path: str) -> None:
    """A pool that was collected keeps no row; what it lent keeps its place."""
    seat = Seat(path, 1, 0, gevent.get_hub().loop)
    client: Any = Client(seat)
    client.want(1)
    del client
    gc.collect()
    gevent.idle()
    assert len(read(path)[0]) == 1
    seat.give_back()
    assert read(path)[0] == []
    assert seat not in module.open_seats


def test_a_seat_whose_loop_is_gone_is_closed(path: str) -> None:
    """The event loop of a thread that has ended keeps no row."""
    seat = Seat(path, 1, 0, gevent.get_hub().loop)
    client: Any = Client(seat)
    client.want(1)
    seat.loop = None
    del client
    gc.collect()
    assert read(path)[0] == []


def test_a_seat_that_could_not_be_made_leaves_nothing(tmp_path: Path) -> None:
    """The error is the one that tells why."""
    with pytest.raises(BudgetError, match="missing"):
        Seat(str(tmp_path / "missing/b"), 1, 0, gevent.get_hub().loop)
    gc.collect()


def test_moves_stop_at_the_bound(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that want in turn do not dial without end."""
    one, other = make(reserve=0), make()
    one.want(4)
    one.used, one.idle = 0, 4
    asked = []

    def few(number: int, total: int, now: float) -> int:
        asked.append(number)
        return 1 if len(asked) == 1 else 0

    monkeypatch.setattr(one.seat.table, "tokens", few)
    other.want(3)
    until(lambda: len(asked) > 2)
    assert (one.idle, other.used) == (3, 1)

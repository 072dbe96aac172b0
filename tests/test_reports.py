"""Who holds what, since when, and doing what now."""

from __future__ import annotations

import dataclasses
import inspect
import weakref
from functools import partial
from queue import LifoQueue
from typing import Any

import gevent
import pytest
from gevent.event import Event
from greenlet import greenlet

from geventpool._core import reports
from geventpool._core.ledger import Entry, Ledger, Waiter, anyone
from geventpool._core.reports import Loan, loans, name_of, summary
from geventpool._core.states import CHECKING, CLOSING, IDLE, IN_USE, RESETTING


def held(holder, since=0.0):
    """An entry that is lent, to a greenlet or to nobody."""
    entry: Entry[Any] = Entry()
    entry.state = IN_USE
    entry.since = since
    entry.holder = weakref.ref(holder) if holder is not None else None
    return entry


def place_of(holder):
    (loan,) = loans([held(holder)], 0)
    return loan.place


def here(function, text):
    """How a report names the line of *function* that has *text* in it."""
    lines, first = inspect.getsourcelines(function)
    (line,) = [first + n for n, line in enumerate(lines) if text in line]
    return f"{__file__}:{line} in {function.__name__}"


def works():
    Event().wait()  # it stands here


# Counting.


def test_the_counts_of_an_empty_pool():
    """There are as many places as were asked for, and nothing in them."""
    assert summary(Ledger(LifoQueue(), 10)) == (
        "0/10: 0 idle, 0 in use, 0 opening, 0 closing, 0 waiting"
    )


def test_each_count_is_in_its_place():
    """Size and limit first, then each state; the rare ones last, and only if any."""
    ledger: Ledger[Any] = Ledger(LifoQueue(), 30)
    numbers = {IDLE: 1, IN_USE: 2, CLOSING: 4, CHECKING: 5, RESETTING: 6}
    for state, number in numbers.items():
        for _ in range(number):
            entry = ledger.reserve()
            ledger.opened(entry, object())
            ledger.move(entry, IN_USE)
            if state is IDLE:
                ledger.assign(entry, 0)
            elif state is CHECKING:
                ledger.move(entry, IDLE)
                ledger.move(entry, CHECKING)
            elif state is not IN_USE:
                ledger.move(entry, state)
    for _ in range(3):
        ledger.reserve()
    for number in range(7):
        ledger.add_waiter(Waiter(number))
    assert summary(ledger) == (
        "21/30: 1 idle, 2 in use, 3 opening, 4 closing, 7 waiting, "
        "5 checking, 6 resetting"
    )


# Loans.


def test_the_oldest_loan_comes_first():
    """Who has held longest is the first suspect; the time is told as a duration."""
    lent = [held(None, since) for since in (5.0, 3.0, 4.0)]
    assert [loan.seconds for loan in loans(lent, 10.0)] == [7.0, 6.0, 5.0]


def test_no_loan_is_shorter_than_nothing():
    """A loan of this very moment, by a clock read before, lasts 0 seconds."""
    (loan,) = loans([held(None, since=10.5)], 10.0)
    assert loan.seconds == 0.0


def test_a_loan_reads_like_a_sentence():
    """Who, for how long, where."""
    loan = Loan("<Greenlet at 0x7f>", 12.345, "app.py:7 in fetch")
    assert str(loan) == "<Greenlet at 0x7f> for 12.3 s, now at app.py:7 in fetch"


def test_a_report_does_not_change():
    """It can be kept, logged and compared."""
    (loan,) = loans([held(None)], 1.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        loan.seconds = 2.0  # type: ignore[misc]


def test_a_report_keeps_nobody_alive():
    """It holds names and line numbers, neither greenlets nor frames."""
    holder = gevent.spawn(works)
    gevent.idle()
    (loan,) = loans([held(holder)], 1.0)
    gone = weakref.ref(holder)
    holder.kill()
    gevent.idle()
    del holder
    assert gone() is None
    assert set(map(type, dataclasses.astuple(loan))) == {str, float}


def test_a_holder_is_named_as_it_names_itself():
    """A greenlet's ``repr`` says which function it runs."""
    holder = gevent.spawn(works)
    (loan,) = loans([held(holder)], 1.0)
    assert loan.holder == repr(holder)
    holder.kill()


# Places.


def test_a_waiting_holder_stands_in_its_own_code():
    """The line of the program is told, not that of gevent's in which it waits."""
    holder = gevent.spawn(works)
    gevent.idle()
    assert place_of(holder) == here(works, "# it stands here")
    holder.kill()


def test_the_caller_stands_where_it_calls():
    """The greenlet that asks is running, and has no frame of its own to be found."""
    place = place_of(gevent.getcurrent())
    assert place == here(place_of, "loans(")


def test_a_holder_that_has_not_started_stands_nowhere():
    """A loan may be handed to a greenlet before it runs."""
    holder = gevent.Greenlet(works)
    assert place_of(holder) == "no line: it has not started"
    assert place_of(greenlet(works)) == "no line: it has not started"


def test_a_holder_that_has_ended_stands_nowhere():
    """Between its end and its being noticed it may still be named."""
    holder = gevent.spawn(int)
    holder.join()
    assert place_of(holder) == "no line: it has ended"
    raw = greenlet(int)
    raw.switch()
    assert place_of(raw) == "no line: it has ended"


def test_a_loan_without_a_holder_is_said_to_be_what_it_is():
    """A subscription that lives is not one whose greenlet has ended."""
    holder = gevent.Greenlet(works)
    forgotten = held(holder)
    del holder
    transferred = held(None)
    transferred.holder = anyone
    handed = held(None)
    handed.waiter = Waiter(gevent.getcurrent())
    gone, nobodys, served = loans([forgotten, transferred, handed], 0)
    assert (gone.holder, gone.place) == ("a greenlet that is gone", "no line")
    assert nobodys.holder == "no single greenlet"
    assert nobodys.place.startswith("no line: an object such as a subscription")
    assert served.holder == name_of(gevent.getcurrent())
    assert served.place == "the end of its wait"


class Shy:
    """Cannot be shown."""

    def __repr__(self):
        raise RuntimeError


class Nameless(gevent.Greenlet):
    """Has no name to be asked for."""

    @property
    def name(self):
        raise RuntimeError


def test_the_main_greenlet_is_named():
    """Its code is that of the program, which begins no greenlet for it."""
    main = gevent.get_hub().parent
    assert name_of(main) == f'<greenlet "main" at {id(main):#x}>'


def test_a_greenlet_is_named_without_the_arguments_of_its_function():
    """They may be secret, and their own code may fail."""
    holder = gevent.Greenlet(works, "hunter2", Shy())  # type: ignore[call-overload]
    holder.name = "worker"
    assert name_of(holder) == f'<Greenlet "worker" at {id(holder):#x}: works>'
    bound = gevent.Greenlet(partial(partial(works, "hunter2"), Shy()))  # type: ignore[call-arg, call-overload]
    assert name_of(bound).endswith(": works>")
    nameless = Nameless(works)
    assert name_of(nameless) == f"<Nameless at {id(nameless):#x}>"
    raw = greenlet(works)
    assert name_of(raw) == f"<greenlet at {id(raw):#x}>"
    called = gevent.Greenlet(CallMe())
    assert name_of(called).endswith(": CallMe>")


class CallMe:
    """Something to be called that has no name."""

    def __call__(self):
        raise AssertionError


def test_a_holder_in_foreign_code_alone_is_told_of_it():
    """With no line of the program in its stack, the innermost one is told."""
    holder = gevent.spawn(gevent.sleep, 60)
    gevent.idle()
    place = place_of(holder)
    assert place.startswith(gevent.__path__[0])
    holder.kill()


def test_a_line_may_be_unknown():
    """A greenlet that runs no Python code has no frame."""
    assert reports._line(None) == "an unknown line"


def test_a_folder_that_only_begins_alike_is_no_plumbing():
    """A program in a folder called gevent_app is the program."""
    scope: dict[str, Any] = {"gevent": gevent, "Event": Event}
    path = gevent.__path__[0] + "_app/fetch.py"
    exec(compile("def fetch():\n    Event().wait()\n", path, "exec"), scope)
    # Called by somebody, who would be named if it were passed over.
    holder = gevent.spawn(lambda: scope["fetch"]())
    gevent.idle()
    assert place_of(holder) == f"{path}:2 in fetch"
    holder.kill()

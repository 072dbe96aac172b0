"""The options of a pool, each with type, default, rule, text form and meaning.

:class:`PoolOptions` holds and checks the values for one pool.
:class:`PoolKeywords` tells type checkers the same names and types, for
``**options: Unpack[PoolKeywords]``. The page ``docs/reference/options.rst`` is
generated from the one, and a test compares the other with it.

It does not depend on drivers: an adapter derives a class for the options that it adds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypedDict, TypeVar

from geventpool.admission import Admission, as_admission
from geventpool.budget import Budget
from geventpool.hints import meant
from geventpool.listeners import Listeners, PoolListener
from geventpool.policies import (
    Backoff,
    Expiry,
    Outage,
    Timeouts,
    check_bool,
    check_int,
    check_optional_int,
    check_optional_seconds,
    check_seconds,
    safe_repr,
)

__all__ = [
    "AdapterKeywords",
    "MoreKeywords",
    "PoolKeywords",
    "PoolOptions",
    "from_text",
    "names",
    "option",
    "refuse_unknown",
    "unknown",
]

K = TypeVar("K", bound="PoolOptions")

Check = Callable[[str, Any], Any]

_TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})
_FALSE = frozenset({"0", "false", "f", "no", "n", "off"})


def option(default: Any, rule: str, check: Check, text: str, meaning: str) -> Any:
    """One option, as a field of a dataclass such as :class:`PoolOptions`.

    :param default: the value if the option is not given.
    :param rule: for the reference: what the value must be.
    :param check: called with name and value; returns the value to use, or raises a
        :exc:`TypeError` or :exc:`ValueError` that names option, value and rule.
    :param text: its form in a URL, a key of ``TEXT_FORMS``; "": not allowed in a URL.
    :param meaning: for the reference: one line of text.
    """
    metadata = {"rule": rule, "check": check, "text": text, "meaning": meaning}
    return field(default=default, metadata=metadata)


# Rules.


def _at_least_one(name: str, value: Any) -> int:
    return check_int(name, value, 1)


def _above_zero(name: str, value: Any) -> float:
    interval = check_seconds(name, value)
    if not interval:
        raise ValueError(f"{name} must be above 0, not {safe_repr(value)}")
    return interval


def _optional_above_zero(name: str, value: Any) -> float | None:
    return None if value is None else _above_zero(name, value)


def _text(name: str, value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {safe_repr(value)}")
    try:
        str(value).encode()
    except UnicodeEncodeError:
        # No metrics could be written.
        raise ValueError(
            f"{name} must be text that UTF-8 can encode, not {safe_repr(value)}"
        ) from None
    return value


def _is(kind: type, rule: str) -> Check:
    def check(name: str, value: Any) -> Any:
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be {rule}, not {safe_repr(value)}")
        return value

    return check


def _listeners(name: str, value: Any) -> tuple[PoolListener, ...]:
    return Listeners(value).listeners


def _budget(name: str, value: Any) -> Budget | None:
    if isinstance(value, str):
        try:
            return Budget.from_text(value)
        except ValueError as error:
            raise ValueError(f"{name}={safe_repr(value)}: {error}") from None
    if value is not None and not isinstance(value, Budget):
        raise TypeError(
            f"{name} must be a Budget, its text form or None, not {safe_repr(value)}"
        )
    return value


# Kinds of options.


def _flag(default: bool, meaning: str) -> Any:
    return option(default, "True or False", check_bool, "boolean", meaning)


def _duration(default: float | None, meaning: str) -> Any:
    return option(
        default, "seconds, or None", check_optional_seconds, "number", meaning
    )


def _count(default: int, rule: str, check: Check, meaning: str) -> Any:
    return option(default, rule, check, "integer", meaning)


def _value(default: Any, kind: type, meaning: str) -> Any:
    article = "an" if kind.__name__[0] in "AEIO" else "a"
    rule = f"{article} {kind.__name__}"
    return option(default, rule, _is(kind, rule), "", meaning)


@dataclass(frozen=True, kw_only=True)
class PoolOptions:
    """The options of a pool, checked.

    :raises TypeError: a value is of the wrong type.
    :raises ValueError: a value is out of its range, or contradicts another.
    """

    initial_connections: int = _count(
        0, "0 to max_connections", check_int, "opened before the constructor returns"
    )
    max_connections: int = _count(
        200,
        "at least 1",
        _at_least_one,
        "the limit; connections that are being opened or closed count",
    )
    reap_expired_connections: bool = _flag(
        True, "close expired and dead idle connections in the background"
    )
    reap_interval: float = option(
        180.0,
        "seconds, above 0",
        _above_zero,
        "number",
        "the time between two sweeps over the idle connections",
    )
    name: str | None = option(
        None,
        "text, or None",
        _text,
        "text",
        "what messages and metrics call the pool; None: its server, or pool-1, ...",
    )
    min_connections: int = _count(
        0, "0 to max_connections", check_int, "kept open in the background"
    )
    timeout: float | None = _duration(
        30.0, "how long a borrower waits; 0: not at all; None: without limit"
    )
    max_waiting: int | None = option(
        None,
        "at least 0, or None",
        check_optional_int,
        "integer",
        "how many may wait for a place that another has; 0: none; None: any number",
    )
    max_lifetime: float | None = _duration(
        None, "a connection of this age is replaced; up to 5 % earlier, at random"
    )
    max_idle: float | None = _duration(
        None, "a connection that was unused for this time is closed"
    )
    ping_after: float | None = _duration(
        None, "one that was unused for this time is pinged before a loan; 0: always"
    )
    ping_interval: float | None = _duration(
        None, "idle connections are pinged at this interval"
    )
    max_connecting: int = _count(
        4, "at least 1", _at_least_one, "how many connections are opened at a time"
    )
    lifo: bool = _flag(
        True, "lend the most recently used connection; False: the least recently used"
    )
    backoff: Backoff = _value(
        Backoff(), Backoff, "the pauses between attempts while the server is full"
    )
    handoff: bool = _flag(
        True, "a returned connection goes to the longest waiter; False: waiters poll"
    )
    owner_only: bool = _flag(
        False, "a connection from acquire() is released by its holder only"
    )
    reclaim: bool = _flag(
        True, "connections that an ended greenlet still held are closed"
    )
    leak_after: float | None = option(
        None,
        "seconds, above 0, or None",
        _optional_above_zero,
        "number",
        "a loan that lasts longer is reported once, with the line that borrowed",
    )
    listeners: Iterable[PoolListener] = option(
        (), "PoolListener objects", _listeners, "", "they are told what happens"
    )
    timeouts: Timeouts = _value(
        Timeouts(),
        Timeouts,
        "how long opening, pinging, resetting and closing may take",
    )
    outage: Outage = _value(
        Outage(), Outage, "what is done while the server cannot be reached"
    )

    budget: Budget | str | None = option(
        None,
        "a Budget, NAME:TOTAL, or None",
        _budget,
        "budget",
        "one limit for all processes of the host",
    )
    admission: Admission | bool | None = option(
        None,
        "an Admission, True, False or None",
        as_admission,
        "boolean",
        "refuse callers early under overload; True: Admission()",
    )

    @classmethod
    def of(cls: type[K], owner: str, given: Mapping[str, Any], /) -> K:
        """Return options with the values *given*. The others have their defaults.

        :param owner: what the options belong to, for the message: ``"Pool()"``.
        :raises TypeError: an option is unknown, or a value is of the wrong type.
        :raises ValueError: a value is out of its range.
        """
        refuse_unknown(owner, given, names(cls))
        return cls(**given)

    def __post_init__(self) -> None:
        for each in fields(self):
            value = each.metadata["check"](each.name, getattr(self, each.name))
            # Normalised: a duration is a float, listeners are a tuple.
            object.__setattr__(self, each.name, value)
        for name in ("initial_connections", "min_connections"):
            number = getattr(self, name)
            if number > self.max_connections:
                raise ValueError(
                    f"{name} must be at most max_connections "
                    f"({self.max_connections!r}), not {number!r}"
                )
            shared = self.shared_budget
            if shared is not None and number > shared.total:
                raise ValueError(
                    f"{name} must be at most the total of the budget "
                    f"({shared.total!r}), not {number!r}"
                )

        if self.admission is not None and not self.handoff:
            raise ValueError(
                "admission must be None with handoff=False, "
                f"not {self.admission!r}: callers that poll stand in no line"
            )

    def for_core(self, **others: Any) -> dict[str, Any]:
        """Return the values that :class:`~geventpool.Pool` takes, as keywords.

        :param others: values that replace those of this object.
        """
        own = {each.name: getattr(self, each.name) for each in fields(PoolOptions)}
        return {**own, **others}

    @property
    def shared_budget(self) -> Budget | None:
        """The budget, which has no text form any more."""
        return self.budget if isinstance(self.budget, Budget) else None

    @property
    def expiry(self) -> Expiry:
        """The four limits of age as one value."""
        return Expiry(
            self.max_lifetime, self.max_idle, self.ping_after, self.ping_interval
        )

    @property
    def sweep_interval(self) -> float:
        """Seconds between two sweeps, short enough for the pings as well."""
        return min(self.reap_interval, self.ping_interval or self.reap_interval)


class MoreKeywords(TypedDict, total=False):
    """The options that :class:`~geventpool.Pool` takes by name only."""

    name: str | None
    min_connections: int
    timeout: float | None
    max_waiting: int | None
    max_lifetime: float | None
    max_idle: float | None
    ping_after: float | None
    ping_interval: float | None
    max_connecting: int
    lifo: bool
    backoff: Backoff
    handoff: bool
    owner_only: bool
    reclaim: bool
    leak_after: float | None
    listeners: Iterable[PoolListener]
    timeouts: Timeouts
    outage: Outage
    budget: Budget | str | None
    admission: Admission | bool | None


class AdapterKeywords(MoreKeywords, total=False):
    """The options that adapters pass on; each has its own *max_connections*."""

    initial_connections: int
    reap_expired_connections: bool
    reap_interval: float


class PoolKeywords(AdapterKeywords, total=False):
    """All options of a pool, by name."""

    max_connections: int


def names(kind: type[PoolOptions] = PoolOptions) -> frozenset[str]:
    """Return the names of the options of this class."""
    return frozenset(each.name for each in fields(kind))


def unknown(owner: str, name: object, known: Iterable[str]) -> str:
    """Return the message about an unknown option, the same everywhere.

    :param owner: whose option it should be.
    :param known: the names of those that there are.
    """
    guess = meant(str(name), known)
    hint = f"; did you mean {guess!r}?" if guess else ""
    return f"{owner} has no option {safe_repr(name)}{hint}"


def refuse_unknown(owner: str, given: Iterable[object], known: Iterable[str]) -> None:
    """Refuse unknown names.

    :raises TypeError: there is no such option.
    """
    known = frozenset(known)
    for name in given:
        if name not in known:
            raise TypeError(unknown(owner, name, known))


# The text form.


def _boolean(text: str) -> bool:
    if text.lower() not in _TRUE | _FALSE:
        raise ValueError
    return text.lower() in _TRUE


def _switch(text: str) -> bool | int:
    return int(text) if text.isdecimal() else _boolean(text)


#: The forms of an option in a URL, and the functions that read them.
TEXT_FORMS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "integer": ("a whole number", int),
    "number": ("a number", float),
    "boolean": ("true or false", _boolean),
    "switch": ("true, false or a whole number", _switch),
    "text": ("text", str),
    # The check of the option reads it, and says what is wrong.
    "budget": ("NAME:TOTAL or NAME:TOTAL:RESERVE", str),
}


def from_text(name: str, text: Any, kind: type[PoolOptions] = PoolOptions) -> Any:
    """Return the value of the option *name*, which a URL has as *text*.

    ``none`` stands for None, where that is allowed. The range is checked by the pool.

    :param text: what is no string is returned as it is.
    :param kind: the class that has the option.
    :raises ValueError: it is not of the option's type, or the option needs an object.
    """
    if not isinstance(text, str):
        return text
    each = next(each for each in fields(kind) if each.name == name)
    form = each.metadata["text"]
    if not form:
        raise ValueError(f"{name} can't be given in a URL: {safe_repr(text)}")
    wanted, read = TEXT_FORMS[form]
    # A pool may be called "none".
    if "None" in str(each.type) and form != "text":
        wanted += " or none"
        if text.lower() == "none":
            return None
    try:
        return read(text)
    except ValueError:
        raise ValueError(f"{name} must be {wanted}, not {safe_repr(text)}") from None

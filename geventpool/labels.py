"""Waits and uses counted by label, for instance by the endpoint of a web application.

::

    with pool.label("checkout"):
        with pool.connection() as conn:
            ...

    pool.stats().labels

:func:`label` labels the loans of all pools that have a :class:`Labels` among their
listeners. A label belongs to the context (:mod:`contextvars`). gevent starts each
greenlet with an empty context, so a greenlet begins without a label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Protocol, TypeVar, cast

from geventpool._core.reports import OTHERS, LabelCounts
from geventpool._core.states import CloseReason
from geventpool.listeners import PoolListener
from geventpool.policies import check_int, safe_repr

__all__ = ["LabelBlock", "Labels", "check_label", "find_labels", "label", "labels_of"]

#: The label of loans for which there is no other.
NONE = "(none)"
#: A label is shown up to so many characters.
LENGTH = 60

#: What names the label of a loan.
Source = str | Callable[[], str | None]

F = TypeVar("F", bound=Callable[..., Any])


class _Block:
    """A block that labels loans, until it has ended.

    The one who ends it may be another greenlet, whose context does not contain it: the
    server that closes the generator of a response, or the garbage collector. So the
    block itself knows that it has ended.

    :param owner: the labels of one pool; None: the block is of all pools.
    """

    __slots__ = ("ended", "name", "outer", "owner")

    def __init__(self, owner: Labels | None, name: Source, outer: _Block | None):
        self.owner = owner
        self.name = name
        self.outer = outer
        self.ended = False


_block: ContextVar[_Block | None] = ContextVar("geventpool.label", default=None)


class LabelBlock(Protocol):
    """A ``with`` block, or a decorator of a function whose body is the block.

    A decorated function may run in several greenlets at a time.
    """

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> bool | None: ...

    def __call__(self, function: F, /) -> F: ...


def label(name: str) -> LabelBlock:
    """Label the loans that begin in a block, of all pools. Never switches.

    It can be used as a decorator too.

    :param str name: no secret: ``stats()``, the status page and the metrics show it.
    :raises TypeError: *name* is no string.
    """
    if not isinstance(name, str):
        raise TypeError(f"a label must be a string, not {safe_repr(name)}")
    return _labelled(None, name)


@contextmanager
def _labelled(owner: Labels | None, name: Source) -> Iterator[None]:
    block = _Block(owner, name, _running_from(_block.get()))
    token = _block.set(block)
    try:
        yield
    finally:
        block.ended = True
        with suppress(ValueError):
            # Not in the context of the one who ends it.
            _block.reset(token)


def _running_from(block: _Block | None) -> _Block | None:
    """The innermost block that has not ended, *block* included."""
    while block is not None and block.ended:
        block = block.outer
    return block


def _block_of(owner: Labels | None) -> _Block | None:
    """The innermost block of *owner* around the caller."""
    block = _running_from(_block.get())
    while block is not None and block.owner is not owner:
        block = _running_from(block.outer)
    return block


def _label_of_all() -> str | None:
    """The label of the innermost block of all pools."""
    block = _block_of(None)
    return None if block is None else cast("str", block.name)


class Labels(PoolListener):
    """A listener that counts loans, waits and uses by label.

    One object serves one pool.

    :param of: called without arguments in the greenlet that borrows; returns the label,
        or None if there is none. None: the label of the block of :func:`label`. It must
        not switch.
    :param int most: so many labels are told apart; the others are counted together. At
        least 1.
    :raises TypeError: *of* cannot be called, or *most* is no whole number.
    :raises ValueError: *most* is out of its range.
    """

    def __init__(
        self, of: Callable[[], str | None] | None = None, most: int = 64
    ) -> None:
        if of is not None and not callable(of):
            raise TypeError(f"of must be callable or None, not {safe_repr(of)}")
        self._of = of or _label_of_all
        self._most = check_int("most", most, 1)
        #: what is counted, by label
        self.counts: dict[str, LabelCounts] = {}
        #: the label of each connection on loan, by its identity
        self._lent: dict[int, str] = {}

    def label(self, name: Source) -> LabelBlock:
        """Label the loans of this pool that begin in a block. Never switches.

        It can be used as a decorator too. Inside, it precedes :func:`label`.

        :param name: a string; or a callable without arguments that names each loan, as
            *of* does.
        :raises TypeError: *name* is neither a string nor a callable.
        """
        check_label(name)
        return _labelled(self, name)

    def acquired(self, conn: Any, waited: float) -> None:
        name = self._name()
        self._lent[id(conn)] = name
        self._add(name, loans=1, waited=waited)

    def exhausted(self, waited: float) -> None:
        self._add(self._name(), refused=1, waited=waited)

    def released(self, conn: Any, used: float) -> None:
        name = self._lent.pop(id(conn), None)
        if name is not None:
            self._add(name, used=used)

    def closed(self, conn: Any, reason: CloseReason) -> None:
        # A loan that was cut off is not released.
        self._lent.pop(id(conn), None)

    def _name(self) -> str:
        block = _block_of(self)
        source = self._of if block is None else block.name
        name = source() if callable(source) else source
        if not isinstance(name, str):
            return NONE
        # The plain string of a subclass, such as an enumeration.
        name = str.__str__(name)[:LENGTH]
        if not name.isascii():
            # No metrics can be written with half of a surrogate pair.
            name = name.encode(errors="replace").decode()
        if name in self.counts or len(self.counts) < self._most:
            return name
        return OTHERS

    def _add(
        self,
        name: str,
        loans: int = 0,
        refused: int = 0,
        waited: float = 0.0,
        used: float = 0.0,
    ) -> None:
        before = self.counts.get(name) or LabelCounts(name)
        new = LabelCounts(name, loans, refused, waited, used)
        self.counts[name] = before.plus(new)

    def report(self) -> tuple[LabelCounts, ...]:
        """The counts of each label, those with most use first. Never switches."""
        return tuple(sorted(self.counts.values(), key=lambda each: -each.used))


def check_label(name: Any) -> None:
    """See that *name* can name loans.

    :raises TypeError: it is neither a string nor a callable.
    """
    if not isinstance(name, str) and not callable(name):
        raise TypeError(
            f"a label must be a string or a callable, not {safe_repr(name)}"
        )


def find_labels(listeners: Iterable[PoolListener]) -> Labels | None:
    """The first :class:`Labels` among *listeners*; None: there is none."""
    return next((each for each in listeners if isinstance(each, Labels)), None)


def labels_of(listeners: Iterable[PoolListener]) -> tuple[LabelCounts, ...]:
    """The counts of the first :class:`Labels` among *listeners*."""
    labels = find_labels(listeners)
    return () if labels is None else labels.report()

"""What an adapter does in a process that gevent has not patched.

The rules for all adapters:

* If gevent has patched ``socket``, the core pool lends.
* Otherwise there is no event loop to share, and the adapter behaves like the part that
  it replaces. So programs without gevent can import a module that makes a pool: a
  command line, a migration, a development server with threads. There is one warning per
  process and adapter. With ``unpatched="error"`` the first use raises
  :exc:`NotPatchedError` instead.
* There ``stats()`` of the pool counts the idle and the lent connections of that part.
  Everything else of the pool is about its own connections, of which there are none.

This is decided at the first use, and not at import or construction: a server may import
the program, then fork, and then patch.
"""

from __future__ import annotations

import warnings
from typing import Any

from gevent import monkey

__all__ = [
    "ERROR",
    "STOCK",
    "NotPatchedError",
    "NotPatchedWarning",
    "check_unpatched",
    "is_patched",
    "missing",
    "pools_here",
    "refusal",
    "warn_once",
]

#: Values of the option ``unpatched``.
STOCK = "stock"
ERROR = "error"

#: One object of each module that ``gevent.monkey`` replaces. To test the module would
#: not suffice: ``patch_dns()`` alone counts as a patch of the module ``socket``.
_OBJECTS = {
    "select": "select",
    "socket": "socket",
    "ssl": "SSLContext",
    "subprocess": "Popen",
    "thread": "allocate_lock",
    "time": "sleep",
}
_MODULES = {"thread": "_thread"}

HOW_TO_PATCH = (
    "Put 'from gevent import monkey; monkey.patch_all()' before all other imports, at "
    "the top of the program (for gunicorn with preload_app: at the top of its "
    "configuration file)"
)

_warned: set[tuple[str, str]] = set()


class NotPatchedError(RuntimeError):
    """The driver would block the event loop, because gevent has not patched it."""


class NotPatchedWarning(RuntimeWarning):
    """gevent has not patched this process, or only a part of it."""


def check_unpatched(value: Any) -> str:
    """Check the value of an adapter's option ``unpatched``; return it.

    :raises ValueError: neither ``"stock"`` nor ``"error"``.
    """
    if not isinstance(value, str) or value not in (STOCK, ERROR):
        raise ValueError(f"unpatched must be 'stock' or 'error', not {value!r}")
    return value


def is_patched(part: str) -> bool:
    """Whether gevent has patched this part of the standard library.

    :param part: an argument of ``monkey.patch_all()``, such as ``"socket"``.
    """
    return monkey.is_object_patched(_MODULES.get(part, part), _OBJECTS[part])


def missing(*parts: str) -> list[str]:
    """Return the parts that gevent has not patched."""
    return [part for part in parts if not is_patched(part)]


def pools_here(adapter: str, unpatched: str, instead: str) -> bool:
    """Whether the core pool lends in this process. Never switches.

    True if ``socket`` is patched. Otherwise False, after one warning per process and
    adapter.

    :param str adapter: its name for the messages: ``"geventpool.redis"``.
    :param str unpatched: the value of the adapter's option.
    :param str instead: the part that it replaces: ``"redis-py's own pool"``.
    :raises NotPatchedError: *unpatched* is ``"error"``.
    """
    if is_patched("socket"):
        return True
    if unpatched == ERROR:
        raise refusal(adapter, "socket")
    warn_once(
        adapter,
        f"{adapter} behaves as {instead}, because gevent has not patched socket in "
        f"this process. In a program on gevent: {HOW_TO_PATCH}. With unpatched='error' "
        "this is an error.",
    )
    return False


def refusal(adapter: str, *parts: str) -> NotPatchedError:
    """Make the error that names the unpatched parts of the standard library."""
    return NotPatchedError(
        f"{adapter} would block the event loop: gevent has not patched "
        f"{', '.join(parts)} in this process. {HOW_TO_PATCH}."
    )


def warn_once(adapter: str, text: str) -> None:
    """Issue a :exc:`NotPatchedWarning`, each only once in a process."""
    if (adapter, text) not in _warned:
        _warned.add((adapter, text))
        warnings.warn(text, NotPatchedWarning, stacklevel=2)

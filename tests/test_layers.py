"""Imports inside geventpool go one way, and drivers stay optional."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

PACKAGE = Path(__file__).parent.parent / "geventpool"

#: What each file of the core may import of the others. A new file needs a row.
CORE: dict[str, set[str]] = {
    "errors": set(),
    "patching": set(),
    "policies": set(),
    "loops": set(),
    "deadline": {"loops"},
    "budget": {"errors", "policies"},
    "failures": {"policies"},
    "sockets": {"loops"},
    "fork_listeners": {"sockets"},
    "threaded": {"fork_listeners"},
    "process_pools": {"patching"},
    "dialing": {"deadline", "sockets"},
    "states": set(),
    "ledger": {"errors", "policies", "states"},
    "connection": {"dialing", "errors", "policies", "sockets"},
    "connector": {"connection", "errors", "policies", "sockets"},
    "factory": {"connection", "connector", "exhaustion", "sockets"},
    "dbapi": {"connector", "exhaustion", "factory"},
    "as_connector": {"connector", "dbapi", "factory", "options", "policies"},
    "leases": {"budget", "errors", "ledger"},
    "histograms": set(),
    "measured": {"histograms", "states", "reports"},
    "listeners": {
        "budget",
        "errors",
        "hints",
        "states",
        "measured",
        "policies",
        "reports",
    },
    "labels": {"states", "listeners", "policies", "reports"},
    "hints": set(),
    "borrow_sites": {"ledger"},
    "idle_holds": {"borrow_sites", "ledger", "states", "reports", "sockets"},
    "leaks": {"borrow_sites", "ledger", "states", "listeners", "reaper", "reports"},
    "loan_watch": {"borrow_sites", "idle_holds", "leaks", "ledger", "listeners"},
    "measures": {"errors", "histograms", "states", "listeners", "measured", "reports"},
    "admission": {"errors", "ledger", "policies"},
    "options": {"admission", "budget", "hints", "listeners", "policies"},
    "signatures": {"options"},
    "breaker": {"policies"},
    "wait_timers": {"deadline", "loops", "ledger"},
    "holders": set(),
    "home": set(),
    "abandonment": {"ledger"},
    "deadlocks": {"abandonment", "holders", "ledger"},
    "hub_lag": set(),
    "reaper": {"loops", "policies"},
    "reports": {"errors", "ledger"},
    "refusals": {"errors", "ledger", "states", "reports"},
    "workers": {"deadline", "failures"},
    "hangups": {"loops"},
    "server_probe": {"breaker", "ledger", "loops", "states", "workers"},
    "attempts": {"deadline", "ledger"},
    "demand": {"ledger"},
    "dial_errors": set(),
    "exhaustion": set(),
    "opener": {
        "attempts",
        "dial_errors",
        "demand",
        "loops",
        "leases",
        "breaker",
        "connector",
        "ledger",
        "states",
        "listeners",
        "policies",
        "server_probe",
        "workers",
    },
    "cancellation": {"connector", "ledger", "states", "policies", "workers"},
    "closing": {
        "failures",
        "cancellation",
        "connector",
        "hangups",
        "holders",
        "ledger",
        "states",
        "listeners",
        "workers",
    },
    "readiness": {
        "closing",
        "connector",
        "holders",
        "ledger",
        "states",
        "policies",
        "workers",
    },
    "returning": {
        "closing",
        "connector",
        "ledger",
        "states",
        "listeners",
        "policies",
        "readiness",
        "workers",
    },
    "rejections": {"dial_errors"},
    "checking": {
        "failures",
        "rejections",
        "closing",
        "connector",
        "deadline",
        "ledger",
        "states",
        "listeners",
        "policies",
        "returning",
        "workers",
    },
    "housekeeping": {
        "closing",
        "connector",
        "loops",
        "hangups",
        "ledger",
        "states",
        "listeners",
        "opener",
        "options",
        "readiness",
        "reaper",
        "workers",
    },
    "recovery": {"abandonment", "closing", "ledger", "states", "listeners", "workers"},
    "seat_client": {"budget", "closing", "leases", "ledger", "states", "opener"},
    "teardown": {
        "closing",
        "connector",
        "holders",
        "housekeeping",
        "leases",
        "ledger",
        "states",
        "listeners",
        "opener",
        "sockets",
        "workers",
    },
    "lifecycle": {
        "breaker",
        "checking",
        "closing",
        "connector",
        "demand",
        "housekeeping",
        "leases",
        "ledger",
        "states",
        "listeners",
        "opener",
        "options",
        "readiness",
        "recovery",
        "returning",
        "seat_client",
        "teardown",
        "workers",
    },
    "claims": {
        "errors",
        "holders",
        "home",
        "ledger",
        "states",
        "lifecycle",
        "policies",
        "reports",
    },
    "registry": {"deadlocks", "sockets"},
    "shutdown": {"errors", "ledger", "states", "lifecycle", "loops", "reports"},
    "lending": {
        "errors",
        "ledger",
        "states",
        "lifecycle",
        "line",
        "loan_watch",
        "policies",
    },
    "pool_parts": {
        "admission",
        "claims",
        "connector",
        "deadlocks",
        "extension",
        "holders",
        "home",
        "lending",
        "lifecycle",
        "line",
        "listeners",
        "loan_watch",
        "options",
    },
    "pool_state": {
        "failures",
        "labels",
        "ledger",
        "states",
        "lifecycle",
        "line",
        "listeners",
        "measured",
        "measures",
        "pool_parts",
        "reports",
    },
    "bound_pool": {
        "patching",
        "connector",
        "context",
        "holders",
        "labels",
        "ledger",
        "listeners",
        "measures",
        "options",
        "pool_parts",
        "pool_state",
    },
    "extension": {
        "deadline",
        "breaker",
        "claims",
        "deadlocks",
        "loops",
        "dial_errors",
        "exhaustion",
        "failures",
        "histograms",
        "holders",
        "home",
        "ledger",
        "states",
        "lifecycle",
        "measured",
        "measures",
        "opener",
        "reports",
        "workers",
    },
    "context": {"ledger", "states"},
    "line": {
        "admission",
        "dial_errors",
        "failures",
        "deadlocks",
        "loops",
        "errors",
        "hub_lag",
        "ledger",
        "states",
        "lifecycle",
        "loan_watch",
        "measures",
        "policies",
        "refusals",
        "wait_timers",
    },
    "pool": {
        "as_connector",
        "bound_pool",
        "connector",
        "context",
        "extension",
        "labels",
        "ledger",
        "states",
        "listeners",
        "measures",
        "options",
        "policies",
        "registry",
        "reports",
        "shutdown",
        "signatures",
    },
}

#: What stands on the core: each may import its own files, the public files of the core,
#: and these drivers. Nobody imports one of these, and no driver is named elsewhere.
ADAPTERS: dict[str, set[str]] = {
    "redis": {"redis"},
    "mysql": {"pymysql"},
    "sqlalchemy": {"sqlalchemy"},
    "django": {"django", "pymysql"},
    "celery": {"celery", "kombu", "redis"},
    "peewee": {"peewee"},
    "socketio": {"socketio", "redis"},
    "series": set(),
    "otel": {"opentelemetry"},
    "prometheus": {"prometheus_client"},
    "testing": set(),
    "status": set(),
    "top": {"rich"},
    "doctor": set(),
    "__main__": set(),
    "advise": {"redis", "pymysql"},
}

#: Files that join two adapters, and the other one: optional parts, imported by name.
NEIGHBOURS: dict[str, set[str]] = {
    "advise/servers.py": {"mysql", "redis"},
    "peewee.py": {"mysql"},
    "socketio.py": {"redis"},
    "otel.py": {"series"},
    "prometheus.py": {"series"},
    "status/application.py": {"series"},
    "status/metrics.py": {"series"},
    "doctor/command.py": {"advise"},
    "doctor/servers.py": {"advise"},
    "sqlalchemy/mysql_reset.py": {"mysql"},
    "celery.py": {"redis"},
    "django/cache.py": {"redis"},
    "django/mysql/options.py": {"mysql"},
    "django/mysql/pools.py": {"mysql"},
    "django/mysql/session.py": {"mysql"},
}

#: The adapters that may import private files of the core, and touch private members of
#: its objects: tools that look into pools to test them.
INSIDERS = {"testing"}

#: The private files of the core.
PRIVATE = {path.stem for path in (PACKAGE / "_core").glob("*.py")}

#: What any file may import beside the standard library.
FOUNDATION = {"gevent", "greenlet"}

#: What may be imported for type checkers alone: they bring it along.
FOR_TYPES = {"typing_extensions"}


def imported_names(source: str, package: str) -> Iterator[str]:
    """Every module a file imports, anywhere in it, by absolute name.

    :param package: the package the file is in, for relative imports.
    """
    tree = ast.parse(source)
    ignored = for_types(tree)
    for node in ast.walk(tree):
        if node in ignored:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = parts[: len(parts) + 1 - node.level] if node.level else []
            origin = ".".join([*base, *filter(None, [node.module])])
            # In "from geventpool import pool" the name may be a module too.
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def for_types(tree: ast.AST) -> set[ast.stmt]:
    """The imports from FOR_TYPES that stand directly below ``if TYPE_CHECKING:``."""
    return {
        below
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for below in node.body
        if isinstance(below, ast.ImportFrom) and below.module in FOR_TYPES
    }


def offences(path: str, source: str) -> list[str]:
    """What in a file of geventpool breaks the rule.

    :param path: relative to the package, such as ``pool.py``, ``redis/pool.py``.
    """
    parts = path.removeprefix("_core/").split("/")
    room = parts[0].removesuffix(".py")
    allowed: set[str]
    drivers: set[str]
    if room == "__init__":
        allowed, drivers = set(CORE), set()
    elif room in CORE:
        # The files of a folder may import one another.
        allowed, drivers = CORE[room] | ({room} if len(parts) > 1 else set()), set()
    elif room in ADAPTERS:
        private = PRIVATE if room not in INSIDERS else set()
        allowed = {*CORE, room} - private | NEIGHBOURS.get(path, set())
        drivers = ADAPTERS[room]
    else:
        return [f"{path} has no row in the tables of {Path(__file__).name}"]
    package = ".".join(["geventpool", *path.split("/")[:-1]])
    return [
        f"{path} must not import {name}"
        for name in imported_names(source, package)
        if not may_import(name, allowed, drivers)
    ]


def may_import(name: str, allowed: set[str], drivers: set[str]) -> bool:
    """Whether a file with these rooms and drivers may import a module."""
    top, *rest = name.removeprefix("geventpool._core.").split(".")
    if name.startswith("geventpool._core"):
        # A name of the core is the same wherever it stands.
        return top in allowed and top in CORE
    if top == "geventpool":
        # The package itself is the pool with all that is around it.
        return bool(rest) and rest[0] in {*allowed, "__version__"}
    return top in sys.stdlib_module_names or top in FOUNDATION | drivers


FILES = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES)
def test_imports_go_one_way(path: str) -> None:
    """A file imports only what lies below it, and no driver but its own."""
    assert offences(path, (PACKAGE / path).read_text()) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("_core/ledger.py", "from geventpool._core.opener import Opener"),
        ("redis/pool.py", "from geventpool._core.nothing import Pool"),
        ("redis/pool.py", "from geventpool._core.ledger import Entry"),
        ("_core/ledger.py", "from geventpool.pool import Pool"),
        ("_core/ledger.py", "from geventpool import pool"),
        ("_core/ledger.py", "from .. import pool"),
        ("_core/ledger.py", "from ..pool import Pool"),
        ("_core/ledger.py", "import geventpool"),
        ("_core/ledger.py", "import geventpool.pool as room"),
        ("_core/ledger.py", "def later():\n    from geventpool.pool import Pool"),
        ("errors.py", "from geventpool.policies import Backoff"),
        ("pool.py", "from geventpool.testing import FakeClock"),
        ("pool.py", "import redis"),
        ("pool.py", "from typing_extensions import Unpack"),
        ("pool.py", "if TYPE_CHECKING:\n    from redis import Redis"),
        ("connector.py", "import pymysql.err"),
        ("__init__.py", "from geventpool.redis import ConnectionPool"),
        ("redis/pool.py", "from geventpool.mysql import ConnectionPool"),
        ("redis/pool.py", "from ..mysql.pool import ConnectionPool"),
        ("redis/pool.py", "import pymysql"),
        ("sqlalchemy/pool.py", "from geventpool.mysql.reset import Session"),
        ("sqlalchemy.py", "from geventpool.mysql import ConnectionPool"),
        ("helpers.py", ""),
    ],
)
def test_an_import_that_goes_up_is_found(path: str, source: str) -> None:
    """The rule is not held by overlooking what breaks it."""
    assert len(offences(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("errors.py", "from __future__ import annotations\nimport os.path"),
        (
            "pool.py",
            "from gevent.queue import LifoQueue\nfrom ._core.ledger import Ledger",
        ),
        ("pool.py", "from geventpool._core import context, ledger"),
        ("pool.py", "if TYPE_CHECKING:\n    from typing_extensions import Unpack"),
        ("__init__.py", "from geventpool.pool import Pool"),
        ("redis/pool.py", "import redis.connection\nfrom . import connector"),
        ("redis/pool.py", "from ..pool import Pool\nfrom .connector import Connector"),
        ("redis/__init__.py", "from geventpool.redis.pool import ConnectionPool"),
        ("testing.py", "from geventpool.pool import Pool"),
        ("sqlalchemy/mysql_reset.py", "from geventpool.mysql.reset import Session"),
    ],
)
def test_an_import_that_goes_down_is_allowed(path: str, source: str) -> None:
    """The rule forbids no more than it says."""
    assert offences(path, source) == []


def test_no_file_of_the_core_imports_itself_in_a_ring() -> None:
    """The table itself goes one way: it can be put into an order."""
    left = {name: set(below) for name, below in CORE.items()}
    while left:
        leaves = {name for name, below in left.items() if not below & set(left)}
        assert leaves, f"a ring among {sorted(left)}"
        left = {name: below for name, below in left.items() if name not in leaves}


def imported_files(path: str) -> set[str]:
    """The files of the package that a file imports, for type checkers alone or not."""
    package = ".".join(["geventpool", *path.split("/")[:-1]])
    source = (PACKAGE / path).read_text()
    found = {file_of(name) for name in imported_names(source, package)}
    return {each for each in found if each not in ("", path)}


def file_of(name: str) -> str:
    """The file of a module, or of the module that has a name; empty: no file."""
    parts = name.split(".")
    while len(parts) > 1 and parts[0] == "geventpool":
        stem = "/".join(parts[1:])
        for each in (f"{stem}.py", f"{stem}/__init__.py"):
            if each in FILES:
                return each
        parts.pop()
    return ""


def rings(below: dict[str, set[str]]) -> set[str]:
    """The files that import themselves by way of others."""
    left = {name: set(others) for name, others in below.items()}
    while leaves := {name for name, others in left.items() if not others & set(left)}:
        left = {name: others for name, others in left.items() if name not in leaves}
    return set(left)


def test_no_file_of_the_package_imports_itself_in_a_ring() -> None:
    """Imports for type checkers count: who names the type of another knows it."""
    assert rings({path: imported_files(path) for path in FILES}) == set()


def test_a_ring_is_found() -> None:
    """And what only leads to it or away from it as well as it must."""
    assert rings({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == {"a", "b", "c"}
    assert rings({"a": {"b", "d"}, "b": {"d"}, "d": set()}) == set()


# Private members


def private_names(tree: ast.AST) -> set[str]:
    """The private members that the classes of a file define."""
    names: set[Any] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for each in ast.walk(node):
                names.update(defined_by(each))
    return {name for name in names if is_private(name)}


def defined_by(node: ast.AST) -> Iterator[str]:
    """The names that a node within a class defines as members."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        yield node.name
    elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        yield node.attr
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Name):
                yield target.id
            if isinstance(target, ast.Name) and target.id == "__slots__":
                yield from ast.literal_eval(node.value)


def is_private(name: str) -> bool:
    """Whether a member is one of its class alone."""
    return name.startswith("_") and not name.startswith("__")


def touched(tree: ast.AST) -> set[str]:
    """The private members that a file uses or defines."""
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return {name for name in used | private_names(tree) if is_private(name)}


@cache
def members_of(path: str) -> frozenset[str]:
    """The private members that the classes of a file of the package define."""
    return frozenset(private_names(ast.parse((PACKAGE / path).read_text())))


def is_core(path: str) -> bool:
    """Whether a file belongs to the core."""
    return path.removeprefix("_core/").split("/")[0].removesuffix(".py") in CORE


#: The private members of the classes of the core, and those of the classes that
#: adapters derive from.
MEMBERS = {name for path in FILES if is_core(path) for name in members_of(path)}
INHERITED = frozenset().union(
    *map(
        members_of,
        ("pool.py", "_core/bound_pool.py", "_core/pool_state.py", "_core/context.py"),
    )
)


def reaches(path: str, source: str) -> list[str]:
    """The private members of the core that a file of an adapter touches.

    A name that the adapter defines itself is its own, but not in a file with classes
    that derive from those of the core.
    """
    room = path.split("/")[0]
    tree = ast.parse(source)
    own = {
        name
        for each in FILES
        if each.split("/")[0] == room
        for name in members_of(each)
    }
    derives = any(
        isinstance(node, ast.ImportFrom) and node.module == "geventpool.pool"
        for node in ast.walk(tree)
    )
    return sorted(touched(tree) & ((MEMBERS - own) | (INHERITED if derives else set())))


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in FILES
        if path.split("/")[0].removesuffix(".py") in {*ADAPTERS} - INSIDERS
    ],
)
def test_adapters_touch_no_private_member_of_the_core(path: str) -> None:
    """What they need stands in the public files, and so can be used by all."""
    assert reaches(path, (PACKAGE / path).read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "from geventpool.pool import Pool\nPool()._ledger.idle",
        "from geventpool.pool import Pool\nclass Mine(Pool):\n    _clock = None",
        "from geventpool.pool import Pool\nclass Mine(Pool):\n"
        "    def _begin(self):\n        pass",
        "def idle(pool):\n    return pool.core._lifecycle.opener",
    ],
)
def test_a_reach_into_the_core_is_found(source: str) -> None:
    """By use, by override, and by a name that would hide one of the core."""
    assert reaches("sqlalchemy/more.py", source)

"""Tests use private members only of the module that they are the tests of."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "geventpool"

#: Modules that a file tests beside those of its own name.
SUBJECTS: dict[str, tuple[str, ...]] = {
    # Executed where "tests" is the folder of another project.
    "compat/swap_queuepool.py": ("_core/bound_pool.py", "_core/registry.py"),
}

#: Private names of drivers, which adapters keep as the drivers have them, and of the
#: standard library.
FOREIGN = {
    "os": {"_exit"},
    "redis": {
        "_available_connections",
        "_checkpid",
        "_connect",
        "_created_connections",
        "_in_use_connections",
        "_lock",
        "_lock_pid",
        "_metrics_collector",
        "_parser",
        "_sock",
    },
    "PyMySQL": {
        "_force_close",
        "_read_packet",
        "_read_query_result",
        "_read_timeout",
        "_result",
        "_write_bytes",
    },
    "SQLAlchemy": {"_dialect", "_max_overflow", "_pool"},
    "gsocketpool": {"_reaper"},
    "kombu": {"_size"},
    "python-socketio": {"_redis_connect"},
}


#: Functions that are given other names than those of members.
NO_REACHES = {"get_original", "startswith"}


def private_names() -> dict[str, set[str]]:
    """Each private name that the package defines, and the modules that do."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        where = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            name = _defined(node)
            if is_private(name):
                found[name].add(where)
    return found


def _defined(node: ast.AST) -> str:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return node.name
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        return node.attr
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return node.id
    return ""


def is_private(name: str) -> bool:
    """Whether it begins with one underscore, and is a name."""
    return name.isidentifier() and bool(re.match("_[^_]", name))


def reaches(source: str) -> Iterator[tuple[int, str, str]]:
    """Each use of a private member of another object: line, expression, name.

    A name in a string counts as well, as in ``setattr(pool, "_closed", True)``.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and not _is_of_itself(node):
            names = [node.attr]
        elif isinstance(node, (ast.Call, ast.Subscript)):
            names = list(_spelled(node))
        elif isinstance(node, ast.ImportFrom):
            is_ours = (node.module or "").startswith(PACKAGE.name)
            names = [each.name for each in node.names if is_ours]
        else:
            continue
        for name in filter(is_private, names):
            yield node.lineno, ast.unparse(node), name


def _spelled(node: ast.Call | ast.Subscript) -> Iterator[str]:
    """The last part of each string that is given to a function or is a key."""
    if isinstance(node, ast.Subscript):
        given = [node.slice]
    elif ast.unparse(node.func).rpartition(".")[2] in NO_REACHES:
        return
    else:
        given = [*node.args, *(keyword.value for keyword in node.keywords)]
    for each in given:
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.value.rpartition(".")[2]


def own_names(tree: ast.Module) -> Iterator[str]:
    """Private names that a test file defines itself."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or _is_of_itself(node):
            yield _defined(node)


def _is_of_itself(node: ast.Attribute) -> bool:
    return ast.unparse(node.value) in ("self", "cls", "super()")


def is_subject(module: str, test: str) -> bool:
    """Whether a test file tests a module: both by path."""
    return is_named_after(module, test) or module in SUBJECTS.get(test, ())


def is_named_after(module: str, test: str) -> bool:
    """Whether a test file has the name and the place of a module: both by path."""
    place, folders = Path(module).with_suffix("").parts, Path(test).parent.parts
    if Path(test).stem.removeprefix("test_") != place[-1]:
        return False
    return set(folders) <= set(place) if folders else place[:-1] in ((), ("_core",))


#: The most uses in all tests of names that are private in the package, those of drivers
#: left out. Only lower it: ``geventpool.testing``, ``stats()``, events and
#: ``tests/parts.py`` tell the same.
MOST = 176
#: The most of these in files that are not named after the module, but have a row above.
MOST_ELSEWHERE = 21

NAMES = private_names()
FILES = sorted(path.relative_to(TESTS).as_posix() for path in TESTS.rglob("*.py"))


def reaches_into_the_package(test: str) -> Iterator[tuple[str, set[str], set[str]]]:
    """Each use of a private name of the package in a test file, by its path.

    :return: where it is, the modules that define such a name, and those of them that
        the file tests.
    """
    source = (TESTS / test).read_text()
    others = set(own_names(ast.parse(source))).union(*FOREIGN.values())
    for line, text, name in reaches(source):
        modules = NAMES.get(name, set())
        subjects = {module for module in modules if is_subject(module, test)}
        if subjects or (modules and name not in others):
            yield f"line {line}: {text}", modules, subjects


@pytest.mark.parametrize("test", [name for name in FILES if name != "parts.py"])
def test_a_test_uses_only_private_members_of_its_subject(test: str) -> None:
    """What others use of a module is public: a change inside it breaks its tests alone.

    A test that needs a part of a pool gets it from ``tests/parts.py``. One that is in
    truth the test of another module has a row in SUBJECTS.
    """
    used = set()
    offences = []
    for place, modules, subjects in reaches_into_the_package(test):
        used |= subjects
        if not subjects:
            offences.append(f"{place} of {' or '.join(sorted(modules))}")
    assert not offences, "\n".join(offences)
    unused = set(SUBJECTS.get(test, ())) - used
    assert not unused, f"the row of {test} names more than it needs: {unused}"


def test_private_members_are_not_used_more_than_before() -> None:
    """What a test needs of one several times, a function of the test file returns."""
    found = {test: list(reaches_into_the_package(test)) for test in FILES}
    assert sum(map(len, found.values())) <= MOST
    elsewhere = [
        place
        for test, uses in found.items()
        for place, _, subjects in uses
        if not any(is_named_after(module, test) for module in subjects)
    ]
    assert len(elsewhere) <= MOST_ELSEWHERE


def test_the_table_of_subjects_names_files_that_exist() -> None:
    """A row for a file that was renamed would be without effect."""
    assert not set(SUBJECTS) - set(FILES)
    named = {module for row in SUBJECTS.values() for module in row}
    assert not {module for module in named if not (PACKAGE / module).exists()}


def test_private_uses_are_found() -> None:
    """Of anything but the object itself, wherever it stands."""
    source = (
        "self._a\npool._b.c\nmake()._d = 1\npool.__dict__\n_e = pool.f\nself._f = 2\n"
        "setattr(pool, '_g', 3)\nvars(pool)['_h']\nget_original('_i', 'j')\n"
        "from geventpool.k import _l\nfrom redis import _m\npatch('n._o', new='_')\n"
    )
    assert {name for _, _, name in reaches(source)} == set("_b _d _g _h _l _o".split())
    assert {*own_names(ast.parse(source)), ""} == {"_e", "_f", ""}

"""Our pools through every storm, in a short form; the oracles are asked each time."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import geventpool.redis
import geventpool.sqlalchemy
from geventpool import ErrorAction
from geventpool.mysql.errors import ACTIONS
from tests.failures.cells import details
from tests.failures.oracles import broken
from tests.failures.peers import CONTESTANTS
from tests.failures.sites import LIMIT, Site
from tests.failures.storms import STORMS, rage

MakeSite = Callable[[str], Site[Any]]

#: Seconds of trouble in each; ``python -m tests.failures`` and the soak have more.
SHORT = 0.2

#: What differs with the driver goes over both; the rest over one of them.
CELLS = [
    *((storm, "redis") for storm in STORMS),
    *((storm, "redis-shared") for storm in STORMS),
    *(
        (storm, "mysql")
        for storm in ("restart", "freeze", "kill-all", "idle", "full", "cut", "drop")
    ),
    *((storm, "tcp") for storm in ("kills", "silence")),
    *((storm, "sqlalchemy") for storm in ("kills", "reset")),
]


@pytest.mark.parametrize(("storm", "pool"), CELLS)
def test_every_oracle_holds_in_every_storm(
    storm: str, pool: str, make_site: MakeSite
) -> None:
    """With borrowers interrupted meanwhile."""
    make = CONTESTANTS[pool]
    outcome = rage(
        STORMS[storm], make, make_site(make.site), 7, seconds=SHORT, harsh=True
    )
    assert broken(outcome) == [], details(outcome)
    assert outcome.account.served and outcome.account.interrupted
    assert outcome.samples and outcome.seen_by_server and outcome.seen_by_proxy


@pytest.mark.parametrize("pool", ["redis-waiting", "mysql-waiting"])
def test_a_restart_is_a_delay_to_those_who_wait(pool: str, make_site: MakeSite) -> None:
    """Only requests that were under way fail, one for each connection at most."""
    make = CONTESTANTS[pool]
    outcome = rage(STORMS["restart"], make, make_site(make.site), 7, seconds=SHORT)
    assert broken(outcome) == [], details(outcome)
    assert outcome.account.failed <= LIMIT
    assert outcome.account.refused == 0


# What the documentation names


def ours(pool: str) -> bool:
    """Whether it is one of our pools."""
    return CONTESTANTS[pool].documented is not None


def flat(text: str) -> str:
    """Without frames and line ends."""
    return " ".join(
        text.replace("|", " ").replace("+--", " ").replace("-", " ").split()
    )


def documentation() -> str:
    """The README, the pages, and what ``help()`` says of the pools."""
    kinds = (geventpool.redis.ConnectionPool, geventpool.sqlalchemy.GreenletPool)
    helps = [method.__doc__ or "" for it in kinds for method in vars(it).values()]
    root = Path(__file__).parents[2]
    pages = [root / "README.rst", *sorted((root / "docs").rglob("*.rst"))]
    return flat(" ".join([*(page.read_text() for page in pages), *helps]))


@pytest.mark.parametrize("pool", [name for name in CONTESTANTS if ours(name)])
def test_the_documentation_names_every_error_in_the_table(pool: str) -> None:
    """In a sentence that is quoted there; and there is such an error."""
    text = documentation()
    documented = CONTESTANTS[pool].documented
    assert documented
    for name, sentence in documented.items():
        assert flat(sentence) in text, f"{name}: {sentence}"
        path, _, kind = name.split()[0].rpartition(".")
        assert issubclass(getattr(import_module(path or "builtins"), kind), Exception)


def test_every_code_in_the_table_is_one_that_the_pool_knows() -> None:
    """As the end of a connection, or as a failure to connect."""
    codes = {
        int(name.split()[1])
        for name in CONTESTANTS["mysql"].documented or ()
        if len(name.split()) == 2
    }
    closing = ErrorAction.DISCARD, ErrorAction.DISCONNECT
    assert codes == {code for code in codes if ACTIONS.get(code) in closing}

"""Worker processes that share a budget, and a server that counts their connections."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from geventpool import Budget
from geventpool.testing import wait_until
from tests.budget.host import TOTAL, Host, Worker
from tests.budget.soak import wander


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host(3, TOTAL, budget=True)
    yield host
    host.close()


def is_served(worker: Worker, users: int) -> Callable[[], bool]:
    """Whether *worker* takes loans with a load of *users*."""

    def ask() -> bool:
        answer = worker.load(users)
        assert not answer["failed"]
        return bool(answer["loans"])

    return ask


def test_a_server_never_sees_more_connections_than_the_budget(host: Host) -> None:
    """Each worker wants all places; one is killed, and one begins in its place."""
    budget = Budget(host.budget, TOTAL)
    for worker in host.workers:
        wait_until(is_served(worker, TOTAL))
    wait_until(lambda: host.seen()[0] == TOTAL)
    killed = host.workers.pop()
    killed.end()
    assert killed.pid not in [share.pid for share in budget.stats().shares]
    host.workers.append(host.begin())
    for worker in host.workers:
        wait_until(is_served(worker, TOTAL))
    most, opened = host.seen()
    assert most <= TOTAL
    assert opened


def test_the_soak_sees_a_wandering_load_kills_and_replacements() -> None:
    """Some steps of it: the total holds, no loan fails, all places are given back."""
    seen = wander(4.0, pause=0.05, every=2)
    assert 0 < seen.most <= TOTAL
    assert seen.loans and seen.dials and seen.replaced and not seen.failed
    assert "kills: at most" in str(seen)

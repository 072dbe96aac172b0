"""The workload that promises what the backend costs."""

from __future__ import annotations

from django.conf import settings
from django.db import connections

from benchmarks import django as workload
from benchmarks.adapters.base import CONNECTIONS
from benchmarks.rounds import TINY


def test_the_workload_counts_what_it_promises(migrated):
    """At the smallest scale; and it leaves this process's Django as it was."""
    before = dict(connections.settings), settings.ROOT_URLCONF
    report = workload.run(TINY)
    assert (dict(connections.settings), settings.ROOT_URLCONF) == before
    ten, many = report.sections
    assert set(ten.numbers) == {
        workload.OURS,
        workload.OURS_ALWAYS,
        workload.PERSISTENT,
        workload.FRESH,
    }
    ours, stock = many.numbers[workload.OURS], many.numbers[workload.PERSISTENT]
    assert set(ours["refused"]) == {0}
    assert max(ours["connections"]) <= CONNECTIONS < min(stock["connections"])
    assert len(report.targets) == 3
    assert report.as_plain()

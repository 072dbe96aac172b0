"""In which order several hosts are tried."""

from __future__ import annotations

import random

import pytest

from geventpool.mysql.hosts import FAIL_TIMEOUT, Host, Hosts

A, B, C = Host("a"), Host("b", 3307), Host("::1", 3308)


def test_a_host_may_be_written_in_several_ways():
    """Text with or without a port, a pair, or a Host."""
    assert list(Hosts(["a", "b:3307", ("::1", 3308)])) == [A, B, C]
    assert list(Hosts(["[::1]:3308", "[::1]", "::1", A])) == [
        C,
        Host("::1"),
        Host("::1"),
        A,
    ]
    assert [str(host) for host in (A, B, C)] == ["a:3306", "b:3307", "[::1]:3308"]


@pytest.mark.parametrize(
    "text", ["", ":3306", "a:", "a:x", "a:65536", "[::1", "[::1]x"]
)
def test_what_is_no_host_is_refused(text):
    """A host has a name, and its port is a port."""
    with pytest.raises(ValueError, match="not a host"):
        Hosts([text])


@pytest.mark.parametrize("hosts", ["a,b", b"a", 5, [5], [("a", "3306")], [("a",)]])
def test_what_is_no_list_of_hosts_is_refused(hosts):
    """One string would else be taken for a list of letters."""
    with pytest.raises(TypeError, match="host"):
        Hosts(hosts)


def test_there_is_at_least_one_host():
    """No hosts, no connection."""
    with pytest.raises(ValueError, match="at least one"):
        Hosts([])


def test_the_order_is_listed_or_random():
    """A misspelt order is not taken for the default."""
    with pytest.raises(ValueError, match="host_order must be one of"):
        Hosts(["a"], "rndom")


def test_listed_hosts_are_tried_as_listed():
    """The first is the one that is preferred."""
    assert Hosts([B, A, C]).in_order(0.0) == [B, A, C]


def test_random_hosts_are_tried_in_any_order():
    """Every host has its turn at the head."""
    random.seed(4)
    heads = {Hosts([A, B, C], "random").in_order(0.0)[0] for _ in range(50)}
    assert heads == {A, B, C}


def test_a_host_that_failed_is_tried_last_for_a_while():
    """A dead host does not cost every connection its time limit."""
    hosts = Hosts([A, B])
    hosts.failed(A, 100.0)
    assert hosts.in_order(100.0 + FAIL_TIMEOUT / 2) == [B, A]
    assert hosts.in_order(100.0 + FAIL_TIMEOUT) == [A, B]


def test_a_host_that_served_is_forgiven():
    """What works again is no longer avoided."""
    hosts = Hosts([A, B])
    hosts.failed(A, 100.0)
    hosts.served(A, only=False)
    assert hosts.in_order(100.0) == [A, B]


def test_the_only_one_of_its_kind_is_tried_first():
    """There is one primary: where it was found it is looked for first."""
    hosts = Hosts([A, B])
    hosts.served(B, only=True)
    assert hosts.in_order(0.0) == [B, A]
    hosts.failed(B, 100.0)
    assert hosts.in_order(100.0) == [A, B]

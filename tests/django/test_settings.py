"""What settings may say, and what statements are taken to be."""

from __future__ import annotations

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError

from geventpool.django.mysql import options
from geventpool.listeners import Counters
from tests import parts
from tests.django.conftest import value


def test_all_of_the_pools_options_may_be_given(make):
    """They reach the pool as they are."""
    counters = Counters()
    wrapper = make({"max_connections": 3, "name": "bank", "listeners": [counters]})
    assert wrapper.pool.max_connections == 3
    assert wrapper.pool.name == "bank"
    # A copy shares the pool though its settings are copied.
    assert wrapper.copy("test0").pool is wrapper.pool
    assert {"timeout", "max_waiting", "max_lifetime", "hosts"} <= options.NAMES
    assert not {"self", "factory", "source", "options"} & options.NAMES


def test_a_pool_has_its_name_from_the_database(make):
    """For messages and reports."""
    assert make({}).pool.name == "django test0"


def test_several_hosts_may_be_given(make, migrated):
    """Then the settings name no other."""
    hosts = [f"{migrated.host}:{migrated.port}"]
    wrapper = make({"hosts": hosts}, HOST="", PORT="")
    assert value(wrapper, "SELECT 1") == 1
    with pytest.raises(ImproperlyConfigured, match="give hosts or host, not both"):
        make({"hosts": hosts}).ensure_connection()


def test_health_checks_are_pings_of_what_was_long_idle(make):
    """Unless the pool is told otherwise."""
    assert parts.lifecycle(make(CONN_HEALTH_CHECKS=True).pool).expiry.ping_after == 30
    other = make({"ping_after": 5}, CONN_HEALTH_CHECKS=True)
    assert parts.lifecycle(other.pool).expiry.ping_after == 5
    assert parts.lifecycle(make().pool).expiry.ping_after is None


@pytest.mark.parametrize(
    ("pool", "more", "words"),
    [
        (5, {}, "must be True, False or a dict of options, not 5"),
        ("yes", {}, "must be True, False or a dict of options, not 'yes'"),
        ({"max_conections": 5}, {}, "'max_conections'; did you mean 'max_connections'"),
        ({"qqq": 5}, {}, r"DATABASES\[.*\]\['pool'\] has no option 'qqq'"),
        ({"user": "x"}, {}, "has no option 'user'"),
        ({7: 5}, {}, "has no option 7"),
        ({"max_connections": 0}, {}, "max_connections must be .* 1.*, not 0"),
        ({"timeout": "1"}, {}, "timeout must be .*, not '1'"),
        ({"configure": 1}, {}, "configure must be a callable or None, not 1"),
        ({"reset": None}, {}, "reset must be one of .* or a callable, not None"),
        ({"reset": "x"}, {}, "reset must be one of .* or a callable, not 'x'"),
        (True, {"CONN_MAX_AGE": 60}, "'CONN_MAX_AGE'] must be 0 .*, not 60"),
        (True, {"CONN_MAX_AGE": None}, "'CONN_MAX_AGE'] must be 0 .*, not None"),
        (True, {"options": {"ssl_mode": 1}}, "has no option 'ssl_mode'; did you"),
    ],
)
def test_what_cannot_be_is_improper(make, pool, more, words):
    """At the first connection; and it says which database, option and value."""
    wrapper = make(pool, **more)
    with pytest.raises(ImproperlyConfigured, match=words) as caught:
        wrapper.ensure_connection()
    assert "DATABASES['test0']" in str(caught.value)


def test_what_fails_while_the_pool_is_made_fails_as_connecting(make):
    """It is no fault of the settings that the server does not let us in."""
    wrapper = make({"initial_connections": 1}, PASSWORD="wrong")
    with pytest.raises(OperationalError):
        wrapper.ensure_connection()


# PyMySQL in mysqlclient's place


def test_what_to_do_where_nothing_is_patched_is_checked(make):
    """The words are those of every adapter."""
    with pytest.raises(ImproperlyConfigured, match="'stock' or 'error', not 'ignore'"):
        make({"unpatched": "ignore"}).pool

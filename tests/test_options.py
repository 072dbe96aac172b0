"""The options of a pool stand in one table; everything else follows it."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from typing import Any, get_type_hints

import docutils.core
import pytest

from geventpool import Pool, TcpConnection
from geventpool.options import (
    MoreKeywords,
    PoolKeywords,
    PoolOptions,
    from_text,
    names,
)
from geventpool.signatures import documented
from geventpool.testing import ScriptedConnector
from tests import reference


def test_type_checkers_know_every_option() -> None:
    """The names and types for type checkers are those that the pool checks."""
    assert get_type_hints(PoolKeywords) == get_type_hints(PoolOptions)


def test_those_that_a_pool_takes_in_order_are_not_taken_twice() -> None:
    """A type checker refuses a keyword that is a parameter as well."""
    in_order = set(inspect.getfullargspec(Pool.__init__).args)
    assert not in_order & set(MoreKeywords.__annotations__)
    assert in_order >= names() - set(MoreKeywords.__annotations__)


def test_the_signature_shows_every_option_with_its_default() -> None:
    """``help(Pool)`` answers what can be given, and what holds if it is not."""
    shown = inspect.signature(Pool).parameters
    for each in fields(PoolOptions):
        assert shown[each.name].default == each.default
    assert not any(each.kind is each.VAR_KEYWORD for each in shown.values())


def test_another_default_is_shown() -> None:
    """An adapter's own default takes the place of the general one."""

    @documented(PoolOptions, max_connections=10)
    def make(source: str, **options: Any) -> None: ...

    shown = inspect.signature(make).parameters
    assert next(iter(shown)) == "source"
    assert shown["max_connections"].default == 10
    assert shown["timeout"].default == 30


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("max_idel", "; did you mean 'max_idle'?"),
        ("max_conections", "; did you mean 'max_connections'?"),
        ("retries", ""),
    ],
)
def test_a_name_that_is_no_option_is_refused(name: str, hint: str) -> None:
    """A typing error must not silently leave a default in force."""
    options: dict[str, Any] = {name: 1}
    with pytest.raises(TypeError) as caught:
        Pool(ScriptedConnector(), **options)
    assert str(caught.value) == f"Pool() has no option {name!r}{hint}"


def test_an_argument_of_the_factory_is_refused_with_advice() -> None:
    """Many who see a pool for the first time give it to the pool."""
    options: dict[str, Any] = {"max_connections": 1, "host": "127.0.0.1"}
    message = (
        "Pool() has no option 'host'; give the arguments of the factory in a dict: "
        "Pool(factory, dict(host=...))"
    )
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        Pool(TcpConnection, **options)


def test_a_factory_without_a_signature_is_taken() -> None:
    """Nothing is known of the arguments of some functions in C."""
    options: dict[str, Any] = {"host": "127.0.0.1"}
    with pytest.raises(TypeError, match=r"^Pool\(\) has no option 'host'$"):
        Pool(dict, **options)


@pytest.mark.parametrize(
    ("name", "rule"), [("outage", "an Outage"), ("timeouts", "a Timeouts")]
)
def test_a_value_of_another_kind_is_refused_in_words(name: str, rule: str) -> None:
    """The message has the rule of the reference."""
    options: dict[str, Any] = {name: True}
    with pytest.raises(TypeError, match=f"^{name} must be {rule}, not True$"):
        PoolOptions(**options)


def test_a_function_may_take_other_keywords_too() -> None:
    """The driver's keywords stay what they are: anything."""

    @documented(PoolOptions, others=True)
    def make(**keywords: Any) -> None: ...

    *_, last = inspect.signature(make).parameters.values()
    assert last.kind is last.VAR_KEYWORD and last.name == "keywords"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("max_connections", "20", 20),
        ("max_waiting", "none", None),
        ("timeout", "0.5", 0.5),
        ("timeout", "None", None),
        ("lifo", "No", False),
        ("lifo", "on", True),
        ("name", "none", "none"),
        ("max_connections", 20, 20),
    ],
)
def test_text_is_read(name: str, text: str, value: object) -> None:
    """A URL can say all that text can say."""
    assert from_text(name, text) == value
    assert type(from_text(name, text)) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("max_connections", "1.5", "max_connections must be a whole number, not '1.5'"),
        ("max_connections", "none", "max_connections must be a whole number"),
        ("timeout", "soon", "timeout must be a number or none, not 'soon'"),
        ("lifo", "maybe", "lifo must be true or false, not 'maybe'"),
        ("backoff", "1", "backoff can't be given in a URL: '1'"),
    ],
)
def test_text_that_says_something_else_is_refused(
    name: str, text: str, message: str
) -> None:
    """The message names the option, the rule, and what was written."""
    with pytest.raises(ValueError, match=r"^\w") as caught:
        from_text(name, text)
    assert str(caught.value).startswith(message)


def test_values_are_normalised() -> None:
    """What the pool computes with has one type each."""
    options = PoolOptions(timeout=1, listeners=iter([]), ping_interval=5)
    assert type(options.timeout) is float and options.listeners == ()
    assert options.sweep_interval == 5 and PoolOptions().sweep_interval == 180


def test_the_page_of_the_reference_is_up_to_date() -> None:
    """Run ``python -m tests.reference`` after a change of the options."""
    assert reference.PAGE.read_text() == reference.page()


def test_the_page_of_the_reference_is_good_markup() -> None:
    """A table whose columns do not fit is no table."""
    settings = {"halt_level": 2, "report_level": 2}
    docutils.core.publish_string(
        reference.page(), writer="null", settings_overrides=settings
    )

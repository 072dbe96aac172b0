"""URLs of the MySQL pool: what they say, and which are refused."""

from __future__ import annotations

import pytest
from pymysql.cursors import SSDictCursor

from geventpool.mysql.hosts import Host
from geventpool.mysql.url import parse_url


def test_a_url_names_account_host_and_database():
    """Each part of a URL is the keyword PyMySQL has for it."""
    assert parse_url("mysql://shop:secret@db.example:3307/orders") == {
        "user": "shop",
        "password": "secret",
        "host": "db.example",
        "port": 3307,
        "database": "orders",
    }


@pytest.mark.parametrize(
    "scheme", ["mysql", "mysql+pymysql", "mariadb", "mariadb+pymysql"]
)
def test_the_schemes_of_sqlalchemy_are_understood(scheme):
    """A URL that SQLAlchemy takes can be used here."""
    assert parse_url(f"{scheme}://u@h/d")["host"] == "h"


def test_what_a_url_does_not_say_is_left_to_the_defaults():
    """An absent part is an absent keyword."""
    assert parse_url("mysql://") == {}
    assert parse_url("mysql://h") == {"host": "h", "port": 3306}
    assert parse_url("mysql://u@h")["user"] == "u"
    assert "password" not in parse_url("mysql://u@h")
    assert parse_url("mysql://u:@h")["password"] == ""


def test_every_part_may_be_percent_encoded():
    """A password may consist of the very characters that separate the parts."""
    options = parse_url(
        "mysql://a%40b:p%2Fw%3A%40%23%3F@h/d%2Fb?init_command=SET%20%40x%3D1"
    )
    assert options["user"] == "a@b"
    assert options["password"] == "p/w:@#?"
    assert options["database"] == "d/b"
    assert options["init_command"] == "SET @x=1"


def test_arguments_behind_the_question_mark_have_their_types():
    """Numbers, truth values and cursor classes do not stay text."""
    options = parse_url(
        "mysql://h/d?charset=latin1&autocommit=true&connect_timeout=2.5&client_flag=8"
        "&local_infile=0&cursorclass=SSDictCursor&unix_socket=/run/s.sock&target=any"
    )
    assert options["charset"] == "latin1"
    assert options["autocommit"] is True
    assert options["connect_timeout"] == 2.5
    assert options["client_flag"] == 8
    assert options["local_infile"] is False
    assert options["cursorclass"] is SSDictCursor
    assert options["unix_socket"] == "/run/s.sock"
    assert options["target"] == "any"


def test_options_of_the_pool_have_the_types_of_every_adapters_urls():
    """One table for all: numbers, truth values, names, and no limit."""
    options = parse_url(
        "mysql://h/d?max_connections=20&max_idle=60.5&lifo=no&name=shop&timeout=none"
        "&max_waiting=None&ping_after=1"
    )
    assert options == {
        "host": "h",
        "port": 3306,
        "database": "d",
        "max_connections": 20,
        "max_idle": 60.5,
        "lifo": False,
        "name": "shop",
        "timeout": None,
        "max_waiting": None,
        "ping_after": 1.0,
    }


@pytest.mark.parametrize(("text", "mode"), [("", None), ("none", None), ("off", False)])
def test_autocommit_may_be_left_to_the_server(text, mode):
    """Autocommit has three states."""
    assert parse_url(f"mysql://h?autocommit={text}")["autocommit"] is mode


def test_several_hosts_are_separated_by_commas():
    """A URL may name all the servers that may be the primary."""
    assert parse_url("mysql://u@db1,db2:3307,[::1]:3308/d")["hosts"] == [
        Host("db1"),
        Host("db2", 3307),
        Host("::1", 3308),
    ]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgres://h", "must begin with mysql://"),
        ("localhost", "must begin with mysql://"),
        ("mysql://h:port/d", "port from 1 to 65535"),
        ("mysql://h:0/d", "port from 1 to 65535"),
        ("mysql://h/d#f", "%23"),
        ("mysql://h?colour=red", "url has no option 'colour'"),
        ("mysql://h?max_idel=5", "no option 'max_idel'; did you mean 'max_idle'"),
        ("mysql://h?charset=a&charset=b", "'charset' twice"),
        ("mysql://h?local_infile=perhaps", "local_infile='perhaps': must be one of 1"),
        ("mysql://h?cursorclass=Pencil", "must be one of Cursor, DictCursor"),
        ("mysql://h?client_flag=x", "client_flag='x'"),
        ("mysql://h?max_connections=x", "max_connections must be a whole number"),
        ("mysql://h?max_waiting=x", "max_waiting must be a whole number or none"),
        ("mysql://h?backoff=x", "backoff can't be given in a URL: 'x'"),
    ],
)
def test_a_url_that_says_nothing_sensible_is_refused(url, words):
    """Each refusal names the part and the rule."""
    with pytest.raises(ValueError) as refusal:
        parse_url(url)
    assert words in str(refusal.value)


def test_a_refusal_does_not_show_the_password():
    """What ends in a log had better not have a password in it."""
    with pytest.raises(ValueError) as refusal:
        parse_url("http://u:secret@h/d")
    assert "secret" not in str(refusal.value)


def test_only_text_is_a_url():
    """Bytes are not quietly decoded."""
    with pytest.raises(TypeError, match="url must be a string"):
        parse_url(b"mysql://h")  # type: ignore[arg-type]

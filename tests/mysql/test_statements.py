"""What the text of a statement tells of what it leaves in a session."""

from __future__ import annotations

from typing import Any

import pytest

from geventpool.mysql import statements
from geventpool.mysql.statements import (
    MARIADB,
    MYSQL,
    OLD_MYSQL,
    Kind,
    effects_of,
    family,
    is_harmless_body,
    is_mariadb,
    kind_of,
)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT `a`.`id`, `a`.`name` FROM `a` WHERE `a`.`id` = 5 LIMIT 21",
        "SELECT COUNT(*) AS `__count` FROM `a`",
        "SELECT 1 AS `a` FROM `b` WHERE (`b`.`x` = 'x' AND NOT (`b`.`y` = 1))",
        "(SELECT `a`.`id` FROM `a`) UNION (SELECT `b`.`id` FROM `b`)",
        "SELECT MAX( `a`.`x`), coalesce(`a`.`y`, 2) FROM `a` FOR UPDATE",
        "select x from t where y in(1, 2) and z = (select max(y) from t)",
        "SELECT 'it''s @ # -- (x)', 'a\\'b', `na'me` FROM t",
        "SELECT '\u20ac', 'x\u00e9'",
        "  SELECT 1 ;",
        "WITH a AS (SELECT 1) SELECT * FROM a",
        "SHOW TABLES LIKE 'x%'",
        "EXPLAIN SELECT 1",
        "SELECT 'x', SLEEP(0.003), VERSION(), DATABASE()",
        "SELECT 1 FROM t WHERE MATCH (a, b) AGAINST ('x' IN BOOLEAN MODE)",
    ],
)
def test_a_read_is_known(text):
    """As programs and ORMs write them; and the second time by heart."""
    for _ in range(2):
        assert kind_of(text.encode(), MARIADB) is Kind.READ


@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO `a` (`id`, b) VALUES (1, 'x'), (2, DEFAULT)",
        "INSERT IGNORE INTO db.a (id) SELECT (b) FROM c",
        "REPLACE INTO a VALUES (NOW(), 1)",
        "INSERT INTO a VALUES (1) ON DUPLICATE KEY UPDATE b = VALUES(b)",
        "UPDATE `a` SET `x` = (`x` + 1) WHERE (`id` = 1)",
        "DELETE FROM a WHERE x IN ('(', ')')",
    ],
)
def test_a_write_is_known(text):
    """Whether it has also made an id is told by its answer."""
    assert kind_of(text.encode(), MARIADB) is Kind.WRITE


@pytest.mark.parametrize(
    "text",
    [
        f'SELECT "it\'s {"x" * 5000}"',
        "SELECT 'x" + "''" * 2500,
        "SELECT '" + "\\'" * 2500,
        f"SELECT 1 -- it's {'x' * 5000}",
    ],
)
def test_a_quote_without_an_end_takes_no_time(text):
    """The greenlets of the process do not wait until it is read in all ways."""
    assert kind_of(text.encode(), MARIADB) is None
    assert not is_harmless_body(text.encode(), MARIADB)


@pytest.mark.parametrize(
    "text",
    [
        *("BEGIN", "begin work", "COMMIT", "ROLLBACK", "SAVEPOINT `s_1`"),
        *("START TRANSACTION", "START TRANSACTION READ ONLY", "RELEASE SAVEPOINT x"),
        *("ROLLBACK TO SAVEPOINT `s_1`", "ROLLBACK TO x", "SET AUTOCOMMIT = 0"),
    ],
)
def test_the_ends_of_transactions_are_known(text):
    """What they change is in the status of the session."""
    assert kind_of(text.encode(), MARIADB) is Kind.CONTROL


@pytest.mark.parametrize(
    "text",
    [
        *("SET time_zone = '+00:00'", "CALL p()", "DO 1", "USE mysql", "LOCK TABLES a"),
        *("BEGIN NOT ATOMIC SELECT 1; END", "COMMIT RELEASE", "SET autocommit=0"),
        "WITH c AS (SELECT 1) DELETE FROM `a`",
        "SELECT @a := 1",
        "SELECT 1 INTO @a",
        "SELECT GET_LOCK('a', 1)",
        "SELECT SLEEP(GET_LOCK('a', 1))",
        "SELECT sleep (1)",
        "SELECT LAST_INSERT_ID(5)",
        "SELECT get_lock ('a', 1)",
        "SELECT GET_LOCK/**/('a', 1)",
        "SELECT GET_LOCK -- \n('a', 1)",
        "SELECT GET_LOCK # \n('a', 1)",
        "SELECT /*! GET_LOCK('a', 1) */",
        "SELECT -- it's\n GET_LOCK('a', 1) -- '",
        "SELECT `x'`, GET_LOCK('y', 1), `'z`",
        "SELECT 'a' \"'\" , GET_LOCK('a', 1), '\"'",
        "SELECT `f`(1)",
        "SELECT `f` (1)",
        "SELECT `db`.`max`(1)",
        "SELECT db.max(1)",
        "SELECT db . max(1)",
        "SELECT db. max (1)",
        "SELECT max (1)",
        "SELECT against(1)",
        "SELECT 1 FROM a WHERE AGAINST (1)",
        "SELECT \u20acmax(1)",
        "SELECT my_function(`a`.`x`) FROM `a`",
        f"SELECT {'x' * 100}max(1)",
        "SELECT 1; SET @a = 1",
        "SELECT NEXT VALUE FOR s",
        "SELECT s.nextval",
        "SELECT SQL_CALC_FOUND_ROWS 1",
        "INSERT INTO a (x) VALUES (1) RETURNING id",
        "INSERT INTO a VALUES (GET_LOCK('a', 1))",
        "SELECT 'open",
    ],
)
def test_what_may_leave_something_is_not_trusted(text):
    """What may set a variable, take a lock, or call what may."""
    for functions in (MARIADB, MYSQL, OLD_MYSQL):
        assert kind_of(text.encode(), functions) is None


@pytest.mark.parametrize(
    ("version", "expected", "function"),
    [
        ("5.5.5-10.11.19-MariaDB-log", MARIADB, "regexp_like"),
        ("8.4.3", MYSQL, ""),
        ("9.1.0-commercial", MYSQL, ""),
        ("8.0.20", OLD_MYSQL, "rank"),
        ("5.7.44-log", OLD_MYSQL, "row_number"),
    ],
)
def test_a_name_that_is_free_on_a_server_is_no_function_of_its_own(
    version, expected, function
):
    """There it may be that of a stored function."""
    assert family(version) == expected
    if function:
        assert kind_of(f"SELECT {function}(1)".encode(), expected) is None
        assert kind_of(f"SELECT {function}(1)".encode(), MYSQL) is Kind.READ


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("5.5.5-10.11.19-MariaDB-0+deb12u1", True),
        ("10.5.0-MariaDB", True),
        ("11.8.2-MariaDB-log", True),
        ("5.5.5-10.4.34-MariaDB", False),
        ("8.4.3", False),
    ],
)
def test_the_version_of_mariadb_is_compared(version, expected):
    """A MariaDB 10 puts the version of a MySQL before its own."""
    assert is_mariadb(version, (10, 5)) is expected


def test_what_is_known_of_statements_does_not_grow_for_ever(monkeypatch):
    """Programs put values into their text; long texts are not kept at all."""
    known: dict[Any, Any] = {}
    monkeypatch.setattr(statements, "_known", known)
    monkeypatch.setattr(statements, "_MAX_KNOWN", 3)
    for number in range(10):
        assert kind_of(b"SELECT %d" % number, MARIADB)
    assert 0 < len(known) <= 4
    known.clear()
    assert kind_of(b"SELECT " + b"1, " * 1000 + b"1", MARIADB)
    assert not known


def test_a_statement_with_other_strings_is_known():
    """The verdict is that of the text between them."""
    for word in ("one", "two ; three", "it''s"):
        assert kind_of(f"SELECT v FROM t WHERE w = '{word}'".encode(), MARIADB)


@pytest.mark.parametrize(
    ("text", "harmless"),
    [
        ("select `a`.`b`.`c` AS `c` from `a`.`b` where lower(`a`.`b`.`c`) = 'x'", True),
        ("BEGIN UPDATE t SET n = n + 1; SET NEW.x = COALESCE(NEW.x, 1); END", True),
        ("select `a`.`f`(1) AS `l`", False),
        ("select get_lock('a',0) AS `l`", False),
        ("BEGIN SELECT 5 INTO @x; END", False),
        ("BEGIN CALL p(); END", False),
    ],
)
def test_bodies_of_views_and_triggers_are_looked_through(text, harmless):
    """A function of their own may do anything."""
    assert is_harmless_body(text.encode(), MARIADB) is harmless


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SET @a = 1, time_zone = '+00:00'", True),
        ("set @a = f()", False),
        ("SET @a = (SELECT 1)", False),
        ("SET @a = 1; DO 1", False),
        ("SET\nSTATEMENT max_statement_time = 1 FOR SELECT 1", False),
        ("SET STATEMENT max_statement_time = 1 FOR SELECT 1", False),
        ("SELECT 1", False),
    ],
)
def test_a_set_statement_may_run_other_code(text, expected):
    """A function or a query, which may take locks."""
    assert effects_of(text.encode()).only_assigns is expected


def test_a_long_set_statement_is_not_looked_through():
    """It may be followed by another statement."""
    assert effects_of("set @a=1").only_sets
    assert not effects_of(b"SET " + b"x" * 2000).only_sets
    assert not effects_of("SELECT 1").only_sets


def test_what_short_statements_may_change_is_looked_up(monkeypatch):
    """Not more than so many of them are kept."""
    monkeypatch.setattr(statements, "_effects", {})
    monkeypatch.setattr(statements, "_MAX_KNOWN", 2)
    first = effects_of("SET @a = 1")
    assert effects_of("SET @a = 1") is first
    assert effects_of(bytearray(b"SET @a = 1")) == first
    assert effects_of(b"SET @a = 1") == first
    assert effects_of("SET @a = 2") == first
    assert effects_of("SET @a = 1") == first
    assert effects_of("SET @a = 1") is not first
    long = "SET @a = '" + "x" * 3000 + "'"
    assert effects_of(long) is not effects_of(long)


@pytest.mark.parametrize("text", ["DO GET_LOCK('x', 0)", "lock tables t READ"])
def test_a_statement_that_names_locks_is_found(text):
    """In text and in bytes."""
    assert effects_of(text).names_lock and effects_of(text.encode()).names_lock
    assert not effects_of(text[:2]).names_lock

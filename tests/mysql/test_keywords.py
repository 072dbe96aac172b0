"""What type checkers are told of the pool's keywords."""

from __future__ import annotations

from geventpool.mysql.arguments import KEYWORDS
from geventpool.mysql.keywords import ConnectKeywords, MySQLKeywords
from geventpool.options import names


def test_every_argument_of_pymysql_is_known():
    """A type checker refuses none that PyMySQL takes, whatever its version."""
    assert set(ConnectKeywords.__annotations__) >= KEYWORDS


def test_every_option_of_the_pool_is_known():
    """The limit stands among the pool's own parameters."""
    rest = MySQLKeywords.__annotations__.keys() - ConnectKeywords.__annotations__.keys()
    assert rest == names() - {"max_connections"}

"""SQLAlchemy on the same pool.

::

    engine = create_engine(url, poolclass=GreenletPool)

``geventpool.sqlalchemy.mysql_reset`` has a reset of the whole session for PyMySQL.
"""

from geventpool.sqlalchemy.pool import GreenletPool

__all__ = ["GreenletPool", "reset_server_session"]


def __getattr__(name: str) -> object:
    # Not before it is asked for: it needs PyMySQL.
    if name == "reset_server_session":
        from geventpool.sqlalchemy.mysql_reset import reset_server_session

        return reset_server_session
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""
SQLAlchemy on the same pool.

::

    engine = create_engine(url, poolclass=GreenletPool)

``geventpool.sqlalchemy.session`` has a reset of the whole session for PyMySQL.
"""

from geventpool.sqlalchemy.pool import GreenletPool

__all__ = ["GreenletPool", "reset_session_on_return"]


def __getattr__(name: str) -> object:
    # Not before it is asked for: it needs PyMySQL.
    if name == "reset_session_on_return":
        from geventpool.sqlalchemy.session import reset_session_on_return

        return reset_session_on_return
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

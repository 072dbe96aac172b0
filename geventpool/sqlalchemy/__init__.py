"""A pool for SQLAlchemy's engines.

::

    engine = create_engine(url, poolclass=GreenletPool)

``reset_server_session`` adds a reset of the whole session, for engines on PyMySQL.
"""

from typing import TYPE_CHECKING

from geventpool.sqlalchemy.pool import GreenletPool

if TYPE_CHECKING:
    from geventpool.sqlalchemy.mysql_reset import reset_server_session

__all__ = ["GreenletPool", "reset_server_session"]


def __getattr__(name: str) -> object:
    # Imported at first use, because it needs PyMySQL.
    if name == "reset_server_session":
        from geventpool.sqlalchemy.mysql_reset import reset_server_session

        return reset_server_session
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

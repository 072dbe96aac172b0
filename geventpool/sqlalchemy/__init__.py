"""SQLAlchemy on the same pool: ``create_engine(url, poolclass=GreenletPool)``."""

from geventpool.sqlalchemy.pool import GreenletPool

__all__ = ["GreenletPool"]

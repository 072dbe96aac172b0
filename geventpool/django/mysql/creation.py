"""Test databases: none of them shares a pool with another, or outlives its pool."""

from __future__ import annotations

from typing import Any

from geventpool.django.mysql import upstream

__all__ = ["DatabaseCreation"]


class DatabaseCreation(upstream.base.DatabaseCreation):  # type: ignore[misc]
    """Creates and destroys test databases as Django does.

    A pool belongs to the name of its database. So the test database has its own, and
    what is left of one is closed when that name is no longer wanted.
    """

    def create_test_db(self, *args: Any, **kwargs: Any) -> Any:
        """Create the test database, with nothing connected to the real one."""
        self._close_pool()
        return super().create_test_db(*args, **kwargs)

    def destroy_test_db(self, *args: Any, **kwargs: Any) -> Any:
        """Destroy the test database, or keep it, with nothing connected to it."""
        self._close_pool()
        return super().destroy_test_db(*args, **kwargs)

    def _close_pool(self) -> None:
        self.connection.close()
        self.connection.close_pool()

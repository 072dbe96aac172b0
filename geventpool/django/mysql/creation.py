"""The creation of test databases, each with a pool of its own."""

from __future__ import annotations

from typing import Any

from geventpool.django.mysql import upstream

__all__ = ["DatabaseCreation"]


class DatabaseCreation(upstream.base.DatabaseCreation):  # type: ignore[misc]
    """Creates and destroys test databases as Django does.

    Each database name has its own pool, so a test database has one as well. The pool is
    closed before the name changes.
    """

    def create_test_db(self, *args: Any, **kwargs: Any) -> Any:
        """Create the test database, after closing all connections to the real one."""
        self._close_pool()
        return super().create_test_db(*args, **kwargs)

    def destroy_test_db(self, *args: Any, **kwargs: Any) -> Any:
        """Destroy or keep the test database, after closing all connections to it."""
        self._close_pool()
        return super().destroy_test_db(*args, **kwargs)

    def _close_pool(self) -> None:
        self.connection.close()
        self.connection.close_pool()

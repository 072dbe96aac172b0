"""The sites of the storms serve the tests of the storms' oracles as well."""

from tests.failures.conftest import _own_servers, make_site

__all__ = ["_own_servers", "make_site"]

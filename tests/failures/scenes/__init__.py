"""Operations on real servers, each of which can be disturbed at every switch point.

A scene is one run of an operation. The table of all is
:data:`tests.failures.scenes.table.ROWS`. It is filled when the modules are imported.
"""

from tests.failures.scenes import cancellation, core, mysql, redis, shared, sqlalchemy
from tests.failures.scenes.table import ROWS, Row, Scene, Site, open_site

__all__ = [
    "ROWS",
    "Row",
    "Scene",
    "Site",
    "cancellation",
    "core",
    "mysql",
    "open_site",
    "redis",
    "shared",
    "sqlalchemy",
]

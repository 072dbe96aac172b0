"""What the pool of an engine is called if the program gives it no name."""

from __future__ import annotations

from typing import Any

__all__ = ["name_of_engine"]


def name_of_engine(creator: Any) -> str | None:
    """The server and the database of an engine, without its login. Never switches.

    It is the same after a restart, whatever pools are made before. SQLAlchemy gives a
    pool nothing but a function that connects; that of ``create_engine`` refers to its
    arguments.

    :return: None: *creator* is another function, or there is no server.
    """
    names = getattr(getattr(creator, "__code__", None), "co_freevars", ())
    cells = dict(zip(names, getattr(creator, "__closure__", None) or (), strict=False))
    try:
        arguments = cells["cparams"].cell_contents
        dialect = cells["dialect"].cell_contents.name
        server = arguments.get("unix_socket") or arguments["host"]
    except (KeyError, ValueError, AttributeError):
        return None
    if "port" in arguments and server == arguments.get("host"):
        server = f"{server}:{arguments['port']}"
    database = arguments.get("database") or arguments.get("dbname")
    return f"{dialect} {server}/{database}" if database else f"{dialect} {server}"

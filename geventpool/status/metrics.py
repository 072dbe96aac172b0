"""The counts of pools in the text format of Prometheus, without its client library."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

__all__ = ["text"]

STATES = ("idle", "in_use", "opening", "checking", "resetting", "closing")

#: What is told of each pool: name of the metric, help text, key of the statistics.
GAUGES = (
    (
        "db_client_connection_max",
        "The most connections that are allowed.",
        "max_connections",
    ),
    (
        "db_client_connection_pending_requests",
        "Greenlets that wait for a connection.",
        "waiting",
    ),
    (
        "geventpool_paused",
        "1 while the server cannot be reached and the pool pauses.",
        "paused",
    ),
)


def text(described: Iterable[Mapping[str, Any]]) -> str:
    """The metrics of pools.

    :param described: the pools, as ``facts()["pools"]`` has them.
    """
    seen = [pool for pool in described if "stats" in pool]
    return "".join(f"{line}\n" for line in _lines(seen))


def _lines(seen: list[Mapping[str, Any]]) -> Iterator[str]:
    name = "db_client_connection_count"
    yield from _head(name, "Connections by state.")
    for pool in seen:
        for state in STATES:
            labels = _labels(pool, db_client_connection_state=state)
            yield f"{name}{labels} {pool['stats'][state]:d}"
    for name, meaning, key in GAUGES:
        yield from _head(name, meaning)
        for pool in seen:
            yield f"{name}{_labels(pool)} {pool['stats'][key]:d}"


def _head(name: str, meaning: str) -> Iterator[str]:
    yield f"# HELP {name} {meaning}"
    yield f"# TYPE {name} gauge"


def _labels(pool: Mapping[str, Any], **others: str) -> str:
    labels = {"db_client_connection_pool_name": pool["name"], **others}
    pairs = (f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return "{" + ",".join(pairs) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

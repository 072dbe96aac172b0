"""The metrics of pools in the text format of Prometheus, without its client library."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from geventpool.extension import BOUNDS
from geventpool.series import (
    HISTOGRAMS,
    POOL_NAME,
    VALUES,
    Instrument,
    Reading,
    Times,
    Value,
    prometheus_label,
    prometheus_name,
)

__all__ = ["text"]

#: Upper bounds of the buckets.
EDGES = (*(repr(bound) for bound in BOUNDS), "+Inf")


def text(readings: Iterable[Reading]) -> str:
    """The metrics of pools, with the names that ``geventpool.prometheus`` has."""
    readings = list(readings)
    lines = [line for value in VALUES for line in _value(value, readings)]
    lines += [line for times in HISTOGRAMS for line in _times(times, readings)]
    return "".join(f"{line}\n" for line in lines)


def _value(value: Value, readings: Iterable[Reading]) -> Iterator[str]:
    name = prometheus_name(value) + ("_total" if value.grows else "")
    samples = [
        f"{name}{_labels(reading, attributes)} {_number(number)}"
        for reading in readings
        for attributes, number in value.points(reading)
    ]
    if samples:
        yield from _head(name, value, "counter" if value.grows else "gauge")
        yield from samples


def _times(times: Times, readings: Iterable[Reading]) -> Iterator[str]:
    measured = [reading for reading in readings if reading.is_measured]
    name = prometheus_name(times)
    if measured:
        yield from _head(name, times, "histogram")
    for reading in measured:
        distribution = times.distribution(reading.measured)
        number = 0
        for edge, count in zip(EDGES, distribution.counts, strict=True):
            number += count
            yield f"{name}_bucket{_labels(reading, {'le': edge})} {number}"
        yield f"{name}_sum{_labels(reading, {})} {_number(distribution.total)}"
        yield f"{name}_count{_labels(reading, {})} {number}"


def _number(number: float) -> str:
    return repr(number if isinstance(number, float) else int(number))


def _head(name: str, instrument: Instrument, kind: str) -> Iterator[str]:
    yield f"# HELP {name} {instrument.description}"
    yield f"# TYPE {name} {kind}"


def _labels(reading: Reading, others: Mapping[str, str]) -> str:
    labels = {POOL_NAME: reading.name, **others}
    pairs = (
        f'{prometheus_label(name)}="{_escaped(value)}"'
        for name, value in labels.items()
    )
    return "{" + ",".join(pairs) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

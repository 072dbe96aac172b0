"""Metrics of all pools for OpenTelemetry.

::

    from geventpool.otel import GeventPoolInstrumentor

    GeventPoolInstrumentor().instrument()

``opentelemetry-instrument`` does the same without a change to the program. Needs the
package ``opentelemetry-api``; with the SDK the metrics are exported.

All numbers are read when a reader collects. Neither a borrower nor the hub calls the
SDK: its locks must not be waited for in the hub, and they are not reentrant, so a
finaliser that took one could wait for itself.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from geventpool import __version__
from geventpool.extension import BOUNDS, Distribution
from geventpool.series import (
    HISTOGRAMS,
    POOL_NAME,
    VALUES,
    Reading,
    Times,
    Value,
    begin,
    read,
)

__all__ = ["GeventPoolInstrumentor"]

#: A duration in each bucket, for an aggregation that takes single durations only.
EXAMPLES = (
    *(
        (lower + upper) / 2
        for lower, upper in zip((0.0, *BOUNDS), BOUNDS, strict=False)
    ),
    2 * BOUNDS[-1],
)

Attributes = Mapping[str, str]


class GeventPoolInstrumentor:
    """Publishes the metrics of all pools of the process.

    It is called like the instrumentors of ``opentelemetry-instrumentation``, which it
    does not need.
    """

    #: the one that publishes; None: no one does
    _active: GeventPoolInstrumentor | None = None

    def __init__(self) -> None:
        self._feeds: list[_Feed] = []

    def instrument(self, *, meter_provider: Any = None, **others: Any) -> None:
        """Publish from now on. Never switches.

        Calling it again has no effect until :meth:`uninstrument` was called.

        :param meter_provider: None: the global one, also if it is set later.
        :param others: options of other instrumentors, which are ignored.
        """
        kind = type(self)
        if kind._active is not None:
            return
        kind._active = self
        begin()
        meter = metrics.get_meter("geventpool", __version__, meter_provider)
        self._feeds = [_Feed(meter, times) for times in HISTOGRAMS]
        first, *values = VALUES
        # One instrument fills the histograms as well: each collection calls it.
        self._observe(meter, first, self._fill_and_observe(first))
        for value in values:
            self._observe(meter, value, self._observer(value))

    def uninstrument(self, **others: Any) -> None:
        """Publish nothing any more. Pools are still measured. Never switches."""
        kind = type(self)
        if kind._active is not None:
            kind._active._feeds = []
            kind._active = None

    @staticmethod
    def _observe(meter: Any, value: Value, callback: Callable[..., Any]) -> None:
        create = meter.create_observable_up_down_counter
        if value.grows:
            create = meter.create_observable_counter
        elif not value.adds:
            create = meter.create_observable_gauge
        create(value.name, [callback], value.unit, value.description)

    def _fill_and_observe(self, value: Value) -> Callable[..., list[Observation]]:
        def observe(options: CallbackOptions) -> list[Observation]:
            if not self._feeds:
                return []
            readings = read()
            for feed in self._feeds:
                feed.fill(readings)
            return list(_observations(value, readings))

        return observe

    def _observer(self, value: Value) -> Callable[..., list[Observation]]:
        def observe(options: CallbackOptions) -> list[Observation]:
            return list(_observations(value, read())) if self._feeds else []

        return observe


def _observations(value: Value, readings: Iterable[Reading]) -> Iterator[Observation]:
    for reading in readings:
        for attributes, number in value.points(reading):
            yield Observation(number, {POOL_NAME: reading.name, **attributes})


class _Feed:
    """Passes the durations that pools have counted on to one histogram of the SDK."""

    def __init__(self, meter: Any, times: Times) -> None:
        self._times = times
        self._histogram = meter.create_histogram(
            times.name,
            times.unit,
            times.description,
            explicit_bucket_boundaries_advisory=BOUNDS,
        )
        #: what was passed on, by the name of the pool
        self._passed: dict[str, Distribution] = {}

    def fill(self, readings: Iterable[Reading]) -> None:
        """Pass on what is new."""
        for reading in readings:
            present = self._times.distribution(reading.measured)
            before = self._passed.get(reading.name, Distribution())
            self._passed[reading.name] = present
            pairs = zip(present.counts, before.counts, strict=True)
            # After a fork the counts begin with 0, and nothing is new.
            counts = [max(0, now - then) for now, then in pairs]
            if any(counts):
                total = max(0.0, present.total - before.total)
                record(self._histogram, {POOL_NAME: reading.name}, counts, total)


def record(
    histogram: Any, attributes: Attributes, counts: list[int], total: float
) -> None:
    """Record so many durations in each bucket. There must be one.

    The interface of the SDK takes one at a time, which would stop all greenlets for
    seconds after a minute of many loans. So all but the first are added at once, if the
    SDK is one whose parts are known; else each is recorded with the middle of its
    bucket.
    """
    first = next(place for place, number in enumerate(counts) if number)
    histogram.record(EXAMPLES[first], attributes)
    counts[first] -= 1
    try:
        streams = list(_streams(histogram, attributes))
    except (AttributeError, TypeError, KeyError):
        streams = []
    if streams:
        for stream in streams:
            _add(stream, counts, total - EXAMPLES[first])
        return
    for example, number in zip(EXAMPLES, counts, strict=True):
        for _ in range(number):
            histogram.record(example, attributes)


def _streams(histogram: Any, attributes: Attributes) -> Iterator[Any]:
    """What the SDK adds a duration with these attributes to; one for each reader.

    :raises AttributeError: the SDK is another one than expected.
    """
    histogram = getattr(histogram, "_real_instrument", histogram)
    for storage in histogram._measurement_consumer._reader_storages.values():
        for match in storage._instrument_view_instrument_matches[histogram]:
            kept = match._view._attribute_keys
            seen = {
                name: value
                for name, value in attributes.items()
                if kept is None or name in kept
            }
            for stream in list(match._attributes_aggregation.values()):
                if stream._attributes == seen:
                    if not _is_known(stream):
                        raise AttributeError
                    yield stream


def _is_known(stream: Any) -> bool:
    """Whether *stream* has all that :func:`_add` changes."""
    names = ("_lock", "_boundaries", "_sum", "_min", "_max")
    return all(hasattr(stream, name) for name in names) and isinstance(
        getattr(stream, "_value", None), list
    )


def _add(stream: Any, counts: list[int], total: float) -> None:
    with stream._lock:
        stream._sum += total
        for example, number in zip(EXAMPLES, counts, strict=True):
            if number:
                stream._value[bisect_left(stream._boundaries, example)] += number
                stream._min = min(stream._min, example)
                stream._max = max(stream._max, example)

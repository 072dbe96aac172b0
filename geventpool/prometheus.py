"""Metrics of all pools for ``prometheus_client``.

::

    import geventpool.prometheus

    geventpool.prometheus.register()

Call it once, anywhere: before or after pools are made, before or after workers are
forked. In the multi-process mode of ``prometheus_client`` (``gunicorn -w 4`` with
``PROMETHEUS_MULTIPROC_DIR``) each process writes its counts every few seconds.

The locks of ``prometheus_client`` are taken by a scrape, or by a greenlet of this
module, and never by a borrower or in the hub.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator, Mapping
from typing import Any

import gevent
from prometheus_client import REGISTRY, CollectorRegistry, values
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from geventpool.extension import BOUNDS, on_first_event
from geventpool.policies import check_seconds
from geventpool.pool import pools
from geventpool.series import (
    HISTOGRAMS,
    POOL_NAME,
    VALUES,
    Reading,
    Times,
    begin,
    prometheus_label,
    prometheus_name,
    read,
)

__all__ = ["PoolCollector", "flush", "register"]

#: Upper bounds of the buckets as Prometheus writes them.
EDGES = (*(repr(bound) for bound in BOUNDS), "+Inf")

Labels = tuple[tuple[str, str], ...]


def _labels(reading: Reading, attributes: Mapping[str, str]) -> Labels:
    named = {POOL_NAME: reading.name, **attributes}
    return tuple((prometheus_label(name), value) for name, value in named.items())


class PoolCollector:
    """Gives ``prometheus_client`` the metrics of all pools at each scrape."""

    def describe(self) -> list[Metric]:
        """Nothing: registering does not read the pools."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The metrics at this moment. Never switches."""
        readings = read()
        for value in VALUES:
            kind = CounterMetricFamily if value.grows else GaugeMetricFamily
            name = prometheus_name(value)
            family: Any = None
            for reading in readings:
                for attributes, number in value.points(reading):
                    labels = dict(_labels(reading, attributes))
                    if family is None:
                        family = kind(name, value.description, labels=list(labels))
                    family.add_metric(list(labels.values()), number)
            if family is not None:
                yield family
        for times in HISTOGRAMS:
            histogram = HistogramMetricFamily(
                prometheus_name(times),
                times.description,
                labels=[prometheus_label(POOL_NAME)],
            )
            for reading in readings:
                distribution = times.distribution(reading.measured)
                histogram.add_metric(
                    [reading.name],
                    list(zip(EDGES, _cumulated(distribution.counts), strict=True)),
                    distribution.total,
                )
            yield histogram


def _cumulated(counts: tuple[int, ...]) -> Iterator[int]:
    total = 0
    for number in counts:
        total += number
        yield total


class _Files:
    """The files that the processes of a multi-process server write.

    Counts are added to what is in the file, because a process may get the number, and
    so the file, of one that has ended.
    """

    def __init__(self) -> None:
        self.interval = 5.0
        self._process = 0
        self._values: dict[tuple[str, Labels], Any] = {}
        self._written: dict[tuple[str, Labels], float] = {}
        #: the gauges that were there at the last writing
        self._shown: set[tuple[str, Labels]] = set()

    def start(self) -> None:
        """Write from now on, in this process. Never switches."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._written.clear()
            gevent.spawn(self._keep_writing, self._process)
            atexit.register(self.write)

    def _keep_writing(self, process: int) -> None:
        # A forked child has a copy of this greenlet, and starts one of its own.
        while process == os.getpid():
            self.write()
            # ref=False: it does not keep the event loop alive.
            gevent.sleep(self.interval, ref=False)

    def write(self) -> None:
        """Write what has changed."""
        before, self._shown = self._shown, set()
        for reading in read():
            for value in VALUES:
                name = prometheus_name(value)
                for attributes, number in value.points(reading):
                    labels = _labels(reading, attributes)
                    if value.grows:
                        sample = f"{name}_total"
                        texts = ("counter", name, sample, value.description)
                        self._add(texts, labels, number)
                    else:
                        texts = ("gauge", name, name, value.description)
                        mode = "livesum" if value.adds else "livemax"
                        self._value(texts, labels, mode).set(number)
                        self._shown.add((name, labels))
            for times in HISTOGRAMS:
                self._write_times(times, reading)
        for key in before - self._shown:
            # A file keeps each value: what there is no more has none.
            self._values[key].set(0)

    def _write_times(self, times: Times, reading: Reading) -> None:
        name = prometheus_name(times)
        labels = _labels(reading, {})
        distribution = times.distribution(reading.measured)
        texts = ("histogram", name, f"{name}_sum", times.description)
        self._add(texts, labels, distribution.total)
        texts = ("histogram", name, f"{name}_bucket", times.description)
        for edge, number in zip(EDGES, distribution.counts, strict=True):
            self._add(texts, (*labels, ("le", edge)), number)

    def _add(self, texts: tuple[str, ...], labels: Labels, number: float) -> None:
        key = texts[2], labels
        value = self._value(texts, labels)
        change = number - self._written.get(key, 0)
        if change > 0:
            value.inc(change)
            self._written[key] = number

    def _value(
        self, texts: tuple[str, ...], labels: Labels, mode: str = "livesum"
    ) -> Any:
        kind, name, sample, description = texts
        value = self._values.get((sample, labels))
        if value is None:
            names, contents = zip(*labels, strict=True)
            value = values.ValueClass(
                kind,
                name,
                sample,
                names,
                contents,
                description,
                multiprocess_mode=mode,
            )
            self._values[sample, labels] = value
        return value


_files = _Files()


def register(
    registry: CollectorRegistry | None = None, *, interval: float = 5.0
) -> None:
    """Publish the metrics of all pools, those to come included. Never switches.

    Calling it again has no effect, but for another registry.

    :param registry: None: the default one. Without effect in multi-process mode.
    :param interval: in multi-process mode: seconds between two writes.
    :raises TypeError: *interval* is no number.
    :raises ValueError: *interval* is 0, negative or infinite.
    """
    if not check_seconds("interval", interval):
        raise ValueError(f"interval must be above 0, not {interval!r}")
    begin()
    if getattr(values.ValueClass, "_multiprocess", False):
        _files.interval = float(interval)
        on_first_event(_files.start)
        if any(pool.size for pool in pools()):
            # Its first event is over.
            _files.start()
        return
    chosen = REGISTRY if registry is None else registry
    if chosen not in _registries:
        _registries.append(chosen)
        chosen.register(PoolCollector())


#: those that have a collector
_registries: list[CollectorRegistry] = []


def flush() -> None:
    """In multi-process mode: write the counts of this process now.

    For a page of metrics that is to have the present numbers of its own process.
    """
    if getattr(values.ValueClass, "_multiprocess", False):
        _files.write()

"""What the exporters publish: one table of metrics for all of them."""

from geventpool.series.instruments import (
    BUDGET,
    ERROR,
    HISTOGRAMS,
    KIND,
    LABEL,
    LINE,
    POOL_NAME,
    REASON,
    STATE,
    VALUES,
    Instrument,
    Times,
    Value,
    prometheus_label,
    prometheus_name,
)
from geventpool.series.readings import Reading, begin, read

__all__ = [
    "BUDGET",
    "ERROR",
    "HISTOGRAMS",
    "KIND",
    "LABEL",
    "LINE",
    "POOL_NAME",
    "REASON",
    "STATE",
    "VALUES",
    "Instrument",
    "Reading",
    "Times",
    "Value",
    "begin",
    "prometheus_label",
    "prometheus_name",
    "read",
]

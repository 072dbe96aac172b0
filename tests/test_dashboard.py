"""The dashboard and the guide name the metrics that are published."""

from __future__ import annotations

import json
import re
from pathlib import Path

from geventpool.series import (
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
    prometheus_label,
    prometheus_name,
)

DOCS = Path(__file__).parent.parent / "docs"


def published() -> set[str]:
    """The names of all samples."""
    names = {
        prometheus_name(each) + ("_total" if each.grows else "") for each in VALUES
    }
    return names | {f"{prometheus_name(each)}_bucket" for each in HISTOGRAMS}


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    """A panel of a name that is not published would stay empty."""
    dashboard = json.loads((DOCS / "grafana.json").read_text())
    queries = [
        target["expr"] for panel in dashboard["panels"] for target in panel["targets"]
    ]
    words = set(re.findall(r"\b(?:db_client|geventpool)_\w+", " ".join(queries)))
    labels = {
        prometheus_label(name)
        for name in (POOL_NAME, STATE, ERROR, REASON, KIND, BUDGET, LABEL, LINE)
    }
    assert words - labels == published()
    assert all(prometheus_label(POOL_NAME) in query for query in queries)


def test_the_guide_lists_every_metric() -> None:
    """With the name that OpenTelemetry has."""
    text = (DOCS / "guides" / "observability.rst").read_text()
    assert [
        each.name for each in (*VALUES, *HISTOGRAMS) if f"``{each.name}``" not in text
    ] == []

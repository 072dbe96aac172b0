"""The dashboard and the guide name the metrics that are published."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("prometheus_client")

from geventpool.prometheus import metric_name
from geventpool.series import ERROR, HISTOGRAMS, KIND, POOL_NAME, REASON, STATE, VALUES

DOCS = Path(__file__).parent.parent / "docs"


def published() -> set[str]:
    """The names of all samples."""
    names = {
        metric_name(each.name, each.unit) + ("_total" if each.grows else "")
        for each in VALUES
    }
    return names | {
        f"{metric_name(each.name, each.unit)}_bucket" for each in HISTOGRAMS
    }


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    """A panel of a name that is not published would stay empty."""
    dashboard = json.loads((DOCS / "grafana.json").read_text())
    queries = [
        target["expr"] for panel in dashboard["panels"] for target in panel["targets"]
    ]
    words = set(re.findall(r"\b(?:db_client|geventpool)_\w+", " ".join(queries)))
    labels = {
        name.replace(".", "_") for name in (POOL_NAME, STATE, ERROR, REASON, KIND)
    }
    assert words - labels == published()
    assert all(POOL_NAME.replace(".", "_") in query for query in queries)


def test_the_guide_lists_every_metric() -> None:
    """With the name that OpenTelemetry has."""
    text = (DOCS / "guides" / "observability.rst").read_text()
    assert [
        each.name for each in (*VALUES, *HISTOGRAMS) if f"``{each.name}``" not in text
    ] == []

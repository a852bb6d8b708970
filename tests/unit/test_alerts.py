"""docs/alerts.yaml: rules for Prometheus, and what the operator's guide says of each."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from kmsd.metrics.layout import CODES

DOCS = Path(__file__).parents[2] / "docs"


def test_alerts_are_rules_and_the_guide_knows_each() -> None:
    """The file is what Prometheus takes for rules; the error names in it exist; and each alert has its line."""
    text = (DOCS / "alerts.yaml").read_text()
    guide = (DOCS / "operations-guide.md").read_text()
    (group,) = yaml.safe_load(text)["groups"]
    assert group["name"] == "kmsd"
    names = [rule["alert"] for rule in group["rules"]]
    assert len(names) == len(set(names)) > 15
    for rule in group["rules"]:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["annotations"]["summary"]
        assert rule["expr"].count("(") == rule["expr"].count(")")
        assert rule["alert"] in guide
    assert set(re.findall(r"Kmsd[A-Z]\w+", guide)) == set(names)
    coded = {code for codes in re.findall(r'code=~"([^"]+)"', text) for code in codes.split("|")}
    assert coded - set(CODES) == set()

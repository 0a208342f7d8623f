"""What is generated, by file name."""

from __future__ import annotations

from . import rules
from .dashboard import dashboard


def generated() -> dict[str, str]:
    """The texts of the files beside this one."""
    return {
        "dashboard.json": dashboard(),
        "rules.yaml": rules.rules(),
        "prometheusrule.yaml": rules.prometheus_rule(),
    }

"""All checks; each is a pure function of a Setup."""

from __future__ import annotations

from ..finding import Check
from . import (
    attachment,
    bodies,
    clients,
    counters,
    endpoints,
    health,
    metadata,
    modes,
    pinning,
    processor,
    router,
    timeouts,
    upstream,
)

CHECKS: tuple[Check, ...] = (
    *attachment.CHECKS,
    *pinning.CHECKS,
    *endpoints.CHECKS,
    *bodies.CHECKS,
    *timeouts.CHECKS,
    *processor.CHECKS,
    *health.CHECKS,
    *upstream.CHECKS,
    *modes.CHECKS,
    *metadata.CHECKS,
    *clients.CHECKS,
    *router.CHECKS,
    *counters.CHECKS,
)

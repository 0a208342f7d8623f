"""Where OTLP begins, or does not: the only module besides `settings` that others import."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..logs import Logger
from ..metrics import Metrics
from ..router import Router
from . import settings

if TYPE_CHECKING:
    from .service import Otlp


def start(
    endpoint: str | None,
    env: Mapping[str, str],
    metrics: Metrics,
    log: Logger,
    router: Callable[[], Router],
    clock: Callable[[], float],
) -> Otlp | None:
    """Traces and metrics on their way to a collector; None where the flag's *endpoint* and *env* name none.

    Only then is anything of OpenTelemetry imported.  Raises OtlpError.
    """
    found = settings.read(endpoint, env)
    if found is None:
        return None
    from .installed import check

    check()
    from .service import Otlp

    return Otlp(found, metrics, log, router, clock)

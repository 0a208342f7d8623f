"""Ways in which a simulated server misbehaves, switched at run time or by flags."""

from __future__ import annotations

from types import MappingProxyType

import msgspec
from msgspec import Struct

METRICS_FAULTS = MappingProxyType(
    {"ok": 0.0, "slow": 1.0, "garbage": 0.0, "error": 0.0, "huge": 0.0, "endless": 0.0, "stall": 0.0}
)
"""Kinds and the number each has when none is given. slow: seconds before the page; garbage: 200 with noise;
error: 500; huge: 100 MB; endless: a page that never ends; stall: no answer."""

REQUEST_FAULTS = MappingProxyType(
    {
        "ok": 0.0,
        "500": 0.0,
        "502": 0.0,
        "503": 0.0,
        "504": 0.0,
        "refuse": 0.0,
        "reset": 0.0,
        "reset-mid-stream": 3.0,
        "stall": 0.0,
    }
)
"""Kinds and their numbers. 5xx: that status; refuse: the listening socket is closed, for so many seconds (0:
until `SimServer.set_faults`, as HTTP cannot reach it); reset: the connection is reset (RST) instead of an
answer; reset-mid-stream: after so many tokens; stall: no answer."""


class Fault(Struct, frozen=True):
    kind: str
    number: float

    @classmethod
    def parse(cls, text: str, allowed: MappingProxyType[str, float]) -> Fault:
        """From `kind` or `kind:number`. ValueError says what is allowed."""
        kind, colon, number = text.partition(":")
        if kind not in allowed:
            raise ValueError(
                f"{text!r}: must be one of {', '.join(allowed)}, with :NUMBER where it takes one"
            )
        try:
            value = float(number) if colon else allowed[kind]
        except ValueError:
            value = -1.0
        if not 0 <= value < 1e6:
            raise ValueError(f"{text!r}: the number must be from 0 to 1000000")
        return cls(kind, value)


class Faults(Struct, frozen=True, forbid_unknown_fields=True):
    """What PUT /sim/faults takes; what is absent is in order."""

    metrics: str = "ok"
    requests: str = "ok"
    latency_s: float = 0.0
    """Added before each answer but those of /metrics and /sim."""

    def __post_init__(self) -> None:
        _ = self.metrics_fault, self.request_fault
        if not 0 <= self.latency_s <= 3600:
            raise ValueError("latency_s must be from 0 to 3600")

    @property
    def metrics_fault(self) -> Fault:
        return Fault.parse(self.metrics, METRICS_FAULTS)

    @property
    def request_fault(self) -> Fault:
        return Fault.parse(self.requests, REQUEST_FAULTS)

    @classmethod
    def decode(cls, body: bytes) -> Faults:
        """msgspec.ValidationError or DecodeError: the body is not such an object."""
        return msgspec.json.decode(body, type=cls)

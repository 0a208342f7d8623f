"""Whether OpenTelemetry's packages are there, and as they came."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from ..extras import how_to_install
from .settings import OtlpError

NEEDED = (
    "opentelemetry.sdk",
    "opentelemetry.exporter.otlp.proto.grpc",
    "opentelemetry.exporter.otlp.proto.http",
    "requests",
)
"""What the extra brings.  `opentelemetry` itself says nothing: xds-protos has files in it."""


def check() -> None:
    """First whether all of the extra is there, as old files matter only then.  Raises OtlpError."""
    missing = next((name for name in NEEDED if not _is_there(name)), None)
    if missing:
        raise OtlpError(f"OTLP is configured, but {missing} is not installed: {how_to_install('otlp')}")
    # Envoy's protos bring old ones of OpenTelemetry's in the same files; who is installed last, wins.
    if not hasattr(import_module("opentelemetry.proto.common.v1.common_pb2"), "InstrumentationScope"):
        raise OtlpError(
            "OTLP is configured, but xds-protos has put old files in the place of opentelemetry-proto's: "
            "pip install --force-reinstall --no-deps opentelemetry-proto"
        )


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # not even what it is in
        return False

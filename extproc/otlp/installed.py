"""Whether OpenTelemetry's packages are as they came."""

from __future__ import annotations

from opentelemetry.proto.common.v1 import common_pb2

from .settings import OtlpError


def check() -> None:
    """Envoy's protos bring old ones of OpenTelemetry's in the same files; who is installed last, wins.

    Raises OtlpError.
    """
    if not hasattr(common_pb2, "InstrumentationScope"):
        raise OtlpError(
            "OTLP is configured, but xds-protos has put old files in the place of opentelemetry-proto's: "
            "pip install --force-reinstall --no-deps opentelemetry-proto"
        )

"""The SDK's exporters, told everything: what a signal is sent by, and to whom."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import grpc
import requests
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetrics
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpans
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetrics
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpans
from opentelemetry.sdk.metrics.export import MetricExporter
from opentelemetry.sdk.trace.export import SpanExporter

from .settings import Signal

MAX_ANSWER_BYTES = 64 * 1024
"""A collector says nothing, or which spans it did not take; what is longer is none of its answers."""


def spans(signal: Signal) -> SpanExporter:
    """An exporter of traces."""
    return GrpcSpans(**_grpc(signal)) if signal.protocol == "grpc" else HttpSpans(**_http(signal))


def metrics(signal: Signal) -> MetricExporter:
    """An exporter of metrics."""
    return GrpcMetrics(**_grpc(signal)) if signal.protocol == "grpc" else HttpMetrics(**_http(signal))


def _grpc(signal: Signal) -> dict[str, Any]:
    insecure = signal.endpoint.startswith("http:")
    gzip = signal.compression == "gzip"
    return {
        "endpoint": signal.endpoint,
        "insecure": insecure,
        "credentials": None if insecure else _credentials(signal),
        "headers": tuple(signal.headers.items()),
        "timeout": signal.timeout_s,
        "compression": grpc.Compression.Gzip if gzip else grpc.Compression.NoCompression,
    }


def _credentials(signal: Signal) -> grpc.ChannelCredentials:
    files = (signal.certificate, signal.client_key, signal.client_certificate)
    return grpc.ssl_channel_credentials(*(Path(file).read_bytes() if file else None for file in files))


class _Session(requests.Session):
    """Trusts whom it is told to, and reads of whatever answers there the beginning only.

    Left alone, REQUESTS_CA_BUNDLE wins over OTEL_EXPORTER_OTLP_CERTIFICATE; an answer is read to its end, which may
    never come; and a redirect counts as an arrival, or takes the headers, which may be secrets, to somebody else.
    """

    def send(self, request: requests.PreparedRequest, **settings: Any) -> requests.Response:
        answer = super().send(request, **{**settings, "stream": True, "allow_redirects": False})
        body = answer.raw
        try:
            answer.raw = io.BytesIO(body.read(MAX_ANSWER_BYTES, decode_content=False))
        finally:
            body.close()  # of one that was read to its end, nothing: the connection serves the next
        if answer.is_redirect:
            raise requests.TooManyRedirects(
                f"it answered {answer.status_code}: name the address that it leads to"
            )
        return answer

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        if self.verify is not True:
            verify = self.verify
        return super().merge_environment_settings(url, proxies, stream, verify, cert)


def _http(signal: Signal) -> dict[str, Any]:
    return {
        "endpoint": signal.endpoint,
        "session": _Session(),
        "certificate_file": signal.certificate,
        "client_certificate_file": signal.client_certificate,
        "client_key_file": signal.client_key,
        "headers": dict(signal.headers),
        "timeout": signal.timeout_s,
        "compression": Compression.Gzip if signal.compression == "gzip" else Compression.NoCompression,
    }

"""What the flag and the standard environment variables say: https://opentelemetry.io/docs/specs/otel/configuration/ .

Needs no package of OpenTelemetry.  An empty variable counts as none, as the specification has it.
"""

from __future__ import annotations

import math
import re
import ssl
from collections.abc import Callable, Mapping
from urllib.parse import unquote, urlsplit

from msgspec import Struct

HTTP_PORT = 4318
"""Registered for OTLP over HTTP; 4317 is that of gRPC."""
PROTOCOLS = ("grpc", "http/protobuf")
SAMPLERS = (
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
)
COMPRESSIONS = ("none", "gzip")

_HEADER = re.compile(r"[ \t]*([!#-'*+\-.0-9A-Z^-z|~]+)[ \t]*=[ \t]*([ !#-+\--:<-\[\]-~]*)")
"""`key=value`, the value URL-encoded: what the exporters take."""


class OtlpError(RuntimeError):
    """The operator's: which variable, what is wrong with it, and what is allowed; never a header's value."""


class Signal(Struct, frozen=True):
    """Where traces, or metrics, go."""

    endpoint: str
    """URL; over HTTP with its path."""
    protocol: str
    headers: Mapping[str, str]
    """Secrets: never to be logged."""
    timeout_s: float
    compression: str
    certificate: str | None
    """PEM file of the authorities."""
    client_certificate: str | None
    client_key: str | None


class Settings(Struct, frozen=True):
    """Everything; a signal that is None is not sent."""

    traces: Signal | None
    metrics: Signal | None
    sampler: str = "parentbased_always_on"
    ratio: float = 1.0
    interval_s: float = 60.0
    """Between two exports of metrics."""
    queue: int = 2048
    """Spans that wait; what comes on top is dropped and counted."""
    batch: int = 512
    delay_s: float = 5.0
    """How long a span waits at most for its batch to fill."""


def read(endpoint: str | None, env: Mapping[str, str]) -> Settings | None:
    """Of the flag's *endpoint* and the environment; None where nothing is to be sent.  Raises OtlpError."""
    found = _Environment(env, endpoint)
    if found.choice("OTEL_SDK_DISABLED", ("true", "false"), "false") == "true":
        return None
    traces, metrics = found.signal("TRACES"), found.signal("METRICS")
    if traces is None and metrics is None:
        return None
    found.choice("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", ("cumulative",), "cumulative")
    settings = Settings(
        traces,
        metrics,
        sampler=found.choice("OTEL_TRACES_SAMPLER", SAMPLERS, "parentbased_always_on"),
        ratio=found.ratio("OTEL_TRACES_SAMPLER_ARG"),
        interval_s=found.whole("OTEL_METRIC_EXPORT_INTERVAL", 60_000) / 1e3,
        queue=found.whole("OTEL_BSP_MAX_QUEUE_SIZE", 2048),
        batch=found.whole("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512),
        delay_s=found.whole("OTEL_BSP_SCHEDULE_DELAY", 5000) / 1e3,
    )
    if settings.batch > settings.queue:
        raise OtlpError("OTEL_BSP_MAX_EXPORT_BATCH_SIZE: at most OTEL_BSP_MAX_QUEUE_SIZE")
    return settings


class _Environment:
    """The variables, each with what is said where it is wrong."""

    def __init__(self, env: Mapping[str, str], endpoint: str | None) -> None:
        self._env = env
        self._endpoint = endpoint

    def _get(self, name: str) -> str | None:
        return self._env.get(name, "").strip() or None

    def choice(self, name: str, allowed: tuple[str, ...], default: str) -> str:
        value = (self._get(name) or default).lower()
        if value not in allowed:
            raise OtlpError(f"{name}: {value!r} is none of {', '.join(allowed)}")
        return value

    def whole(self, name: str, default: int) -> int:
        text = self._get(name) or str(default)
        if not (text.isascii() and text.isdecimal() and int(text[:19]) > 0):
            raise OtlpError(f"{name}: {text!r} is not a whole number above 0")
        return int(text[:19])

    def ratio(self, name: str) -> float:
        """Means something only to samplers with a ratio."""
        text = self._get(name)
        if text is None or "ratio" not in (self._get("OTEL_TRACES_SAMPLER") or ""):
            return 1.0
        value = _number(text)
        if not 0.0 <= value <= 1.0:
            raise OtlpError(f"{name}: {text!r} is not a number of 0..1")
        return value

    def signal(self, signal: str) -> Signal | None:
        exporter = f"OTEL_{signal}_EXPORTER"
        if self.choice(exporter, ("otlp", "none"), "otlp") == "none":
            return None
        own = f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"
        given, name = self._get(own), own
        if given is None:
            given, name = self._endpoint, "--otlp-endpoint"
        if given is None:
            name = "OTEL_EXPORTER_OTLP_ENDPOINT"
            given = self._get(name)
        if given is None:
            return None
        port, path = _check_url(name, given)
        by_port = "http/protobuf" if port == HTTP_PORT or path.strip("/") else "grpc"
        protocol = self.choice(self._named(signal, "PROTOCOL"), PROTOCOLS, by_port)
        if protocol != "grpc" and name != own:
            given = f"{given.rstrip('/')}/v1/{signal.lower()}"
        certificates = self._certificates(signal)
        return Signal(
            endpoint=given,
            protocol=protocol,
            headers=self._headers(self._named(signal, "HEADERS")),
            timeout_s=self._timeout(self._named(signal, "TIMEOUT")),
            compression=self.choice(self._named(signal, "COMPRESSION"), COMPRESSIONS, "none"),
            certificate=certificates[0],
            client_certificate=certificates[1],
            client_key=certificates[2],
        )

    def _named(self, signal: str, what: str) -> str:
        """The signal's own variable, or else the one for all."""
        own = f"OTEL_EXPORTER_OTLP_{signal}_{what}"
        return own if self._get(own) else f"OTEL_EXPORTER_OTLP_{what}"

    def _timeout(self, name: str) -> float:
        text = self._get(name) or "10"
        value = _number(text)
        if not 0.0 < value < math.inf:
            raise OtlpError(f"{name}: {text!r} is not a number of seconds above 0")
        return value

    def _headers(self, name: str) -> dict[str, str]:
        headers = {}
        for number, pair in enumerate((self._get(name) or "").split(","), 1):
            if not pair.strip():
                continue
            found = _HEADER.fullmatch(pair)
            if found is None:
                raise OtlpError(f"{name}: entry {number} is not KEY=VALUE with a URL-encoded value")
            headers[found[1].lower()] = unquote(found[2]).strip()
        return headers

    def _certificates(self, signal: str) -> tuple[str | None, str | None, str | None]:
        """(authorities, own certificate, own key): files that are read once to see whether they will do."""
        name, own, key = (
            self._named(signal, what) for what in ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY")
        )
        files = self._get(name), self._get(own), self._get(key)
        if (files[1] is None) is not (files[2] is None):
            raise OtlpError(f"{own} and {key} go together")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if files[0] is not None:
            _try_file(name, files[0], context.load_verify_locations)
        if files[1] is not None and files[2] is not None:
            keys = files[2]
            _try_file(own, files[1], lambda path: context.load_cert_chain(path, keys, password=str))
        return files


def _check_url(name: str, text: str) -> tuple[int | None, str]:
    """(port, path) of a URL that both protocols take."""
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise OtlpError(f"{name}: not a URL") from None
    if url.username is not None or url.password is not None:
        raise OtlpError(f"{name}: credentials belong into OTEL_EXPORTER_OTLP_HEADERS")
    if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment:
        raise OtlpError(f"{name}: {text!r} is not a URL like http://collector:4317")
    return port, url.path


def _try_file(name: str, path: str, load: Callable[[str], object]) -> None:
    try:
        load(path)
    except OSError as error:  # ssl.SSLError is one
        raise OtlpError(f"{name}: {path}: {error.strerror or 'not usable PEM'}") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan

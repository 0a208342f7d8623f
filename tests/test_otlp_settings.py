"""What the flag and the environment say of OTLP, and what is said where they are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from kube_api.credentials import Authority
from msgspec.structs import replace

from extproc.otlp import settings
from extproc.otlp.settings import OtlpError, Settings, Signal

URL = "http://collector:4317"
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
GRPC = Signal(URL, "grpc", {}, 10.0, "none", None, None, None)


def read(endpoint: str | None = None, **env: str) -> Settings:
    found = settings.read(endpoint, env)
    assert found is not None
    return found


def test_without_an_endpoint_nothing_is_sent() -> None:
    assert settings.read(None, {}) is None
    assert settings.read(None, {ENDPOINT: " ", "OTEL_TRACES_SAMPLER": "nonsense"}) is None


def test_one_endpoint_is_enough() -> None:
    assert read(URL) == read(None, OTEL_EXPORTER_OTLP_ENDPOINT=URL) == Settings(GRPC, GRPC)


def test_the_flag_wins_over_the_variable_and_a_signals_own_variable_over_both() -> None:
    env = {ENDPOINT: "http://a:1", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c:3"}
    found = read("http://b:2", **env)
    assert found == Settings(replace(GRPC, endpoint="http://b:2"), replace(GRPC, endpoint="http://c:3"))


def test_a_signal_with_an_endpoint_is_the_only_one_that_is_sent() -> None:
    assert read(None, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=URL) == Settings(GRPC, None)


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"OTEL_TRACES_EXPORTER": "none"}, Settings(None, GRPC)),
        ({"OTEL_METRICS_EXPORTER": "none", "OTEL_TRACES_EXPORTER": "otlp"}, Settings(GRPC, None)),
        ({"OTEL_METRICS_EXPORTER": "none", "OTEL_TRACES_EXPORTER": "none"}, None),
        ({"OTEL_SDK_DISABLED": "True"}, None),
        ({"OTEL_SDK_DISABLED": "false"}, Settings(GRPC, GRPC)),
    ],
)
def test_what_is_switched_off(env: dict[str, str], expected: Settings | None) -> None:
    assert settings.read(URL, env) == expected


@pytest.mark.parametrize(
    ("url", "protocol", "used", "traces"),
    [
        ("https://c:4317", "", "grpc", "https://c:4317"),
        ("http://c", "", "grpc", "http://c"),
        ("http://c:4318", "", "http/protobuf", "http://c:4318/v1/traces"),
        ("http://c:4318/", "", "http/protobuf", "http://c:4318/v1/traces"),
        ("https://c/otlp", "", "http/protobuf", "https://c/otlp/v1/traces"),
        ("http://c:4318", "grpc", "grpc", "http://c:4318"),
        ("http://[::1]:4317", "http/protobuf", "http/protobuf", "http://[::1]:4317/v1/traces"),
    ],
)
def test_the_protocol_is_as_said_or_as_the_url_looks(url: str, protocol: str, used: str, traces: str) -> None:
    found = read(url, OTEL_EXPORTER_OTLP_PROTOCOL=protocol).traces
    assert found == replace(GRPC, endpoint=traces, protocol=used)


def test_an_endpoint_of_one_signal_is_taken_as_it_is() -> None:
    env = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/x"}
    assert read(None, **env).traces == replace(GRPC, endpoint="http://c:4318/x", protocol="http/protobuf")


def test_everything_else_and_a_signals_own_before_that_of_all() -> None:
    found = read(
        URL,
        OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20abc, X-Tenant = a=b ,",
        OTEL_EXPORTER_OTLP_METRICS_HEADERS="only=metrics",
        OTEL_EXPORTER_OTLP_TIMEOUT="2.5",
        OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
        OTEL_EXPORTER_OTLP_TRACES_COMPRESSION="none",
        OTEL_TRACES_SAMPLER="parentbased_traceidratio",
        OTEL_TRACES_SAMPLER_ARG="0.25",
        OTEL_METRIC_EXPORT_INTERVAL="15000",
        OTEL_BSP_MAX_QUEUE_SIZE="100",
        OTEL_BSP_MAX_EXPORT_BATCH_SIZE="10",
        OTEL_BSP_SCHEDULE_DELAY="250",
    )
    assert found == Settings(
        replace(GRPC, headers={"authorization": "Bearer abc", "x-tenant": "a=b"}, timeout_s=2.5),
        replace(GRPC, headers={"only": "metrics"}, timeout_s=2.5, compression="gzip"),
        sampler="parentbased_traceidratio",
        ratio=0.25,
        interval_s=15.0,
        queue=100,
        batch=10,
        delay_s=0.25,
    )


@pytest.mark.parametrize(
    ("env", "fault"),
    [
        ({ENDPOINT: "collector:4317"}, "'collector:4317' is not a URL like http://collector:4317"),
        ({ENDPOINT: "ftp://c"}, "'ftp://c' is not a URL like http://collector:4317"),
        ({ENDPOINT: "http://c:99999"}, "not a URL"),
        ({ENDPOINT: "http://"}, "'http://' is not a URL like http://collector:4317"),
        ({ENDPOINT: "http://c?key=1"}, "'http://c?key=1' is not a URL like http://collector:4317"),
        (
            {ENDPOINT: "http://user:secret@c"},
            "credentials belong into OTEL_EXPORTER_OTLP_HEADERS",
        ),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
            "'http/json' is none of grpc, http/protobuf",
        ),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "a=b,secret"}, "entry 2 is not KEY=VALUE with a URL-encoded value"),
        (
            {"OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer \x7f"},
            "entry 1 is not KEY=VALUE with a URL-encoded value",
        ),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "0"}, "'0' is not a number of seconds above 0"),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "soon"}, "'soon' is not a number of seconds above 0"),
        ({"OTEL_EXPORTER_OTLP_COMPRESSION": "zstd"}, "'zstd' is none of none, gzip"),
        ({"OTEL_METRIC_EXPORT_INTERVAL": "-1"}, "'-1' is not a whole number above 0"),
        ({"OTEL_METRIC_EXPORT_INTERVAL": "1.5"}, "'1.5' is not a whole number above 0"),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "0"}, "'0' is not a whole number above 0"),
        ({"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4096"}, "at most OTEL_BSP_MAX_QUEUE_SIZE"),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "'zipkin' is none of otlp, none"),
        ({"OTEL_METRICS_EXPORTER": "prometheus"}, "'prometheus' is none of otlp, none"),
        ({"OTEL_SDK_DISABLED": "yes"}, "'yes' is none of true, false"),
        (
            {"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta"},
            "'delta' is none of cumulative",
        ),
        ({"OTEL_EXPORTER_OTLP_CERTIFICATE": "/nowhere/ca.pem"}, "/nowhere/ca.pem: No such file or directory"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(env: dict[str, str], fault: str) -> None:
    name = list(env)[-1]
    with pytest.raises(OtlpError) as caught:
        settings.read(None, {ENDPOINT: URL, **env})
    assert str(caught.value) == f"{name}: {fault}"


@pytest.mark.parametrize("ratio", ["1.1", "-0.1", "nan", "ten"])
def test_a_ratio_is_of_0_to_1(ratio: str) -> None:
    env = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": ratio}
    with pytest.raises(OtlpError) as caught:
        settings.read(URL, env)
    assert str(caught.value) == f"OTEL_TRACES_SAMPLER_ARG: {ratio!r} is not a number of 0..1"
    assert read(URL, OTEL_TRACES_SAMPLER_ARG=ratio).ratio == 1.0  # means nothing to the other samplers


def test_an_unknown_sampler_is_named_with_those_there_are() -> None:
    with pytest.raises(
        OtlpError, match=r"^OTEL_TRACES_SAMPLER: 'jaeger_remote' is none of always_on, always_off, "
    ):
        settings.read(URL, {"OTEL_TRACES_SAMPLER": "jaeger_remote"})


def test_certificates_are_read_at_once(tmp_path: Path) -> None:
    authority = Authority("collectors")
    pair = authority.client()
    files = {"CERTIFICATE": authority.pem, "CLIENT_CERTIFICATE": pair.certificate, "CLIENT_KEY": pair.key}
    env = {}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        env[f"OTEL_EXPORTER_OTLP_{name}"] = str(tmp_path / name)
    found = read("https://c", **env).metrics
    assert found is not None
    assert [found.certificate, found.client_certificate, found.client_key] == list(env.values())

    (tmp_path / "CLIENT_KEY").write_bytes(authority.client().key)
    with pytest.raises(OtlpError) as caught:
        read("https://c", **env)
    path = tmp_path / "CLIENT_CERTIFICATE"
    assert str(caught.value).startswith(f"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE: {path}: ")
    (tmp_path / "CERTIFICATE").write_text("nonsense")
    with pytest.raises(OtlpError) as caught:
        read("https://c", **env)
    assert str(caught.value).startswith(f"OTEL_EXPORTER_OTLP_CERTIFICATE: {tmp_path / 'CERTIFICATE'}: ")


@pytest.mark.parametrize("alone", ["OTEL_EXPORTER_OTLP_CLIENT_KEY", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"])
def test_a_clients_certificate_and_its_key_go_together(alone: str) -> None:
    with pytest.raises(OtlpError) as caught:
        read(URL, **{alone: "file.pem"})
    names = "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY"
    assert str(caught.value) == f"{names} go together"


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_none_and_all_are_ratios_too(ratio: float) -> None:
    found = read(URL, OTEL_TRACES_SAMPLER="traceidratio", OTEL_TRACES_SAMPLER_ARG=str(ratio))
    assert found.ratio == ratio


def test_a_batch_may_take_all_of_the_queue() -> None:
    found = read(URL, OTEL_BSP_MAX_QUEUE_SIZE="100", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="100")
    assert (found.queue, found.batch) == (100, 100)


def test_an_empty_variable_of_one_signal_is_none() -> None:
    found = read(URL, OTEL_EXPORTER_OTLP_TRACES_TIMEOUT="", OTEL_EXPORTER_OTLP_TIMEOUT="2.5")
    assert found.traces is not None
    assert found.traces.timeout_s == 2.5

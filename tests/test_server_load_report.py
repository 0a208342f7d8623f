"""Load reports over gRPC: asked for, taken in, counted, and kept from the client."""

from __future__ import annotations

import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from envoy_peer import EnvoyPeer
from ext_proc_service import CHAT, RESPONSE_HEADERS_GO, A, B, Service, serving

from extproc.engine_metrics import EngineMetrics

POOL = "pools: [{name: pool, endpoints: ['127.0.0.1:8001', '127.0.0.1:8002'], metrics: {orca: true}}]"
REPORT = "TEXT named_metrics.num_requests_waiting=5.0, named_metrics.kv_cache_usage_perc=0.75"
NOT_ASKED_BY_CLIENTS = pb.ProcessingResponse(
    request_headers=pb.HeadersResponse(
        response=pb.CommonResponse(
            header_mutation=pb.HeaderMutation(remove_headers=["endpoint-load-metrics-format"]),
            clear_route_cache=True,
        )
    )
)
STRIPPED = pb.ProcessingResponse(
    response_headers=pb.HeadersResponse(
        response=pb.CommonResponse(
            header_mutation=pb.HeaderMutation(remove_headers=["endpoint-load-metrics"])
        )
    )
)


async def exchange(
    service: Service, envoy: EnvoyPeer, answer: dict[str, str], served: str = A
) -> tuple[dict[str, str], pb.ProcessingResponse]:
    """(headers that the request was given, the reply to the response headers)."""
    for address in (A, B):
        service.endpoint(address).observe(EngineMetrics(waiting=0, running=0), 0.0)
    stream = envoy.stream()
    await stream.request_headers({**CHAT, "endpoint-load-metrics-format": "BIN"})
    assert await stream.reply() == NOT_ASKED_BY_CLIENTS
    await stream.request_body(b'{"model":"m"}')
    given = (await stream.reply()).request_body.response.header_mutation.set_headers
    await stream.response_headers(200, answer, attributes={"upstream.address": served})
    reply = await stream.reply()
    await stream.end()
    return {option.header.key: option.header.raw_value.decode() for option in given}, reply


def figures(service: Service) -> list[tuple[int, float]]:
    return [(service.endpoint(each).waiting, service.endpoint(each).kv_usage) for each in (A, B)]


@pytest.mark.parametrize(("served", "expected"), [(A, [(5, 0.75), (0, 0.0)]), (B, [(0, 0.0), (5, 0.75)])])
async def test_a_report_is_asked_for_taken_in_and_kept_from_the_client(
    served: str, expected: list[tuple[int, float]]
) -> None:
    async with serving(POOL) as (service, envoy):
        given, reply = await exchange(service, envoy, {"endpoint-load-metrics": REPORT}, served)
        assert given["endpoint-load-metrics-format"] == "TEXT"
        assert reply == STRIPPED
        assert figures(service) == expected
        assert service.sample("extproc_load_reports_total", pool="pool", result="ok") == 1


async def test_a_faulty_report_is_counted_and_kept_from_the_client_all_the_same() -> None:
    async with serving(POOL) as (service, envoy):
        faulty = {"endpoint-load-metrics": REPORT.replace("5.0", "-5.0")}
        assert (await exchange(service, envoy, faulty))[1] == STRIPPED
        assert figures(service) == [(0, 0.0), (0, 0.0)]
        assert service.sample("extproc_load_reports_total", pool="pool", result="invalid") == 1


async def test_a_report_out_of_a_cache_tells_of_another_time() -> None:
    async with serving(POOL) as (service, envoy):
        answer = {"endpoint-load-metrics": REPORT, "age": "30"}
        assert (await exchange(service, envoy, answer))[1] == STRIPPED
        assert figures(service) == [(0, 0.0), (0, 0.0)]
        assert service.sample("extproc_load_reports_total", pool="pool", result="ignored") == 1


async def test_an_answer_without_a_report_goes_on_as_it_came() -> None:
    async with serving(POOL) as (service, envoy):
        assert (await exchange(service, envoy, {}))[1] == RESPONSE_HEADERS_GO
        assert figures(service) == [(0, 0.0), (0, 0.0)]


async def test_where_reports_are_not_wanted_nobody_asks_for_one_and_nobody_gets_one() -> None:
    async with serving(POOL.replace("orca: true", "orca: false")) as (service, envoy):
        given, reply = await exchange(service, envoy, {"endpoint-load-metrics": REPORT})
        assert "endpoint-load-metrics-format" not in given
        assert reply == STRIPPED
        assert figures(service) == [(0, 0.0), (0, 0.0)]

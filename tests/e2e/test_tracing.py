"""Traces through a real Envoy, with its own tracer and without: whose span is whose parent, what the pod gets."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from collector import attributes
from stack import BUFFERED, DUPLEX, Way
from tracing import Traced, kinds, parts, traced_stack

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="function")]

SPAN = "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{'1' * 32}-{SPAN}-01", f"00-{'2' * 32}-{SPAN}-00"
ASKS_US = "async envoy.service.ext_proc.v3.ExternalProcessor.Process egress"
"""What Envoy's tracer calls the span of its call of us."""

ways = pytest.mark.parametrize("way", [BUFFERED, DUPLEX], ids=lambda way: way.bootstrap)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")


async def upstream(traced: Traced, **headers: str) -> str:
    """The one `traceparent` that the model server got of a request."""
    (found,) = (await traced.received(headers=headers)).values("traceparent")
    return found


def trace_ids(traced: Traced) -> set[str]:
    return {span.trace_id.hex() for span in traced.ours.spans}


@ways
async def test_where_envoy_does_not_trace_we_begin_traces_and_leave_the_clients_as_they_came(
    tmp_path: Path, way: Way
) -> None:
    async with traced_stack(tmp_path, way) as traced:
        assert await upstream(traced, traceparent=UNSAMPLED) == UNSAMPLED

        received = await traced.received(headers={"traceparent": SAMPLED, "tracestate": "a=1, b=2"})
        assert received.values("traceparent") == [SAMPLED]
        assert received.values("tracestate") == ["a=1, b=2"]
        spans = await traced.spans(2)
        request, decide = spans["extproc.request"], spans["extproc.decide"]
        assert (request.trace_id.hex(), request.parent_span_id.hex()) == parts(SAMPLED)
        assert (decide.trace_id, decide.parent_span_id) == (request.trace_id, request.span_id)
        told = attributes(request.attributes)
        address = traced.stack.upstreams[0].address
        assert (told["extproc.served"], told["extproc.outcome"]) == (address, "completed")

        mine = await upstream(traced, traceparent="nonsense", tracestate="of=nobody")
        request = (await traced.spans(4))["extproc.request"]
        assert parts(mine) == (request.trace_id.hex(), request.span_id.hex())
        assert request.parent_span_id == b""
        assert trace_ids(traced) == {parts(SAMPLED)[0], parts(mine)[0]}
        await traced.stack.idle()


@ways
async def test_where_envoy_traces_our_span_is_below_its_call_of_us_and_the_pods_below_envoys(
    tmp_path: Path, way: Way
) -> None:
    async with traced_stack(tmp_path, way, envoy_traces=100) as traced:
        for number, sent in enumerate([None, SAMPLED]):
            got = await upstream(traced, **({"traceparent": sent} if sent else {}))
            request = (await traced.spans(2 * number + 2))["extproc.request"]
            await traced.envoys.until(lambda it, n=number: len(it.spans) >= 2 * n + 2)  # type: ignore[misc]
            names = kinds(traced.envoys.spans)
            trace_id, span_id = parts(got)
            assert (request.trace_id.hex(), names[request.parent_span_id.hex()]) == (trace_id, ASKS_US)
            assert names[span_id] == "ingress"
            if sent:
                assert trace_id == parts(sent)[0]
        await traced.stack.idle()


@ways
async def test_what_envoy_does_not_sample_we_do_not_tell(tmp_path: Path, way: Way) -> None:
    """Envoy's decision reaches us with its call: the client's flag counts no more than Envoy lets it count."""
    async with traced_stack(tmp_path, way, envoy_traces=0) as traced:
        for headers in ({}, {"traceparent": SAMPLED}):
            assert (await upstream(traced, **headers)).endswith("-00")
        await traced.stack.idle()
        traced.stack.service.terminate()
        assert await asyncio.to_thread(traced.stack.service.wait, 20) == 0
        assert traced.ours.spans == []
        assert "extproc_requests_total" in traced.ours.metrics

"""Our ext_proc service as it runs, on a loopback port, with what can be seen of it from outside."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

from envoy.config.core.v3 import base_pb2 as core
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from envoy_peer import BOUND_S, EnvoyPeer

from extproc import logs
from extproc.config import parse_config
from extproc.endpoint import Endpoint
from extproc.fleet import Fleet
from extproc.grpc_server import GrpcServer
from extproc.metrics import Metrics
from extproc.router import Router
from extproc.server import ExternalProcessor
from extproc.telemetry import Telemetry

A, B = "127.0.0.1:8001", "127.0.0.1:8002"
CONFIG = """
pools:
- {name: pool, endpoints: [{address: "127.0.0.1:8001", labels: {version: v1}}]}
- {name: other, endpoints: ["127.0.0.1:8002"]}
models:
- {name: qwq, pool: pool, targets: [{model: qwq-32b}], sticky: {header: X-User-Id}}
- {name: same, pool: pool}
default_pool: pool
"""
CHAT = {":method": "POST", ":path": "/v1/chat/completions", "content-type": "application/json"}
LOADED_AT = 1_700_000_000


class Service:
    """The service, and what it counts and logs."""

    def __init__(self, config: str, rng: random.Random) -> None:
        self.fleet = Fleet()
        self.fleet.apply(parse_config(config.encode()), LOADED_AT)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - `stop` closes it
        self._writer = logs.LineWriter(self._log.fileno())
        self.metrics = Metrics(self.fleet, time.monotonic, "test")
        self.telemetry = Telemetry(self.metrics, logs.configure(self._writer, "info", "json"))
        self.processor = ExternalProcessor(self._router, self.telemetry, time.monotonic, rng)
        self.grpc = GrpcServer(self.processor, None)
        self.begun = 0
        """Streams whose first message was read: each takes the router in force then."""

    def _router(self) -> Router:
        self.begun += 1
        assert self.fleet.router is not None
        return self.fleet.router

    async def stop(self) -> None:
        await self.grpc.stop(None)
        self._writer.close()
        self._log.close()

    def endpoint(self, address: str) -> Endpoint:
        ((_, endpoint),) = self.fleet.at(address)
        return endpoint

    @property
    def in_flight(self) -> dict[str, int]:
        """Of endpoints that have any."""
        return {e.address: e.in_flight for _, e in self.fleet.endpoints() if e.in_flight}

    @property
    def requests(self) -> dict[str, float]:
        """extproc_requests_total by "model target_model pool outcome"."""
        (family,) = self.metrics.requests.collect()
        return {
            " ".join(sample.labels.values()): sample.value
            for sample in family.samples
            if sample.name == "extproc_requests_total"
        }

    def sample(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)

    @property
    def held_bytes(self) -> float | None:
        return self.sample("extproc_buffered_bytes")

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what must become true."""
        async with asyncio.timeout(BOUND_S):
            while not condition():  # noqa: ASYNC110 - what changes knows of no event
                await asyncio.sleep(0.001)

    async def idle(self) -> None:
        """Wait until every stream has ended here too."""
        await self.until(lambda: self.processor.open_streams == 0)

    async def log_lines(self) -> list[dict[str, Any]]:
        """All log lines, once every stream has ended; nothing is logged after that."""
        await self.idle()
        self._writer.close()
        self._log.seek(0)
        return [json.loads(line) for line in self._log.read().splitlines()]


@asynccontextmanager
async def serving(
    config: str = CONFIG, rng: random.Random | None = None
) -> AsyncIterator[tuple[Service, EnvoyPeer]]:
    """The service, and an Envoy that talks to it; nothing is left of either, nor of any request."""
    service = Service(config, rng or random.Random(1))
    faults = _LoggedFaults()
    logging.getLogger().addHandler(faults)
    port = await service.grpc.start("127.0.0.1:0")
    try:
        async with EnvoyPeer(port) as envoy:
            yield service, envoy
        await service.idle()
        assert service.in_flight == {}
        assert service.held_bytes == 0
    finally:
        await service.stop()
        logging.getLogger().removeHandler(faults)
    assert faults.messages == []


class _LoggedFaults(logging.Handler):
    """What grpc and asyncio complain of: handlers that raised, tasks that nobody waited for."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if not _is_of_an_earlier_loop(record):
            self.messages.append(record.getMessage())


def _is_of_an_earlier_loop(record: logging.LogRecord) -> bool:
    """gRPC, one for all event loops of the process, had yet to tell one that a test before has closed."""
    error = record.exc_info[1] if record.exc_info else None
    told_by_grpc = "PollerCompletionQueue._handle_events" in record.getMessage()
    return told_by_grpc and isinstance(error, RuntimeError) and str(error) == "Event loop is closed"


# -- answers, as Envoy reads them ---------------------------------------------------------------------------

REQUEST_HEADERS_GO = pb.ProcessingResponse(request_headers=pb.HeadersResponse())
RESPONSE_HEADERS_GO = pb.ProcessingResponse(response_headers=pb.HeadersResponse())
REQUEST_TRAILERS_GO = pb.ProcessingResponse(request_trailers=pb.TrailersResponse())
RESPONSE_TRAILERS_GO = pb.ProcessingResponse(response_trailers=pb.TrailersResponse())


def request_headers_parked(path: str = "/v1/chat/completions") -> pb.ProcessingResponse:
    """The request has no route until its body is answered."""
    parked = b"extproc:waits-for-its-body:" + quote(path, safe="").encode()
    option = core.HeaderValueOption(
        header=core.HeaderValue(key=":path", raw_value=parked),
        append_action=core.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
    )
    common = pb.CommonResponse(
        clear_route_cache=True, header_mutation=pb.HeaderMutation(set_headers=[option])
    )
    return pb.ProcessingResponse(request_headers=pb.HeadersResponse(response=common))


def pinned(
    model: str | None = None,
    target: str | None = None,
    *,
    address: str = A,
    pool: str = "pool",
    content_length: int | None = None,
    path: str | None = None,
    removed: tuple[str, ...] = (),
) -> tuple[pb.CommonResponse, dict[str, dict[str, str]]]:
    """(header mutation, dynamic metadata) of a request that was routed to *address*."""
    headers = {"x-gateway-destination-endpoint": address, "x-extproc-pool": pool}
    facts = {"pool": pool, "endpoint": address}
    if model is not None:
        headers["x-gateway-model-name"] = facts["model"] = model
    if target is not None:
        facts["target_model"] = target
    if content_length is not None:
        headers["content-length"] = str(content_length)
    if path is not None:
        headers[":path"] = path
    common = pb.CommonResponse(clear_route_cache=True)
    common.header_mutation.set_headers.extend(option(*header) for header in headers.items())
    common.header_mutation.remove_headers.extend(removed)
    return common, {"envoy.lb": {"x-gateway-destination-endpoint": address}, "extproc": facts}


def option(key: str, value: str) -> core.HeaderValueOption:
    return core.HeaderValueOption(
        header=core.HeaderValue(key=key, raw_value=value.encode()),
        append_action=core.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
    )


def routed_headers(*arguments: Any, **options: Any) -> pb.ProcessingResponse:
    """The answer to request headers that routes the request; arguments as of `pinned`."""
    common, metadata = pinned(*arguments, **options)
    reply = pb.ProcessingResponse(request_headers=pb.HeadersResponse(response=common))
    reply.dynamic_metadata.update(metadata)
    return reply


def routed_body(*arguments: Any, body: bytes | None = None, **options: Any) -> pb.ProcessingResponse:
    """The answer to a BUFFERED body that routes the request, with another *body* if given."""
    common, metadata = pinned(*arguments, **options)
    if body is not None:
        common.body_mutation.body = body
    reply = pb.ProcessingResponse(request_body=pb.BodyResponse(response=common))
    reply.dynamic_metadata.update(metadata)
    return reply


def streamed(body: bytes, *, end: bool, response: bool = False) -> pb.ProcessingResponse:
    """The answer that passes on a piece of a FULL_DUPLEX_STREAMED body."""
    piece = pb.StreamedBodyResponse(body=body, end_of_stream=end)
    part = pb.BodyResponse(response=pb.CommonResponse(body_mutation=pb.BodyMutation(streamed_response=piece)))
    return pb.ProcessingResponse(response_body=part) if response else pb.ProcessingResponse(request_body=part)


def refused(
    reason: str,
    status: int,
    type_: str,
    message: str,
    *,
    param: str | None = None,
    retry_after: int | None = None,
) -> pb.ProcessingResponse:
    """The ImmediateResponse of CONTRACT section 5."""
    reply = pb.ProcessingResponse()
    immediate = reply.immediate_response
    immediate.status.code = status
    headers = {"content-type": "application/json", "x-extproc-reason": reason}
    if retry_after is not None:
        headers["retry-after"] = str(retry_after)
    immediate.headers.set_headers.extend(option(*header) for header in headers.items())
    error = {"message": message, "type": type_, "param": param, "code": reason}
    immediate.body = json.dumps({"error": error}, separators=(",", ":"), ensure_ascii=False).encode()
    immediate.details = f"extproc_{reason}"
    return reply

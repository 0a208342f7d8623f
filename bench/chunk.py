"""What a chunk of an answer that is read costs: our own work alone, and with gRPC against a server of constants."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from grpc.aio import EOF  # type: ignore[attr-defined]

from extproc import logs
from extproc.config import parse_config
from extproc.demo.service import Service
from extproc.fleet import Fleet
from extproc.metrics import Metrics
from extproc.server import ExternalProcessor
from extproc.telemetry import Telemetry

from . import peer
from .figure import Figure, paired_ratio
from .programs import PortProgram, cpu_s

REACH_US = 25.0
CHUNKS = 1_000
ROUNDS = 15
GRPC_ROUNDS = 7
STREAMS = 16
"""At a time, each with CHUNKS."""
EVENT = (
    'data: {"id":"chatcmpl-7b1e2d3c89ab4cde8f0123456789abcd","object":"chat.completion.chunk","created":1763800000,'
    '"model":"qwq-32b","choices":[{"index":0,"delta":{"content":" word%d"},"logprobs":null,"finish_reason":null}]}\n\n'
)
"""As vLLM sends it: one for each token."""
WITH_USAGE = EVENT.replace(
    "}]}", '}],"usage":{"prompt_tokens":1024,"total_tokens":1536,"completion_tokens":%d}}'
)
"""The same with `continuous_usage_stats`: every 32nd is told to Envoy."""


def measure(directory: Path) -> Iterator[Figure]:
    plain, with_usage = (
        [EVENT % number for number in range(CHUNKS)],
        [WITH_USAGE % (n, n) for n in range(CHUNKS)],
    )
    for words, responses, events in (
        ("a chunk of an answer, read", {}, plain),
        ("… and the client's model put back", {"restore_model": True}, plain),
        ("… read, with usage in each", {}, with_usage),
    ):
        cost = _own_s(_config(responses), _chunks(events)) * 1e6
        yield Figure(words, cost, "µs", REACH_US, f"CPU without gRPC, best of {ROUNDS}")
    yield _through_grpc(directory)


def _config(responses: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "pools": [{"name": "bench", "endpoints": peer.ENDPOINTS, "metrics": {"engine": "none"}}],
        "models": [{"name": "qwq", "pool": "bench", "targets": [{"model": "qwq-32b"}]}],
        "responses": dict(responses),
    }


def _chunks(events: Sequence[str]) -> list[bytes]:
    bodies = [pb.HttpBody(body=event.encode()) for event in events]
    return [pb.ProcessingRequest(response_body=body).SerializeToString() for body in bodies]


# -- alone ------------------------------------------------------------------------------------------------------


class _Context:
    """A gRPC stream that has all messages at once, and takes whatever is written."""

    def __init__(self, messages: Sequence[bytes]) -> None:
        self._messages = iter(messages)

    async def read(self) -> Any:
        return next(self._messages, EOF)

    async def write(self, data: bytes) -> None:
        pass


def _own_s(config: Mapping[str, Any], chunks: Sequence[bytes]) -> float:
    """CPU seconds a chunk, from the bytes that came to those that go."""
    fleet = Fleet()
    fleet.apply(parse_config(yaml.safe_dump(dict(config)).encode()))
    with open(os.devnull, "wb") as nowhere:
        writer = logs.LineWriter(nowhere.fileno())
        telemetry = Telemetry(Metrics(fleet, time.monotonic, "bench"), logs.configure(writer, "info", "json"))
        router = fleet.router
        assert router is not None
        processor = ExternalProcessor(lambda: router, telemetry, time.monotonic, random.Random(1))
        talk = peer.conversation(peer.chat(1_200))
        begin = [talk.headers, talk.body, next(iter(talk.answers.values()))]
        bare, full = begin, [*begin, *chunks]
        with_chunks, without = (
            min(_spent_s(processor, messages) for _ in range(ROUNDS)) for messages in (full, bare)
        )
        writer.close()
    return (with_chunks - without) / len(chunks)


def _spent_s(processor: ExternalProcessor, messages: Sequence[bytes]) -> float:
    context = _Context(messages)
    begun = time.thread_time()
    asyncio.run(processor.process(None, context))
    return time.thread_time() - begun


# -- through gRPC -----------------------------------------------------------------------------------------------


def _through_grpc(directory: Path) -> Figure:
    ours = Service(_config({}), directory, "--drain-delay", "0", name="chunk")
    with PortProgram("bench.minimal_server", directory) as minimal, ours:
        ports = {minimal.pid: minimal.port, ours.pid: int(ours.grpc.rpartition(":")[2])}
        costs: dict[int, list[float]] = {pid: [] for pid in ports}
        for round_ in range(GRPC_ROUNDS + 1):
            for pid, port in ports.items():
                before = cpu_s(pid)
                asyncio.run(_drive(port))
                if round_:  # the first warms up
                    costs[pid].append((cpu_s(pid) - before) / (STREAMS * CHUNKS))
        constant, own = costs[minimal.pid], costs[ours.pid]
    note = f"{median(own) * 1e6:.0f} µs against {median(constant) * 1e6:.0f} µs"
    return Figure("CPU per chunk through gRPC", paired_ratio(own, constant), "× constant server", None, note)


async def _drive(port: int) -> None:
    talk, chunks = peer.conversation(peer.chat(1_200)), _chunks([EVENT % number for number in range(CHUNKS)])
    async with peer.channel(port) as channel:

        async def answer() -> None:
            stream = peer.open_stream(channel)
            await peer.begin(stream, talk)
            for chunk in chunks:
                await stream.write(chunk)
                await stream.read()
            await stream.done_writing()
            await stream.read()

        await asyncio.gather(*[answer() for _ in range(STREAMS)])

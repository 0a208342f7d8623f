"""The least that a grpc.aio ext_proc server can do: it answers constants.  What ours costs on top is our doing."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import grpc
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from grpc import aio

from extproc.grpc_server import OPTIONS
from extproc.server import SERVICE_NAME


def _answers() -> dict[str, pb.ProcessingResponse]:
    headers, body, response, chunk = (pb.ProcessingResponse() for _ in range(4))
    headers.request_headers.SetInParent()
    option = body.request_body.response.header_mutation.set_headers.add()
    option.header.key, option.header.raw_value = "x-gateway-destination-endpoint", b"127.0.0.1:8001"
    response.response_headers.SetInParent()
    chunk.response_body.SetInParent()
    return {
        "request_headers": headers,
        "request_body": body,
        "response_headers": response,
        "response_body": chunk,
    }


async def _process(_: object, context: Any) -> None:
    while (message := await context.read()) is not aio.EOF:
        await context.write(ANSWERS[message.WhichOneof("request")])


ANSWERS = _answers()


async def main() -> None:
    server = aio.server(options=OPTIONS)
    method = grpc.stream_stream_rpc_method_handler(
        _process, pb.ProcessingRequest.FromString, pb.ProcessingResponse.SerializeToString
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE_NAME, {"Process": method}),)
    )
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await server.start()
    await stop.wait()
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(main())

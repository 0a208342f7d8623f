"""The gRPC port: ext_proc, health and reflection on one grpc.aio server."""

from __future__ import annotations

import grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from .server import SERVICE_NAME, ExternalProcessor

MAX_MESSAGE_BYTES = 512 * 1024 * 1024
"""A BUFFERED body is one message.  What bounds it is Envoy's buffer limit; ours is far above any, so that a body over
`limits.max_body_bytes` gets a 413 and not a broken stream."""
MAX_PENDING_STREAMS = 100_000
"""A few KB each: what is more than a process can take up in a minute is better refused."""

OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Streams that came and were not taken up yet: gRPC begins to cancel some at random at 1,000, which a burst of
    # requests reaches while the event loop is busy for a moment; Envoy answers each with a 500.
    ("grpc.server.max_pending_requests", MAX_PENDING_STREAMS),
    ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING_STREAMS),
    # Two servers that share a port by accident would each see half of the requests.
    ("grpc.so_reuseport", 0),
    # An Envoy that vanished without closing is noticed within 40 s, so that its streams are counted down.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Streams live for an hour without a byte: neither our pings nor Envoy's may end the connection.
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
)
# No limit of concurrent streams: Envoy does not wait for ours, and answers 500 to what exceeds it.

READINESS = ("", "readiness", SERVICE_NAME)
LIVENESS = "liveness"
_STATUS = health_pb2.HealthCheckResponse


class GrpcServer:
    """Owns the server; `start` answers the port."""

    def __init__(self, processor: ExternalProcessor, credentials: grpc.ServerCredentials | None) -> None:
        self._server = aio.server(options=OPTIONS)
        self._credentials = credentials
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]
        self._server.add_generic_rpc_handlers((processor.handlers(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    async def start(self, address: str) -> int:
        """Listen on *address* (`host:port`); raises RuntimeError where it is taken."""
        port = self._bind(address)
        await self._health.set(LIVENESS, _STATUS.SERVING)
        await self.set_ready(False)
        await self._server.start()
        return port

    def _bind(self, address: str) -> int:
        try:
            if self._credentials is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, self._credentials)
        except RuntimeError:  # gRPC says why in its own log only, which is off
            fault = "in use, or no address of this machine"
            raise RuntimeError(f"--grpc-address {address}: {fault}") from None

    async def set_ready(self, ready: bool) -> None:
        """What the health service answers for everything but `liveness`."""
        status = _STATUS.SERVING if ready else _STATUS.NOT_SERVING
        for service in READINESS:
            await self._health.set(service, status)

    async def stop(self, grace_s: float | None) -> None:
        """No new streams; open ones may end within *grace_s*, then they are cut."""
        await self._server.stop(grace_s)

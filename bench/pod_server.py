"""An API server with one InferencePool and its pods, as cheap as can be, so that what is measured is its client.

Arguments: how many pods, and the port that they serve.  Prints its own port.  GET /churn?rate=50&events=500 makes so
many events, so many a second, and answers at their end: every other one is a status that nobody routes by, the others
take turns: a pod gets unready, is ready again, is deleted, and another one comes.  GET /drop ends the watches.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import time
from collections.abc import Iterator
from typing import Any

import msgspec
from aiohttp import web

POOL = "bench"
NAMESPACE = "llm"
POD_BYTES = 8_000
"""A vLLM pod with its environment, an injected sidecar and its managedFields."""
PAGE_ITEMS = 100
POOL_GROUP = "/apis/inference.networking.k8s.io/v1"

encode = msgspec.json.encode


def pod(number: int, version: int, port: int, *, ready: bool = True, note: int = 0) -> dict[str, Any]:
    """Each has an address of its own on the loopback interface."""
    ip = f"127.{1 + number // 62_500 % 250}.{number // 250 % 250}.{1 + number % 250}"
    holds = {"PodScheduled": True, "Initialized": True, "ContainersReady": ready, "Ready": ready}
    stamp = f"2026-05-04T09:{note // 60 % 60:02}:{note % 60:02}Z"
    conditions = [
        {"type": name, "status": str(true), "lastProbeTime": None, "lastTransitionTime": stamp}
        for name, true in holds.items()
    ]
    whole: dict[str, Any] = {
        "metadata": {
            "name": f"vllm-{number:06}",
            "namespace": NAMESPACE,
            "uid": f"{number:08x}-0000-4000-8000-000000000000",
            "resourceVersion": str(version),
            "creationTimestamp": "2026-05-04T09:12:33Z",
            "labels": {"app": "vllm", "pod-template-hash": "6b9f7c8d5"},
            "annotations": {},
        },
        "spec": {
            "nodeName": f"node-{number % 250}",
            "containers": [{"name": "vllm", "ports": [{"name": "http", "containerPort": port}]}],
        },
        "status": {
            "phase": "Running",
            "podIP": ip,
            "podIPs": [{"ip": ip}],
            "hostIP": "192.168.1.10",
            "conditions": conditions,
        },
    }
    fill = max(0, POD_BYTES - len(encode(whole)))
    whole["metadata"]["annotations"]["sidecar.istio.io/status"] = '{"a": 1}' * (fill // 10)
    return whole


class Pods:
    """Those that there are, what happens to them, and who watches."""

    def __init__(self, count: int, port: int) -> None:
        self.version = 1000
        self.items = {number: encode(pod(number, self.version, port)) for number in range(count)}
        self.watches: set[asyncio.Queue[bytes]] = set()
        self._port = port
        self._next = count
        self._unready = 0
        self._rng = random.Random(1)
        self._turns = itertools.cycle((self._unready_one, self._ready_again, self._delete, self._add))

    def events(self) -> Iterator[bytes]:
        """One after another, without end."""
        for turn in self._turns:
            yield self._put("MODIFIED", self._any(), note=self.version)
            yield turn()

    def _unready_one(self) -> bytes:
        self._unready = self._any()
        return self._put("MODIFIED", self._unready, ready=False)

    def _ready_again(self) -> bytes:
        return self._put("MODIFIED", self._unready)

    def _delete(self) -> bytes:
        number = self._any()
        event = self._put("DELETED", number)
        del self.items[number]
        return event

    def _add(self) -> bytes:
        self._next += 1
        return self._put("ADDED", self._next)

    def _any(self) -> int:
        return self._rng.choice(list(self.items))

    def _put(self, type: str, number: int, *, ready: bool = True, note: int = 0) -> bytes:
        self.version += 1
        item = self.items[number] = encode(pod(number, self.version, self._port, ready=ready, note=note))
        return b'{"type":"%s","object":%s}\n' % (type.encode(), item)


class PodServer:
    """Answers what a client that follows the pool asks for; of everything else it says that there is none."""

    def __init__(self, pods: Pods, port: int) -> None:
        self._pods = pods
        meta = {"name": POOL, "namespace": NAMESPACE, "uid": "p", "resourceVersion": "1"}
        spec = {"selector": {"matchLabels": {"app": "vllm"}}, "targetPorts": [{"number": port}]}
        self._pool = encode({"metadata": meta, "spec": spec})
        self.app = web.Application()
        self.app.router.add_get(f"{POOL_GROUP}/namespaces/{NAMESPACE}/inferencepools", self._pools)
        self.app.router.add_get(f"/api/v1/namespaces/{NAMESPACE}/pods", self._list_or_watch)
        self.app.router.add_get("/churn", self._churn)
        self.app.router.add_get("/drop", self._drop)

    async def _pools(self, request: web.Request) -> web.StreamResponse:
        if "watch" in request.query:
            return await self._watch(request, asyncio.Queue())
        return _page([self._pool], 1, "")

    async def _list_or_watch(self, request: web.Request) -> web.StreamResponse:
        pods = self._pods
        if "watch" not in request.query:
            start = int(request.query.get("continue", 0))
            items = list(pods.items.values())
            end = start + PAGE_ITEMS
            return _page(items[start:end], pods.version, str(end) if end < len(items) else "")
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        pods.watches.add(queue)
        try:
            return await self._watch(request, queue)
        finally:
            pods.watches.discard(queue)

    async def _watch(self, request: web.Request, queue: asyncio.Queue[bytes]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "application/json"})
        await response.prepare(request)
        while event := await queue.get():
            await response.write(event)
        return response

    async def _churn(self, request: web.Request) -> web.Response:
        count, rate = int(request.query["events"]), float(request.query["rate"])
        begun = time.monotonic()
        for number, event in enumerate(itertools.islice(self._pods.events(), count)):
            for queue in self._pods.watches:
                queue.put_nowait(event)
            await asyncio.sleep(max(0.0, begun + number / rate - time.monotonic()))
        return web.Response()

    async def _drop(self, request: web.Request) -> web.Response:
        for queue in self._pods.watches:
            queue.put_nowait(b"")
        return web.Response()


def _page(items: list[bytes], version: int, following: str) -> web.Response:
    meta = encode({"resourceVersion": str(version), "continue": following})
    body = b'{"metadata":%s,"items":[%s]}' % (meta, b",".join(items))
    return web.Response(body=body, content_type="application/json")


async def main() -> None:
    count, port = map(int, sys.argv[1:])
    runner = web.AppRunner(
        PodServer(Pods(count, port), port).app, access_log=None, handler_cancellation=True, shutdown_timeout=0
    )
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())

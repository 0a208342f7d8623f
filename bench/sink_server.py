"""A model server that reads whatever comes and answers at once."""

from __future__ import annotations

import asyncio
import signal

from aiohttp import web

ANSWER = b'{"object": "chat.completion", "choices": []}'


async def _answer(request: web.Request) -> web.Response:
    async for _ in request.content.iter_any():
        pass
    return web.Response(body=ANSWER, content_type="application/json")


async def main() -> None:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", _answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())

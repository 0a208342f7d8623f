"""What the page shows of the process itself."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from extproc import config_file, logs
from extproc.app import App
from extproc.options import Options

BOUND_S = 20.0


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[App]:
    """A service with one pool that nobody scrapes, once it serves."""
    file = folder / "router.yaml"
    file.write_text("pools: [{name: pool, endpoints: ['127.0.0.1:9'], metrics: {engine: none}}]")
    options = Options(file, grpc_address="127.0.0.1:0", http_address="127.0.0.1:0")
    descriptor = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
    writer = logs.LineWriter(descriptor)
    app = App(options, config_file.load(file)[0], "", writer)
    serving = asyncio.create_task(app.run())
    try:
        async with asyncio.timeout(BOUND_S):
            while app.not_ready() or not shown(app):  # noqa: ASYNC110 - readiness knows of no event
                await asyncio.sleep(0.01)
        yield app
    finally:
        serving.cancel()
        await asyncio.wait([serving])
        gc.unfreeze()  # what the service froze
        writer.close()
        os.close(descriptor)


def shown(app: App) -> float | None:
    return app.metrics.registry.get_sample_value("extproc_event_loop_tasks")


async def test_tasks_are_counted_while_they_last_also_when_the_page_is_made_in_a_thread(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as app:
        forgotten = [asyncio.create_task(asyncio.sleep(3600)) for _ in range(1000)]
        there = len(asyncio.all_tasks())
        assert there > 1000
        assert abs((await asyncio.to_thread(shown, app) or 0) - there) < 10  # its own come and go
        for task in forgotten:
            task.cancel()
        await asyncio.wait(forgotten)
        assert (await asyncio.to_thread(shown, app) or 0) < 100


async def test_what_a_prefix_index_remembers_is_shown_by_pool(tmp_path: Path) -> None:
    async with running(tmp_path) as app:
        (endpoint,) = app.router().pools["pool"].endpoints
        app.router().pools["pool"].index.insert(range(5), endpoint, 0.0)
        runs = app.metrics.registry.get_sample_value("extproc_prefix_index_runs", {"pool": "pool"})
        assert runs == 1

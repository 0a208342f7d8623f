"""The composition root: builds everything once, owns every task, and ends in order."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import sys
import time
from typing import Any

import grpc

from . import __version__, allocator, config_file, library_logs, logs, process, state, tls
from .address import join
from .config import Config
from .cordoning import Cordoning
from .discovery import Discovery
from .endpoint import Endpoint
from .errors import ConfigError
from .faults import Faults
from .fleet import Fleet
from .grpc_server import GrpcServer
from .http_auth import BearerGuard
from .http_server import HttpServer
from .metrics import Metrics
from .model_lister import ModelLister
from .options import Options
from .otlp.start import start as start_otlp
from .reload import ConfigWatcher, digest
from .router import Router
from .scraper import Scraper
from .scraping import ScrapeListener, scrape_targets
from .server import ExternalProcessor
from .telemetry import Telemetry
from .tls_reload import CertificateWatcher

LAG_INTERVAL_S = 0.1
"""Often enough to meet a stall of a fifth of a second, seldom enough to cost nothing."""
HOUSEKEEPING_S = 1.0
TRIM_INTERVAL_S = 60.0
"""Between two bursts of bodies whose memory is given back: who allocates meanwhile waits, 0.1 s for 300 MB."""
TARGETS_S = 0.05
"""Pods that come within this time are taken up together: it is a quarter of the usual interval between scrapes."""
READINESS_INTERVAL_S = 0.1
REMIND_S = 10.0
"""Longer than lists and scrapes take: who is not ready by then waits for something that an operator has to see to."""
REFUSAL_S = 2.0
"""After the drain: for the 503s to leave."""


class App:
    """The running service."""

    def __init__(self, options: Options, config: Config, config_hash: str, writer: logs.LineWriter) -> None:
        self.options = options
        self.clock = time.monotonic
        self.fleet = Fleet()
        self.fleet.apply(config, time.time())
        self.metrics = Metrics(self.fleet, self.clock, __version__)
        writer.on_drop = self.metrics.log_lines_dropped.inc
        self.log = logs.configure(writer, options.log_level, options.log_format)
        self.telemetry = Telemetry(self.metrics, self.log)
        self.otlp = start_otlp(
            options.otlp_endpoint, os.environ, self.metrics, self.log, self.router, self.clock
        )
        self.telemetry.tracing = self.otlp.tracing if self.otlp else None
        self.processor = ExternalProcessor(self.router, self.telemetry, self.clock, random.Random())
        self.certificates = self._certificates()
        self.grpc = GrpcServer(self.processor, self._credentials())
        self.discovery = Discovery(
            options.kubeconfig,
            self.fleet,
            self.telemetry,
            self.clock,
            self._members_changed,
            self._models_changed,
        )
        token_file, denied = options.http_token_file, self.metrics.http_denied.inc
        self.http = HttpServer(
            self.metrics.registry,
            self.not_ready,
            self.notes,
            self.describe,
            self.explain,
            Cordoning(self.fleet, self.processor.dispatcher.poke, self.log),
            BearerGuard(token_file, self.clock, denied, self.log) if token_file else None,
            guard_reads=options.http_protect_reads,
        )
        listener = ScrapeListener(self.fleet, self.telemetry, self.clock, self.processor.dispatcher.poke)
        self.faults = Faults(self.metrics, self.log, self.clock)
        self.scraper = Scraper(listener, self.faults.of_scrape)
        self.watcher = ConfigWatcher(options.config, config_hash, self.apply, self.refuse)
        self.lister = ModelLister(self._listed_endpoints)
        self.config_hash = config_hash
        self._file_config = config
        """As the file has it, without what the cluster adds."""
        self._changed = asyncio.Event()
        self._draining = False
        self._was_ready = False
        self.discovery.follow(config)
        self._loaded()

    def _certificates(self) -> CertificateWatcher | None:
        files = self.options.certificate_files()
        return CertificateWatcher(files, self.metrics.registry, self.log) if files else None

    def _credentials(self) -> grpc.ServerCredentials | None:
        """What the gRPC port shows; None for plain text."""
        if self.certificates is not None:
            return self.certificates.credentials()
        return tls.self_signed() if self.options.tls_self_signed else None

    def router(self) -> Router:
        """The router in force."""
        assert self.fleet.router is not None
        return self.fleet.router

    def not_ready(self) -> list[str]:
        """Why no request should come here; empty: ready."""
        reasons = ["shutting down"] if self._draining else []
        if self._was_ready:
            return (
                reasons  # an endpoint that comes later, or one that is lost, is no reason to send nobody here
            )
        reasons += self.discovery.waiting()
        waiting = self.fleet.not_tried()
        if waiting:
            reasons.append(f"not scraped yet: {', '.join(waiting[:10])}{' …' * (len(waiting) > 10)}")
        return reasons

    def notes(self) -> list[str]:
        """What is not as it should be, besides `not_ready`: of pools that a reload brought, too."""
        return [*(self.discovery.waiting() if self._was_ready else ()), *self.discovery.notes()]

    def describe(self) -> dict[str, Any]:
        """`/debug/state`."""
        return {
            **state.describe(self.router(), self.config_hash, self.clock()),
            **self.discovery.describe(),
            "queues": state.queues(self.router(), self.processor.dispatcher.lobby, self.clock()),
            "version": __version__,
            "not_ready": self.not_ready(),
            "open_streams": self.processor.open_streams,
            "in_flight_counts": "exact" if self.telemetry.counts_are_exact() else "approximate",
        }

    def explain(self, limit: int, request_id: str | None) -> list[dict[str, Any]]:
        """`/debug/explain`."""
        return self.processor.recent.describe(self.clock(), limit, request_id)

    def apply(self, config: Config, config_hash: str) -> None:
        """A reload: streams that began keep their router, new ones and those that are held get this one."""
        try:
            self.discovery.follow(config)
        except ConfigError as error:
            self.refuse(error)
            return
        self._file_config, self.config_hash = config, config_hash
        self._put_in_force(self.discovery.merged(config))
        self._loaded()

    def _put_in_force(self, config: Config) -> None:
        self.processor.dispatcher.reload(self.fleet.apply(config, time.time()))
        self._changed.set()

    def _members_changed(self) -> None:
        """Pods came or went."""
        self._changed.set()
        self.processor.dispatcher.poke()

    def _models_changed(self) -> None:
        """The cluster has other models."""
        merged = self.discovery.merged(self._file_config)
        if merged != self.router().config:
            self._put_in_force(merged)
            self.log.info("models_changed", models=len(self.router().routes))

    def refuse(self, error: ConfigError) -> None:
        """A faulty file: the old config stays in force."""
        self.metrics.reload_successful.set(0)
        self.log.error(
            "config_reload_failed", file=str(self.options.config), faults=[str(f) for f in error.faults]
        )

    def _loaded(self) -> None:
        self.metrics.reload_successful.set(1)
        self.metrics.reload_time.set(self.router().loaded_at)
        self.metrics.buffered_limit.set(self.router().config.limits.max_buffered_bytes)
        pools = {pool.name: len(pool.endpoints) for pool in self.router().pools.values()}
        self.log.info("config_loaded", sha256=self.config_hash, pools=pools, models=len(self.router().routes))

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain.  A second signal ends the process at once."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _signalled, stop)
        loop.add_signal_handler(signal.SIGHUP, self._hung_up)
        loop.set_exception_handler(self.faults.of_loop)
        self.metrics.tasks.set_function(lambda: len(asyncio.all_tasks(loop)))
        host, port = _split(self.options.http_address)
        grpc_host, _ = _split(self.options.grpc_address)
        try:
            grpc_port = await self.grpc.start(self.options.grpc_address)
            http_port = await self.http.start(host, port)
            self.log.info("listening", grpc=join(grpc_host, grpc_port), http=join(host, http_port))
            await self._serve(stop)
        finally:
            await self.discovery.close()
            await self.scraper.close()
            await self.http.stop()
            await self.grpc.stop(None)
            if self.otlp is not None:
                await self.otlp.close()

    async def _serve(self, stop: asyncio.Event) -> None:
        # What lives as long as the process is not worth looking at in each collection.
        gc.collect()
        gc.freeze()
        async with asyncio.TaskGroup() as group:
            roots = {
                "event loop lag": self._watch_lag,
                "housekeeping": self._keep_house,
                "config reload": self.watcher.run,
                "scrape targets": self._follow_targets,
                "model lists": self.lister.run,
                "readiness": self._tell_readiness,
            }
            if self.otlp is not None:
                roots["otlp metrics"] = self.otlp.run
            if self.certificates is not None:
                roots["certificates"] = self.certificates.run
            survive = self.faults.survive
            tasks = [group.create_task(survive(name, work), name=name) for name, work in roots.items()]
            await stop.wait()
            await self._drain()
            for task in tasks:
                task.cancel()

    async def _drain(self) -> None:
        """Not ready at once, accepting for a while, then finishing what is open."""
        self._draining = True
        self.metrics.ready.set(0)
        await self.grpc.set_ready(False)
        options = self.options
        self.log.info("draining", delay_s=options.drain_delay_s, timeout_s=options.drain_timeout_s)
        await asyncio.sleep(options.drain_delay_s)
        stopping = asyncio.create_task(self.grpc.stop(options.drain_timeout_s + REFUSAL_S), name="drain")
        done, _ = await asyncio.wait([stopping], timeout=options.drain_timeout_s)
        if not done:
            self.log.warning("drain_timeout", open_streams=self.processor.open_streams)
            self.processor.end_drain()
            await stopping
        self.log.info("stopped")

    def _hung_up(self) -> None:
        """SIGHUP, which has other programs read their config anew: it must not cut every open stream."""
        self.log.info("signal_ignored", signal="SIGHUP", hint="files are read every second; SIGTERM drains")

    async def _tell_readiness(self) -> None:
        ready, told_at = False, self.clock()
        while not self._draining:
            if ready is bool(self.not_ready()):
                ready = not ready
                self._was_ready |= ready
                self.metrics.ready.set(ready and not self._draining)
                await self.grpc.set_ready(ready and not self._draining)
                self.log.info("ready" if ready else "not_ready", reasons=self.not_ready())
            elif not ready and self.clock() - told_at >= REMIND_S:
                told_at = self.clock()
                self.log.warning("not_ready", reasons=self.not_ready())
            await asyncio.sleep(READINESS_INTERVAL_S)

    async def _follow_targets(self) -> None:
        while True:
            self._changed.clear()
            await self.scraper.update(scrape_targets(self.fleet))
            await self._changed.wait()
            await asyncio.sleep(TARGETS_S)

    async def _watch_lag(self) -> None:
        while True:
            due = self.clock() + LAG_INTERVAL_S
            await asyncio.sleep(LAG_INTERVAL_S)
            self.metrics.loop_lag.observe(max(0.0, self.clock() - due))

    async def _keep_house(self) -> None:
        trim_at = 0.0
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            self.fleet.expire(self.clock())
            self.telemetry.forget(self.router(), self.clock())
            self.processor.dispatcher.poke()  # figures grow stale, too
            if self.clock() >= trim_at and self.processor.budget.burst_ended():
                await asyncio.to_thread(allocator.give_back)
                trim_at = self.clock() + TRIM_INTERVAL_S

    def _listed_endpoints(self) -> list[Endpoint]:
        router = self.router()
        pool = router.config.default_pool_name
        if pool is None or router.config.list_models != "answer":
            return []
        return list(router.pools[pool].endpoints)


def _signalled(stop: asyncio.Event) -> None:
    if stop.is_set():
        os._exit(1)  # the second signal: whoever sends it does not want to wait
    stop.set()


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def serve(options: Options) -> int:
    """Run the service; the exit status."""
    try:
        config, text = config_file.load(options.config)
    except ConfigError as error:
        for fault in error.faults:
            print(f"{options.config}: {fault}", file=sys.stderr)
        return 1
    allocator.keep_freed_memory(os.environ)
    process.allow_descriptors()
    writer = logs.LineWriter(logs.standard_error())
    try:
        with library_logs.told_to(logs.configure(writer, options.log_level, options.log_format)):
            asyncio.run(_run(options, config, digest(text), writer))
    except ConfigError as error:
        for fault in error.faults:
            writer.line(f"{options.config}: {fault}")
        return 1
    except (OSError, RuntimeError) as error:  # an address that is taken, a certificate that is not there
        writer.line(f"extproc: cannot serve: {error}")
        return 1
    finally:
        writer.close()
    return 0


async def _run(options: Options, config: Config, config_hash: str, writer: logs.LineWriter) -> None:
    app = App(options, config, config_hash, writer)
    await app.run()
    process.must_end(lambda: app.log.warning("ended_without_threads"), writer.close)

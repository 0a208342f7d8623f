"""CPU of an idle router that scrapes a hundred endpoints five times a second."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from .figure import Figure
from .programs import PortProgram, cpu_s, service

ENDPOINTS = 100
SECONDS = 10.0
PAGE = Path(__file__).parent.parent / "tests" / "data" / "vllm-0.32-busy.prom"


def measure(directory: Path) -> Iterator[Figure]:
    selected = directory / "selected.prom"
    selected.write_bytes(_selected(PAGE.read_bytes()))
    pages = (
        (PAGE, 0.25, "whole pages"),
        (selected, 0.25, "pages cut to the metrics asked for, as vLLM answers"),
    )
    for page, reach, note in pages:
        with PortProgram("bench.page_server", directory, str(page)) as server:
            endpoints = [f"127.0.1.{index + 1}:{server.port}" for index in range(ENDPOINTS)]
            with service(directory, endpoints, {"interval_s": 0.2}, "idle") as ours:
                ours.wait_ready()
                before, begun = cpu_s(ours.pid), time.monotonic()
                time.sleep(SECONDS)
                cores = (cpu_s(ours.pid) - before) / (time.monotonic() - begun)
        size = page.stat().st_size / 1000
        yield Figure(f"idle, {ENDPOINTS} endpoints, 0.2 s", cores, "cores", reach, f"{size:.0f} KB: {note}")


def _selected(page: bytes) -> bytes:
    wanted = (
        b"num_requests_",
        b"kv_cache_usage",
        b"lora_requests_info",
        b"cache_config_info",
        b"_tokens_total",
    )
    return b"\n".join(line for line in page.splitlines() if any(name in line for name in wanted)) + b"\n"

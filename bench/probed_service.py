"""The service with a probe in its event loop: on SIGUSR1 it prints the longest stall since the last time.

Arguments: the config file.  Prints its gRPC port first; then, for each signal, two numbers in seconds: the longest
time between two ticks on the clock, and the longest in CPU time of the loop's thread (which a busy machine does not
stretch).
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path

from extproc import config_file, logs
from extproc.app import App
from extproc.options import Options

TICK_S = 0.001


class Probe:
    """Ticks, and remembers the longest pause between two ticks."""

    def __init__(self) -> None:
        self.wall_s = self.cpu_s = 0.0

    async def run(self) -> None:
        while True:
            wall, cpu = time.perf_counter(), time.thread_time()
            await asyncio.sleep(TICK_S)
            self.wall_s = max(self.wall_s, time.perf_counter() - wall - TICK_S)
            self.cpu_s = max(self.cpu_s, time.thread_time() - cpu)

    def tell(self) -> None:
        print(self.wall_s, self.cpu_s, flush=True)
        self.wall_s = self.cpu_s = 0.0


async def main() -> None:
    path = Path(sys.argv[1])
    config, _ = config_file.load(path)
    options = Options(path, "127.0.0.1:0", "127.0.0.1:0", drain_delay_s=0, log_level="warning")
    app = App(options, config, "", logs.LineWriter(sys.stderr.fileno()))
    start = app.grpc.start

    async def start_and_tell(address: str) -> int:
        port = await start(address)
        print(port, flush=True)
        return port

    app.grpc.start = start_and_tell  # type: ignore[method-assign]
    probe = Probe()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, probe.tell)
    ticking = asyncio.create_task(probe.run(), name="probe")
    await app.run()
    ticking.cancel()


if __name__ == "__main__":
    asyncio.run(main())

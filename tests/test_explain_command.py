"""`extproc explain` as it is typed: what it prints, and what it says of bad input."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from fleets import NOW, fleet, metrics

from extproc import explain_command as module
from extproc.engine_metrics import EngineMetrics
from extproc.explain_command import explain_command
from extproc.fleet import Fleet
from extproc.state import describe, queues
from extproc.work import Work

A, B, C = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"
CONFIG = f"""
pools: [{{name: p, endpoints: ['{A}', '{B}', '{C}'], queue: {{timeout_s: 1}}}}]
models:
- {{name: qwq, pool: p, targets: [{{model: x, weight: 3}}, {{model: y, weight: 1}}], sticky: {{header: x-user}}}}
- {{name: plain, pool: p}}
default_pool: null
"""


def a_fleet(text: str = CONFIG) -> Fleet:
    of = fleet(text)
    for address, running, tokens in ((A, 1, 4000), (B, 3, 0), (C, 0, 900)):
        ((_, each),) = of.at(address)
        of.scraped(address, metrics(running), NOW)
        each.acquire(Work(prompt_tokens=tokens, new_tokens=tokens), NOW)
    return of


def state_text(of: Fleet, **more: Any) -> bytes:
    assert of.router is not None
    return msgspec.json.encode({**describe(of.router, "abc", NOW + 0.5), **more})


@pytest.fixture
def saved(tmp_path: Path) -> str:
    file = tmp_path / "state.json"
    file.write_bytes(state_text(a_fleet()))
    return str(file)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(explain_command, arguments, catch_exceptions=False)


def output(*arguments: str) -> str:
    result = run(*arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def answer(*arguments: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(output(*arguments, "--json"))
    return told


def test_the_table_tells_scores_costs_the_pick_and_what_would_change_it(saved: str) -> None:
    text = output("--state", saved, "--model", "plain", "--prompt-tokens", "1000")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines == [
        "plain · pool p · prompt 1,000 tokens · profile default",
        "",
        "endpoint ours others' waiting KV age cached outstanding-work × 1 total",
        f"{C} 1 0 0 0% 0.50 s 1.000 1.000 ▶ chosen",
        f"{B} 1 3 0 0% 0.50 s 0.893 0.893",
        f"{A} 1 1 0 0% 0.50 s 0.000 0.000",
        "",
        "outstanding-work: seconds of waiting, summed over all that wait",
        "endpoint own tokens ahead KV wait LoRA wait × requests × slowness = cost",
        f"{C} 1,000 = 0.100 s 900 = 0.090 s 0.000 s 0.000 s 2 1.00 0.380 s",
        f"{B} 1,000 = 0.100 s 0 = 0.000 s 0.000 s 0.000 s 5 1.00 0.500 s",
        f"{A} 1,000 = 0.100 s 4,000 = 0.400 s 0.000 s 0.000 s 3 1.00 1.500 s",
        "",
        f"{C} gets it.",
        "",
        "What would change it:",
        f"{C} gets it no longer once it has 1 more request, or 600 more prompt tokens ahead (a tie)",
        f"{B} would be chosen if it had 2 fewer requests, or if it had 256 tokens of the prompt in its cache",
        f"{A} would be chosen if it had 3,734 fewer prompt tokens ahead",
    ]


def test_what_was_not_rated_has_no_total(saved: str) -> None:
    text = output("--state", saved, "--model", "plain", "--subset", A)
    row = next(line for line in text.splitlines() if line.startswith(A))
    assert row.split() == [A, "1", "1", "0", "0%", "0.50", "s", "▶", "chosen"]


def test_the_same_for_programs(saved: str) -> None:
    told = answer("--state", saved, "--model", "plain", "--prompt-tokens", "1000")
    assert (told["outcome"], told["endpoint"], told["as_good"]) == ("routed", C, [C])
    assert [row["address"] for row in told["endpoints"]] == [C, B, A]
    assert told["changes"][0] == {
        "endpoint": C,
        "what": "more_requests",
        "amount": 1,
        "tie": False,
        "text": "1 more request",
    }
    assert told["notes"] == []


def test_a_body_names_model_and_prompt(saved: str, tmp_path: Path) -> None:
    file = tmp_path / "body.json"
    file.write_text(json.dumps({"model": "plain", "messages": [{"role": "user", "content": "word " * 800}]}))
    told = answer("--state", saved, "--request", str(file))
    assert told["model"] == "plain"
    assert 900 <= told["prompt_tokens"] <= 1100


def test_headers_decide_a_sticky_target_and_the_seed_a_drawn_one(saved: str) -> None:
    asked = ("--state", saved, "--model", "qwq")
    drawn = [answer(*asked, "--seed", str(seed))["target_model"] for seed in range(12)]
    stuck = [answer(*asked, "--header", "X-User: ann", "--seed", str(seed)) for seed in range(6)]
    assert set(drawn) == {"x", "y"}
    assert len({told["target_model"] for told in stuck}) == 1
    assert {told["sticky"] for told in stuck} == {"x-user"}
    text = output(*asked, "--header", "X-User: ann")
    assert "target x: 75.0%, 3 ready endpoints" in text
    assert "◀ by the value of x-user" in text


def test_what_is_cached_can_be_said(saved: str) -> None:
    asked = ("--state", saved, "--model", "plain", "--prompt-tokens", "1000", "--cached", f"{B}=960")
    told = answer(*asked)
    assert told["endpoint"] == B
    assert [row["cached_tokens"] for row in told["endpoints"] if row["address"] == B] == [960]


def test_a_subset_hint_narrows(saved: str) -> None:
    assert answer("--state", saved, "--model", "plain", "--subset", "10.0.0.1")["endpoint"] == A


def test_another_config_can_be_tried(saved: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"pools: [{{name: p, endpoints: ['{A}', '{B}', '10.0.0.9:80']}}]")
    told = answer("--state", saved, "--config", str(file), "--model", "plain")
    assert {row["address"]: row["metrics_age_s"] for row in told["endpoints"]} == {
        A: 0.5,
        B: 0.5,
        "10.0.0.9:80": None,
    }


def test_it_is_said_who_waits_with_the_router(tmp_path: Path) -> None:
    of = a_fleet()
    waiting = {"pool": "p", "timeout_s": 1, "critical": 1, "standard": 2, "bytes": 9, "longest_wait_s": 0.1}
    file = tmp_path / "state.json"
    file.write_bytes(state_text(of, queues=[waiting]))
    text = output("--state", str(file), "--model", "plain")
    assert "Note: 3 requests wait with the router, 1 of them critical." in text
    assert of.router is not None
    from extproc.holding import Lobby

    (empty,) = queues(of.router, Lobby(), NOW)
    assert set(empty) == set(waiting)


def test_held_and_refused_requests_are_explained_too(tmp_path: Path) -> None:
    of = a_fleet()
    for address in (A, B, C):
        of.scraped(address, EngineMetrics(waiting=3, running=9), NOW)
    file = tmp_path / "state.json"
    file.write_bytes(state_text(of))
    text = output("--state", str(file), "--model", "plain")
    assert "It is held until an endpoint has room; " in text
    told = answer("--state", str(file), "--model", "plain", "--subset", "10.9.9.9")
    assert told["refusal"] == {
        "reason": "no_endpoints",
        "status": 503,
        "message": "No endpoint of pool `p` is ready to take the request.",
    }
    text = output("--state", str(file), "--model", "plain", "--subset", "10.9.9.9")
    assert "Refused: 503 no_endpoints: No endpoint of pool `p` is ready to take the request." in text


def test_a_made_up_prompt_has_no_home_by_hash_and_that_is_said(tmp_path: Path) -> None:
    text = CONFIG + "profiles: [{name: default, scorers: [{type: prefix-hash}]}]"
    file = tmp_path / "state.json"
    file.write_bytes(state_text(a_fleet(text)))
    (note,) = answer("--state", str(file), "--model", "plain")["notes"]
    assert note.startswith("The prompt is made up: ")


# -- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "m"], "Missing option '--state'."),
        (["--state", "x"], "give either --request or --model"),
        (["--state", "x", "--model", "m", "--request", "f"], "give either --request or --model"),
        (["--state", "x", "--request", "f", "--prompt-tokens", "1"], "--prompt-tokens goes with --model"),
        (["--state", "x", "--model", "m", "--header", "nothing"], "'nothing' is not 'name: value'"),
        (["--state", "x", "--model", "m", "--cached", "pod=1"], "'pod=1' is not IP:PORT=TOKENS"),
        (["--state", "x", "--model", "m", "--cached", f"{A}=many"], f"'{A}=many' is not IP:PORT=TOKENS"),
        (["--state", "x", "--model", "m", "--prompt-tokens", "-1"], "-1 is not in the range"),
    ],
)
def test_wrong_usage_is_exit_2(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_an_endpoint_that_is_not_there_cannot_have_cached_anything(saved: str) -> None:
    result = run("--state", saved, "--model", "plain", "--cached", "10.9.9.9:1=5")
    assert result.exit_code == 2
    assert "10.9.9.9:1 is not in pool p" in result.stderr


def failure(*arguments: str) -> str:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    return result.stderr


def test_what_cannot_be_explained_is_exit_1_with_a_reason(saved: str, tmp_path: Path) -> None:
    def file(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    missing, broken = str(tmp_path / "none"), file("broken", '{"model": ')
    other, faulty = file("other", "{}"), file("faulty", "pools: []")
    names_none = file("number", '{"model": 7}')
    plain = ("--model", "plain")
    assert failure("--state", missing, *plain) == (
        f"Error: {missing}: cannot be read: No such file or directory\n"
    )
    assert f"{other}: it is no state as /debug/state tells it: " in failure("--state", other, *plain)
    assert failure("--state", saved, "--model", "nope") == "Error: The model `nope` does not exist.\n"
    assert f"{broken}: " in failure("--state", saved, "--request", broken)
    assert failure("--state", saved, "--request", names_none) == "Error: The request names no model.\n"
    assert f"{faulty}: $.pools: " in failure("--state", saved, *plain, "--config", faulty)
    with_name = file("pod", state_text(a_fleet()).decode().replace(A, "pod-1"))
    assert f"{with_name}: 'pod-1' is not IP:PORT" in failure("--state", with_name, *plain)


# -- over HTTP ----------------------------------------------------------------------------------------------


@contextmanager
def serving(status: int, body: bytes) -> Iterator[str]:
    """A router's HTTP port that answers so; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/debug/state"
        finally:
            server.shutdown()
            thread.join()


def test_a_live_state_is_asked_for() -> None:
    with serving(200, state_text(a_fleet())) as url:
        assert answer("--state", url, "--model", "plain")["pool"] == "p"


def test_an_answer_that_is_no_state_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(404, b"nothing here") as url:
        assert failure("--state", url, "--model", "m") == f"Error: {url}: answered 404\n"
    with serving(200, b"<html>") as url:
        assert f"{url}: it is no state as /debug/state tells it: " in failure("--state", url, "--model", "m")
    monkeypatch.setattr(module, "MAX_STATE_BYTES", 10)
    with serving(200, b"{" + b" " * 100) as url:
        assert failure("--state", url, "--model", "m") == f"Error: {url}: longer than 10 bytes\n"


def test_a_port_where_nobody_listens_and_one_that_never_answers_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "FETCH_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        assert failure("--state", url, "--model", "m") == f"Error: {url}: no answer within 0.2 s\n"
    assert f"Error: {url}: cannot be read: " in failure("--state", url, "--model", "m")
    assert "Error: http://: cannot be read: " in failure("--state", "http://", "--model", "m")

"""Your own trace: which columns it may have, what becomes of them, and what is said where it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from extproc.benchmark.trace_file import TraceError, read_trace
from extproc.benchmark.traces import trace_workload
from extproc.benchmark.workload import Call, Replica
from extproc.sim.engine import EngineConfig
from extproc.sim.profiles import PROFILES

FLEET = (
    Replica(engine=EngineConfig(profile=PROFILES["a100-llama-3-8b"], num_blocks=1000, max_model_len=8192)),
)

# The first lines of AzureLLMInferenceTrace_code.csv (2023), of AzureLLMInferenceTrace_conv_1week.csv's form (2024),
# of BurstGPT's form, and of Mooncake's conversation_trace.jsonl (cut short).
AZURE_2023 = """\
TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
"""
AZURE_2024 = """\
TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.009930+00:00,2162,5
2024-05-10 00:00:00.017335+00:00,2399,6
"""
BURSTGPT = """\
Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,230,1317,Conversation log
"""
MOONCAKE = """\
{"timestamp": 1269000, "input_length": 1769, "output_length": 411, "hash_ids": [0, 67647, 70443, 70444]}
{"timestamp": 1271999, "input_length": 1100, "output_length": 456, "hash_ids": [0, 1, 2]}
"""


def written(directory: Path, text: str, name: str = "trace.csv") -> Path:
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return path


def call(at_s: float, prompt_tokens: int, output_tokens: int, blocks: tuple[range, ...] = ()) -> Call:
    return Call(at_s=at_s, prompt_tokens=prompt_tokens, output_tokens=output_tokens, blocks=blocks)


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        (AZURE_2023, [call(0, 4808, 10), call(pytest.approx(0.052, abs=1e-6), 3180, 8)]),
        (AZURE_2024, [call(0, 2162, 5), call(pytest.approx(0.007405, abs=1e-6), 2399, 6)]),
        (BURSTGPT, [call(0, 472, 18), call(40, 1087, 230)]),
        (
            MOONCAKE,
            [
                call(
                    0,
                    1769,
                    411,
                    (
                        range(32),
                        range(67647 * 32, 67647 * 32 + 32),
                        range(70443 * 32, 70443 * 32 + 32 + 14),
                    ),
                ),
                call(pytest.approx(2.999), 1100, 456, (range(68),)),
            ],
        ),
    ],
    ids=["azure-2023", "azure-2024", "burstgpt", "mooncake"],
)
def test_published_traces_are_read_as_they_are(tmp_path: Path, text: str, calls: list[Call]) -> None:
    assert read_trace(written(tmp_path, text)) == calls


def test_all_that_a_line_can_say_is_kept_in_csv_and_in_json_lines(tmp_path: Path) -> None:
    table = (
        "\ufefftimestamp,prompt_tokens,output_tokens,hash_ids,session,tenant,lora,priority,colour\n"
        '1.5,600,12,"7 8 9",s-1,acme,sql,Sheddable,red\n'
        "\n"
        "3.0,20,1.0,,,,,1,\n"
    )
    lines = (
        '\ufeff{"timestamp": 1.5, "prompt_tokens": 600, "output_tokens": 12, "hash_ids": [7, 8], "session": "s-1", '
        '"tenant": "acme", "lora": "sql", "priority": "sheddable", "colour": "red"}\n'
        "\n"
        '{"timestamp": "3", "prompt_tokens": 20, "output_tokens": 1.0, "lora": null, "priority": 1}\n'
    )
    expected = [
        Call(
            at_s=0,
            prompt_tokens=600,
            output_tokens=12,
            blocks=(range(224, 261),),
            session="s-1",
            tenant="acme",
            lora="sql",
            priority=-1,
        ),
        Call(at_s=1.5, prompt_tokens=20, output_tokens=1, priority=1),
    ]
    assert read_trace(written(tmp_path, table)) == expected
    assert read_trace(written(tmp_path, lines, "trace.jsonl")) == expected


def test_times_that_are_not_in_order_are_put_in_order(tmp_path: Path) -> None:
    text = "timestamp,prompt_tokens,output_tokens\n9,30,1\n4,10,1\n6,20,1\n"
    assert read_trace(written(tmp_path, text)) == [call(0, 10, 1), call(2, 20, 1), call(5, 30, 1)]


HEAD = "timestamp,prompt_tokens,output_tokens,priority,hash_ids\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "trace.csv: no requests in it"),
        ("\n \n", "trace.csv: no requests in it"),
        (HEAD, "trace.csv: no requests in it"),
        (
            "\ntime,prompt_tokens,reply\n",
            "trace.csv:2: no column timestamp or output_tokens; the columns are time, prompt_tokens, reply",
        ),
        ("\n\n" + HEAD + "\n1,2\n", "trace.csv:5: 2 cells, but the head line has 5"),
        (HEAD + "1,2\n", "trace.csv:2: 2 cells, but the head line has 5"),
        (HEAD + "1,5,5,,\n,5,5,,\n", "trace.csv:3: no timestamp"),
        (HEAD + "1,,,,\n", "trace.csv:2: no prompt_tokens and no output_tokens"),
        (HEAD + "\nsoon,5,5,,\n", "trace.csv:3: timestamp is 'soon', neither seconds nor ISO 8601"),
        (HEAD + "nan,5,5,,\n", "trace.csv:2: timestamp is nan, not a finite number"),
        (HEAD + "1,0,5,,\n", "trace.csv:2: prompt_tokens is '0', not an integer of 1 or more"),
        (HEAD + "1,many,5,,\n", "trace.csv:2: prompt_tokens is 'many', not an integer of 1 or more"),
        (HEAD + "1,5,-3,,\n", "trace.csv:2: output_tokens is '-3', not an integer of 1 or more"),
        (HEAD + "1,5,2.5,,\n", "trace.csv:2: output_tokens is '2.5', not an integer of 1 or more"),
        (
            HEAD + "1,5,5,urgent,\n",
            "trace.csv:2: priority is 'urgent', not Critical, Standard, Sheddable or an integer",
        ),
        (HEAD + "1,5,5,,4 x\n", "trace.csv:2: hash_ids has 'x', not an integer of 0 or more"),
        ('{"timestamp": 1, "prompt_tokens": 5}\n', "trace.csv:1: no output_tokens"),
        (
            '{"timestamp": 1, "prompt_tokens": 5, "output_tokens": 5}\n[1]\n',
            "trace.csv:2: not a JSON object on a line of its own",
        ),
        (
            '{"timestamp": 1, "prompt_tokens": 5, "output_tokens": true}\n',
            "trace.csv:1: output_tokens is True, not an integer of 1 or more",
        ),
        (
            '{"timestamp": 1, "prompt_tokens": 5, "output_tokens": 5, "hash_ids": {}}\n',
            "trace.csv:1: hash_ids is {}, not a list of integers",
        ),
        (
            '{"timestamp": 1, "prompt_tokens": 5, "output_tokens": 5, "tenant": ["a"]}\n',
            "trace.csv:1: tenant is ['a'], not text",
        ),
        (
            '{"timestamp": [1], "prompt_tokens": 5, "output_tokens": 5}\n',
            "trace.csv:1: timestamp is [1], neither seconds nor ISO 8601",
        ),
    ],
)
def test_a_fault_is_named_with_its_line_and_what_is_allowed(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TraceError) as caught:
        read_trace(written(tmp_path, text))
    assert str(caught.value) == f"{tmp_path}/{message}"


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(b"timestamp\xff\xfe")
    with pytest.raises(TraceError, match="not UTF-8 text"):
        read_trace(path)


# -- as a workload ----------------------------------------------------------------------------------------------------

FOUR = "timestamp,prompt_tokens,output_tokens,session\n10,100,5,a\n12,200,5,a\n13,300,5,\n16,400,5,\n"


def test_by_default_a_trace_runs_once_at_its_own_rate(tmp_path: Path) -> None:
    spec = trace_workload(written(tmp_path, FOUR, "mine.csv"), FLEET)
    workload = spec.make(1)
    assert [(call.at_s, call.prompt_tokens) for call in workload.calls] == [
        (0, 100),
        (2, 200),
        (3, 300),
        (6, 400),
    ]
    assert (spec.name, spec.description) == ("mine", "4 calls of mine.csv")
    assert (spec.rate, workload.duration_s, workload.warmup_s, workload.concurrency) == (0.5, 8, 0, None)
    assert workload.replicas == FLEET


def test_at_another_rate_the_times_are_stretched(tmp_path: Path) -> None:
    spec = trace_workload(written(tmp_path, FOUR), FLEET)
    assert [call.at_s for call in spec.make(1, rate=0.25, duration_s=16).calls] == [0, 4, 6, 12]


def test_a_longer_run_begins_the_trace_again_with_contents_and_sessions_of_its_own(tmp_path: Path) -> None:
    text = MOONCAKE.replace('"timestamp"', '"session": "s", "timestamp"')
    spec = trace_workload(written(tmp_path, text), FLEET)
    calls = spec.make(1, duration_s=spec.duration_s * 2).calls
    assert [call.at_s for call in calls] == pytest.approx([0, 2.999, 5.998, 8.997])
    assert [call.session for call in calls] == ["s", "s", "s/1", "s/1"]
    first, again = (
        {block for call in half for piece in call.blocks for block in piece}
        for half in (calls[:2], calls[2:])
    )
    assert len(first) == len(again)
    assert not first & again


def test_requests_that_fit_in_no_replica_are_left_out_and_counted(tmp_path: Path) -> None:
    text = "timestamp,prompt_tokens,output_tokens\n0,8000,192\n1,8000,193\n2,10,10\n"
    spec = trace_workload(written(tmp_path, text), FLEET)
    assert spec.description == "2 calls of trace.csv, 1 left out: over 8192 tokens"
    assert [call.prompt_tokens for call in spec.make(1).calls] == [8000, 10]


def test_a_trace_of_which_nothing_fits_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "timestamp,prompt_tokens,output_tokens\n0,9000,1\n")
    with pytest.raises(
        TraceError, match="every request is longer than the 8192 tokens that fit in a replica"
    ):
        trace_workload(path, FLEET)


def test_jitter_spreads_times_that_were_rounded_and_depends_on_the_seed_only(tmp_path: Path) -> None:
    text = "timestamp,prompt_tokens,output_tokens\n" + "".join(
        f"{3 * (i // 10)},{i + 1},1\n" for i in range(100)
    )
    spec = trace_workload(written(tmp_path, text), FLEET, jitter_s=3.0)
    times = [call.at_s for call in spec.make(1).calls]
    assert len(set(times)) == 100
    assert times == sorted(times)
    for call_ in spec.make(1).calls:
        step = 3 * ((call_.prompt_tokens - 1) // 10)
        assert step <= call_.at_s < step + 3
    assert times == [call.at_s for call in spec.make(1).calls]
    assert times != [call.at_s for call in spec.make(2).calls]


def test_a_trace_of_one_moment_still_has_a_duration(tmp_path: Path) -> None:
    spec = trace_workload(written(tmp_path, "timestamp,prompt_tokens,output_tokens\n5,1,1\n5,2,1\n"), FLEET)
    assert (spec.rate, spec.duration_s, len(spec.make(1).calls)) == (2, 1, 2)

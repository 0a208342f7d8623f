"""What `extproc manifests` says where answers are to be read."""

from __future__ import annotations

from manifest_runs import objects, of_kind, printed

CONFIG = """
pools: [{name: qwq, kubernetes: {service: vllm}}]
responses: {percent: 5}
"""
ARGUMENTS = ("-f", "-", "--gateway", "inference-gateway")


def test_envoy_gateway_lets_us_ask_for_those_that_are_read_and_sends_no_others() -> None:
    policy = of_kind(objects(*ARGUMENTS, stdin=CONFIG), "EnvoyExtensionPolicy")
    (processor,) = policy["spec"]["extProc"]
    assert processor["processingMode"] == {
        "allowModeOverride": True,
        "request": {"body": "Buffered"},
        "response": {"attributes": ["upstream.address", "response.code_details"]},
    }
    assert "extproc" in processor["metadata"]["writableNamespaces"]


def test_it_says_what_the_right_to_override_is_for() -> None:
    words = "By it we ask for the bodies of answers"
    assert words in " ".join(printed(*ARGUMENTS, stdin=CONFIG).replace("#", " ").split())
    without = CONFIG.replace("responses: {percent: 5}", "")
    assert words not in " ".join(printed(*ARGUMENTS, stdin=without).replace("#", " ").split())

"""InferenceModelRewrites: which rule serves a model's requests, and which rules are passed over."""

from __future__ import annotations

from typing import Any

import pytest
from kube_models import ONE, TWO, merged, model, rewrite, rule, targets, told

from extproc.config import parse_config
from extproc.config.schema import Criticality, ModelConfig, TargetConfig
from extproc.kube.model_objects import LLM_D_GROUP, X_GROUP


@pytest.mark.parametrize("group", [LLM_D_GROUP, X_GROUP])
def test_an_exact_match_is_a_model_with_the_rules_targets(group: str) -> None:
    made = merged(rewrite("r", rule("qwq", v1=90, v2=10), group=group))
    assert made.config.models == [
        ModelConfig("qwq", "p", targets=[TargetConfig("v1", 90), TargetConfig("v2", 10)])
    ]
    assert told(made) == {"r": ("True", "Accepted", "rules[0].matches[0]: model `qwq` in pool `p`")}


def test_a_rule_with_several_matches_serves_each() -> None:
    assert targets(merged(rewrite("r", rule("a b", v1=None)))) == {"a": {"v1": None}, "b": {"v1": None}}


def test_a_rule_without_matches_serves_the_models_that_are_not_listed() -> None:
    made = merged(rewrite("r", rule(v1=1)))
    assert targets(made) == {"*": {"v1": 1}}
    assert told(made) == {"r": ("True", "Accepted", "rules[0]: model `*` in pool `p`")}


def test_exact_rules_go_before_those_for_any_model_however_old_these_are() -> None:
    made = merged(rewrite("old", rule(any=1), age=9), rewrite("young", rule("qwq", exact=1)))
    assert targets(made) == {"*": {"any": 1}, "qwq": {"exact": 1}}


def test_the_first_rule_of_the_oldest_object_has_a_name() -> None:
    made = merged(
        rewrite("young", rule("qwq", young=1), rule("other", young=1), age=1),
        rewrite("old", rule("qwq", first=1), rule("qwq", second=1), age=2),
    )
    assert targets(made) == {"qwq": {"first": 1}, "other": {"young": 1}}
    used = "model `qwq` is in use by InferenceModelRewrite ns/old (created: 2025-03-01T22:00:00Z)"
    assert told(made) == {
        "old": (
            "True",
            "Accepted",
            f"rules[0].matches[0]: model `qwq` in pool `p`; rules[1].matches[0]: {used}",
        ),
        "young": (
            "True",
            "Accepted",
            f"rules[1].matches[0]: model `other` in pool `p`; rules[0].matches[0]: {used}",
        ),
    }


def test_an_object_all_of_whose_names_are_taken_is_not_accepted() -> None:
    made = merged(rewrite("b", rule("qwq", b=1)), rewrite("a", rule("qwq", a=1)))
    assert targets(made) == {"qwq": {"a": 1}}
    assert told(made)["b"][:2] == ("False", "ModelNameInUse")


@pytest.mark.parametrize(
    ("bad", "reason", "text"),
    [
        (rule("qwq"), "NoTargets", "rules[0]: no targets; the rule is skipped"),
        ({"matches": None, "targets": None}, "NoTargets", "rules[0]: no targets; the rule is skipped"),
        (rule("qwq", x=0), "NoTargets", "rules[0]: the weights are all 0; the rule is skipped"),
        (
            rule("qwq", x=1, y=None),
            "InvalidTargets",
            "rules[0]: targets: give every target a weight, or none",
        ),
        (
            rule("*", x=1),
            "UnusableName",
            "rules[0].matches[0]: model.value is `*`, which no model can be called",
        ),
        ({**rule(x=1), "matches": [{}]}, "UnusableName", "rules[0].matches[0]: model.value is missing"),
        (
            {**rule(x=1), "matches": [{"model": {"type": "Prefix", "value": "q"}}]},
            "UnsupportedMatch",
            "rules[0].matches[0]: model.type 'Prefix' is unknown; Exact is",
        ),
    ],
)
def test_a_rule_that_cannot_serve_is_told_and_skipped_and_the_next_has_its_turn(
    bad: dict[str, Any], reason: str, text: str
) -> None:
    alone = merged(rewrite("r", bad))
    assert alone.config is ONE
    assert told(alone) == {"r": ("False", reason, text)}
    made = merged(rewrite("r", bad, rule("qwq", good=1)))
    assert targets(made) == {"qwq": {"good": 1}}
    assert told(made) == {"r": ("True", "Accepted", f"rules[1].matches[0]: model `qwq` in pool `p`; {text}")}
    assert made.reports == (f"InferenceModelRewrite ns/r: {text}",)


def test_an_object_without_rules_has_nothing_to_accept() -> None:
    assert told(merged(rewrite("r"))) == {"r": ("False", "NoTargets", "no rules")}


def test_a_condition_lists_five_things_of_many() -> None:
    made = merged(rewrite("r", *[rule(f"m{n}") for n in range(9)]))
    (_, _, message) = told(made)["r"]
    assert message.endswith("rules[4]: no targets; the rule is skipped; and 4 more")
    assert len(made.reports) == 9


def test_a_rewrite_decides_over_targets_and_the_inference_model_over_criticality() -> None:
    of_model = model("m", "qwq", 1, criticality="Critical", targetModels=[{"name": "x"}])
    for age in (0, 2):  # whichever is older
        made = merged(of_model, rewrite("r", rule("qwq", y=1), age=age))
        assert made.config.models == [
            ModelConfig("qwq", "p", criticality=Criticality.CRITICAL, targets=[TargetConfig("y", 1)])
        ]
        rewritten = "model `qwq` in pool `p`, with the targets of InferenceModelRewrite ns/r"
        assert told(made)["m"] == ("True", "Accepted", rewritten)


def test_a_rewrite_serves_a_name_that_an_inference_model_reserves() -> None:
    reserved = model("m", "qwq", targetModels=[{"name": "x", "weight": 0}])
    assert targets(merged(reserved, rewrite("r", rule("qwq", y=1)))) == {"qwq": {"y": 1}}


def test_a_name_that_an_older_object_has_in_another_pool_is_not_rewritten() -> None:
    made = merged(model("m", "qwq", 9, pool="other"), rewrite("r", rule("qwq", y=1)), config=TWO)
    assert made.config.models == [ModelConfig("qwq", "q")]
    assert told(made)["r"][:2] == ("False", "ModelNameInUse")


def test_a_rule_for_any_model_of_a_pool_that_is_not_the_default_is_never_reached() -> None:
    made = merged(rewrite("r", rule(x=1), pool="other"), config=TWO)
    text = "rules[0]: never reached: models that are not listed go to pool `p`"
    assert (made.config, told(made)) == (TWO, {"r": ("False", "NotReachable", text)})
    without = parse_config(b"pools: [{name: p, kubernetes: {inference_pool: pool}}]\ndefault_pool: null")
    refused = "rules[0]: never reached: models that are not listed are refused"
    assert told(merged(rewrite("r", rule(x=1)), config=without)) == {"r": ("False", "NotReachable", refused)}


def test_the_files_rule_for_any_model_wins() -> None:
    file = parse_config(
        b"pools: [{name: p, kubernetes: {inference_pool: pool}}]\n"
        b"models: [{name: '*', pool: p, targets: [{model: f}]}]"
    )
    made = merged(rewrite("r", rule(x=1)), config=file)
    assert made.config == file
    assert told(made) == {"r": ("False", "OverriddenByFile", "rules[0]: the file's entry for any model wins")}


def test_an_object_that_moved_to_the_new_group_counts_there() -> None:
    old, new = (
        rewrite("r", rule("qwq", old=1), age=9, group=X_GROUP),
        rewrite("r", rule("qwq", new=1), age=1, group=LLM_D_GROUP),
    )
    made = merged(old, new)
    assert targets(made) == {"qwq": {"new": 1}}
    assert [(each.object.group, each.condition.reason) for each in made.verdicts] == [
        (X_GROUP, "Superseded"),
        (LLM_D_GROUP, "Accepted"),
    ]
    assert made.reports == ("InferenceModelRewrite ns/r: the object of this name in llm-d.ai counts instead",)

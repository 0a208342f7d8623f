"""InferenceModels become models of the config; what an object does not get is told in its condition."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kube_models import ONE, POOLS, TWO, merged, meta, model, objective, rewrite, rule, targets, told

from extproc.config import parse_config
from extproc.config.checks import check
from extproc.config.schema import Criticality, ModelConfig, TargetConfig
from extproc.errors import Fault
from extproc.kube import models
from extproc.kube.model_objects import X_GROUP, Condition, Identity, InferenceModel, Verdict
from extproc.kube.models import Merged, ModelObjects, PoolIdentity, merge

HALVES: Any = [{"name": "a", "weight": 50}, {"name": "b", "weight": 50}]


def test_an_inference_model_is_a_model_of_its_pool() -> None:
    made = merged(
        model("sample", "qwq", criticality="Critical", targetModels=[{"name": "qwq-32b", "weight": 100}])
    )
    assert made.config.models == [
        ModelConfig("qwq", "p", criticality=Criticality.CRITICAL, targets=[TargetConfig("qwq-32b", 100)])
    ]
    assert told(made) == {"sample": ("True", "Accepted", "model `qwq` in pool `p`")}
    assert made.reports == ()


def test_without_target_models_the_name_itself_is_the_target() -> None:
    assert merged(model("a", "qwq")).config.models == [ModelConfig("qwq", "p")]
    assert merged(model("a", "qwq", targetModels=None)).config.models == [ModelConfig("qwq", "p")]


def test_target_models_without_weights_share_equally() -> None:
    made = merged(model("a", "qwq", targetModels=[{"name": "x"}, {"name": "y"}]))
    assert targets(made) == {"qwq": {"x": None, "y": None}}


def test_a_verdict_says_of_which_object_in_which_state_it_is() -> None:
    text = {
        "apiVersion": f"{X_GROUP}/v1alpha1",
        "metadata": meta("a", 1, uid="u-1", resourceVersion="77", generation=3),
        "spec": {"modelName": "qwq", "poolRef": {"name": "pool"}},
        "status": {"conditions": [{"type": "Ready", "status": "Unknown", "reason": "Pending"}]},
    }
    made = merged(msgspec.convert(text, InferenceModel))
    assert made.verdicts == (
        Verdict(
            Identity(X_GROUP, "v1alpha1", "inferencemodels", "ns", "a", "u-1", "77"),
            3,
            Condition("Accepted", "True", "Accepted", "model `qwq` in pool `p`", 3),
            (Condition("Ready", "Unknown", "Pending"),),
        ),
    )


@pytest.mark.parametrize(
    "more",
    [
        {"pool": "another"},
        {"poolRef": {"name": "pool", "kind": "Service"}},
        {"poolRef": {"name": "pool", "group": "example.com"}},
        {"poolRef": {}},
        {"meta": {"namespace": "elsewhere"}},
    ],
)
def test_an_object_of_a_pool_that_we_do_not_serve_is_another_pickers(more: dict[str, Any]) -> None:
    assert merged(model("a", "qwq", **more)) == Merged(ONE, (), ())


@pytest.mark.parametrize("group", ["inference.networking.k8s.io", X_GROUP, ""])
def test_a_pool_is_meant_whichever_of_its_groups_the_reference_names(group: str) -> None:
    assert targets(merged(model("a", "qwq", poolRef={"name": "pool", "group": group}))) == {"qwq": {}}


def test_of_two_models_with_one_name_the_oldest_has_it_and_the_other_is_told_who() -> None:
    made = merged(model("young", "qwq", 1, targetModels=HALVES), model("old", "qwq", 9))
    assert targets(made) == {"qwq": {}}
    lost = "model `qwq` is in use by InferenceModel ns/old (created: 2025-03-01T15:00:00Z)"
    assert told(made) == {
        "old": ("True", "Accepted", "model `qwq` in pool `p`"),
        "young": ("False", "ModelNameInUse", lost),
    }
    assert made.reports == (f"InferenceModel ns/young: {lost}",)


def test_of_two_that_are_as_old_the_first_by_name_wins() -> None:
    made = merged(model("b", "qwq"), model("a", "qwq"))
    assert {name: reason for name, (_, reason, _) in told(made).items()} == {
        "a": "Accepted",
        "b": "ModelNameInUse",
    }


def test_a_name_is_used_once_in_all_pools_that_one_router_serves() -> None:
    made = merged(model("young", "qwq", 1), model("old", "qwq", 2, pool="other"), config=TWO)
    assert [(each.name, each.pool) for each in made.config.models] == [("qwq", "q")]
    assert told(made)["young"][1] == "ModelNameInUse"


def test_a_model_that_goes_leaves_its_name_to_the_next() -> None:
    young = model("young", "qwq", 1, targetModels=HALVES)
    assert targets(merged(young)) == {"qwq": {"a": 50, "b": 50}}


BAD: list[tuple[dict[str, Any], str, str]] = [
    (
        {"targetModels": [{"name": "x", "weight": 1}, {"name": "y"}]},
        "InvalidTargets",
        "targetModels: give every target a weight, or none",
    ),
    (
        {"targetModels": [{"name": "x", "weight": 0}, {"name": "y"}]},
        "InvalidTargets",
        "targetModels: give every target a weight, or none",
    ),
    ({"targetModels": [{"name": "x"}, {"name": "x"}]}, "InvalidTargets", "targetModels[1]: 'x' stands twice"),
    (
        {"targetModels": [{"name": "x", "weight": -1}]},
        "InvalidTargets",
        "targetModels[0]: weight -1 is not 0..1000000",
    ),
    (
        {"targetModels": [{"weight": 1}]},
        "InvalidTargets",
        "targetModels[0]: the name has 1..256 bytes and no control characters",
    ),
    (
        {"targetModels": [{"name": f"t{n}"} for n in range(101)]},
        "InvalidTargets",
        "targetModels: 101 of them; at most 100 are allowed",
    ),
    (
        {"criticality": "Urgent"},
        "InvalidCriticality",
        "criticality 'Urgent' is none of Critical, Standard, Sheddable",
    ),
    ({"modelName": ""}, "UnusableName", "modelName is missing"),
    ({"modelName": None}, "UnusableName", "modelName is missing"),
    ({"modelName": "é" * 129}, "UnusableName", "modelName has more than 256 bytes or control characters"),
    ({"modelName": "a\nb"}, "UnusableName", "modelName has more than 256 bytes or control characters"),
    ({"modelName": "*"}, "UnusableName", "modelName is `*`, which no model can be called"),
]


@pytest.mark.parametrize(("spec", "reason", "message"), BAD)
def test_a_faulty_model_is_refused_with_the_reason_and_the_others_go_on(
    spec: dict[str, Any], reason: str, message: str
) -> None:
    made = merged(model("bad", "qwq", 9, **spec), model("good", "qwq", 1))
    assert told(made)["bad"] == ("False", reason, message)
    assert told(made)["good"][1] == "Accepted"
    assert targets(made) == {"qwq": {}}
    assert made.reports == (f"InferenceModel ns/bad: {message}",)


def test_a_model_whose_weights_are_all_0_reserves_its_name() -> None:
    made = merged(model("a", "qwq", targetModels=[{"name": "x", "weight": 0}], version="v1alpha1"))
    assert made.config.models == [ModelConfig("qwq", "p", reserved=True)]
    assert told(made) == {
        "a": ("True", "Accepted", "the name `qwq` is reserved; requests for it are refused")
    }


FILE = parse_config(
    b"""
pools: [{name: p, kubernetes: {inference_pool: pool}}]
models: [{name: qwq, pool: p, targets: [{model: of-the-file}]}]
objectives: [{name: batch, priority: -5}]
"""
)


def test_what_the_file_names_wins_whole_and_that_is_reported_once_a_name() -> None:
    made = merged(
        model("one", "qwq", 9, criticality="Critical", targetModels=HALVES),
        model("two", "qwq"),
        rewrite("three", rule("qwq", x=1)),
        objective("batch", 7),
        model("free", "other"),
        config=FILE,
    )
    assert made.config.models == [*FILE.models, ModelConfig("other", "p")]
    assert made.config.objectives == FILE.objectives
    message = "the file's entry for model `qwq` wins"
    assert told(made) == {
        "one": ("False", "OverriddenByFile", message),
        "two": ("False", "OverriddenByFile", message),
        "three": ("False", "OverriddenByFile", f"rules[0].matches[0]: {message}"),
        "batch": ("False", "OverriddenByFile", "the file's entry for objective `batch` wins"),
        "free": ("True", "Accepted", "model `other` in pool `p`"),
    }
    assert made.reports == (
        f"{message} over InferenceModelRewrite ns/three, InferenceModel ns/one, InferenceModel ns/two",
        "the file's entry for objective `batch` wins over InferenceObjective ns/batch",
    )


def test_an_object_that_is_told_in_two_versions_is_one() -> None:
    twice = [model("a", "qwq", version=version) for version in ("v1alpha2", "v1alpha1")]
    made = merged(*twice)
    assert [(each.object.version, each.condition.reason) for each in made.verdicts] == [
        ("v1alpha2", "Accepted")
    ]


def test_what_the_cluster_adds_stands_behind_the_files_by_name() -> None:
    made = merged(
        model("1", "b", 9),
        model("2", "c", 8),
        model("3", "a", 7),
        objective("z", 1, age=9),
        objective("y", 1),
        config=FILE,
    )
    assert [each.name for each in made.config.models] == ["qwq", "a", "b", "c"]
    assert [each.name for each in made.config.objectives] == ["batch", "y", "z"]


def test_with_nothing_to_add_the_config_is_the_files() -> None:
    assert merged().config is ONE


def test_two_pools_that_follow_one_inference_pool_give_its_models_to_the_first() -> None:
    both = {"p": PoolIdentity("ns", "pool"), "q": PoolIdentity("ns", "pool")}
    made = merge(TWO, both, ModelObjects([model("a", "qwq")]))
    assert [(each.name, each.pool) for each in made.config.models] == [("qwq", "p")]


def test_what_a_check_of_configs_finds_is_refused_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A safety net: no fault is known that gets so far, so that one is made here."""

    def check_more(config: Any) -> Any:
        for index, each in enumerate(config.models):
            if each.name == "qwq" and each.targets:
                yield Fault(f"$.models[{index}].targets", "not today")

    monkeypatch.setattr(models, "check", check_more)
    made = merged(model("a", "qwq", 9, targetModels=HALVES), model("b", "qwq"), model("c", "other"))
    assert told(made)["a"] == ("False", "Invalid", "targets: not today")
    assert targets(made) == {"other": {}, "qwq": {}}


NAMES = st.sampled_from(["m1", "m2", "*", ""])
AGES = st.integers(1, 3)
TARGETS = st.lists(
    st.builds(
        lambda n, w: {"name": n, "weight": w},
        st.sampled_from(["x", "y", ""]),
        st.sampled_from([None, 0, 1, 9]),
    ),
    max_size=3,
)
MODELS = st.builds(
    lambda n, m, a, p, t, c: model(n, m, a, p, targetModels=t, criticality=c),
    st.sampled_from("abc"),
    NAMES,
    AGES,
    st.sampled_from(["pool", "other", "none"]),
    TARGETS,
    st.sampled_from([None, "Critical", "Odd"]),
)
RULES = st.lists(
    st.builds(
        lambda n, t: rule(" ".join(n), **dict.fromkeys(t, 1)),
        st.lists(NAMES, max_size=2),
        st.lists(st.sampled_from(["x", "y"]), max_size=2),
    ),
    max_size=3,
)
REWRITES = st.builds(
    lambda n, r, a, p, g: rewrite(n, *r, age=a, pool=p, group=g),
    st.sampled_from("def"),
    RULES,
    AGES,
    st.sampled_from(["pool", "other"]),
    st.sampled_from([X_GROUP, "llm-d.ai"]),
)
OBJECTIVES = st.builds(
    lambda n, v, p, g: objective(n, v, p, g),
    st.sampled_from("gh"),
    st.sampled_from([None, 0, -3, 2**40]),
    st.sampled_from(["pool", "other"]),
    st.sampled_from([X_GROUP, "llm-d.ai"]),
)


def unlike(objects: list[Any]) -> list[Any]:
    """A cluster has one object of a group, kind and name."""
    return list({each.key: each for each in objects}.values())


@settings(max_examples=200, deadline=None)
@given(
    st.lists(MODELS | REWRITES | OBJECTIVES, max_size=8)
    .map(unlike)
    .flatmap(lambda objects: st.tuples(st.just(objects), st.permutations(objects))),
    st.sampled_from([ONE, TWO, FILE]),
)
def test_the_same_objects_make_the_same_config_in_any_order_and_a_sound_one(orders: Any, config: Any) -> None:
    first, second = (merged(*objects, config=config) for objects in orders)
    assert first == second
    assert list(check(first.config)) == []
    ours = [
        each
        for each in orders[0]
        if each.spec.pool_ref.name in {"pool", *(["other"] if config is TWO else [])}
    ]
    assert sorted(verdict.object.key for verdict in first.verdicts) == sorted(each.key for each in ours)
    refused = {verdict.object.key for verdict in first.verdicts if verdict.condition.status == "False"}
    assert refused <= {refusal.source.key for refusal in first.refusals}
    assert set(POOLS) >= {each.pool for each in first.config.models}

"""`extproc manifests --output`: a directory for kustomize, whole or on top of a base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner
from manifest_runs import GUIDE, objects, printed, refused

from extproc.manifests.command import manifests

ROUTER = ("-f", str(GUIDE), "--part", "router")


def kustomization(directory: Path) -> dict[str, Any]:
    made: dict[str, Any] = yaml.safe_load((directory / "kustomization.yaml").read_text())
    return made


def test_one_file_an_object_and_a_kustomization_that_names_them(tmp_path: Path) -> None:
    assert printed(*ROUTER, "--output", str(tmp_path)) == ""
    assert kustomization(tmp_path)["resources"] == [
        "serviceaccount.yaml",
        "role.yaml",
        "rolebinding.yaml",
        "deployment.yaml",
        "service.yaml",
        "poddisruptionbudget.yaml",
        "networkpolicy.yaml",
    ]
    read = [yaml.safe_load((tmp_path / name).read_text()) for name in kustomization(tmp_path)["resources"]]
    assert read == [each for each in objects(*ROUTER) if each["kind"] != "ConfigMap"]


def test_the_config_is_a_file_of_its_own(tmp_path: Path) -> None:
    printed(*ROUTER, "--output", str(tmp_path))
    (config_map,) = [each for each in objects(*ROUTER) if each["kind"] == "ConfigMap"]
    assert (tmp_path / "router.yaml").read_text() == config_map["data"]["router.yaml"]
    assert kustomization(tmp_path)["configMapGenerator"] == [
        {
            "name": "extproc",
            "namespace": "default",
            "files": ["router.yaml"],
            "options": {
                "disableNameSuffixHash": True,
                "labels": {"app.kubernetes.io/name": "extproc"},
            },
        }
    ]


def test_on_top_of_a_base_only_what_differs_is_written(tmp_path: Path) -> None:
    base, overlay = tmp_path / "base", tmp_path / "far" / "overlay"
    printed(*ROUTER, "--output", str(base))
    printed(*ROUTER, "--replicas", "3", "--base", str(base), "--output", str(overlay))
    assert sorted(path.name for path in overlay.iterdir()) == ["kustomization.yaml", "patch-deployment.yaml"]
    assert kustomization(overlay) == {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["../../base"],
        "patches": [{"path": "patch-deployment.yaml"}],
    }


def test_another_config_replaces_the_bases(tmp_path: Path) -> None:
    base, overlay = tmp_path / "base", tmp_path / "overlay"
    printed(*ROUTER, "--output", str(base))
    printed(*ROUTER, "--inline", "--base", str(base), "--output", str(overlay))
    assert sorted(path.name for path in overlay.iterdir()) == ["kustomization.yaml", "router.yaml"]
    assert kustomization(overlay)["configMapGenerator"][0]["behavior"] == "replace"


def test_several_objects_of_a_kind_are_told_apart(tmp_path: Path) -> None:
    config = (
        "pools: [{name: a, kubernetes: {service: s, namespace: models}}, {name: b, kubernetes: {service: b}}]"
    )
    printed("-f", "-", "--gateway", "g", "--output", str(tmp_path), stdin=config)
    roles = sorted(name for name in kustomization(tmp_path)["resources"] if name.startswith("role-"))
    assert roles == ["role-default-extproc.yaml", "role-models-extproc.yaml"]


def test_a_base_that_has_more_is_refused(tmp_path: Path) -> None:
    base = tmp_path / "base"
    printed(*ROUTER, "--output", str(base))
    message = refused(
        "a", "--gateway", "g", "--name", "other", "--base", str(base), "--output", str(tmp_path)
    )
    assert message == (
        f"--base {base}: has Deployment default/extproc, which does not belong to these objects"
    )


def test_a_base_that_is_none_is_refused(tmp_path: Path) -> None:
    asked = (*ROUTER, "--output", str(tmp_path / "x"), "--base", str(tmp_path))
    assert refused(*asked) == f"--base {tmp_path}: No such file or directory"
    (tmp_path / "kustomization.yaml").write_text("[]")
    assert refused(*asked).startswith(f"--base {tmp_path}: not what --output writes: ")


def test_a_directory_that_cannot_be_made_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "x"
    assert refused(*ROUTER, "--output", str(place)) == f"--output {place}: Not a directory"


def test_a_base_without_an_output_is_a_mistake() -> None:
    result = CliRunner().invoke(manifests, [*ROUTER, "--base", "x"])
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (2, "Error: --base goes with --output")

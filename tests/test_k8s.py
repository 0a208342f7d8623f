"""`k8s/` is what `extproc manifests` writes: kept up to date, rendered by kubectl, valid, and of one piece."""

from __future__ import annotations

import functools
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from crd_validation import errors, has_schema
from kubectl_program import HOW, kubectl
from manifest_runs import Object, objects, of_kind, printed

K8S = Path(__file__).parent.parent / "k8s"
OVERLAYS = sorted(str(path.parent.relative_to(K8S)) for path in K8S.rglob("kustomization.yaml"))
EXAMPLES = [f"examples/{name}" for name in ("qwq-32b", "canary", "mirror")]
needs_kubectl = pytest.mark.skipif(kubectl() is None, reason=HOW)


def commands() -> dict[str, list[str]]:
    """The arguments of each command in generate.sh, by the directory that it writes."""
    lines = (K8S / "generate.sh").read_text().splitlines()
    found = [shlex.split(line)[2:] for line in lines if line.startswith("extproc manifests ")]
    return {args[args.index("--output") + 1]: args for args in found}


def without(args: list[str], *options: str) -> list[str]:
    """*args* without these options and their values."""
    return [
        arg
        for index, arg in enumerate(args)
        if arg not in options and (index == 0 or args[index - 1] not in options)
    ]


@functools.cache
def rendered(directory: str) -> str:
    """What kubectl makes of a directory of `k8s/`."""
    program = kubectl()
    assert program is not None
    done = subprocess.run(
        [program, "kustomize", str(K8S / directory)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def render(directory: str) -> list[Object]:
    return list(yaml.load_all(rendered(directory), Loader=yaml.CSafeLoader))


def by_identity(made: list[Object]) -> dict[tuple[str, str, str], Object]:
    return {(e["kind"], e["metadata"].get("namespace", ""), e["metadata"]["name"]): e for e in made}


def test_there_are_the_bases_and_overlays_that_the_documents_name() -> None:
    assert set(OVERLAYS) >= {"base", "envoy-gateway", "inference-pool", "inference-pool-istio", *EXAMPLES}


def test_the_generated_files_are_those_that_the_commands_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = commands()
    ignored = {str(Path(directory)) for directory in made}
    shutil.copytree(K8S, tmp_path / "k8s", ignore=lambda path, names: [
        name for name in names if str((Path(path) / name).relative_to(K8S)) in ignored
    ])  # fmt: skip
    monkeypatch.chdir(tmp_path / "k8s")
    for directory, args in made.items():
        printed(*args)
        written = {path.name: path.read_text() for path in (tmp_path / "k8s" / directory).iterdir()}
        assert written == {path.name: path.read_text() for path in (K8S / directory).iterdir()}, (
            "sh k8s/generate.sh writes them anew; a file that none writes is to be deleted"
        )


@pytest.mark.parametrize("directory", OVERLAYS)
def test_a_kustomization_names_files_that_are_there(directory: str) -> None:
    made: dict[str, Any] = yaml.safe_load((K8S / directory / "kustomization.yaml").read_text())
    files = [file for each in made.get("configMapGenerator", []) for file in each["files"]]
    patches = [each["path"] for each in made.get("patches", []) if "path" in each]
    for name in [*made["resources"], *files, *patches]:
        assert (K8S / directory / name).exists(), name


@needs_kubectl
@pytest.mark.parametrize("directory", OVERLAYS)
def test_kubectl_renders_it_and_an_api_server_would_take_it(directory: str) -> None:
    made = render(directory)
    assert made
    assert [error for each in made if has_schema(each) for error in errors(each)] == []
    assert {each["kind"] for each in made if not has_schema(each)} <= {"DestinationRule"}


@needs_kubectl
@pytest.mark.parametrize("directory", commands())
def test_what_kubectl_renders_is_what_is_printed(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(K8S)
    made = objects(*without(commands()[directory], "--output", "--base"))
    assert by_identity(render(directory)) == by_identity(made)


@needs_kubectl
@pytest.mark.parametrize("directory", EXAMPLES)
def test_an_example_is_of_one_piece(directory: str) -> None:
    made = render(directory)
    gateway = of_kind(made, "Gateway")
    parent = of_kind(made, "HTTPRoute")["spec"]["parentRefs"][0]
    assert parent["name"] == gateway["metadata"]["name"]
    assert parent["port"] in [listener["port"] for listener in gateway["spec"]["listeners"]]
    parameters = gateway["spec"]["infrastructure"]["parametersRef"]
    assert parameters["name"] == of_kind(made, "EnvoyProxy")["metadata"]["name"]
    services = {each["metadata"]["name"]: each["spec"] for each in made if each["kind"] == "Service"}
    for rule in of_kind(made, "HTTPRoute")["spec"]["rules"]:
        mirrors = [f["requestMirror"]["backendRef"] for f in rule.get("filters", []) if "requestMirror" in f]
        for ref in [*rule.get("backendRefs", []), *mirrors]:
            assert ref["port"] in [port["port"] for port in services[ref["name"]]["ports"]]
            assert pods_of(made, services[ref["name"]]["selector"])


def pods_of(made: list[Object], selector: dict[str, str]) -> list[Object]:
    """The pod templates that a selector finds."""
    templates = [each["spec"]["template"] for each in made if each["kind"] == "Deployment"]
    return [each for each in templates if selector.items() <= each["metadata"]["labels"].items()]


def served_by(template: Object) -> str:
    """The model name that a pod answers to."""
    words = shlex.split(template["spec"]["containers"][0]["command"][-1])
    return words[words.index("--served-model-name") + 1]


@needs_kubectl
@pytest.mark.parametrize("directory", EXAMPLES)
def test_every_target_is_served_by_the_pods_of_its_pool(directory: str) -> None:
    made = render(directory)
    config = yaml.safe_load(of_kind(made, "ConfigMap")["data"]["router.yaml"])
    (pool,), (model,) = config["pools"], config["models"]
    for target in model["targets"]:
        selector = pool["kubernetes"]["selector"] | target.get("labels", {})
        assert {served_by(pod) for pod in pods_of(made, selector)} == {target["model"]}
    for mirror in model.get("mirrors", []):
        service = of_kind(made, "Service", mirror["service"].partition(":")[0])
        models = {served_by(pod) for pod in pods_of(made, service["spec"]["selector"])}
        assert models == {target["model"] for target in model["targets"]}

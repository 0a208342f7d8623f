"""The Dockerfile, without a Docker: what it copies is there and installs, and it agrees with the manifests."""

from __future__ import annotations

import asyncio
import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from prometheus_client import CollectorRegistry

from extproc.http_server import HttpServer
from extproc.manifests.plan import CONFIG_FILE, GRPC_PORT, HTTP_PORT
from extproc.manifests.workload import CONFIG_DIRECTORY, USER_ID

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


class Step(NamedTuple):
    """One instruction."""

    verb: str
    text: str

    @property
    def words(self) -> list[str]:
        return json.loads(self.text) if self.text.startswith("[") else shlex.split(self.text)


def stages() -> list[list[Step]]:
    """The instructions from each FROM to the next."""
    text = re.sub(r"\\\n", "", re.sub(r"(?m)^#.*\n", "", (ROOT / "Dockerfile").read_text()))
    found: list[list[Step]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        verb, _, rest = line.partition(" ")
        if verb == "FROM":
            found.append([])
        found[-1].append(Step(verb, rest.strip()))
    return found


BUILD, FINAL = stages()


def the(verb: str, stage: list[Step] = FINAL) -> list[str]:
    """The words of the one instruction that is called so."""
    (step,) = [step for step in stage if step.verb == verb]
    return step.words


def copied() -> list[tuple[list[str], str]]:
    """(sources, destination) from the project's directory."""
    found = [step.words for step in BUILD if step.verb == "COPY"]
    return [(words[:-1], words[-1]) for words in found]


def test_what_is_copied_is_there_and_not_ignored() -> None:
    lines = (ROOT / ".dockerignore").read_text().split("\n")
    allowed = [line[1:] for line in lines if line.startswith("!")]
    sources = [source for sources, _ in copied() for source in sources]
    assert sorted(sources) == sorted(allowed)
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert "*" in lines


def test_the_final_image_has_what_was_built_and_no_source_tree() -> None:
    (copy,) = [step.words for step in FINAL if step.verb == "COPY"]
    assert copy == ["--from=build", "/opt/extproc", "/opt/extproc"]
    assert [step.verb for step in FINAL if step.verb == "ADD"] == []
    (environment,) = [step.text for step in FINAL if step.verb == "ENV"]
    assert "PATH=/opt/extproc/bin:$PATH" in environment.split()


def test_both_stages_are_the_same_slim_python_that_the_project_supports() -> None:
    images = [stage[0].words[0] for stage in (BUILD, FINAL)]
    assert images[0] == images[1]
    version = re.fullmatch(r"python:(3\.\d+)-slim", images[0])
    assert version is not None
    assert f"Programming Language :: Python :: {version[1]}" in PROJECT["classifiers"]


def test_the_project_is_installed_with_what_otlp_needs() -> None:
    """Which is configured by the environment alone; its protos last, as xds-protos puts old ones in their place."""
    installs = [step.words for step in BUILD if step.words[0] == "pip"]
    assert [install[-1] for install in installs] == [".[otlp]", "opentelemetry-proto"]
    assert installs[1][-3:-1] == ["--no-deps", "--force-reinstall"]


def test_it_names_no_package_index() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert re.findall(r"index|https?://(?!')|trusted-host", text) == []


def test_user_ports_entry_point_and_config_are_those_of_the_manifests() -> None:
    assert the("USER") == [f"{USER_ID}:{USER_ID}"]
    assert the("EXPOSE") == [str(GRPC_PORT), str(HTTP_PORT)]
    assert the("ENTRYPOINT") == list(PROJECT["scripts"]) == ["extproc"]
    assert the("CMD") == ["serve", f"--config={CONFIG_DIRECTORY}/{CONFIG_FILE}"]
    deployment = yaml.safe_load((ROOT / "k8s/base/deployment.yaml").read_text())
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert "command" not in container
    assert container["args"][:2] == the("CMD")
    assert [port["containerPort"] for port in container["ports"]] == list(map(int, the("EXPOSE")))
    assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsNonRoot"]) == (USER_ID, True)


def test_in_the_container_there_is_no_root_no_pip_and_as_the_manifests_run_it_nothing_to_write(
    tmp_path: Path,
) -> None:
    assert the("USER") == [f"{USER_ID}:{USER_ID}"]
    assert "python -m venv --without-pip /opt/extproc" in [step.text for step in BUILD]
    uninstall, _, rest = next(step.text for step in FINAL if step.verb == "RUN").partition(" && ")
    assert rest == "rm -rf /usr/local/lib/python3.*/ensurepip"
    assert _pip_is_left_after(shlex.split(uninstall), tmp_path / "base") is False

    deployment = yaml.safe_load((ROOT / "k8s/base/deployment.yaml").read_text())
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert [mount["readOnly"] for mount in container["volumeMounts"]] == [True]


def _pip_is_left_after(step: list[str], directory: Path) -> bool:
    """Of the step in an environment with a pip, as the base image has one."""
    venv.create(directory, with_pip=True)
    python = directory / "bin" / step[0]
    subprocess.run([python, *step[1:]], check=True, capture_output=True, timeout=60)
    left = subprocess.run([python, "-m", "pip"], check=False, capture_output=True, timeout=60)
    return b"No module named pip" not in left.stderr


def test_every_dependency_is_pinned_within_its_range() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    names = {canonicalize_name(name): version for name, version in pins.items()}
    for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["otlp"]]:
        wanted = Requirement(text)
        assert wanted.specifier.contains(names[canonicalize_name(wanted.name)]), text


@pytest.mark.timeout(300)
def test_what_is_copied_installs_into_a_fresh_environment_and_runs(tmp_path: Path) -> None:
    """The build's steps with our own Python, and without the dependencies, which are here already."""
    source, made = tmp_path / "src", tmp_path / "extproc"
    source.mkdir()
    for sources, destination in copied():
        for name in sources:
            target = source / destination / (name if (ROOT / name).is_file() else "")
            _copy(ROOT / name, target)
    for step in BUILD:
        if step.verb == "RUN":
            words = [word.replace("/opt/extproc", str(made)) for word in step.words]
            if words[0] == "pip":
                words = [sys.executable, "-m", *words, "--no-deps"]
            done = subprocess.run(words, cwd=source, capture_output=True, text=True, timeout=240, check=False)
            assert done.returncode == 0, done.stderr
    (config := tmp_path / "router.yaml").write_text("pools: [{name: p, endpoints: ['127.0.0.1:1']}]")
    (dependencies,) = {str(Path(path).parent.parent) for path in [yaml.__file__]}
    checked = subprocess.run(
        [made / "bin" / the("ENTRYPOINT")[0], "check", config],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": dependencies},
    )
    assert (checked.stdout.startswith(f"{config}: valid; "), checked.stderr) == (True, "")
    assert list(made.glob("lib/python*/site-packages/extproc/demo/bootstraps/*.yaml"))


def _copy(source: Path, target: Path) -> None:
    if source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    else:
        shutil.copytree(source, target, ignore=lambda _, names: fnmatch.filter(names, "__pycache__"))


async def healthy(address: str) -> bool:
    """What the health check says of a service whose HTTP port is there."""
    words = shlex.split(next(step.text for step in FINAL if step.verb == "HEALTHCHECK").partition(" CMD ")[0])
    assert all(word.startswith("--") for word in words)
    command = json.loads(
        next(step.text for step in FINAL if step.verb == "HEALTHCHECK").partition(" CMD ")[2]
    )
    assert command[0] == "python"
    environment = {"EXTPROC_HTTP_ADDRESS": address, "http_proxy": "http://127.0.0.1:1"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command[1:], env=environment, stderr=asyncio.subprocess.DEVNULL
    )
    return await asyncio.wait_for(process.wait(), 30) == 0


async def test_the_health_check_asks_livez() -> None:
    http = HttpServer(CollectorRegistry(), lambda: ["not ready"], list, dict, lambda *_: [])
    port = await http.start("127.0.0.1", 0)
    try:
        assert await healthy(f"0.0.0.0:{port}")
    finally:
        await http.stop()
    assert not await healthy(f"0.0.0.0:{port}")

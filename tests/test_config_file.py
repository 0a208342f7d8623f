"""A config file is our own YAML, or Kubernetes objects as they stand."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from extproc import config_file
from extproc.cli import cli
from extproc.config.schema import Config, Criticality, KubernetesConfig, ModelConfig, PoolConfig, TargetConfig
from extproc.errors import ConfigError

GUIDE = Path(__file__).parent / "data" / "guide"
"""A vendor's guide, word for word (see its README)."""


def guide(*names: str) -> bytes:
    return b"\n---\n".join((GUIDE / name).read_bytes() for name in names)


def test_the_guides_objects_are_a_config_as_they_stand() -> None:
    names = [path.name for path in sorted(GUIDE.glob("*.yaml"))]
    assert len(names) == 4
    assert config_file.parse(guide(*names)) == Config(
        pools=[
            PoolConfig("reasoning-pool", kubernetes=KubernetesConfig(selector={"app": "qwq-32b"}, port=8000))
        ],
        models=[
            ModelConfig(
                "qwq",
                "reasoning-pool",
                criticality=Criticality.CRITICAL,
                targets=[TargetConfig("qwq-32b", 100)],
            )
        ],
    )


def test_they_can_be_checked(tmp_path: Path) -> None:
    file = tmp_path / "guide.yaml"
    file.write_bytes(guide("inference-pool.yaml", "inference-model.yaml"))
    result = CliRunner().invoke(cli, ["check", str(file)])
    assert (result.exit_code, result.output) == (
        0,
        f"{file}: valid; 1 pool (1 in the cluster), 0 endpoints, 1 model\n",
    )


def test_a_fault_says_in_which_document_it_is() -> None:
    text = guide("inference-pool.yaml", "inference-model.yaml").replace(
        b"criticality: Critical", b"criticality: High"
    )
    with pytest.raises(ConfigError) as raised:
        config_file.parse(text)
    assert [str(fault) for fault in raised.value.faults] == [
        "document 2: $.spec: criticality 'High' is none of Critical, Standard, Sheddable"
    ]


def test_a_config_that_only_speaks_of_an_api_version_is_a_config() -> None:
    text = b"pools: [{name: p, endpoints: [{address: '10.0.0.1:80', labels: {apiVersion: v1}}]}]"
    assert [pool.name for pool in config_file.parse(text).pools] == ["p"]
    with pytest.raises(ConfigError, match="unknown key"):
        config_file.parse(b"apiVersion: v1\n" + text)

"""The documents say what the program does: their configs, objects, commands and links are held against it.

A block of YAML that is deliberately not whole says so in its first line: `# part of router.yaml`, or `# part of KIND`.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner
from command_table import COMMANDS
from crd_validation import custom_kinds, errors, has_schema
from manifest_runs import config_of, objects, of_kind
from markdown_pages import PAGES, ROOT, Block, Page, page

from extproc import cli, config_file

BLOCKS = [block for each in PAGES.values() for block in each.blocks]
YAML = [block for block in BLOCKS if block.language == "yaml"]
OTHERS_FLAGS = {
    *("--type", "--since", "--timeout", "--validate", "--no-deps", "--rounds"),
    *("--metrics", "--enable-metrics", "--enable-metrics-for-all-schedulers"),
    *("--enable-force-include-usage", "--enable-prompt-tokens-details"),
    *("--served-model-name", "--enable-lora", "--lora-modules", "--drain-time-s"),
}
"""Of other programs."""
GATEWAY = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "g"}


# -- YAML ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", YAML, ids=str)
def test_yaml_is_a_config_or_objects_that_would_be_taken(block: Block) -> None:
    partial = re.match(r"# part of (\S+)\n", block.text)
    if partial and partial[1] != "router.yaml":
        assert _faults_of_part(partial[1], block.text) == []
        return
    documents = list(yaml.safe_load_all(block.text))
    if any("apiVersion" in document for document in documents):
        assert [error for each in documents if has_schema(each) for error in errors(each)] == []
        _take([each for each in documents if not has_schema(each)])
    else:
        assert len(documents) == 1
        config_file.parse(_whole(documents[0]) if partial else block.text.encode())


def _faults_of_part(kind: str, text: str) -> list[str]:
    """Unknown fields and wrong values; what is missing stands elsewhere."""
    (version,) = {version for version, known in custom_kinds() if known == kind}
    part = yaml.safe_load(text)
    if kind.endswith("Policy"):  # a rule of theirs insists on it
        part["spec"].setdefault("targetRefs", [GATEWAY])
    whole = {"apiVersion": version, "kind": kind, "metadata": {"name": "part"}, **part}
    return [error for error in errors(whole) if not error.endswith(" is missing")]


def _take(objects_of_ours: list[Any]) -> None:
    """Models are read with a pool that they refer to, where the block has none."""
    if not objects_of_ours:
        return
    documents = list(objects_of_ours)
    if not any(each["kind"] == "InferencePool" for each in documents):
        first = documents[0]
        meta = {**first["metadata"], "name": first["spec"]["poolRef"]["name"]}
        spec = {"selector": {"app": "vllm"}, "targetPortNumber": 8000}
        version = "inference.networking.x-k8s.io/v1alpha2"
        documents.append({"apiVersion": version, "kind": "InferencePool", "metadata": meta, "spec": spec})
    config_file.parse(yaml.safe_dump_all(documents).encode())


def _whole(part: dict[str, Any]) -> bytes:
    """*part* of a config with the pools that it lacks."""
    names = {model["pool"] for model in part.get("models", [])} or {"a"}
    missing = [{"name": name, "endpoints": ["10.0.0.1:8000"]} for name in sorted(names)]
    return yaml.safe_dump({"pools": missing, **part}).encode()


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "json"], ids=str)
def test_json_is_json(block: Block) -> None:
    json.loads(block.text)


def test_blocks_say_what_they_are() -> None:
    assert {block.language for block in BLOCKS} <= {
        "",
        "console",
        "dockerfile",
        "json",
        "python",
        "sh",
        "yaml",
    }


# -- commands -----------------------------------------------------------------------------------------------------


def _commands() -> Iterator[tuple[str, list[str]]]:
    """(where, words) of each command line of ours."""
    for each in PAGES.values():
        shown = [(str(b), b.text) for b in each.blocks if b.language in ("sh", "console")]
        for where, text in [*shown, *((str(each), span) for span in each.spans)]:
            for line in text.replace("\\\n", " ").splitlines():
                found = re.search(r"^(?:\$ )?(?:.*\| )?(extproc [a-z-].*)", line)
                if found:
                    yield f"{where}: {found[1]}", _words(found[1])


README_FILES = {
    "router.yaml": next(block.text for block in YAML if block.page == "README.md"),
    "typo.yaml": """
        pools: [{name: a, endpoints: ["10.0.0.1:8000"]}]
        models: [{name: qwq, pool: a, critcality: Critical}]
    """,
    "name.yaml": """
        pools: [{name: a, endpoints: [{address: 10.0.0.1:8000}, {address: "vllm-0:8000"}]}]
    """,
}


def _shown_checks() -> dict[str, str]:
    """By file, what README shows for `extproc check` of it."""
    shown = "\n".join(b.text for b in BLOCKS if b.page == "README.md" and b.language == "console")
    return dict(re.findall(r"^\$ extproc check (\S+)\n([^$].*)$", shown, re.MULTILINE))


def test_what_readme_shows_of_check_is_what_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in README_FILES.items():
        Path(name).write_text(text)
    printed = {name: CliRunner().invoke(cli.cli, ["check", name]).output.strip() for name in README_FILES}
    assert _shown_checks() == printed


def _words(line: str) -> list[str]:
    """Up to a pipe, a redirection or a comment."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.commenters = "#"
    lexer.wordchars += "…:{}[]=,@\\"
    words = []
    for word in lexer:
        if set(word) <= set("|&;<>()"):
            break
        words.append(word)
    return [word for word in words[1:] if word != "…"]


COMMAND_LINES = dict(_commands())


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_command_lines_have_options_that_exist(line: str) -> None:
    name, *words = COMMAND_LINES[line]
    if name == "--version":
        return
    command = COMMANDS[name]
    context = click.Context(command)
    given, _, _ = command.make_parser(context).parse_args(words)
    for parameter in command.params:
        if parameter.name in given and isinstance(parameter.type, click.Choice):
            parameter.type_cast_value(context, given[parameter.name])


def test_flags_that_are_named_exist() -> None:
    ours = {flag for command in COMMANDS.values() for option in command.params for flag in option.opts}
    spans = [span for each in PAGES.values() for span in each.spans]
    named = {found for span in spans for found in re.findall(r"(?<!\S)--[a-z][a-z-]+", span)}
    assert named - ours - OTHERS_FLAGS <= {"--help", "--version"}


@pytest.mark.parametrize("name", ["install", "canary"])
def test_the_first_config_is_checked_as_shown(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = page(name).blocks
    first = next(block for block in blocks if block.language == "yaml")
    Path("router.yaml").write_text(first.text)
    shown = next(block for block in blocks if "$ extproc check router.yaml\n" in block.text)

    told = CliRunner().invoke(cli.cli, ["check", "router.yaml"])

    assert (told.exit_code, told.output) == (0, shown.text.split("\n", 1)[1].split("$ ")[0])


def test_the_guides_objects_make_the_config_that_is_shown() -> None:
    pool, shown = [block for block in page("install").blocks if block.language == "yaml"][-2:]
    made = objects("-f", "-", "--inline", stdin=pool.text)
    assert config_of(made) == yaml.safe_load(shown.text)


def test_the_mirrors_rule_is_the_one_that_is_printed() -> None:
    config, shown = [block for block in page("mirror").blocks if block.language == "yaml"]
    made = objects("-f", "-", "--gateway", "inference-gateway", "--port", "8081", stdin=config.text)
    rules = of_kind(made, "HTTPRoute")["spec"]["rules"]
    assert yaml.safe_load(shown.text)["spec"]["rules"] == [rule for rule in rules if "mirror" in rule["name"]]


def test_nobody_is_told_to_install_by_the_name_of_a_strangers_package() -> None:
    """Who has no copy of ours installed gets another program of that name from the public package index."""
    read = [ROOT / "Dockerfile", ROOT / "Makefile", *ROOT.glob("*.md")]
    for folder in ("docs", "envoy", "extproc", "k8s", "monitoring"):
        read += [path for path in (ROOT / folder).rglob("*") if path.suffix in (".md", ".py", ".sh", ".yaml")]
    named = re.compile(r"extproc\[[a-z]|pip install '?extproc\b")
    told = {str(path.relative_to(ROOT)): named.findall(path.read_text()) for path in read}
    assert {name: found for name, found in told.items() if found} == {}


# -- links --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    here = PAGES[name]
    broken = []
    for link in here.links:
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (here.path.parent / path).resolve() if path else here.path
        if not target.exists() or (anchor and anchor not in Page(target).anchors):
            broken.append(link)
    assert broken == []


def test_every_page_is_linked_from_the_first() -> None:
    linked = {link.partition("#")[0] for link in PAGES["README.md"].links}
    assert {name for name in PAGES if name.startswith("docs/")} <= linked

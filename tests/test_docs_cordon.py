"""How a pod is taken out of service, as the documents tell it: by what works on a router as it is printed."""

from __future__ import annotations

from manifest_runs import GUIDE, objects, of_kind
from markdown_pages import Page, page

from extproc.kube.membership import CORDON


def section(of: Page, heading: str) -> str:
    """The prose and blocks below *heading*, up to the next."""
    return of.text.split(f"\n{heading}\n", 1)[1].split("\n#", 1)[0]


def test_the_runbook_of_a_failing_pod_begins_with_what_needs_no_token() -> None:
    runbook = section(page("monitoring"), "### ExtprocEndpointSetAside")
    annotation = f"`kubectl annotate pod POD {CORDON}=true`"
    assert 0 < runbook.index(annotation) < runbook.index("operating.md")


def test_the_command_is_told_with_the_flag_that_it_needs_and_no_manifest_has() -> None:
    told = section(page("operating"), "## Take a pod out of service: cordon")
    before = told[: told.index("$ extproc cordon")]
    (container,) = of_kind(objects("-f", str(GUIDE)), "Deployment")["spec"]["template"]["spec"]["containers"]
    assert not any("--http-token-file" in argument for argument in container["args"])
    assert "`--http-token-file`" in before
    assert "(403)" in before
    assert f"`kubectl annotate pod POD {CORDON}=true`" in before

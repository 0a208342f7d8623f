"""What `extproc bench` does once its options are read."""

from __future__ import annotations

import datetime
import shlex
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import asdict, replace
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from extproc import __version__, config_file
from extproc.benchmark.matrix import FULL, QUICK, Case, Matrix, Search
from extproc.benchmark.policies import OWN, POLICIES, OwnConfig
from extproc.benchmark.report import print_report, write
from extproc.benchmark.report.groups import groups
from extproc.benchmark.results import LEAST_REQUEST, Report, WorkloadNote
from extproc.benchmark.runner import Results, Specs
from extproc.benchmark.runner import run as run_matrix
from extproc.benchmark.trace_file import TraceError
from extproc.benchmark.traces import trace_workload
from extproc.benchmark.verdicts import verdicts
from extproc.benchmark.workload import Replica
from extproc.benchmark.workloads import WORKLOADS
from extproc.benchmark.workloads.spec import WorkloadSpec
from extproc.errors import ConfigError
from extproc.sim.engine_config import EngineConfig
from extproc.sim.profiles import PROFILES

T = TypeVar("T")
TRACE = "trace"


class UsageError(Exception):
    """An option that makes no sense; the text says what is allowed."""


class Options(Struct, frozen=True, kw_only=True):
    """The options of `extproc bench`; see there."""

    workloads: tuple[str, ...] = ()
    full: bool = False
    seeds: int | None = None
    loads: tuple[float, ...] = ()
    rate: float | None = None
    policies: tuple[str, ...] = ()
    routers: tuple[int, ...] = ()
    duration_s: float | None = None
    config: Path | None = None
    trace: Path | None = None
    gpu: str = "a100-llama-3-8b"
    replicas: int = 5
    jitter_s: float = 0.0
    strict: bool = False
    processes: int | None = None
    output: Path = Path("bench-routing")


FLAGS = {"duration_s": "--duration", "jitter_s": "--jitter", "loads": "--load", "policies": "--policy"}
"""Of options whose names are other."""
UNTOLD = ("workloads", "processes", "output", "strict")
"""Options that do not change what comes out, but for the first, which have no flag."""


def listing() -> str:
    """The workloads and policies, a line each."""
    lines = ["workloads:"]
    lines += [f"  {spec.name:14} {spec.description}" for spec in WORKLOADS.values()]
    lines += ["policies:", *(f"  {name}" for name in POLICIES), f"  {OWN} (with --config)"]
    return "\n".join(lines)


def run(options: Options) -> int:
    """Run, print, write; 0, or with `strict` 1 where a figure is missed.  Raises UsageError, RunError."""
    specs = _specs(options)
    matrix = _matrix(options, specs)
    _make_directory(options.output)
    console = Console()
    begun = time.perf_counter()
    results = _simulate(matrix, specs, options.processes, console)
    report = _report(options, matrix, specs, results, time.perf_counter() - begun)
    print_report(report, console)
    for path in write(report, options.output):
        console.print(f"wrote {path}", style="dim")
    return 1 if options.strict and any(verdict.holds is False for verdict in report.verdicts) else 0


def _make_directory(path: Path) -> None:
    """Before the first run: minutes later would be a pity."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output {path}: {error.strerror}") from None


def _simulate(matrix: Matrix, specs: Specs, processes: int | None, console: Console) -> Results:
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    ) as progress:
        task = progress.add_task("simulating")
        return run_matrix(
            matrix,
            specs,
            lambda done, total: progress.update(task, completed=done, total=total),
            processes,
        )


def _report(options: Options, matrix: Matrix, specs: Specs, results: Results, wall_s: float) -> Report:
    report = Report(
        version=__version__,
        made_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        full=options.full,
        command=_command(options),
        workloads=tuple(_note(specs[case.workload]) for case in matrix.cases),
        cells=tuple(results.cells),
        capacities=tuple(results.capacities),
        series=tuple(results.series),
        simulated_s=results.simulated_s,
        wall_s=wall_s,
    )
    return replace(report, verdicts=tuple(verdicts(groups(report), report.capacities)))


def _specs(options: Options) -> Specs:
    if options.trace is None:
        return WORKLOADS
    if options.gpu not in PROFILES:
        raise UsageError(f"--gpu {options.gpu!r} is not known; allowed: {', '.join(PROFILES)}")
    profile = PROFILES[options.gpu]
    replica = Replica(engine=EngineConfig(profile=profile, num_blocks=profile.num_blocks))
    try:
        spec = trace_workload(options.trace, (replica,) * options.replicas, jitter_s=options.jitter_s)
    except (TraceError, OSError) as error:
        raise UsageError(str(error)) from None
    return {**WORKLOADS, TRACE: replace(spec, name=TRACE)}


def _matrix(options: Options, specs: Specs) -> Matrix:
    names = _once((*options.workloads, TRACE) if options.trace else options.workloads)
    base = FULL if options.full else QUICK
    seeds = options.seeds or base.seeds
    if not names:
        refused = [name for name in ("loads", "policies", "routers") if getattr(options, name)]
        if refused or options.rate or options.duration_s or options.config:
            raise UsageError(
                "--load, --rate, --policy, --routers, --duration and --config go with named workloads"
            )
        searches = tuple(replace(search, seeds=min(search.seeds, seeds)) for search in base.searches)
        return replace(base, seeds=seeds, searches=searches)
    unknown = [name for name in names if name not in specs]
    if unknown:
        raise UsageError(f"workload {unknown[0]!r} is not known; allowed: {', '.join(specs)}")
    cases = tuple(_case(name, options, specs[name], base) for name in names)
    searches = tuple(
        Search(
            workload=case.workload,
            policies=(LEAST_REQUEST,),
            seeds=min(seeds, 4),
            duration_s=options.duration_s,
        )
        for case in cases
        if not case.closed and not case.given
    )
    return Matrix(seeds=seeds, searches=searches, cases=cases)


def _case(name: str, options: Options, spec: WorkloadSpec, base: Matrix) -> Case:
    case = next(
        (case for case in base.cases if case.workload == name), Case(workload=name, closed=spec.closed)
    )
    if spec.closed and not options.loads:
        case = replace(case, loads=(spec.rate,))
    if options.loads:
        case = replace(case, loads=_once(options.loads), given=False)
    if options.rate:
        case = replace(case, loads=(options.rate,), given=not spec.closed)
    if spec.closed and any(load < 1 for load in case.loads):
        raise UsageError(f"the load of {name} is its clients, and so 1 or more")
    own = _own(options.config) if options.config else None
    policies = _policies(options) or case.policies
    if own is not None and OWN not in policies:
        policies = (OWN, *policies)
    return replace(
        case,
        policies=policies,
        routers=_once(options.routers) or (() if options.policies else case.routers),
        duration_s=options.duration_s or case.duration_s,
        own=own,
        series=True,
    )


def _policies(options: Options) -> tuple[str, ...]:
    known = (*POLICIES, OWN) if options.config else tuple(POLICIES)
    for name in options.policies:
        if name not in known:
            raise UsageError(f"policy {name!r} is not known; allowed: {', '.join(known)}")
    return _once(options.policies)


def _own(path: Path) -> OwnConfig:
    try:
        config, _ = config_file.load(path)
    except ConfigError as error:
        raise UsageError("\n".join(f"{path}: {fault}" for fault in error.faults)) from None
    pool = config.pools[0]
    return OwnConfig(pool, config.profile(pool.profile))


def _command(options: Options) -> str:
    """What makes the same figures again."""
    words = list(options.workloads)
    for name, default in asdict(Options()).items():
        value = getattr(options, name)
        flag = FLAGS.get(name, f"--{name}")
        if name in UNTOLD or value == default:
            continue
        if value is True:
            words.append(flag)
        else:
            for each in value if isinstance(value, tuple) else (value,):
                words += [flag, str(each)]
    if words in ([], ["--full"]):
        return "make bench-routing" + (" FULL=1" if words else "")
    return shlex.join(("extproc", "bench", *words))


def _once(values: Iterable[T]) -> tuple[T, ...]:
    """Without those that were given twice."""
    return tuple(dict.fromkeys(values))


def _note(spec: WorkloadSpec) -> WorkloadNote:
    names = {id(profile): name for name, profile in PROFILES.items()}
    kinds = Counter(
        (names.get(id(replica.engine.profile), "another GPU"), *replica.labels.values())
        for replica in spec.replicas
    )
    fleet = ", ".join(f"{count} × {' '.join(kind)}" for kind, count in kinds.items())
    return WorkloadNote(name=spec.name, what=spec.description, fleet=fleet)

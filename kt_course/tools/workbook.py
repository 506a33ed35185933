"""`kt workbook`: run the notebooks in order, and gather everything in one folder.

- 01_….ipynb, 01_….html: each notebook as it ran, and a page of it that needs no network.
- runs/: what the notebooks trained, and their results (their runs_dir).
- report/: the table of the runs trained here, if any.
- index.html: the front page; glossary.html and bibliography.html.
- results.json: facts, seconds and peak memory of each notebook.
"""

import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import papermill
import psutil
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from kt_core.corpora.files import one_writer, read_json, sha256, write_json
from kt_core.corpora.loading import load_corpus
from kt_core.corpora.paths import checkout_dir, data_dir
from kt_core.evaluation import Score
from kt_core.runs.recipes import recipe
from kt_course.tools import options as opt
from kt_course.tools.front_page import write_front_page
from kt_course.tools.html_export import write_page
from kt_course.tools.report import write_report
from kt_course.tools.site import Site, read_site, write_appendices

DEFAULTS = dict(profile="quick", corpus="bios", variant=None, seed=0, device="auto", overrides={})


class WorkbookError(ValueError):
    """A notebook stopped; the message names it, the cell and the error."""


def notebooks_dir() -> Path:
    """Folder of the notebooks: the checkout's, or what an installed wheel carries."""
    root = checkout_dir()
    return root / "notebooks" if root else data_dir() / "notebooks"


def find_notebooks(names: Sequence[str] = (), folder: Path | None = None) -> list[Path]:
    """Find notebooks by number ("3", "03"), name ("03_span", a file's name) or path.

    Returns:
        The notebooks in order; all of `folder` if none is named.
    """
    notebooks = sorted((folder or notebooks_dir()).glob("[0-9]*.ipynb"))
    if not notebooks:
        raise ValueError(f"{folder or notebooks_dir()}: no notebooks there")
    chosen = set()
    for name in map(str, names):
        if name.endswith(".ipynb") and Path(name).is_file():
            chosen.add(Path(name).resolve())
            continue
        start = f"{int(name):02d}_" if name.isdigit() else Path(name).name.removesuffix(".ipynb")
        matches = [path for path in notebooks if path.stem.startswith(start)]
        matches = [path for path in matches if path.stem == start] or matches
        if len(matches) != 1:
            number = "more than one" if matches else "no"
            stems = ", ".join(path.stem for path in notebooks)
            raise ValueError(f"{number} notebook {name!r}; there are {stems}")
        chosen.add(matches[0])
    return sorted(chosen) if chosen else notebooks


class _Kernel(AsyncKernelManager):
    """A kernel of the running interpreter, whatever others are installed; keeps its peak memory."""

    peak_mib: float | None = None
    environment: dict[str, str] = {}

    @property
    def kernel_spec(self) -> KernelSpec:
        quiet = "--IPKernelApp.log_level=50"  # nothing about sockets and interrupts
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", quiet]
        return KernelSpec(argv=argv, display_name="Python 3", language="python")

    async def _async_start_kernel(self, **options: Any) -> None:
        options["env"] = {**os.environ, **options.get("env", {}), **type(self).environment}
        await super()._async_start_kernel(**options)

    start_kernel = _async_start_kernel

    async def _async_shutdown_kernel(self, *args: Any, **options: Any) -> None:
        pid = getattr(self.provisioner, "pid", None)
        type(self).peak_mib = _peak_mib(pid) or type(self).peak_mib
        await super()._async_shutdown_kernel(*args, **options)

    shutdown_kernel = _async_shutdown_kernel


def _peak_mib(pid: int | None) -> float | None:
    """Peak resident memory of a live process in MiB; None where the platform keeps none."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError, ValueError):
        pass
    try:
        return psutil.Process(pid).memory_info().peak_wset / 2**20  # Windows
    except (psutil.Error, AttributeError, ValueError):
        return None


def known_parameters(notebook: str | Path) -> dict[str, Any]:
    """Names and defaults of a notebook's parameters; ValueError without a cell `parameters`."""
    logging.getLogger("papermill").setLevel(logging.ERROR)
    parameters = papermill.inspect_notebook(str(notebook))
    if not parameters:
        raise ValueError(f"{notebook}: no cell tagged `parameters`")
    return {name: about["default"] for name, about in parameters.items()}


def parameters_for(
    notebooks: Sequence[Path], values: Mapping[str, Any]
) -> dict[Path, dict[str, Any]]:
    """Which of the parameters in `values` each notebook takes; ValueError if none takes one."""
    names_of = {path: known_parameters(path) for path in notebooks}
    every = sorted(set().union(*names_of.values()))
    for name, value in values.items():
        if name not in every and value != DEFAULTS.get(name):
            stems = ", ".join(path.stem for path in notebooks)
            raise ValueError(f"no parameter {name!r} in {stems}; there are {', '.join(every)}")
    return {path: {n: values[n] for n in values if n in names} for path, names in names_of.items()}


@dataclass(frozen=True)
class Outcome:
    """The cost of running a notebook, and the error that stopped it, if any."""

    seconds: float
    peak_mib: float | None
    error: BaseException | None = None


def execute(
    notebook: Path,
    out: Path,
    parameters: Mapping[str, Any],
    cwd: Path,
    show_prints: bool = False,
    n_threads: int | None = None,
) -> Outcome:
    """Run one notebook with papermill; errors are returned, not raised.

    Args:
        notebook: What to run.
        out: The notebook as it ran, with a cell's error if one failed (a WorkbookError).
        parameters: Values for its cell `parameters`.
        cwd: The kernel's folder.
        show_prints: Print what the cells print as it comes.
        n_threads: Of the kernel's computations; by default as many as PyTorch chooses.
    """
    details = {"environment": _kernel_environment(n_threads), "__module__": __name__}
    kernel = type("Kernel", (_Kernel,), details)
    began, error = time.perf_counter(), None
    try:
        papermill.execute_notebook(
            str(notebook),
            str(out),
            dict(parameters),
            kernel_name="python3",
            cwd=str(cwd),
            progress_bar=sys.stderr.isatty(),
            kernel_manager_class=kernel,
            stdout_file=sys.stdout if show_prints else None,
        )
    except papermill.PapermillExecutionError as stop:
        place = f"{notebook.stem}, cell [{stop.exec_count}]"
        error = WorkbookError(f"{place}: {stop.ename}: {stop.evalue}")
    except KeyboardInterrupt as stop:
        error = stop
    except Exception as stop:  # the kernel died or did not start, or a cell took too long
        error = WorkbookError(f"{notebook.stem}: {type(stop).__name__}: {str(stop).strip()}")
    return Outcome(time.perf_counter() - began, kernel.peak_mib, error)


def _kernel_environment(n_threads: int | None) -> dict[str, str]:
    """The variables that a kernel gets besides those of this process."""
    path = filter(None, [str(checkout_dir() or ""), os.environ.get("PYTHONPATH")])
    environment = {"KT_PROGRESS": os.environ.get("KT_PROGRESS") or "off"}
    environment |= {"PYTHONPATH": os.pathsep.join(path)}
    return environment | ({"OMP_NUM_THREADS": str(n_threads)} if n_threads else {})


def run_workbook(
    notebooks: list[str] = (),
    /,
    *,
    profile: opt.Profile = "quick",
    corpus: opt.Corpus = "bios",
    variant: opt.Variant | None = None,
    seed: opt.Seed = 0,
    device: opt.Device = "auto",
    settings: opt.Settings = (),
    jobs: opt.Count = 1,
    out: Path | None = None,
    source: Path | None = None,
) -> Path:
    """Run the notebooks in order; gather pages, results and a report in one folder.

    A cell that fails stops the run, and what was done stays. The folder of a stopped workbook with
    the same parameters can be given again: the models trained there are used.

    Args:
        notebooks: Which ones, by number, name or path; all by default.
        variant: The variant of the notebooks that leave it open.
        jobs: Notebooks at a time, each with its part of the cores.
        out: The folder; by default runs/workbook-PROFILE-TIME.
        source: Folder of the notebooks; by default the project's.
    """
    paths = find_notebooks(notebooks, source)
    overrides = opt.parse_settings(settings)
    recipe("smoke" if profile == "smoke" else "quick", **overrides)  # refuses a mistyped setting
    if corpus and Path(corpus).is_dir():
        corpus = str(Path(corpus).resolve())  # the notebooks run in another folder
    load_corpus(corpus)  # refuses what is not there
    parameters = dict(profile=profile, corpus=corpus, variant=variant, seed=seed, device=device)
    parameters["overrides"] = overrides
    values = {name: value for name, value in parameters.items() if value is not None}
    chosen = parameters_for(paths, values | {"runs_dir": "runs"})
    out = (out or Path(time.strftime(f"runs/workbook-{profile}-%Y%m%d-%H%M%S"))).resolve()
    with one_writer(out / ".lock", str(out)):
        _run_all(paths, chosen, jobs, out, _read_results(out, parameters))
    return out


def _run_all(
    paths: Sequence[Path], chosen: Mapping[Path, dict], jobs: int, out: Path, results: dict
) -> None:
    """Run the notebooks that are not done yet; results and pages are valid after each of them."""
    earlier = [out / f"{name}.ipynb" for name in results["notebooks"]]
    every = {path.stem: path for path in [*filter(Path.exists, earlier), *paths]}
    site = read_site([every[name] for name in sorted(every)])
    profile, corpus, seed = (results["parameters"][k] for k in ("profile", "corpus", "seed"))
    print(f"{len(paths)} notebooks, {profile}, {corpus}, seed {seed}, into {out}", flush=True)
    todo = [path for path in paths if not _is_done(path, out, results)]
    if len(todo) < len(paths):
        print(f"{len(paths) - len(todo)} of them were done before", flush=True)

    n_threads = max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else None

    def run(path: Path) -> tuple[Path, Outcome]:
        return path, execute(path, out / path.name, chosen[path], out, profile == "full", n_threads)

    pool = ThreadPoolExecutor(jobs)
    try:
        outcomes = map(run, todo) if jobs == 1 else pool.map(run, todo)
        for number, (path, outcome) in enumerate(outcomes, 1):
            _record(out, site, results, path, outcome, f"[{number}/{len(todo)}]")
            if outcome.error is not None:
                raise outcome.error
            _gather(out, site, results)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for kernel in psutil.Process().children(recursive=True) if jobs > 1 else ():
            kernel.terminate()
        raise
    finally:
        _gather(out, site, results, is_last=True)
    print(f"{results['seconds']:.0f} s in all. Open {out / 'index.html'}", flush=True)


def _read_results(out: Path, parameters: dict) -> dict:
    """The results of a stopped workbook in `out`, or none; ValueError for other parameters."""
    path = out / "results.json"
    (out / "runs").mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return dict(parameters=parameters, seconds=0.0, notebooks={})
    results = read_notebooks(path)
    if results["parameters"] != parameters:
        held = f"{out} holds a workbook with other parameters ({results['parameters']})"
        raise ValueError(f"{held}: give another folder (--out)")
    return results


def read_notebooks(path: Path) -> dict:
    """Read a results.json; ValueError for another file."""
    results = read_json(path)
    try:
        is_ours = "parameters" in results and all(
            isinstance(notebook["seconds"], float) and "facts" in notebook
            for notebook in results["notebooks"].values()
        )
    except (KeyError, TypeError, AttributeError):
        is_ours = False
    if not is_ours:
        raise ValueError(f"{path}: not the results of a workbook: give another folder (--out)")
    return results


def _is_done(path: Path, out: Path, results: dict) -> bool:
    """Did this version of a notebook run to its end here?"""
    done = results["notebooks"].get(path.stem, {})
    is_same = done.get("source_sha256") == sha256(path.read_bytes())
    pages = [out / path.name, out / f"{path.stem}.html"]
    return is_same and done.get("error") is None and all(page.is_file() for page in pages)


def _record(out: Path, site: Site, results: dict, path: Path, outcome: Outcome, label: str) -> None:
    """Write a notebook's page, and keep its facts for results.json."""
    name, error = path.stem, outcome.error
    saved, notebook = out / "runs" / f"{name}.json", out / f"{name}.ipynb"
    facts = read_json(saved).get("facts") if saved.exists() else None
    if notebook.exists():
        write_page(notebook, out / f"{name}.html", site, list(scores(facts).items()))
    results["notebooks"][name] = dict(
        source_sha256=sha256(path.read_bytes()),
        seconds=round(outcome.seconds, 1),
        peak_mib=outcome.peak_mib and round(outcome.peak_mib),
        page=notebook.exists(),
        error=None if error is None else str(error) or type(error).__name__,
        facts=facts,
    )
    print(f"{label} {name}: {outcome.seconds:.0f} s", flush=True)


def _gather(out: Path, site: Site, results: dict, is_last: bool = False) -> None:
    """Write results.json and the front page; at last also the report."""
    results["notebooks"] = dict(sorted(results["notebooks"].items()))
    results["seconds"] = round(sum(facts["seconds"] for facts in results["notebooks"].values()), 1)
    write_json(out / "results.json", results)
    was_trained = is_last and any((out / "runs").rglob("config.json"))
    report = write_report([out / "runs"], out / "report") if was_trained else None
    write_appendices(site, out)
    write_front_page(out, site, results, report)


def figures(facts: Any, name: str = "") -> Iterator[tuple[str, Score | float]]:
    """(name, value) of all scores (dicts with `correct` and `total`) and numbers, nested or not."""
    if isinstance(facts, Mapping) and {"correct", "total"} <= set(facts):
        yield name, Score(facts["correct"], facts["total"])
    elif isinstance(facts, Mapping):
        for key, value in facts.items():
            yield from figures(value, f"{name} {key}".strip().replace("_", " "))
    elif isinstance(facts, int | float) and not isinstance(facts, bool):
        yield name, facts


def scores(facts: Any) -> dict[str, Score]:
    """The scores in `facts` by name; see `figures`."""
    return {name: value for name, value in figures(facts) if isinstance(value, Score)}

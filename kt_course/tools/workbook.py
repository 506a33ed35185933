"""The notebooks from the first to the last, in one folder: executed notebooks, pages, results, report.

01_....ipynb  01_....html      each notebook as it ran, and a page of it that needs no network
runs/                          what the notebooks trained and their result lines (their runs_dir)
report/                        the table of the runs trained here, if any
results.json  index.html       facts, seconds and peak memory of each notebook; links to everything
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import papermill
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from kt_core.corpora.files import write_atomically, write_json
from kt_core.corpora.paths import checkout_dir, data_dir
from kt_core.evaluation import Score
from kt_core.runs.recipes import recipe
from kt_course.tools.html_export import write_index, write_page

DEFAULTS = {
    "profile": "quick",
    "corpus": "bios",
    "variant": None,
    "seed": 0,
    "device": "auto",
    "overrides": {},
}


class WorkbookError(ValueError):
    """A notebook stopped: the message names it, the cell and the error."""


def notebooks_dir() -> Path:
    """Folder of the notebooks: the checkout's, or what an installed wheel carries."""
    root = checkout_dir()
    return root / "notebooks" if root else data_dir() / "notebooks"


def find_notebooks(names: Sequence[str] = (), folder: Path | None = None) -> list[Path]:
    """Notebooks by number ("3", "03") or name ("03_no", a file's name), in order; all if none is named."""
    known = sorted((folder or notebooks_dir()).glob("[0-9]*.ipynb"))
    if not known:
        raise ValueError(f"{folder or notebooks_dir()}: no notebooks there")
    chosen = set()
    for name in map(str, names):
        wanted = f"{int(name):02d}_" if name.isdigit() else Path(name).name.removesuffix(".ipynb")
        found = [path for path in known if path.stem == wanted] or [
            path for path in known if path.stem.startswith(wanted)
        ]
        if len(found) != 1:
            raise ValueError(
                f"{'no' if not found else 'more than one'} notebook {name!r}; "
                f"there are {', '.join(p.stem for p in known)}"
            )
        chosen.add(found[0])
    return sorted(chosen) if chosen else known


class _Kernel(AsyncKernelManager):
    """A kernel of the running interpreter, whatever kernels are installed; keeps its peak memory."""

    peak_mib: float | None = None
    environment: dict[str, str] = {}

    @property
    def kernel_spec(self) -> KernelSpec:
        quiet = "--IPKernelApp.log_level=40"  # else it warns on the terminal about its own sockets
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", quiet]
        return KernelSpec(argv=argv, display_name="Python 3", language="python")

    async def _async_start_kernel(self, **kw: Any) -> None:
        kw["env"] = {**os.environ, **kw.get("env", {}), **type(self).environment}
        await super()._async_start_kernel(**kw)

    start_kernel = _async_start_kernel

    async def _async_shutdown_kernel(self, *args: Any, **kw: Any) -> None:
        type(self).peak_mib = (
            _peak_mib(getattr(self.provisioner, "pid", None)) or type(self).peak_mib
        )
        await super()._async_shutdown_kernel(*args, **kw)

    shutdown_kernel = _async_shutdown_kernel


def _peak_mib(pid: int | None) -> float | None:
    """Peak resident memory of a live process in MiB; None where the platform does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError, ValueError):
        pass
    try:
        import psutil  # comes with ipykernel

        return psutil.Process(pid).memory_info().peak_wset / 2**20  # Windows alone
    except Exception:
        return None


def known_parameters(notebook: str | Path) -> dict[str, Any]:
    """Names and defaults of a notebook's parameters; ValueError if it has no cell tagged `parameters`."""
    found = papermill.inspect_notebook(str(notebook))
    if not found:
        raise ValueError(f"{notebook}: no cell tagged `parameters`")
    return {name: about["default"] for name, about in found.items()}


def parameters_for(
    notebooks: Sequence[Path], given: Mapping[str, Any]
) -> dict[Path, dict[str, Any]]:
    """Which of the `given` parameters each notebook takes; ValueError if one is known to none."""
    known = {path: known_parameters(path) for path in notebooks}
    every = sorted({name for names in known.values() for name in names})
    for name in given:
        if name not in every and given[name] != DEFAULTS.get(name):
            raise ValueError(
                f"no parameter {name!r} in {', '.join(p.stem for p in notebooks)}; "
                f"there are {', '.join(every)}"
            )
    return {
        path: {name: value for name, value in given.items() if name in names}
        for path, names in known.items()
    }


@dataclass(frozen=True)
class Ran:
    """What running a notebook took, and what stopped it, if anything."""

    seconds: float
    peak_mib: float | None
    error: BaseException | None = None


def execute(
    notebook: Path, out: Path, parameters: Mapping[str, Any], cwd: Path, progress: str = "off"
) -> Ran:
    """Run one notebook with papermill, in the folder `cwd`, into `out`; errors are handed back, not raised.

    A cell that fails gives a WorkbookError, and `out` holds what ran, with the error. `progress` is
    KT_PROGRESS of the kernel where the user set none; with "lines" the notebook's prints are shown as they
    come.
    """
    environment = {"KT_PROGRESS": os.environ.get("KT_PROGRESS") or progress}
    root = checkout_dir()
    if root:
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, [str(root), os.environ.get("PYTHONPATH", "")])
        )
    kernel = type("Kernel", (_Kernel,), {"environment": environment, "__module__": __name__})
    logging.getLogger("papermill").setLevel(logging.ERROR)
    began, stopped = time.perf_counter(), None
    try:
        papermill.execute_notebook(
            str(notebook),
            str(out),
            dict(parameters),
            kernel_name="python3",
            cwd=str(cwd),
            progress_bar=sys.stderr.isatty(),
            kernel_manager_class=kernel,
            stdout_file=sys.stdout if progress == "lines" else None,
        )
    except papermill.PapermillExecutionError as error:
        stopped = WorkbookError(
            f"{notebook.stem}, cell [{error.exec_count}]: {error.ename}: {error.evalue}"
        )
    except KeyboardInterrupt as error:
        stopped = error
    except Exception as error:  # the kernel died or did not start, or a cell took too long
        stopped = WorkbookError(f"{notebook.stem}: {type(error).__name__}: {str(error).strip()}")
    return Ran(time.perf_counter() - began, kernel.peak_mib, stopped)


def run_workbook(
    notebooks: Sequence[str] = (),
    *,
    profile: str = "quick",
    corpus: str = "bios",
    variant: str | None = None,
    seed: int = 0,
    device: str = "auto",
    overrides: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    folder: str | Path | None = None,
) -> Path:
    """Run the notebooks (by number or name, all if none) in order into the folder `out`; returns it.

    Parameters go to the notebooks that have them. A cell that fails stops the run with a WorkbookError,
    and what was done stays. `out` may be a folder of a stopped workbook with the same parameters: its
    trained models are used. `folder` is where the notebooks lie, if elsewhere.
    """
    paths = find_notebooks(notebooks, Path(folder) if folder else None)
    recipe(
        "smoke" if profile == "smoke" else "quick", **(overrides or {})
    )  # a mistyped field stops here, not after minutes
    if Path(corpus).is_dir():
        corpus = str(Path(corpus).resolve())  # the notebooks run in another folder
    asked = dict(
        profile=profile,
        corpus=corpus,
        variant=variant,
        seed=seed,
        device=device,
        overrides=dict(overrides or {}),
    )
    given = {name: value for name, value in asked.items() if value is not None} | {
        "runs_dir": "runs"
    }
    chosen = parameters_for(paths, given)
    out = Path(
        out or Path("runs") / f"workbook-{profile}-{time.strftime('%Y%m%d-%H%M%S')}"
    ).resolve()
    results = _begin(out, asked)
    print(f"{len(paths)} notebooks, {profile}, {corpus}, seed {seed}, into {out}", flush=True)
    try:
        for i, path in enumerate(paths, 1):
            ran = execute(
                path, out / path.name, chosen[path], out, "lines" if profile == "full" else "off"
            )
            facts = results["notebooks"][path.stem] = _facts(out, path.stem, ran)
            memory = "" if ran.peak_mib is None else f", peak {facts['peak_mib']} MiB"
            print(f"[{i}/{len(paths)}] {path.stem}: {ran.seconds:.0f} s{memory}", flush=True)
            if ran.error is not None:
                raise ran.error
    finally:
        _finish(out, results)
    print(f"{results['seconds']:.0f} s in all; open {out / 'index.html'}", flush=True)
    return out


def _begin(out: Path, asked: dict) -> dict:
    """The results so far: a stopped workbook's in `out`, or none; ValueError if it had other parameters."""
    path = out / "results.json"
    if path.exists():
        results = json.loads(path.read_text(encoding="utf-8"))
        if results["parameters"] != asked:
            raise ValueError(
                f"{out} holds a workbook with other parameters ({results['parameters']}): "
                "give another folder (--out)"
            )
        return results
    (out / "runs").mkdir(parents=True, exist_ok=True)
    return dict(parameters=asked, seconds=0.0, notebooks={})


def _facts(out: Path, name: str, ran: Ran) -> dict:
    """What results.json tells of a notebook; its page is written too."""
    told, notebook = out / "runs" / f"{name}.json", out / f"{name}.ipynb"
    if notebook.exists():
        write_page(notebook, out / f"{name}.html")
    return dict(
        seconds=round(ran.seconds, 1),
        peak_mib=ran.peak_mib and round(ran.peak_mib),
        page=notebook.exists(),
        error=None if ran.error is None else str(ran.error) or type(ran.error).__name__,
        facts=json.loads(told.read_text(encoding="utf-8")).get("facts") if told.exists() else None,
    )


def _finish(out: Path, results: dict) -> None:
    """results.json, the report of the runs trained here, and the index."""
    from kt_course.tools.report import write_report

    results["notebooks"] = dict(sorted(results["notebooks"].items()))
    results["seconds"] = round(sum(facts["seconds"] for facts in results["notebooks"].values()), 1)
    write_json(out / "results.json", results)
    trained = any((out / "runs").rglob("config.json"))
    report = write_report([out / "runs"], out / "report") if trained else None
    found = [
        (name, *pair)
        for name, facts in results["notebooks"].items()
        for pair in scores(facts["facts"])
    ]
    found.sort(key=lambda line: -line[2].accuracy)
    if found:
        write_atomically(out / "accuracies.png", _bars(found))
        wide = max(len(f"{name}  {what}") for name, what, _ in found)
        for name, what, score in found:
            print(f"{f'{name}  {what}':{wide}}  {percent(score)}")
    write_index(out, results, [(name, what, percent(score)) for name, what, score in found], report)


def _bars(found: Sequence[tuple[str, str, Score]]) -> bytes:
    """A PNG of the notebooks' accuracies, with London's line where a notebook tells its score."""
    from kt_course.figures import plots

    london = next((score for _, what, score in found if what.split()[-1:] == ["london"]), None)
    rows = [
        (f"{name[:2]} {what}", score)
        for name, what, score in found
        if what.split()[-1:] != ["london"]
    ]
    figure = plots.accuracy_bars(rows, london, title="what the notebooks found")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    plots.plt.close(figure)
    return picture.getvalue()


def percent(score: Score) -> str:
    """Accuracy and its interval in per cent."""
    return f"{100 * score.accuracy:.1f} % [{100 * score.low:.1f}, {100 * score.high:.1f}]"


def scores(facts: Any, name: str = "") -> Iterator[tuple[str, Score]]:
    """(what, score) of every dict with `correct` and `total` in a notebook's facts, nested or not."""
    if isinstance(facts, Mapping) and {"correct", "total"} <= set(facts):
        yield name, Score(facts["correct"], facts["total"])
    elif isinstance(facts, Mapping):
        for key, value in facts.items():
            yield from scores(value, f"{name} {key}".strip().replace("_", " "))

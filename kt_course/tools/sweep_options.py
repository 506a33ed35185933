"""The command line of `kt sweep`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kt_course.tools.arguments import VARIANTS, add_corpus, add_set, settings


def add_options(command: argparse.ArgumentParser) -> None:
    """`kt sweep run ...` and `kt sweep notebook NAME ...`"""
    kinds = command.add_subparsers(dest="kind", required=True, metavar="run|notebook")
    run = kinds.add_parser("run", help="a grid over kt run", description="a grid over kt run")
    run.add_argument(
        "--recipe", default="quick", help="smoke, quick, kt, kt-more or a5 (default quick)"
    )
    run.add_argument("--no-pretrain", action="store_true", help="finetune from random weights")
    text = "a grid over a notebook: its parameters, and recipe fields for its overrides"
    notebook = kinds.add_parser("notebook", help=text, description=text)
    notebook.add_argument(
        "notebook", help="by number or name, or a file of yours with a cell of parameters"
    )
    notebook.add_argument(
        "--profile", choices=["smoke", "quick", "full"], help="(default: the notebook's)"
    )
    for kind in (run, notebook):
        add_corpus(kind)
        kind.add_argument(
            "--variant", choices=VARIANTS, help="(default: vanilla, or the notebook's)"
        )
        kind.add_argument("--seed", type=int, default=0)
        kind.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
        kind.add_argument(
            "--grid",
            action="append",
            default=[],
            metavar="KEY=VALUE,VALUE",
            help="what to sweep: a recipe field, variant, seed, corpus ..., or people, lines, attributes of bios; "
            "may be given again, and every combination is done",
        )
        add_set(kind)
        kind.add_argument(
            "--out", type=Path, default=Path("runs/sweep"), help="folder (default runs/sweep)"
        )
        kind.add_argument(
            "--jobs", type=int, default=1, help="cells at a time on this machine (default 1)"
        )
        kind.add_argument(
            "--threads", type=int, help="of each cell (default: cores / jobs; on Dask 1)"
        )
        kind.add_argument(
            "--dask", metavar="tcp://HOST:PORT", help="a Dask cluster's scheduler, to work there"
        )
        kind.add_argument("--x", metavar="KEY", help="the key along the plot's axis")
        kind.add_argument(
            "--y", metavar="FIGURE", help="what is plotted (default dev, or the first score)"
        )


def sweep_command(arguments) -> int:
    """Run a parsed `kt sweep`; 1 if a cell failed."""
    from kt_course.tools.grid import notebook_cells, parse_grid, run_cells
    from kt_course.tools.sweep import sweep
    from kt_course.tools.sweep_results import markdown

    grid, given = parse_grid(arguments.grid), settings(arguments.set)
    shared = dict(
        corpus=arguments.corpus, seed=arguments.seed, device=arguments.device, settings=given
    )
    if arguments.kind == "run":
        variant = arguments.variant or "vanilla"
        cells = run_cells(
            grid,
            variant=variant,
            recipe=arguments.recipe,
            pretrain=not arguments.no_pretrain,
            **shared,
        )
        words = dict(corpus=arguments.corpus, variant=variant, recipe=arguments.recipe)
        words |= dict(pretrain="no pretraining") if arguments.no_pretrain else {}
    else:
        cells = notebook_cells(
            arguments.notebook, grid, profile=arguments.profile, variant=arguments.variant, **shared
        )
        words = dict(
            notebook=Path(arguments.notebook).stem,
            profile=arguments.profile,
            corpus=arguments.corpus,
            variant=arguments.variant,
        )
    words = [value for key, value in words.items() if value and key not in {*grid, *given}]
    about = ", ".join([*words, *(f"{key} {value}" for key, value in given.items())])
    told = sweep(
        cells,
        arguments.out,
        jobs=arguments.jobs,
        threads=arguments.threads,
        dask=arguments.dask,
        x=arguments.x,
        y=arguments.y,
        about=about,
    )
    print(markdown(told))
    failed = [cell for cell in told["cells"] if cell["status"] != "done"]
    if failed:
        print(
            f"kt sweep: {len(failed)} of {len(cells)} cells failed; see {arguments.out}/sweep.md, "
            "and the log.txt of each",
            file=sys.stderr,
        )
    return 1 if failed else 0

"""The `kt` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kt_course.tools import assignment
from kt_course.tools.arguments import VARIANTS, add_corpus, add_set, settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run `kt` with `argv` (sys.argv if None); returns the exit status: 0, 1 for bad input, 130 for Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.do(arguments) or 0
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"kt {arguments.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"kt {arguments.command}: stopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kt", description="Knowledge transfer: pretrain, finetune and question a small GPT."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, do, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(do=do)
        return command

    for name, do, text in (
        (
            "pretrain",
            assignment.pretrain,
            "pretrain a model by span corruption on a text file (the assignment's command line)",
        ),
        (
            "finetune",
            assignment.finetune,
            "finetune a model on question-answer pairs (the assignment's command line)",
        ),
        (
            "evaluate",
            assignment.evaluate_file,
            "answer the questions of a file and score the answers (the assignment's command line)",
        ),
    ):
        assignment.add_options(add(name, do, text))

    run = add(
        "run", _run, "pretrain, finetune and evaluate in one go; everything is kept in one folder"
    )
    add_corpus(run)
    run.add_argument("--variant", default="vanilla", choices=VARIANTS)
    run.add_argument(
        "--recipe", default="quick", help="smoke, quick, kt, kt-more or a5 (default quick)"
    )
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--no-pretrain", action="store_true", help="finetune from random weights")
    run.add_argument(
        "--init",
        type=Path,
        nargs="+",
        metavar="CHECKPOINT",
        help="a pretrained checkpoint to start from instead of pretraining; of several the mean of their weights",
    )
    run.add_argument(
        "--start", type=Path, help="a pretrained checkpoint that pretraining goes on from"
    )
    run.add_argument(
        "--out",
        type=Path,
        help="the run's folder (default: runs/ and a name that tells the settings)",
    )
    run.add_argument("--resume", action="store_true", help="go on with the unfinished run in --out")
    run.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    run.add_argument(
        "--tensorboard",
        action="store_true",
        help="write TensorBoard's event files into the run's folder",
    )
    add_set(run)

    baseline = add("baseline", _baseline, 'how many answers "London" gets right')
    add_corpus(baseline)

    fetch = add("fetch", _fetch, "fetch a corpus that is not part of the project, and check it")
    fetch.add_argument("what", choices=["wiki"])
    fetch.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="DIR",
        help="copy it from a folder instead of the network",
    )

    add("doctor", _doctor, "is this machine ready?")

    bench = add(
        "bench",
        _bench,
        "how fast training and answering are beside the assignment's way, on this machine",
    )
    add_corpus(bench)
    bench.add_argument("--out", type=Path, help="file for the figures, as JSON")
    bench.add_argument(
        "--seconds", type=float, default=300.0, help="time for all of it (default 300)"
    )
    bench.add_argument("--seed", type=int, default=0)
    bench.add_argument("--device", default="auto")
    bench.add_argument(
        "--costs",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="time for where a step goes and how it grows (default 60, 0 leaves it out)",
    )

    ablate = add(
        "ablate",
        _ablate,
        "what each ingredient of the recipe is worth: change one at a time, same characters",
    )
    add_corpus(ablate)
    ablate.add_argument(
        "ingredients", nargs="*", metavar="INGREDIENT", help="which ones (default: all)"
    )
    ablate.add_argument("--variant", default="rope", choices=VARIANTS)
    ablate.add_argument("--recipe", default="quick")
    ablate.add_argument(
        "--characters", type=float, default=1e6, help="read by each pretraining (default 1e6)"
    )
    ablate.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    ablate.add_argument(
        "--runs", type=Path, default=Path("runs/ablation"), help="folder for the runs themselves"
    )
    ablate.add_argument(
        "--out", type=Path, help="file for the table, as JSON; its figure lies beside it"
    )
    ablate.add_argument(
        "--join",
        action="store_true",
        help="add to the table that --out holds: same settings, other seeds",
    )
    ablate.add_argument("--device", default="auto")
    ablate.set_defaults(corpus="bios:people=200")
    add_set(ablate)

    from kt_course.tools.sweep_options import add_options as add_sweep

    add_sweep(
        add(
            "sweep",
            _sweep,
            "a grid of settings over kt run or a notebook, in parallel, into one table and plot",
        )
    )

    report = add(
        "report", _report, "gather runs into one table: Markdown, CSV and a bar chart, best first"
    )
    report.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="folders of runs, or folders that hold such folders",
    )
    report.add_argument(
        "--out",
        type=Path,
        default=Path("runs/report"),
        help="folder for the table and the chart (default runs/report)",
    )

    workbook = add(
        "workbook",
        _workbook,
        "run the notebooks in order and gather pages, results and a report in one folder",
    )
    workbook.add_argument(
        "notebooks", nargs="*", help="which ones, by number or name (default: all)"
    )
    workbook.add_argument("--profile", default="quick", choices=["smoke", "quick", "full"])
    workbook.add_argument("--corpus", default="bios")
    workbook.add_argument(
        "--variant", choices=VARIANTS, help="the variant of the notebooks that leave it open"
    )
    workbook.add_argument("--seed", type=int, default=0)
    workbook.add_argument("--device", default="auto")
    workbook.add_argument(
        "--out", type=Path, help="the run's folder (default: runs/workbook-PROFILE-TIME)"
    )
    add_set(workbook)

    add(
        "progress",
        _progress,
        "which exercises and questions are done, wrong at the last try, or open",
    )

    release = add(
        "release", _release, "write clean notebooks for learners: no outputs, exercises as stubs"
    )
    release.add_argument("folder", type=Path, metavar="DIR", help="where to write them")
    release.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="DIR",
        help="the notebooks to clean (default: the project's)",
    )
    release.add_argument(
        "--force", action="store_true", help="replace notebooks in a folder that has files"
    )

    grade = add(
        "grade", _grade, "run and judge learners' notebooks, which are not trusted, into a CSV file"
    )
    grade.add_argument(
        "notebooks",
        nargs="+",
        type=Path,
        metavar="NOTEBOOK",
        help="submissions, or folders of them",
    )
    grade.add_argument("--out", type=Path, required=True, metavar="CSV", help="a row a submission")
    grade.add_argument(
        "--profile",
        choices=["smoke", "quick", "full"],
        help="run them all in this profile, not in their own",
    )
    grade.add_argument("--cell-seconds", type=int, default=300, help="for one cell (default 300)")
    grade.add_argument("--seconds", type=int, default=1200, help="for one notebook (default 1200)")
    grade.add_argument(
        "--memory", type=float, default=4.0, help="GB for one submission (default 4)"
    )

    export = add(
        "export",
        _export,
        "a checkpoint as a folder that the transformers library loads (hub extra)",
    )
    export.add_argument(
        "checkpoint", help="its file, or the name of one that ships (bios-rope-finetuned)"
    )
    export.add_argument("folder", type=Path, metavar="DIR", help="where to write it")

    checkpoints = add(
        "checkpoints", _checkpoints, "retrain the checkpoints that ship, from nothing"
    )
    checkpoints.add_argument("--corpus", default="bios", choices=["bios", "wiki"])
    checkpoints.add_argument(
        "--variant", action="append", choices=VARIANTS, help="only this one (may be given again)"
    )
    checkpoints.add_argument("--seed", type=int, default=0)
    checkpoints.add_argument(
        "--out", type=Path, help="folder for the checkpoints (default: where they ship from)"
    )
    checkpoints.add_argument(
        "--runs", type=Path, default=Path("runs/checkpoints"), help="folder for the runs themselves"
    )
    return parser


def _run(arguments) -> None:
    from kt_core.runs.distributed import first
    from kt_core.runs.experiment import run_experiment

    result = run_experiment(
        arguments.corpus,
        arguments.variant,
        arguments.recipe,
        not arguments.no_pretrain,
        arguments.seed,
        arguments.out,
        overrides=settings(arguments.set),
        device=arguments.device,
        resume=arguments.resume,
        init=arguments.init,
        start=arguments.start,
        tensorboard=arguments.tensorboard,
    )
    if not first():
        return
    for split in ("dev", "test"):
        score = getattr(result, split)
        if score is not None:
            print(
                f"{split}: {score} (95 % interval {100 * score.low:.1f} to {100 * score.high:.1f}%)"
            )
    print(f"kept in {result.path}")


def _baseline(arguments) -> None:
    from kt_core.corpora.loading import load_corpus
    from kt_core.evaluation import london_baseline

    print(london_baseline(load_corpus(arguments.corpus).dev))


def _fetch(arguments) -> None:
    from kt_core.corpora.wiki import fetch_wiki

    print(f"wiki is in {fetch_wiki(arguments.source)}")


def _doctor(arguments) -> int:
    from kt_course.tools.doctor import report

    return report()


def _bench(arguments) -> None:
    from kt_course.tools import step_profile as costs
    from kt_course.tools.bench import bench, table, write_bench

    told = bench(
        arguments.corpus, seconds=arguments.seconds, seed=arguments.seed, device=arguments.device
    )
    print(table(told), flush=True)
    if arguments.costs > 0:
        told["costs"] = costs.costs(seconds=arguments.costs, device=arguments.device)
        print(costs.table(told["costs"]))
    if arguments.out:
        write_bench(told, arguments.out)


def _ablate(arguments) -> None:
    from kt_course.tools.ablation import ablate, join, read_ablation, table, write_ablation

    if arguments.join and not arguments.out:
        raise ValueError("--join adds to the table that --out names: it needs --out")
    before = read_ablation(arguments.out) if arguments.join else None
    told = ablate(
        arguments.corpus,
        arguments.variant,
        arguments.recipe,
        characters=arguments.characters,
        seeds=arguments.seeds,
        names=arguments.ingredients,
        runs=arguments.runs,
        overrides=settings(arguments.set),
        device=arguments.device,
    )
    told = join(before, told) if before else told
    if arguments.out:
        write_ablation(told, arguments.out)
    print(table(told))


def _sweep(arguments) -> int:
    from kt_course.tools.sweep_options import sweep_command

    return sweep_command(arguments)


def _report(arguments) -> None:
    from kt_course.tools.report import write_report

    print(write_report(arguments.runs, arguments.out))


def _workbook(arguments) -> None:
    from kt_course.tools.workbook import run_workbook

    run_workbook(
        arguments.notebooks,
        profile=arguments.profile,
        corpus=arguments.corpus,
        variant=arguments.variant,
        seed=arguments.seed,
        device=arguments.device,
        overrides=settings(arguments.set),
        out=arguments.out,
    )


def _progress(arguments) -> None:
    from kt_course.exercises import progress

    progress()


def _release(arguments) -> None:
    from kt_course.tools.release import release

    written = release(arguments.folder, arguments.source, arguments.force)
    print(f"{len(written)} notebooks in {arguments.folder}")


def _grade(arguments) -> None:
    from kt_course.grading import Limits, grade

    limits = Limits(
        cell=arguments.cell_seconds, notebook=arguments.seconds, memory=arguments.memory
    )
    rows = grade(arguments.notebooks, arguments.out, limits, arguments.profile)
    print(f"{len(rows)} submissions in {arguments.out}")


def _export(arguments) -> None:
    from kt_course.chapters.pretrained_models import hub

    hub.offline()
    written = hub.export_checkpoint(arguments.checkpoint, arguments.folder)
    print(f"{len(written)} files in {arguments.folder}: {', '.join(written)}")


def _checkpoints(arguments) -> None:
    from kt_course.shipped import retrain

    retrain(
        arguments.corpus,
        arguments.variant or list(VARIANTS),
        arguments.seed,
        arguments.runs,
        arguments.out,
    )


if __name__ == "__main__":
    sys.exit(main())

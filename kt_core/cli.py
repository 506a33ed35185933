"""The `kt` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

VARIANTS = ("vanilla", "rope", "perceiver", "perceiver_ar")


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
            _pretrain,
            "pretrain a model by span corruption on a text file (the assignment's command line)",
        ),
        ("finetune", _finetune, "finetune a model on question-answer pairs (the assignment's command line)"),
        (
            "evaluate",
            _evaluate,
            "answer the questions of a file and score the answers (the assignment's command line)",
        ),
    ):
        _add_assignment_options(add(name, do, text))

    run = add("run", _run, "pretrain, finetune and evaluate in one go; everything is kept in one folder")
    _add_corpus(run)
    run.add_argument("--variant", default="vanilla", choices=VARIANTS)
    run.add_argument("--recipe", default="quick", help="smoke, quick, a5 or kt (default quick)")
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--no-pretrain", action="store_true", help="finetune from random weights")
    run.add_argument("--init", type=Path, help="a pretrained checkpoint to start from instead of pretraining")
    run.add_argument(
        "--out", type=Path, help="the run's folder (default: runs/ and a name that tells the settings)"
    )
    run.add_argument("--resume", action="store_true", help="go on with the unfinished run in --out")
    run.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    run.add_argument(
        "--tensorboard", action="store_true", help="write TensorBoard's event files into the run's folder"
    )
    _add_set(run)

    baseline = add("baseline", _baseline, 'how many answers "London" gets right')
    _add_corpus(baseline)

    fetch = add("fetch", _fetch, "fetch a corpus that is not part of the project, and check it")
    fetch.add_argument("what", choices=["wiki"])
    fetch.add_argument(
        "--from", dest="source", type=Path, metavar="DIR", help="copy it from a folder instead of the network"
    )

    add("doctor", _doctor, "is this machine ready?")

    bench = add(
        "bench", _bench, "how fast training and answering are beside the assignment's way, on this machine"
    )
    _add_corpus(bench)
    bench.add_argument("--out", type=Path, help="file for the figures, as JSON")
    bench.add_argument("--seconds", type=float, default=300.0, help="time for all of it (default 300)")
    bench.add_argument("--seed", type=int, default=0)
    bench.add_argument("--device", default="auto")

    report = add("report", _report, "gather runs into one table: Markdown, CSV and a bar chart, best first")
    report.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folders of runs, or folders that hold such folders"
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
    workbook.add_argument("notebooks", nargs="*", help="which ones, by number or name (default: all)")
    workbook.add_argument("--profile", default="quick", choices=["smoke", "quick", "full"])
    workbook.add_argument("--corpus", default="bios")
    workbook.add_argument(
        "--variant", choices=VARIANTS, help="the variant of the notebooks that leave it open"
    )
    workbook.add_argument("--seed", type=int, default=0)
    workbook.add_argument("--device", default="auto")
    workbook.add_argument("--out", type=Path, help="the run's folder (default: runs/workbook-PROFILE-TIME)")
    _add_set(workbook)

    checkpoints = add("checkpoints", _checkpoints, "retrain the checkpoints that ship, from nothing")
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


def _add_corpus(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--corpus", default="bios", help="bios, bios:people=300,lines=8, wiki, or a folder (default bios)"
    )


def _add_set(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set a field of the recipe; may be given again",
    )


def _settings(pairs: Sequence[str]) -> dict[str, str]:
    """KEY=VALUE strings as a dict; ValueError for one without a sign."""
    for pair in pairs:
        if "=" not in pair:
            raise ValueError(f"--set {pair}: write KEY=VALUE, as in --set pretrain_epochs=5")
    return dict(pair.split("=", 1) for pair in pairs)


def _add_assignment_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("variant", choices=VARIANTS, metavar="VARIANT", help=", ".join(VARIANTS))
    command.add_argument(
        "pretrain_corpus",
        type=Path,
        metavar="CORPUS.txt",
        help="the pretraining text; its characters are the vocabulary",
    )
    command.add_argument("--reading_params_path", type=Path, help="checkpoint to start from")
    command.add_argument("--writing_params_path", type=Path, help="checkpoint to write")
    command.add_argument("--finetune_corpus_path", type=Path, help="TSV of question and answer")
    command.add_argument("--eval_corpus_path", type=Path, help="TSV of questions, with or without answers")
    command.add_argument("--outputs_path", type=Path, help="where the answers go, one a line")
    command.add_argument("--bottleneck_dim", type=int, help="latents of a perceiver")
    command.add_argument("--pretrain_lr", type=float, help="peak learning rate of pretraining")
    command.add_argument("--finetune_lr", type=float, help="peak learning rate of finetuning")
    command.add_argument("--tb_expt_name", type=Path, help="folder for TensorBoard's event files")
    command.add_argument("--max_steps", type=int, help="stop after so many steps, rate and all")
    command.add_argument("--recipe", default="a5", help="whose settings (default a5, the assignment's)")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--device", default="auto")
    command.add_argument("--resume", action="store_true", help="go on with a training that was stopped")
    _add_set(command)


# ---------------------------------------------------------------- the assignment's three commands


def _need(arguments, *names: str) -> None:
    for name in names:
        if getattr(arguments, name) is None:
            raise ValueError(f"--{name} is needed")


def _recipe(arguments):
    from kt_core.recipes import recipe

    more = {"bottleneck": arguments.bottleneck_dim, "pretrain_lr": arguments.pretrain_lr}
    if arguments.finetune_lr is not None:
        more |= {"finetune_lr": arguments.finetune_lr, "scratch_lr": arguments.finetune_lr}
    return recipe(
        arguments.recipe, **{k: v for k, v in more.items() if v is not None} | _settings(arguments.set)
    )


def _start(arguments, recipe):
    """(model, vocabulary) from --reading_params_path, or a new model over the corpus' characters."""
    import torch

    from kt_core.checkpoints import load_checkpoint
    from kt_core.corpora import read_documents
    from kt_core.models import GPT
    from kt_core.vocab import CharVocab

    if arguments.reading_params_path:
        model, vocab, _ = load_checkpoint(arguments.reading_params_path)
        if model.config.variant != arguments.variant:
            raise ValueError(
                f"{arguments.reading_params_path} holds a {model.config.variant} model, not {arguments.variant}"
            )
        if model.config.latent and arguments.bottleneck_dim not in (None, model.config.bottleneck):
            raise ValueError(
                f"{arguments.reading_params_path} has bottleneck {model.config.bottleneck}, not {arguments.bottleneck_dim}"
            )
        return model, vocab
    vocab = CharVocab.from_documents(read_documents(arguments.pretrain_corpus))
    torch.manual_seed(arguments.seed)
    return GPT(recipe.model_config(len(vocab), arguments.variant)), vocab


def _train(arguments, model, vocab, data, config, phase: str) -> None:
    import dataclasses

    from kt_core.checkpoints import hardware, save_checkpoint
    from kt_core.trainer import Trainer, choose_device

    out = arguments.writing_params_path
    device = choose_device(arguments.device)
    state = Path(f"{out}.state")
    config = dataclasses.replace(
        config, steps=arguments.max_steps, seed=arguments.seed, device=str(device), save_every=200
    )
    history = Trainer(model, data, config, state=state, title=phase, tensorboard=arguments.tb_expt_name).fit(
        arguments.resume
    )
    card = dict(variant=arguments.variant, recipe=arguments.recipe, phase=phase, seed=arguments.seed, steps=history[-1]["step"],
                cost=history[-1], settings=dataclasses.asdict(config), hardware=hardware(device))  # fmt: skip
    save_checkpoint(out, model, vocab, card)
    state.unlink(missing_ok=True)
    print(f"{phase}: {history[-1]['step']} steps, loss {history[-1]['loss']:.3f}, written to {out}")


def _pretrain(arguments) -> None:
    from kt_core.corpora import read_documents
    from kt_core.datasets import Mixture, NamePlace

    _need(arguments, "writing_params_path")
    recipe = _recipe(arguments)
    model, vocab = _start(arguments, recipe)
    recipe = _fitting(recipe, model)
    parts = [(recipe.documents(read_documents(arguments.pretrain_corpus), vocab, arguments.seed), 1)]
    if recipe.mixed_pairs:
        _need(arguments, "finetune_corpus_path")
        pairs = _pairs(arguments.finetune_corpus_path, vocab, recipe.block_size)
        parts.append((NamePlace(pairs, vocab, recipe.block_size), recipe.mixed_pairs))
    _train(arguments, model, vocab, Mixture(parts), recipe.pretrain_config(), "pretrain")


def _fitting(recipe, model):
    """The recipe with the model's block: that of a checkpoint may be another than the recipe's."""
    import dataclasses

    return dataclasses.replace(recipe, block_size=model.config.block_size)


def _pairs(path: Path, vocab, block_size: int):
    from kt_core.corpora import check_pairs, read_pairs

    pairs = read_pairs(path)
    check_pairs(pairs, vocab, block_size, path)
    return pairs


def _finetune(arguments) -> None:
    from kt_core.corpora import read_documents
    from kt_core.datasets import Mixture, NamePlace

    _need(arguments, "writing_params_path", "finetune_corpus_path")
    recipe = _recipe(arguments)
    model, vocab = _start(arguments, recipe)
    pretrained = arguments.reading_params_path is not None
    recipe = _fitting(recipe, model)
    pairs = NamePlace(
        _pairs(arguments.finetune_corpus_path, vocab, recipe.block_size), vocab, recipe.block_size
    )
    parts = [(pairs, 1)]
    if pretrained and recipe.finetune_documents:
        documents = recipe.documents(read_documents(arguments.pretrain_corpus), vocab, arguments.seed + 1)
        parts.append((documents, recipe.finetune_documents))
    _train(arguments, model, vocab, Mixture(parts), recipe.finetune_config(pretrained), "finetune")


def _evaluate(arguments) -> None:
    from kt_core.evaluation import write_predictions
    from kt_core.runs import evaluate
    from kt_core.trainer import choose_device

    _need(arguments, "reading_params_path", "eval_corpus_path")
    recipe = _recipe(arguments)
    model, vocab = _start(arguments, recipe)
    pairs = _pairs(arguments.eval_corpus_path, vocab, model.config.block_size)
    answers, score = evaluate(model.to(choose_device(arguments.device)), vocab, pairs)
    if arguments.outputs_path:
        write_predictions(arguments.outputs_path, answers)
    told = (
        f"{len(answers)} answers written to {arguments.outputs_path}"
        if arguments.outputs_path
        else f"{len(answers)} questions answered"
    )
    print(
        score if score is not None else f"No answers to compare with in {arguments.eval_corpus_path}: {told}"
    )


# ---------------------------------------------------------------- ours


def _run(arguments) -> None:
    from kt_core.runs import run_experiment

    result = run_experiment(
        arguments.corpus, arguments.variant, arguments.recipe, not arguments.no_pretrain, arguments.seed, arguments.out,
        overrides=_settings(arguments.set), device=arguments.device, resume=arguments.resume, init=arguments.init,
        tensorboard=arguments.tensorboard,
    )  # fmt: skip
    for split in ("dev", "test"):
        score = getattr(result, split)
        if score is not None:
            print(f"{split}: {score} (95 % interval {100 * score.low:.1f} to {100 * score.high:.1f}%)")
    print(f"kept in {result.path}")


def _baseline(arguments) -> None:
    from kt_core.corpora import load_corpus
    from kt_core.evaluation import london_baseline

    print(london_baseline(load_corpus(arguments.corpus).dev))


def _fetch(arguments) -> None:
    from kt_core.corpora import fetch_wiki

    print(f"wiki is in {fetch_wiki(arguments.source)}")


def _doctor(arguments) -> int:
    from kt_core.doctor import report

    return report()


def _bench(arguments) -> None:
    from kt_core.bench import bench, table, write_bench

    told = bench(arguments.corpus, seconds=arguments.seconds, seed=arguments.seed, device=arguments.device)
    if arguments.out:
        write_bench(told, arguments.out)
    print(table(told))


def _report(arguments) -> None:
    from kt_core.report import write_report

    print(write_report(arguments.runs, arguments.out))


def _workbook(arguments) -> None:
    from kt_core.workbook import run_workbook

    run_workbook(
        arguments.notebooks, profile=arguments.profile, corpus=arguments.corpus, variant=arguments.variant, seed=arguments.seed,
        device=arguments.device, overrides=_settings(arguments.set), out=arguments.out,
    )  # fmt: skip


def _checkpoints(arguments) -> None:
    from kt_core.shipping import retrain

    retrain(
        arguments.corpus, arguments.variant or list(VARIANTS), arguments.seed, arguments.runs, arguments.out
    )


if __name__ == "__main__":
    sys.exit(main())

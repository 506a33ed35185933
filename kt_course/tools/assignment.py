"""The assignment's own commands, `kt pretrain|finetune|evaluate`: one phase each, files in and files out."""

from __future__ import annotations

import argparse
from pathlib import Path

from kt_course.tools.arguments import VARIANTS, add_set, settings


def add_options(command: argparse.ArgumentParser) -> None:
    """The options that the three share."""
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
    command.add_argument(
        "--eval_corpus_path", type=Path, help="TSV of questions, with or without answers"
    )
    command.add_argument("--outputs_path", type=Path, help="where the answers go, one a line")
    command.add_argument("--bottleneck_dim", type=int, help="latents of a perceiver")
    command.add_argument("--pretrain_lr", type=float, help="peak learning rate of pretraining")
    command.add_argument("--finetune_lr", type=float, help="peak learning rate of finetuning")
    command.add_argument("--tb_expt_name", type=Path, help="folder for TensorBoard's event files")
    command.add_argument("--max_steps", type=int, help="stop after so many steps, rate and all")
    command.add_argument(
        "--recipe", default="a5", help="whose settings (default a5, the assignment's)"
    )
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--device", default="auto")
    command.add_argument(
        "--resume", action="store_true", help="go on with a training that was stopped"
    )
    add_set(command)


def _need(arguments, *names: str) -> None:
    for name in names:
        if getattr(arguments, name) is None:
            raise ValueError(f"--{name} is needed")


def _recipe(arguments):
    from kt_core.runs.recipes import recipe

    more = {"bottleneck": arguments.bottleneck_dim, "pretrain_lr": arguments.pretrain_lr}
    if arguments.finetune_lr is not None:
        more |= {"finetune_lr": arguments.finetune_lr, "scratch_lr": arguments.finetune_lr}
    return recipe(
        arguments.recipe,
        **{k: v for k, v in more.items() if v is not None} | settings(arguments.set),
    )


def _start(arguments, recipe):
    """(model, vocabulary) from --reading_params_path, or a new model over the corpus' characters."""
    import torch

    from kt_core.corpora.textfiles import read_documents
    from kt_core.models import GPT
    from kt_core.runs.checkpoints import load_checkpoint
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

    from kt_core.runs.checkpoints import hardware, save_checkpoint
    from kt_core.runs.devices import choose_device
    from kt_core.runs.distributed import launched
    from kt_core.trainer import Trainer

    if launched():  # each process would write the same files
        raise ValueError(
            f"kt {phase} trains in one process: torchrun ... -m kt_course.tools.cli run takes several"
        )
    out = arguments.writing_params_path
    device = choose_device(arguments.device)
    state = Path(f"{out}.state")
    config = dataclasses.replace(
        config, steps=arguments.max_steps, seed=arguments.seed, device=str(device), save_every=200
    )
    history = Trainer(
        model, data, config, state=state, title=phase, tensorboard=arguments.tb_expt_name
    ).fit(arguments.resume)
    card = dict(
        variant=arguments.variant,
        recipe=arguments.recipe,
        phase=phase,
        seed=arguments.seed,
        steps=history[-1]["step"],
        cost=history[-1],
        settings=dataclasses.asdict(config),
        hardware=hardware(device),
    )
    save_checkpoint(out, model, vocab, card)
    state.unlink(missing_ok=True)
    print(f"{phase}: {history[-1]['step']} steps, loss {history[-1]['loss']:.3f}, written to {out}")


def pretrain(arguments) -> None:
    """`kt pretrain`: span corruption on a text file, a checkpoint out."""
    _need(arguments, "writing_params_path")
    recipe = _recipe(arguments)
    model, vocab = _start(arguments, recipe)
    recipe = _fitting(recipe, model)
    if recipe.mixed_pairs:
        _need(arguments, "finetune_corpus_path")
    corpus = _corpus(arguments, recipe, vocab, documents=True, pairs=bool(recipe.mixed_pairs))
    data = recipe.pretrain_data(corpus, vocab, arguments.seed)
    _train(arguments, model, vocab, data, recipe.pretrain_config(), "pretrain")


def _fitting(recipe, model):
    """The recipe with the model's block: that of a checkpoint may be another than the recipe's."""
    import dataclasses

    return dataclasses.replace(recipe, block_size=model.config.block_size)


def _pairs(path: Path, vocab, block_size: int):
    from kt_core.corpora.textfiles import check_pairs, read_pairs

    pairs = read_pairs(path)
    check_pairs(pairs, vocab, block_size, path)
    return pairs


def _corpus(arguments, recipe, vocab, *, documents: bool, pairs: bool):
    """The two files as a corpus, each read only where it is asked for."""
    from kt_core.corpora.loading import Corpus
    from kt_core.corpora.textfiles import read_documents

    text = read_documents(arguments.pretrain_corpus) if documents else []
    train = _pairs(arguments.finetune_corpus_path, vocab, recipe.block_size) if pairs else []
    return Corpus(arguments.pretrain_corpus.stem, text, train, [], [], vocab)


def finetune(arguments) -> None:
    """`kt finetune`: a checkpoint (or random weights) and pairs in, a checkpoint out."""
    _need(arguments, "writing_params_path", "finetune_corpus_path")
    recipe = _recipe(arguments)
    model, vocab = _start(arguments, recipe)
    pretrained = arguments.reading_params_path is not None
    recipe = _fitting(recipe, model)
    kept_in = pretrained and bool(recipe.finetune_documents)
    corpus = _corpus(arguments, recipe, vocab, documents=kept_in, pairs=True)
    data = recipe.finetune_data(corpus, vocab, arguments.seed)
    _train(arguments, model, vocab, data, recipe.finetune_config(pretrained), "finetune")


def evaluate_file(arguments) -> None:
    """`kt evaluate`: answer the questions of a file; the assignment's line if it holds the answers."""
    from kt_core.evaluation import write_predictions
    from kt_core.runs.devices import choose_device
    from kt_core.runs.experiment import evaluate

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
        score
        if score is not None
        else f"No answers to compare with in {arguments.eval_corpus_path}: {told}"
    )

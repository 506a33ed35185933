"""The assignment's own commands: `kt pretrain`, `kt finetune` and `kt evaluate`, one phase each."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from cyclopts import Parameter

from kt_core.corpora.files import keep_previous, one_writer
from kt_core.corpora.loading import Corpus
from kt_core.corpora.textfiles import read_documents, read_pairs, write_predictions
from kt_core.datasets import TokenDataset
from kt_core.devices import choose_device
from kt_core.models import GPT
from kt_core.runs.checkpoints import card_path, hardware, load_checkpoint, save_checkpoint
from kt_core.runs.distributed import processes
from kt_core.runs.experiment import evaluate as evaluate_model
from kt_core.runs.fitting import fit
from kt_core.runs.phases import cost_of
from kt_core.runs.recipes import Recipe, recipe
from kt_core.vocab import CharVocab
from kt_course.tools import options as opt

CorpusFile = Annotated[Path, Parameter(name="CORPUS.txt")]


@Parameter(name="*", name_transform=str)  # underscores, as the assignment spells its options
@dataclass(frozen=True)
class Options:
    """The options that the three commands share.

    Attributes:
        reading_params_path: Checkpoint to start from.
        writing_params_path: Checkpoint to write.
        finetune_corpus_path: TSV of question and answer.
        eval_corpus_path: TSV of questions, with or without answers.
        outputs_path: File for the answers, one per line.
        bottleneck_dim: Latents of a perceiver.
        pretrain_lr: Peak learning rate of pretraining.
        finetune_lr: Peak learning rate of finetuning.
        tb_expt_name: Folder for TensorBoard event files.
        max_steps: Number of steps, which the learning rate follows.
        resume: Continue a training that was stopped.
    """

    reading_params_path: Path | None = None
    writing_params_path: Path | None = None
    finetune_corpus_path: Path | None = None
    eval_corpus_path: Path | None = None
    outputs_path: Path | None = None
    bottleneck_dim: opt.Count | None = None
    pretrain_lr: float | None = None
    finetune_lr: float | None = None
    tb_expt_name: Path | None = None
    max_steps: opt.Count | None = None
    recipe: opt.RecipeName = "a5"
    seed: opt.Seed = 0
    device: opt.Device = "auto"
    resume: bool = False
    settings: opt.Settings = ()

    def require(self, *names: str) -> None:
        """Raise ValueError for an option that this command needs and that was not given."""
        for name in names:
            if getattr(self, name) is None:
                raise ValueError(f"--{name} is needed")

    def protect(self, corpus: Path) -> None:
        """Raise ValueError where an output would replace an input, or another output."""
        corpora = filter(None, [corpus, self.finetune_corpus_path, self.eval_corpus_path])
        inputs = [*corpora, *_files(self.reading_params_path)]
        outputs = [*_files(self.writing_params_path), *filter(None, [self.outputs_path])]
        for i, output in enumerate(outputs):
            if any(_is_same(output, path) for path in inputs):
                raise ValueError(f"{output} is read and would be overwritten: name another file")
            if any(_is_same(output, path) for path in outputs[:i]):
                raise ValueError(f"{output} would be written twice: name another file")
            if os.path.lexists(os.path.realpath(output)) and not output.is_file():
                raise ValueError(f"{output} is not a plain file: name another one")

    def find_recipe(self) -> Recipe:
        """The named recipe with the options that set a part of it."""
        options = {
            "model.bottleneck": self.bottleneck_dim,
            "pretrain.lr": self.pretrain_lr,
            "finetune.lr": self.finetune_lr,
            "scratch.lr": self.finetune_lr,
        }
        options = {key: str(value) for key, value in options.items() if value is not None}
        settings = opt.parse_settings(self.settings)
        for key, value in options.items():
            if settings.get(key, value) != value:
                raise ValueError(f"--set {key}={settings[key]}: an option says {value}")
        return recipe(self.recipe, **options | settings)


def _files(checkpoint: Path | None) -> list[Path]:
    """The weights and the card of a checkpoint."""
    return [checkpoint, card_path(checkpoint)] if checkpoint else []


def _is_same(one: Path, other: Path) -> bool:
    """Is it one file, perhaps through links or another spelling?"""
    if one.exists() and other.exists():
        return one.samefile(other)
    return os.path.realpath(one) == os.path.realpath(other)


def pretrain(variant: opt.Variant, corpus: CorpusFile, /, *, options: Options = Options()) -> None:
    """Pretrain a model by span corruption on a text file.

    Args:
        corpus: The pretraining text, one document per line; its characters are the vocabulary.
    """
    options.require("writing_params_path")
    _train("pretrain", variant, corpus, options)


def finetune(variant: opt.Variant, corpus: CorpusFile, /, *, options: Options = Options()) -> None:
    """Finetune a checkpoint, or a model with random weights, on question-answer pairs.

    Args:
        corpus: The pretraining text, one document per line; its characters are the vocabulary.
    """
    options.require("writing_params_path", "finetune_corpus_path")
    _train("finetune" if options.reading_params_path else "scratch", variant, corpus, options)


def evaluate(variant: opt.Variant, corpus: CorpusFile, /, *, options: Options = Options()) -> None:
    """Answer the questions of a file, and score the answers if the file holds the right ones.

    Args:
        corpus: The pretraining text; a checkpoint brings its own vocabulary.
    """
    options.require("reading_params_path", "eval_corpus_path")
    _, model, vocab = _start(variant, corpus, options)
    pairs = read_pairs(options.eval_corpus_path, vocab, model.config.block_size)
    answers, score = evaluate_model(model.to(choose_device(options.device)), vocab, pairs)
    if options.outputs_path:
        write_predictions(options.outputs_path, answers)
        outcome = f"{len(answers)} answers written to {options.outputs_path}"
    else:
        outcome = f"{len(answers)} questions answered"
    missing = f"No answers to compare with in {options.eval_corpus_path}: {outcome}"
    print(missing if score is None else score)


def _start(variant: str, corpus: Path, options: Options) -> tuple[Recipe, GPT, CharVocab]:
    """The recipe with the model's block size; the checkpoint's model, or one with new weights."""
    chosen, path = options.find_recipe(), options.reading_params_path
    options.protect(corpus)
    if not corpus.exists():
        raise ValueError(f"{corpus}: no such file; the pretraining text is needed")
    if path:
        model, vocab, _ = load_checkpoint(path)
        held = model.config
        if held.variant != variant:
            raise ValueError(f"{path} holds a {held.variant} model, not {variant}")
        if held.has_latents and options.bottleneck_dim not in (None, held.bottleneck):
            raise ValueError(
                f"{path} has bottleneck {held.bottleneck}, not {options.bottleneck_dim}"
            )
    else:
        vocab = CharVocab.from_documents(read_documents(corpus))
        torch.manual_seed(options.seed)
        model = chosen.new_model(len(vocab), variant)
    size = dict(block_size=model.config.block_size, bottleneck=model.config.bottleneck)
    size = dataclasses.replace(chosen.model, **size)
    return dataclasses.replace(chosen, model=size), model, vocab


def _read_data(
    phase: str, chosen: Recipe, vocab: CharVocab, corpus: Path, options: Options
) -> TokenDataset:
    """What a phase trains on; each of the two files is read only where it is needed."""
    is_pretraining, pairs = phase == "pretrain", []
    documents = read_documents(corpus) if is_pretraining else []
    if chosen.data.mixed_pairs or not is_pretraining:
        options.require("finetune_corpus_path")
        path, block_size = options.finetune_corpus_path, chosen.model.block_size
        pairs = read_pairs(path, vocab, block_size, needs_answers=True)
    texts = Corpus(corpus.stem, documents, pairs, [], [], vocab)
    if is_pretraining:
        return chosen.pretrain_data(texts, vocab, options.seed)
    return chosen.finetune_data(texts, vocab)


def _train(phase: str, variant: str, corpus: Path, options: Options) -> None:
    """Train on the phase's data, and write the checkpoint with its card."""
    command = "pretrain" if phase == "pretrain" else "finetune"
    if processes() > 1:  # each process would write the same files
        raise ValueError(
            f"kt {command} trains in one process; several take "
            "torchrun ... -m kt_course.tools.cli run"
        )
    chosen, model, vocab = _start(variant, corpus, options)
    data = _read_data(phase, chosen, vocab, corpus, options)
    device = choose_device(options.device)
    config, fit_options = chosen.phase(
        phase, steps=options.max_steps, seed=options.seed, device=str(device)
    )
    out = options.writing_params_path
    state = Path(f"{out}.state")
    if state.exists() and not options.resume:
        raise ValueError(f"{state} holds a stopped training: add --resume, or delete it")
    fit_options |= dict(state=state, save_every=200, resume=options.resume, title=command)
    with one_writer(out.parent / f".{out.name}.lock", str(out)):
        last = fit(model, data, config, tensorboard=options.tb_expt_name, **fit_options)[-1]
        for path in _files(out):
            if previous := keep_previous(path):
                print(f"the {path.name} that was there is now {previous.name}")
        card = dict(variant=model.config.variant, recipe=options.recipe, phase=command)
        card |= dict(seed=options.seed, steps=last["step"], cost=cost_of(last))
        card |= dict(settings=dataclasses.asdict(config), hardware=hardware(device))
        save_checkpoint(out, model, vocab, card)
        state.unlink(missing_ok=True)
    print(f"{command}: {last['step']} steps, loss {last['loss']:.3f}, written to {out}")

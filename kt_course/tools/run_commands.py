"""Commands around one run: `kt run`, `baseline`, `fetch` and `export`."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from kt_core.corpora.loading import load_corpus
from kt_core.corpora.wiki import fetch_wiki
from kt_core.evaluation import london_baseline
from kt_core.runs.distributed import is_first
from kt_core.runs.experiment import run_experiment
from kt_course.tools import options as opt


def run(
    *,
    corpus: opt.Corpus = "bios",
    variant: opt.Variant = "vanilla",
    recipe: opt.RecipeName = "quick",
    seed: opt.Seed = 0,
    pretrain: Annotated[bool, Parameter(negative="--no-pretrain")] = True,
    out: Path | None = None,
    resume: bool = False,
    device: opt.Device = "auto",
    tensorboard: bool = False,
    test: Annotated[bool, Parameter(negative="--no-test")] = True,
    settings: opt.Settings = (),
) -> None:
    """Pretrain, finetune and evaluate in one go, all in one folder.

    Args:
        pretrain: --no-pretrain finetunes from random weights.
        out: The run's folder; by default runs/ and a name made of the settings.
        resume: Continue the unfinished run in --out.
        tensorboard: Write TensorBoard event files into the run's folder.
        test: --no-test leaves the test questions for one `kt score` at the end.
    """
    options = dict(device=device, resume=resume, tensorboard=tensorboard, test=test)
    options["overrides"] = opt.parse_settings(settings)
    result = run_experiment(corpus, variant, recipe, pretrain, seed, out, **options)
    if not is_first():
        return
    for split, score in (("dev", result.dev), ("test", result.test)):
        if score is not None:
            interval = f"{100 * score.low:.1f} to {100 * score.high:.1f}%"
            print(f"{split}: {score} (95 % interval {interval})")
    print(f"written to {result.path}")


def baseline(*, corpus: opt.Corpus = "bios") -> None:
    """Count how many answers "London" gets right."""
    print(london_baseline(load_corpus(corpus).dev))


def fetch(
    what: Literal["wiki"], /, *, source: Annotated[Path | None, Parameter("--from")] = None
) -> None:
    """Fetch a corpus that is not part of the project, and check it.

    Args:
        source: Copy the files from this folder instead of the network.
    """
    print(f"{what} is in {fetch_wiki(source)}")


def export(checkpoint: str, folder: Path, /) -> None:
    """Export a checkpoint as a folder that the transformers library loads (hub extra).

    Args:
        checkpoint: Its file, or the name of one that ships (bios-rope-finetuned).
        folder: Where to write it.
    """
    from kt_course.chapters.pretrained_models import hub

    hub.offline()
    written = hub.export_checkpoint(checkpoint, folder)
    print(f"{len(written)} files in {folder}: {', '.join(written)}")

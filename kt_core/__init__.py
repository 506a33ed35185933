"""kt_core, "knowledge transfer": the models, datasets and trainer behind the workbook on self-attention and pretraining."""

__version__ = "0.1.0"

from kt_core.attention import (
    additive_score,
    attend,
    causal_mask,
    masked_softmax,
    multiplicative_score,
    reach_mask,
    record_attention,
    rotary_frequencies,
    rotary_table,
    rotate,
    scaled_dot_product_score,
    sinusoidal_positions,
)
from kt_core.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from kt_core.corpora import Corpus, CorpusError, fetch_wiki, load_corpus, question, question_name
from kt_core.datasets import Mixture, NamePlace, SpanCorruption, batches
from kt_core.decoding import answer, generate
from kt_core.evaluation import (
    Score,
    exact_match,
    london_baseline,
    read_predictions,
    stored_and_found,
    wilson_interval,
    write_predictions,
)
from kt_core.lessons import Lesson, lesson
from kt_core.models import GPT, GPTConfig
from kt_core.recipes import RECIPES, Recipe, recipe
from kt_core.runs import Result, run_experiment
from kt_core.shipping import shipped, shipped_cards
from kt_core.spans import arranged, askable, behind_head, plain_words, salient_spans
from kt_core.trainer import TrainConfig, Trainer
from kt_core.vocab import MASK, PAD, CharVocab


def __getattr__(name: str):
    """`kt.checks` is imported when it is first asked for."""
    if name == "checks":
        import importlib

        return importlib.import_module("kt_core.checks")
    raise AttributeError(f"module 'kt_core' has no attribute {name!r}")


__all__ = [name for name in dir() if not name.startswith("_")]

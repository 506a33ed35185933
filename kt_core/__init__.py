"""kt_core, "knowledge transfer": models, datasets and a trainer for experiments on pretraining."""

__version__ = "0.1.0"

from kt_core.attention import (
    additive_score,
    attend,
    causal_mask,
    masked_softmax,
    multiplicative_score,
    reach_mask,
    record_attention,
    scaled_dot_product_score,
)
from kt_core.blocks import GPTConfig
from kt_core.corpora.loading import Corpus, load_corpus, question, question_name
from kt_core.corpora.textfiles import CorpusError
from kt_core.corpora.wiki import fetch_wiki
from kt_core.datasets import Mixture, NamePlace, SpanCorruption, batches
from kt_core.decoding import answer, generate
from kt_core.evaluation import Score, exact_match, london_baseline, wilson_interval
from kt_core.models import GPT
from kt_core.positions import rotary_frequencies, rotary_table, rotate, sinusoidal_positions
from kt_core.runs.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from kt_core.runs.experiment import Result, run_experiment
from kt_core.runs.predictions import read_predictions, write_predictions
from kt_core.runs.recipes import RECIPES, Recipe, recipe
from kt_core.runs.text_rules import name_prefix_end, plain_words, salient_spans
from kt_core.train_config import TrainConfig
from kt_core.trainer import Hook, Trainer
from kt_core.vocab import MASK, PAD, CharVocab

__all__ = [
    "CharVocab",
    "CheckpointError",
    "Corpus",
    "CorpusError",
    "GPT",
    "GPTConfig",
    "Hook",
    "MASK",
    "Mixture",
    "NamePlace",
    "PAD",
    "RECIPES",
    "Recipe",
    "Result",
    "Score",
    "SpanCorruption",
    "TrainConfig",
    "Trainer",
    "additive_score",
    "answer",
    "attend",
    "batches",
    "causal_mask",
    "exact_match",
    "fetch_wiki",
    "generate",
    "load_checkpoint",
    "load_corpus",
    "london_baseline",
    "masked_softmax",
    "multiplicative_score",
    "name_prefix_end",
    "plain_words",
    "question",
    "question_name",
    "reach_mask",
    "read_predictions",
    "recipe",
    "record_attention",
    "rotary_frequencies",
    "rotary_table",
    "rotate",
    "run_experiment",
    "salient_spans",
    "save_checkpoint",
    "scaled_dot_product_score",
    "sinusoidal_positions",
    "wilson_interval",
    "write_predictions",
]

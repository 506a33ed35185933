"""kt_core, "knowledge transfer": models, datasets and a trainer for experiments on pretraining.

To read it in an evening: `vocab` and `datasets` (text to x and y), `attention`, `blocks` and
`models` (x to logits and loss), `trainer` (a batch to a step), `decoding` (a question to answers)
and `evaluation`. `perceiver` and `kv_cache` can wait: nothing else needs latents or a cache.
`corpora` and `runs` are built around these modules.
"""

from kt_core._version import __version__
from kt_core.attention import (
    attend,
    causal_mask,
    masked_softmax,
    reach_mask,
    scaled_dot_product_score,
)
from kt_core.blocks import GPTConfig
from kt_core.corpora.loading import Corpus, load_corpus, question, question_name
from kt_core.corpora.textfiles import CorpusError, read_predictions, write_predictions
from kt_core.corpora.wiki import fetch_wiki
from kt_core.datasets import Mixture, NamePlace, SpanCorruption, batches
from kt_core.decoding import answer, generate
from kt_core.evaluation import Score, exact_match, london_baseline, wilson_interval
from kt_core.models import GPT
from kt_core.positions import rotary_frequencies, rotary_table, rotate, sinusoidal_positions
from kt_core.runs.attention_maps import record_attention
from kt_core.runs.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from kt_core.runs.experiment import Result, run_experiment
from kt_core.runs.fitting import fit
from kt_core.runs.question_windows import QuestionWindows
from kt_core.runs.recipes import RECIPES, Recipe, recipe
from kt_core.runs.text_rules import askable_spans, name_prefix_end, plain_words, salient_spans
from kt_core.train_config import TrainConfig
from kt_core.trainer import Hook, Trainer
from kt_core.vocab import MASK, PAD, CharVocab

# what most programs need, and then the rest
__all__ = ["GPTConfig", "GPT", "record_attention", "load_corpus", "CharVocab", "SpanCorruption"]
__all__ += ["NamePlace", "TrainConfig", "Trainer", "answer", "exact_match", "london_baseline"]
__all__ += ["run_experiment", "save_checkpoint", "load_checkpoint"]
__all__ += ["attend", "causal_mask", "masked_softmax", "reach_mask", "scaled_dot_product_score"]
__all__ += ["rotary_frequencies", "rotary_table", "rotate", "sinusoidal_positions", "Corpus"]
__all__ += ["CorpusError", "fetch_wiki", "question", "question_name", "MASK", "PAD"]
__all__ += ["read_predictions", "write_predictions", "Mixture", "batches", "QuestionWindows"]
__all__ += ["askable_spans", "name_prefix_end", "plain_words", "salient_spans", "Hook", "fit"]
__all__ += ["generate", "Score", "wilson_interval", "RECIPES", "Recipe", "recipe", "Result"]
__all__ += ["CheckpointError"]

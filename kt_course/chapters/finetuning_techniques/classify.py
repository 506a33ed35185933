"""A language model as a classifier of texts: a head on its last layer, and ways of finetuning it.

tuned = Classifier(body)                    body: a GPT; it stays a language model
train_top(tuned, 0)                         the head alone (linear probe); n: the last n blocks too
layer_rates(tuned, 1e-3, factor=2.6)        a smaller rate for each layer further down
adapter = add_lora(tuned, rank=4)           small trained matrices beside frozen ones, by peft
finetune(tuned, vocab, sentences, TrainConfig(...))
retained(before, after, gold)               how much of the body's old task is left
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from kt_core._validation import one_of
from kt_core.datasets import TokenDataset
from kt_core.evaluation import Score
from kt_core.models import GPT
from kt_core.train_config import TrainConfig
from kt_core.trainer import Trainer
from kt_core.vocab import CharVocab
from kt_course._typing import Float, Int, Tensor
from kt_course.chapters.finetuning_techniques.sentiment import Sentence

POOLINGS = ("last", "mean")
# The linear maps of a block; proj is the attention's and the MLP's.
LINEAR = ("query", "key", "value", "proj", "up")


def pool(
    hidden: Float[Tensor, "B T C"], idx: Int[Tensor, "B T"], how: str = "last"
) -> Float[Tensor, "B C"]:
    """Make one vector per text: that of its last character, or the mean over its characters.

    Args:
        hidden: The last layer's vectors.
        idx: The texts, padded on the right with 0; padding is left out.
        how: "last" or "mean". In a causal model only the last character has read the whole text.
    """
    one_of("pooling", how, POOLINGS)
    real = idx != 0  # (B, T)
    if how == "last":
        return hidden[torch.arange(len(idx), device=idx.device), real.sum(1) - 1]  # (B, C)
    weights = real / real.sum(1, keepdim=True)  # (B, T)
    return (hidden * weights[..., None]).sum(1)


class Classifier(nn.Module):
    """A GPT body and a linear head for two classes on its pooled last layer.

    The body's own head is neither used nor trained. `seed` draws the new head's weights.
    """

    def __init__(self, body: GPT, pooling: str = "last", seed: int = 0):
        super().__init__()
        self.body, self.pooling = body, one_of("pooling", pooling, POOLINGS)
        self.head = nn.utils.skip_init(nn.Linear, body.config.n_embd, 2)  # draws nothing
        weight = torch.randn(self.head.weight.shape, generator=torch.Generator().manual_seed(seed))
        self.head.weight.data = 0.02 * weight
        nn.init.zeros_(self.head.bias)
        self.to(body.tok_emb.weight.device)
        train_top(self, body.config.n_layer + 1)

    def features(self, idx: Int[Tensor, "B T"]) -> Float[Tensor, "B C"]:
        """Compute one vector per text, pooled from what the body's own head reads."""
        return pool(self.body.hidden(idx), idx, self.pooling)

    def forward(
        self,
        texts: Tensor,
        labels: Int[Tensor, " B"] | None = None,
        x: Int[Tensor, "B T2"] | None = None,
        y: Int[Tensor, "B T2"] | None = None,
    ) -> tuple[Float[Tensor, "B 2"], Float[Tensor, ""] | None]:
        """Compute the logits of bad and good, and the mean cross-entropy if there are labels.

        Args:
            texts: Ids, (B, T), padded on the right with 0; or their `features`, (B, C).
            labels: 1 good, 0 bad.
            x, y: A batch of the body's old task, whose loss is added.
        """
        logits = self.head(texts if texts.is_floating_point() else self.features(texts))
        if labels is None:
            return logits, None
        loss = F.cross_entropy(logits, labels)
        return logits, loss if x is None else loss + self.body(x, y)[1]


def depth(name: str, n_layer: int) -> int:
    """Find the depth of a `Classifier`'s parameter, by its name.

    Returns:
        0 for embeddings, 1 ... n_layer for the blocks, n_layer + 1 for the last norm and the
        classifier's head, and -1 for the body's own head, which is not used.
    """
    if name.startswith("body.head."):
        return -1
    if name.startswith("body.blocks."):
        return int(name.split(".")[2]) + 1
    return n_layer + 1 if name.startswith(("body.ln_f.", "head.")) else 0


def train_top(classifier: Classifier, n: int) -> int:
    """Freeze all but the top of a classifier.

    Args:
        n: 0 trains the classifier's head alone, a linear probe of the body as it is; 1 ... L the
            last n of L blocks as well, and the last norm; L + 1 the embeddings too, so everything.
            The body's own head is always frozen.

    Returns:
        The number of parameters that are still trained.

    Raises:
        ValueError: For any other n.
    """
    L = classifier.body.config.n_layer
    if not 0 <= n <= L + 1:
        choices = f"0 (the head alone) ... {L + 1} (everything)"
        raise ValueError(f"train_top: n must be {choices}, not {n}")
    for name, parameter in classifier.named_parameters():
        d = depth(name, L)
        parameter.requires_grad = name.startswith("head.") or (n > 0 and d >= 0 and d > L - n)
    return n_trained(classifier)


def n_trained(model: nn.Module) -> int:
    """Count the parameters that training changes."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def layer_rates(classifier: Classifier, peak: float, factor: float = 2.6) -> list[dict[str, Any]]:
    """Make parameter groups for an optimiser, with a smaller rate for each layer further down.

    Args:
        peak: The rate of the head and the last norm; the last block has peak / factor, the
            embeddings peak / factor^(L + 1).
        factor: 1 gives all layers the same rate.

    Returns:
        One group per depth that has trained parameters.

    Source: Howard and Ruder 2018, section 3.2.
    """
    if factor <= 0:
        raise ValueError(f"layer_rates: factor must be above 0 (1: equal rates), not {factor}")
    L = classifier.body.config.n_layer
    layers: dict[int, list] = {}
    for name, parameter in classifier.named_parameters():
        if parameter.requires_grad and (d := depth(name, L)) >= 0:
            layers.setdefault(d, []).append(parameter)
    return [dict(params=layer, lr=peak / factor ** (L + 1 - d)) for d, layer in layers.items()]


def low_rank(
    x: Float[Tensor, "... n_in"],
    weight: Float[Tensor, "n_out n_in"],
    bias: Float[Tensor, " n_out"],
    down: Float[Tensor, "r n_in"],
    up: Float[Tensor, "n_out r"],
    alpha: float,
) -> Float[Tensor, "... n_out"]:
    """Compute a frozen linear map plus a trained one of rank r: x Wᵀ + b + (alpha / r) x Aᵀ Bᵀ.

    `down` is A, `up` is B. B starts at 0, so that training starts at the frozen map.

    Source: Hu et al. 2021, section 4.1.
    """
    r = down.size(0)
    return F.linear(x, weight, bias) + alpha / r * (x @ down.T) @ up.T


def add_lora(
    classifier: Classifier,
    rank: int = 8,
    alpha: float = 16.0,
    targets: Sequence[str] = LINEAR,
    seed: int = 0,
):
    """Freeze the body and put LoRA matrices beside its linear maps of these names.

    The body is changed in place, and the classifier's head stays trained.

    Returns:
        peft's model: `with adapter.disable_adapter():` runs the body as it was, and
        `adapter.merge_and_unload()` adds the matrices to the weights.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise ValueError("add_lora needs peft: pip install 'kt-core[hub]'") from None
    if rank < 1:
        raise ValueError(f"add_lora: rank must be 1 or more, not {rank}")
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), lora_dropout=0.0)
    with torch.random.fork_rng(devices=[]):  # peft draws the matrices from the global generator
        torch.manual_seed(seed)
        return get_peft_model(classifier.body, config)


# ---------------------------------------------------------------- data and training


def encode_rows(vocab: CharVocab, texts: Sequence[str]) -> list[Int[Tensor, " T"]]:
    """Encode each text with ⁇ after it, where the body has learned to give its answer.

    (Radford et al. 2018, section 3.3, add a new symbol there, and finetuning has to teach it.)
    """
    return [torch.tensor([*vocab.encode(text), vocab.mask_id]) for text in texts]


def encode(vocab: CharVocab, texts: Sequence[str], device="cpu") -> Int[Tensor, "B T"]:
    """Encode texts as one batch, padded on the right with 0."""
    return pad_sequence(encode_rows(vocab, texts), batch_first=True).to(device)


class LabelledData:
    """Rows (ids of texts, or vectors) with their labels, as training data of a classifier.

    With `replay`, a dataset of the body's old task, each row brings one of its examples along.
    """

    block_size = None

    def __init__(
        self, rows: Sequence[Tensor], labels: Sequence[int], replay: TokenDataset | None = None
    ):
        self.rows, self.labels, self.replay = rows, labels, replay

    def __len__(self) -> int:
        return len(self.rows)

    def tokens(self, i: int, epoch: int = 0) -> tuple:
        """Give row i, its label and an example of the old task."""
        if self.replay is None:
            return self.rows[i], self.labels[i]
        j = (i + epoch * len(self)) % len(self.replay)
        return self.rows[i], self.labels[i], self.replay.tokens(j, epoch)

    def stack(self, examples: Sequence[tuple], length: None = None) -> tuple[Tensor, ...]:
        """Put several `tokens` into one batch."""
        rows, labels, *replayed = zip(*examples, strict=True)
        batch = pad_sequence(list(rows), batch_first=True), torch.tensor(labels)
        return (*batch, *(self.replay.stack(replayed[0]) if replayed else ()))


def finetune(
    classifier: Classifier,
    vocab: CharVocab,
    sentences: Sequence[Sentence],
    config: TrainConfig,
    *,
    factor: float = 1.0,
    replay: TokenDataset | None = None,
) -> list[dict]:
    """Train what is not frozen on labelled sentences, with AdamW.

    Where the whole body is frozen, its vectors are computed only once.

    Args:
        factor: See `layer_rates`.
        replay: A dataset of the body's old task, whose loss is added; see `Classifier.forward`.

    Returns:
        The history; see `kt_core.Trainer`.
    """
    if not sentences:
        raise ValueError("finetune: no sentences to train on")
    texts, labels = [s.text for s in sentences], [s.label for s in sentences]
    rows = encode_rows(vocab, texts)
    if replay is None and not any(p.requires_grad for p in classifier.body.parameters()):
        rows = list(features(classifier, vocab, texts).cpu())
    groups = layer_rates(classifier, config.learning_rate, factor)
    optimizer = torch.optim.AdamW(groups, betas=config.betas, weight_decay=config.weight_decay)
    data = LabelledData(rows, labels, replay)
    return Trainer(classifier, data, config, optimizers=[optimizer]).fit()


@torch.no_grad()
def features(
    classifier: Classifier, vocab: CharVocab, texts: Sequence[str], batch_size: int = 128
) -> Float[Tensor, "n C"]:
    """Compute the vectors of `texts` that the head reads, in batches of similar length."""
    was_training, device = classifier.training, classifier.head.weight.device
    classifier.eval()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    vectors = torch.zeros(len(texts), classifier.head.in_features, device=device)
    for first in range(0, len(order), batch_size):
        rows = order[first : first + batch_size]
        vectors[rows] = classifier.features(encode(vocab, [texts[i] for i in rows], device))
    classifier.train(was_training)
    return vectors


@torch.no_grad()
def predict(classifier: Classifier, vocab: CharVocab, texts: Sequence[str]) -> list[int]:
    """Find the most likely class of each text."""
    return classifier.head(features(classifier, vocab, texts)).argmax(-1).tolist() if texts else []


def retained(before: Sequence[str], after: Sequence[str], gold: Sequence[str]) -> Score:
    """Count, of the answers that were correct before a finetuning, those that are so after it.

    An answer that was wrong before and is correct now does not count.

    Raises:
        ValueError: Unless there is one answer before, one after and one gold one per question.
    """
    if not len(before) == len(after) == len(gold):
        counts = f"{len(before)} answers before, {len(after)} after, {len(gold)} gold ones"
        raise ValueError(f"retained: {counts}: each question needs one of each")
    known = [i for i, answer in enumerate(gold) if before[i].strip() == answer.strip()]
    return Score(sum(after[i].strip() == gold[i].strip() for i in known), len(known))

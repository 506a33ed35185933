"""A language model as a classifier of texts: a head on its last layer, and the ways of finetuning what lies below.

    tuned = Classifier(body)                    body: a GPT; it stays a language model, and is changed by training
    train_top(tuned, 0)                         the head alone (linear probe); n: the last n blocks too
    layer_rates(tuned, 1e-3, factor=2.6)        a smaller rate for each layer further down (Howard and Ruder 2018)
    adapter = add_lora(tuned, rank=4)           small trained matrices beside frozen ones (Hu et al. 2021), by peft
    fit(tuned, vocab, sentences, TrainConfig(...))

What of the body's old task is left is told by `retained`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, repeat
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from kt_core._typing import Float, Int, Tensor
from kt_core.datasets import batches
from kt_core.evaluation import Score
from kt_core.models import GPT
from kt_core.trainer import TrainConfig
from kt_core.vocab import CharVocab
from kt_course.chapters.finetuning_techniques.sentiment import Sentence

POOLINGS = ("last", "mean")
# the linear maps of a block; proj is the attention's and the MLP's
LINEAR = ("query", "key", "value", "proj", "up")


def pool(
    hidden: Float[Tensor, "B T C"], idx: Int[Tensor, "B T"], how: str = "last"
) -> Float[Tensor, "B C"]:
    """One vector a text: that of its last character, or the mean over its characters. Padding (id 0) is left out.

    Rows of `idx` are texts padded on the right. "last" is the only one that a causal model has read the whole text for.
    """
    if how not in POOLINGS:
        raise ValueError(f"pool: how must be one of {', '.join(POOLINGS)}, not {how!r}")
    real = idx != 0  # (B, T)
    if how == "last":
        return hidden[torch.arange(len(idx), device=idx.device), real.sum(1) - 1]  # (B, C)
    weights = real / real.sum(1, keepdim=True)  # (B, T)
    return (hidden * weights[..., None]).sum(1)


class Classifier(nn.Module):
    """A GPT body and a linear head for two classes on its pooled last layer. The body's own head is not used, nor trained.

    `seed` draws the head's weights. Raises ValueError for an unknown pooling.
    """

    def __init__(self, body: GPT, pooling: str = "last", seed: int = 0):
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(
                f"Classifier: pooling must be one of {', '.join(POOLINGS)}, not {pooling!r}"
            )
        self.body, self.pooling = body, pooling
        self.head = nn.utils.skip_init(nn.Linear, body.config.n_embd, 2)  # draws nothing
        drawn = torch.randn(self.head.weight.shape, generator=torch.Generator().manual_seed(seed))
        self.head.weight.data = 0.02 * drawn
        nn.init.zeros_(self.head.bias)
        self.to(body.tok_emb.weight.device)
        train_top(self, body.config.n_layer + 1)

    def features(self, idx: Int[Tensor, "B T"]) -> Float[Tensor, "B C"]:
        """One vector a text, pooled from what the body's own head reads: the residual stream behind the last norm."""
        seen: list[Tensor] = []
        hook = self.body.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            self.body(idx)
        finally:
            hook.remove()
        return pool(seen[0], idx, self.pooling)

    def forward(self, idx: Int[Tensor, "B T"]) -> Float[Tensor, "B 2"]:
        """Logits of bad and good, of texts padded on the right with 0."""
        return self.head(self.features(idx))


def depth(name: str, n_layer: int) -> int:
    """How deep a parameter of a `Classifier` lies: 0 embeddings, 1 ... n_layer the blocks, n_layer + 1 above them.

    Above them are the last norm and the classifier's head. -1: the body's own head, which has no part in it.
    """
    if name.startswith("body.head."):
        return -1
    if name.startswith("body.blocks."):
        return int(name.split(".")[2]) + 1
    return n_layer + 1 if name.startswith(("body.ln_f.", "head.")) else 0


def train_top(classifier: Classifier, n: int) -> int:
    """Freeze all but the top; returns the number of values that are still trained.

    n = 0           the classifier's head alone: a linear probe of the body as it is
    n = 1 ... L     the last n of L blocks as well, and the last norm
    n = L + 1       the embeddings too: everything
    The body's own head is frozen always. Raises ValueError for any other n.
    """
    L = classifier.body.config.n_layer
    if not 0 <= n <= L + 1:
        raise ValueError(
            f"train_top: n must be 0 (the head alone) ... {L + 1} (everything), not {n}"
        )
    for name, parameter in classifier.named_parameters():
        at = depth(name, L)
        parameter.requires_grad = name.startswith("head.") or (n > 0 and at >= 0 and at > L - n)
    return n_trained(classifier)


def n_trained(model: nn.Module) -> int:
    """Number of values that training changes."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def layer_rates(classifier: Classifier, peak: float, factor: float = 2.6) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser: `peak` at the top, divided by `factor` for each layer further down.

    The last norm and the head get peak, the last block peak / factor, ... the embeddings peak / factor^(L + 1). Frozen
    parameters are in no group, and no group is empty. 2.6 is Howard and Ruder's choice (2018, section 3.2); 1 gives all
    layers the same rate.
    """
    if factor <= 0:
        raise ValueError(
            f"layer_rates: factor must be above 0 (1: the same rate for all), not {factor}"
        )
    L = classifier.body.config.n_layer
    groups: dict[int, list] = {}
    for name, parameter in classifier.named_parameters():
        if parameter.requires_grad and (at := depth(name, L)) >= 0:
            groups.setdefault(at, []).append(parameter)
    return [dict(params=found, lr=peak / factor ** (L + 1 - at)) for at, found in groups.items()]


def low_rank(
    x: Float[Tensor, "... n_in"],
    weight: Float[Tensor, "n_out n_in"],
    bias: Float[Tensor, " n_out"],
    down: Float[Tensor, "r n_in"],
    up: Float[Tensor, "n_out r"],
    alpha: float,
) -> Float[Tensor, "... n_out"]:
    """A frozen linear map with a trained one of rank r beside it: x W^T + b + (alpha / r) x A^T B^T (Hu et al. 2021, 4.1).

    `down` is A, `up` is B. B starts at 0, so that training starts at the frozen map itself.
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
    """Freeze the body and put LoRA matrices beside its linear maps of these names; returns peft's model.

    The body is changed in place, and the classifier's head stays trained. With the result, `with adapter.disable_adapter():`
    runs the body as it was, and `adapter.merge_and_unload()` adds the matrices to the weights. ValueError without peft.
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


@dataclass(frozen=True)
class Fit:
    """What a training took: steps, characters read, processor seconds, values trained, the loss of each step (nats)."""

    steps: int
    characters: int
    seconds: float
    trained: int
    losses: list[float]


def encode(
    vocab: CharVocab, texts: Sequence[str], device: torch.device | str = "cpu"
) -> Int[Tensor, "B T"]:
    """Texts as rows of ids with ⁇ behind each, padded on the right with 0.

    ⁇ is where the body has learnt to say what is asked for: a good place to read from. (Radford et al. 2018, section 3.3,
    put a new sign there and let finetuning teach it.)
    """
    rows = [torch.tensor([*vocab.encode(text), vocab.mask_id]) for text in texts]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)


def fit(
    classifier: Classifier,
    vocab: CharVocab,
    sentences: Sequence[Sentence],
    config: TrainConfig,
    *,
    factor: float = 1.0,
    replay: Any = None,
) -> Fit:
    """Train what is not frozen on labelled sentences: AdamW, batches of like length, `config`'s rates and schedule.

    `factor`: see `layer_rates`. `replay`: a dataset of the body's old task (`kt_core.datasets`); each step then adds the
    loss of a batch of it, at the body's own head, which stays as it is. Where the whole body is frozen its vectors are
    computed once. Draws depend on config.seed alone.
    """
    if not sentences:
        raise ValueError("fit: no sentences to train on")
    torch.manual_seed(config.seed)
    device = classifier.head.weight.device
    probing = not any(p.requires_grad for p in classifier.body.parameters()) and replay is None
    began = time.process_time()
    optimizer = torch.optim.AdamW(
        layer_rates(classifier, config.learning_rate, factor),
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=device.type in ("cpu", "cuda"),
    )
    peaks = [group["lr"] for group in optimizer.param_groups]
    trained = [p for p in classifier.parameters() if p.requires_grad]
    labels = torch.tensor([s.label for s in sentences], device=device)
    kept = features(classifier, vocab, [s.text for s in sentences]) if probing else None
    total = config.steps or max(1, round(config.epochs * -(-len(sentences) // config.batch_size)))
    order = _batches([len(s.text) for s in sentences], config.batch_size, config.seed)
    old = repeat(None)
    if replay is not None:  # a generator without end
        old = (
            pair
            for epoch in count()
            for pair in batches(replay, config.batch_size, config.seed, epoch)
        )
    characters, losses = 0, []
    classifier.train()
    for step, rows, more in zip(range(total), order, old, strict=False):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * config.rate(step, total)
        if probing:
            logits = classifier.head(kept[rows])
        else:
            idx = encode(vocab, [sentences[i].text for i in rows], device)
            logits = classifier(idx)
            characters += int((idx != 0).sum())
        loss = F.cross_entropy(logits, labels[rows])
        losses.append(loss.item())
        if more is not None:
            x, y = (part.to(device) for part in more)
            characters += int((x != 0).sum())
            loss = loss + classifier.body(x, y)[1]
        loss.backward()
        nn.utils.clip_grad_norm_(trained, config.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    classifier.eval()
    return Fit(len(losses), characters, time.process_time() - began, n_trained(classifier), losses)


def _batches(lengths: Sequence[int], size: int, seed: int) -> Iterator[list[int]]:
    """Indices in batches of like length, epoch after epoch, each in a new order."""
    for epoch in count():
        rng = random.Random(f"classify {seed} {epoch}")
        order = sorted(rng.sample(range(len(lengths)), len(lengths)), key=lambda i: lengths[i])
        groups = [order[i : i + size] for i in range(0, len(order), size)]
        rng.shuffle(groups)
        yield from groups


@torch.no_grad()
def features(
    classifier: Classifier, vocab: CharVocab, texts: Sequence[str], batch_size: int = 128
) -> Float[Tensor, "n C"]:
    """The vectors of `texts` that the head reads, in their order; batches of like length."""
    was_training, device = classifier.training, classifier.head.weight.device
    classifier.eval()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found = torch.zeros(len(texts), classifier.head.in_features, device=device)
    for first in range(0, len(order), batch_size):
        rows = order[first : first + batch_size]
        found[rows] = classifier.features(encode(vocab, [texts[i] for i in rows], device))
    classifier.train(was_training)
    return found


@torch.no_grad()
def predict(classifier: Classifier, vocab: CharVocab, texts: Sequence[str]) -> list[int]:
    """The likeliest class of each text."""
    return classifier.head(features(classifier, vocab, texts)).argmax(-1).tolist() if texts else []


def retained(before: Sequence[str], after: Sequence[str], gold: Sequence[str]) -> Score:
    """Of the questions answered right before a finetuning, those that are answered right after it too.

    What is right after and was wrong before is no knowledge kept: it does not count. ValueError if the counts differ.
    """
    if not len(before) == len(after) == len(gold):
        counts = f"{len(before)} answers before, {len(after)} after, {len(gold)} gold ones"
        raise ValueError(f"retained: {counts}: one of each a question is needed")
    known = [i for i, told in enumerate(gold) if before[i].strip() == told.strip()]
    return Score(sum(after[i].strip() == gold[i].strip() for i in known), len(known))

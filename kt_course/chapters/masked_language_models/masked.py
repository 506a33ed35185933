"""Masked language models: some characters of a text are hidden, and a model that looks both ways says which.

x is the text with its hidden places, y the character that stood at each chosen place and 0 (no loss) elsewhere. Nothing
is shifted: output j answers for place j, where a causal model's answers for place j + 1. The model is a `GPT` with
`causal=False`: the same blocks, the same attention, no triangle.

    documents        Name. words ⁇⁇⁇⁇⁇ words            the chosen characters are asked for
    questions        Where was NAME born? ⁇⁇⁇⁇⁇↵        as many masks as the answer has letters
    pairs of lines   ⁇first line↵second line↵          the first place asks: one person (1) or two (0)?

Sources: Devlin et al. 2019 (BERT), section 3.1 and appendix A; Joshi et al. 2020 (SpanBERT), section 3; Guu et al. 2020
(REALM), section 3.4; Ghazvininejad et al. 2019 (Mask-Predict), section 3; Liu et al. 2019 (RoBERTa), section 4.2.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from kt_core._typing import Float, Int, Tensor
from kt_core.corpora.loading import Corpus, load_corpus, question_name
from kt_core.corpora.textfiles import Pair
from kt_core.datasets import Mixture, NamePlace, SpanCorruption, _TokenDataset
from kt_core.models import GPT, GPTConfig
from kt_core.runs.text_rules import name_prefix_end
from kt_core.vocab import CharVocab

UNITS = ("chars", "words", "spans")
SHARE = 0.15  # of a text is chosen
RULE = (
    0.8,
    0.1,
)  # of the chosen units the share that is hidden and the share made random; the rest stays
HIDDEN = (1.0, 0.0)  # all of them are hidden
END = "\n"  # closes an answer, and each line of a pair (kt_course.chapters.masked_language_models.next_sentence)
_WORD = re.compile(r"[\w'’-]+")

# ---------------------------------------------------------------- hiding


def hide(
    ids: Sequence[int],
    units: Sequence[tuple[int, int]],
    vocab_size: int,
    rng: random.Random,
    rule: tuple[float, float] = RULE,
) -> tuple[list[int], list[int]]:
    """(x, y) of a text of which `units`, (start, stop) each, were chosen, by BERT's rule: one draw a unit.

    y holds the chosen characters and 0 elsewhere. In x a share rule[0] of the units becomes ⁇ (id 1), a share rule[1]
    random characters (ids 2 ... vocab_size - 1, each place its own), and the rest of them stays.
    """
    x, y = list(ids), [0] * len(ids)
    for start, stop in units:
        draw = rng.random()
        for j in range(start, stop):
            y[j] = ids[j]
            if draw < rule[0]:
                x[j] = 1
            elif draw < rule[0] + rule[1]:
                x[j] = rng.randrange(2, vocab_size)
    return x, y


def choose(
    text: str, units: str, rng: random.Random, share: float = SHARE
) -> list[tuple[int, int]]:
    """Characters or whole words of `text` at random, until they are `share` of it: (start, stop) each, at least one."""
    if units == "chars":
        found = [(j, j + 1) for j in range(len(text))]
    elif units == "words":
        found = [match.span() for match in _WORD.finditer(text)]
    else:
        raise ValueError(f"units must be chars or words, not {units!r}")
    rng.shuffle(found)
    kept, n = [], 0
    for start, stop in found:
        if kept and n >= share * len(text):
            break
        kept.append((start, stop))
        n += stop - start
    return kept


def padded(rows: Sequence[Sequence[int]], length: int | None = None) -> Int[Tensor, "B T"]:
    """Rows of ids as one tensor, □ (0) behind each, as long as the longest if no length is given."""
    idx = torch.zeros(len(rows), length or max(map(len, rows)), dtype=torch.long)
    for i, row in enumerate(rows):
        idx[i, : len(row)] = torch.tensor(row, dtype=torch.long)
    return idx


class MaskedDataset(_TokenDataset):
    """A dataset whose `tokens(i)` are (x, y), lists of one length, y not shifted."""

    def stack(
        self, examples: Sequence[tuple[list[int], list[int]]], length: int | None = None
    ) -> tuple[Tensor, Tensor]:
        return padded([x for x, _ in examples], length), padded([y for _, y in examples], length)


def _part(start: int, stop: int, part: float, rng: random.Random) -> list[tuple[int, int]]:
    """A span as one unit, or in a share `part` of the draws some of its characters, 1 ... all of them alike likely."""
    if rng.random() >= part:
        return [(start, stop)]
    return [(j, j + 1) for j in rng.sample(range(start, stop), rng.randint(1, stop - start))]


class MaskedText(MaskedDataset):
    """Documents with hidden characters.

    What is shown is what `SpanCorruption` shows: its `view` is the crop, "window" (the head and a few words around a
    salient span) or "line". units: what is chosen in it: "chars" or "words" at random, `share` of the text, by BERT's
    rule, or "spans", that salient span, always hidden: whole, or in a share `part` of the draws only in part, as filling
    in rounds meets it after its first round. Every draw depends on (seed, epoch, index) alone.
    """

    def __init__(
        self,
        documents: Sequence[str],
        vocab: CharVocab,
        block_size: int = 128,
        seed: int = 0,
        *,
        units: str = "chars",
        view: str = "window",
        share: float = SHARE,
        part: float = 0.0,
    ):
        if units not in UNITS:
            raise ValueError(f"MaskedText: units must be one of {', '.join(UNITS)}, not {units!r}")
        if not 0 < share <= 1:
            raise ValueError(f"MaskedText: share must be above 0 and at most 1, not {share!r}")
        if not 0 <= part <= 1:
            raise ValueError(f"MaskedText: part must lie in 0 ... 1, not {part!r}")
        self.views = SpanCorruption(documents, vocab, block_size, seed, crop=view, spans="salient")
        self.vocab, self.block_size, self.seed, self.units, self.share, self.part = (
            vocab,
            block_size,
            seed,
            units,
            share,
            part,
        )

    def __len__(self) -> int:
        return len(self.views)

    def tokens(self, i: int) -> tuple[list[int], list[int]]:
        self.views.set_epoch(self.epoch)
        before, span, after = self.views.pieces(i)
        text, rng = before + span + after, random.Random(f"masks {self.seed} {self.epoch} {i}")
        if self.units == "spans":
            chosen, rule = _part(len(before), len(before + span), self.part, rng), HIDDEN
        else:
            chosen, rule = choose(text, self.units, rng, self.share), RULE
        return hide(self.vocab.encode(text), chosen, len(self.vocab), rng, rule)


class MaskedPairs(MaskedDataset):
    """Questions whose answer is hidden, a mask for each letter; `part` as in `MaskedText`."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        vocab: CharVocab,
        block_size: int = 128,
        seed: int = 0,
        *,
        part: float = 0.0,
    ):
        self.pairs, self.vocab, self.block_size, self.seed, self.part = (
            list(pairs),
            vocab,
            block_size,
            seed,
            part,
        )
        for i, (question, answer) in enumerate(self.pairs):
            if not answer or len(question) + 2 + len(answer) > block_size:
                raise ValueError(
                    f"MaskedPairs: pair {i} ({question!r}, {answer!r}) needs an answer, and both a block of {block_size}"
                )

    def __len__(self) -> int:
        return len(self.pairs)

    def tokens(self, i: int) -> tuple[list[int], list[int]]:
        question, answer = self.pairs[i]
        start, rng = len(question) + 1, random.Random(f"masks {self.seed} {self.epoch} {i}")
        ids = self.vocab.encode(f"{question} {answer}{END}")
        return hide(
            ids, _part(start, start + len(answer), self.part, rng), len(self.vocab), rng, HIDDEN
        )


class MaskedMixture(MaskedDataset, Mixture):
    """Several masked datasets as one, each seen `times` times an epoch."""


# ---------------------------------------------------------------- the loss


def one_hot_kl(logits: Float[Tensor, "B T V"], targets: Int[Tensor, "B T"]) -> Float[Tensor, ""]:
    """Mean over the asked places (targets not 0) of KL(p || q) = sum_v p_v (log p_v - log q_v), in nats.

    p is 1 at the target and 0 elsewhere, q the softmax of the logits; 0 log 0 is 0. p has no entropy, so this is the
    cross-entropy: H(p, q) = H(p) + KL(p || q).
    """
    asked = targets != 0
    log_q = logits[asked].log_softmax(-1)  # (n, V)
    p = F.one_hot(targets[asked], logits.size(-1)).type_as(log_q)
    return (torch.special.xlogy(p, p) - p * log_q).sum(-1).mean()


# ---------------------------------------------------------------- pretraining

PHASES = ("masked_chars", "masked_words", "masked_spans", "masked_nsp", "cut_spans")
PEOPLE = (200, 100)  # of a corpus' train and dev questions, whose people the text is about


def some_people(
    corpus: Corpus, train: int = PEOPLE[0], dev: int = PEOPLE[1]
) -> tuple[list[Pair], list[Pair], list[str]]:
    """The first pairs of train and of dev, and the lines of these people: (train pairs, dev pairs, documents)."""
    asked = corpus.train[:train], corpus.dev[:dev]
    heads = {f"{question_name(q)}. " for pairs in asked for q, _ in pairs}
    return *asked, [line for line in corpus.documents if line[: name_prefix_end(line)] in heads]


def pretrain_masked(
    phase: str = "masked_spans",
    corpus: Corpus | None = None,
    *,
    epochs: float = 40.0,
    people: tuple[int, int] = PEOPLE,
    n_layer: int = 3,
    n_head: int = 4,
    n_embd: int = 96,
    seed: int = 0,
    device: str = "auto",
    state: str | Path | None = None,
) -> tuple[GPT, CharVocab, dict]:
    """Train a small model on the lines of `people` and the train questions of theirs: (model, vocab, card).

    phase: "masked_chars", "masked_words", "masked_spans" are encoders, see `MaskedText`; "masked_nsp" is the last of them
    with a pair of lines a person and epoch besides (`kt_course.chapters.masked_language_models.next_sentence`). "cut_spans" is a causal model of the same
    size that sees the same windows of the same lines as often, each span cut out and asked for at the end. The default
    corpus is bios; `state` keeps the training, which goes on from there when it is called again.
    """
    from kt_core.decoding import answer
    from kt_core.evaluation import exact_match
    from kt_core.runs.checkpoints import hardware
    from kt_core.runs.devices import choose_device
    from kt_core.runs.experiment import describe
    from kt_core.trainer import TrainConfig, Trainer
    from kt_course.chapters.masked_language_models.masked_decoding import answer_masked
    from kt_course.chapters.masked_language_models.next_sentence import LinePairs, by_person

    if phase not in PHASES:
        raise ValueError(f"phase must be one of {', '.join(PHASES)}, not {phase!r}")
    corpus = corpus or load_corpus("bios")
    train, dev, documents = some_people(corpus, *people)
    vocab, causal = corpus.vocab, phase == "cut_spans"
    if causal:
        cut = dict(crop="window", spans="salient", loss="span", end_sentinel=True)
        text = SpanCorruption(documents, vocab, seed=seed, **cut)
        data = Mixture([(text, 1), (NamePlace(train, vocab), 1)])
    else:
        units = "spans" if phase == "masked_nsp" else phase.removeprefix("masked_")
        parts = [
            MaskedText(documents, vocab, seed=seed, units=units),
            MaskedPairs(train, vocab, seed=seed),
        ]
        if phase == "masked_nsp":
            parts.append(LinePairs(by_person(documents), vocab, seed=seed))
        data = MaskedMixture([(part, 1) for part in parts])
    torch.manual_seed(seed)
    shape = dict(
        n_layer=n_layer, n_head=n_head, n_embd=n_embd, dropout=0.0, qk_norm=True, zero_init=True
    )
    model = GPT(GPTConfig(len(vocab), variant="rope", causal=causal, **shape))
    config = TrainConfig(
        epochs=epochs,
        batch_size=32,
        learning_rate=2e-3,
        optimizer="muon",
        muon_learning_rate=0.01,
        weight_decay=0.0,
        schedule="linear",
        final_fraction=0.0,
        precision="native",
        seed=seed,
        device=device,
        save_every=200,
    )
    last = Trainer(model, data, config, state=state, title=phase).fit(resume=True)[-1]
    asked, gold = [q for q, _ in dev], [a for _, a in dev]
    if causal:
        told = answer(model, vocab, asked)
    else:
        told = answer_masked(model, vocab, asked, [len(a) for a in gold])
    card = dict(
        corpus=corpus.name,
        variant="rope",
        phase=phase,
        kind="mixed",
        seed=seed,
        people=list(people),
        cost={key: last[key] for key in ("step", "epoch", "characters", "seconds", "loss")},
        dev=describe(exact_match(told, gold)),
        hardware=hardware(choose_device(device)),
    )
    return model, vocab, card

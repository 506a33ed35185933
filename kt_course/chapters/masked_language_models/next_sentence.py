"""Next-sentence prediction, in this corpus' terms: are two lines about one person?

BERT trains it beside the masks (Devlin et al. 2019, section 3.1, task 2): half of the pairs belong together, half do
not, and the vector of the first place, [CLS], tells which. Here the first place holds ⁇ and is asked for like any other
masked place; its two possible characters are `ONE` and `TWO`. RoBERTa drops it (Liu et al. 2019, section 4.2), ALBERT
asks for the order of two sentences instead (Lan et al. 2020, section 3.1).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

from kt_core._typing import Float, Tensor
from kt_core.models import GPT
from kt_core.runs.text_rules import name_prefix_end
from kt_core.vocab import MASK, CharVocab
from kt_course.chapters.masked_language_models.masked import END, MaskedDataset, padded

ONE, TWO = "1", "0"  # the character at the first place: lines of one person, of two persons

BLOCK = 64  # characters of a pair: its lines share the room that a single one would have

Lines = Sequence[Sequence[str]]


def by_person(documents: Sequence[str]) -> list[list[str]]:
    """The lines of each person, known by the name that a line opens with, in the order of their first lines."""
    found: dict[str, list[str]] = {}
    for document in documents:
        found.setdefault(document[: name_prefix_end(document)], []).append(document)
    return list(found.values())


def line_pair(lines: Lines, i: int, rng: random.Random) -> tuple[str, str, bool]:
    """(first line, second line, are both of one person?): a random line of person i, and in half of the draws another
    line of that person, in the other half a line of somebody else, everybody else alike likely.

    `lines` holds the lines of each person, two persons or more, two lines or more each.
    """
    first, second = rng.sample(range(len(lines[i])), 2)
    if rng.random() < 0.5:
        return lines[i][first], lines[i][second], True
    other = (i + rng.randrange(1, len(lines))) % len(lines)
    return lines[i][first], rng.choice(lines[other]), False


def pair_text(first: str, second: str, block_size: int = BLOCK) -> str:
    """⁇first↵second↵, each line cut to half of what the block has room for."""
    room = (block_size - 3) // 2
    return f"{MASK}{first[:room]}{END}{second[:room]}{END}"


class LinePairs(MaskedDataset):
    """Pairs of lines as `line_pair` draws them, a new draw each epoch; the label is the one place asked for.

    names: False leaves out the name that each line opens with. Raises ValueError for a person with a single line.
    """

    def __init__(
        self,
        lines: Lines,
        vocab: CharVocab,
        block_size: int = BLOCK,
        seed: int = 0,
        *,
        names: bool = True,
    ):
        self.lines, self.vocab, self.block_size, self.seed, self.names = (
            lines,
            vocab,
            block_size,
            seed,
            names,
        )
        if len(lines) < 2:
            raise ValueError(f"LinePairs: {len(lines)} persons; pairs of different ones need two")
        for i, told in enumerate(lines):
            if len(told) < 2:
                raise ValueError(
                    f"LinePairs: person {i} ({told[0][:30]!r}) has one line; a pair needs two"
                )

    def __len__(self) -> int:
        return len(self.lines)

    def pair(self, i: int) -> tuple[str, str, bool]:
        """(first, second, of one person?) of example i in this epoch."""
        rng = random.Random(f"pairs {self.seed} {self.epoch} {i}")
        first, second, same = line_pair(self.lines, i, rng)
        if not self.names:
            first, second = first[name_prefix_end(first) :], second[name_prefix_end(second) :]
        return first, second, same

    def tokens(self, i: int) -> tuple[list[int], list[int]]:
        first, second, same = self.pair(i)
        x = self.vocab.encode(pair_text(first, second, self.block_size))
        return x, self.vocab.encode(ONE if same else TWO) + [0] * (len(x) - 1)


@torch.no_grad()
def one_person(
    model: GPT,
    vocab: CharVocab,
    pairs: Sequence[tuple[str, str]],
    block_size: int = BLOCK,
    batch_size: int = 64,
) -> Float[Tensor, " n"]:
    """Probability that the two lines of each pair are of one person, (n,): the softmax over the two labels alone."""
    was_training, device, told = model.training, model.head.weight.device, []
    labels = torch.tensor(vocab.encode(ONE + TWO), device=device)
    model.eval()
    for first in range(0, len(pairs), batch_size):
        x = padded(
            [
                vocab.encode(pair_text(*pair, block_size))
                for pair in pairs[first : first + batch_size]
            ]
        )
        told.append(model(x.to(device))[0][:, 0, labels].float().softmax(-1)[:, 0].cpu())
    model.train(was_training)
    return torch.cat(told)

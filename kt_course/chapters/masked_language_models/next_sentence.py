"""Next-sentence prediction on this corpus: are two lines about the same person?

BERT trains it together with the masks (Devlin et al. 2019, section 3.1, task 2). Half of the pairs
belong together, and the output at the first position, [CLS], classifies the pair. Here the first
position has ⁇ and is predicted like any other masked position: its label is the character `SAME` or
`DIFFERENT`. RoBERTa leaves the task out (Liu et al. 2019, section 4.2). ALBERT predicts the order
of two sentences instead (Lan et al. 2020, section 3.1).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from kt_core.models import GPT
from kt_core.runs.text_rules import name_prefix_end
from kt_core.vocab import MASK, CharVocab
from kt_course.chapters.masked_language_models.masked_data import END, MaskedDataset
from kt_course.chapters.masked_language_models.masked_decoding import map_texts

SAME, DIFFERENT = "1", "0"  # the labels, as characters
BLOCK = 64  # characters of a pair; its two lines share them

PersonLines = Sequence[Sequence[str]]  # the lines of each person


def group_by_person(documents: Sequence[str]) -> list[list[str]]:
    """Group the lines by the name that they open with, in the order of their first lines."""
    groups: dict[str, list[str]] = {}
    for document in documents:
        groups.setdefault(document[: name_prefix_end(document)], []).append(document)
    return list(groups.values())


def draw_line_pair(lines: PersonLines, i: int, rng: random.Random) -> tuple[str, str, bool]:
    """Draw a random line of person i and, equally likely, another one of theirs or a stranger's.

    Args:
        lines: The lines of each person: two persons or more, two lines or more each.
        i: The first line's person.
        rng: The source of all draws. All other persons are equally likely.

    Returns:
        (first line, second line, True if both are of person i).
    """
    first, second = rng.sample(range(len(lines[i])), 2)
    if rng.random() < 0.5:
        return lines[i][first], lines[i][second], True
    other = (i + rng.randrange(1, len(lines))) % len(lines)
    return lines[i][first], rng.choice(lines[other]), False


def pair_text(first: str, second: str) -> str:
    """Return ⁇first↵second↵, each line cut to half of the room that the block has for lines."""
    room = (BLOCK - 3) // 2
    return f"{MASK}{first[:room]}{END}{second[:room]}{END}"


class LinePairs(MaskedDataset):
    """Pairs of lines as `draw_line_pair` draws them; only the label has a loss.

    With `names=False` the lines are shown without the name that they open with.
    """

    def __init__(self, lines: PersonLines, vocab: CharVocab, seed: int = 0, *, names: bool = True):
        super().__init__(vocab, BLOCK, seed)
        self.lines, self.names = lines, names
        if len(lines) < 2:
            raise ValueError(f"LinePairs: {len(lines)} persons; pairs of different ones need two")
        for i, own in enumerate(lines):
            if len(own) < 2:
                label = f"person {i} ({own[0][:30]!r})"
                raise ValueError(f"LinePairs: {label} has one line; a pair needs two")

    def __len__(self) -> int:
        return len(self.lines)

    def pair(self, i: int, epoch: int = 0) -> tuple[str, str, bool]:
        """Return (first line, second line, of one person?) of example i."""
        rng = random.Random(f"pairs {self.seed} {epoch} {i}")
        first, second, same = draw_line_pair(self.lines, i, rng)
        if not self.names:
            first, second = first[name_prefix_end(first) :], second[name_prefix_end(second) :]
        return first, second, same

    def tokens(self, i: int, epoch: int = 0) -> tuple[list[int], list[int]]:
        """Return (x, y) of example i."""
        first, second, same = self.pair(i, epoch)
        x = self.vocab.encode(pair_text(first, second))
        return x, self.vocab.encode(SAME if same else DIFFERENT) + [0] * (len(x) - 1)


def same_person_probability(
    model: GPT, vocab: CharVocab, pairs: Sequence[tuple[str, str]]
) -> Tensor:
    """Return the probability that both lines of each pair are of one person, (n,).

    It is the softmax over the two labels alone.
    """
    labels = vocab.encode(SAME + DIFFERENT)

    def probability(x: Tensor) -> Tensor:
        return model(x)[0][:, 0, labels].float().softmax(-1)[:, 0]  # (B,)

    return torch.stack(map_texts(model, vocab, [pair_text(*pair) for pair in pairs], probability))

"""Text to numbers: our characters as a tokenizer of the `tokenizers` library, and byte-pair encoding.

Sources: Sennrich et al. 2016, section 3.2 (byte-pair encoding); Radford et al. 2019, section 2.2 (on bytes).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kt_core.datasets import _TokenDataset
from kt_core.vocab import MASK, PAD, CharVocab

Word = tuple[str, ...]


def merge_step(words: Mapping[Word, int]) -> tuple[tuple[str, str] | None, dict[Word, int]]:
    """One step of byte-pair encoding: the most frequent pair of neighbours, and the words with it made one token.

    `words`: each word as its tokens, with how often it comes. Of pairs that come equally often the first in the
    alphabet wins. Merging goes from left to right: a a a becomes aa a. Without any pair: (None, the words as they are).
    """
    pairs: Counter[tuple[str, str]] = Counter()
    for word, times in words.items():
        for pair in zip(word, word[1:], strict=False):
            pairs[pair] += times
    if not pairs:
        return None, dict(words)
    best = min(pairs, key=lambda pair: (-pairs[pair], pair))
    merged: Counter[Word] = Counter()
    for word, times in words.items():
        tokens: list[str] = []
        at = 0
        while at < len(word):
            whole = word[at : at + 2] == best
            tokens.append("".join(best) if whole else word[at])
            at += 2 if whole else 1
        merged[tuple(tokens)] += times
    return best, dict(merged)


def bits_per_character(loss: float, tokens: int, characters: int) -> float:
    """A loss in nats a token as bits a character of the text that the tokens spell.

    Losses a token cannot be compared between vocabularies; what it costs to write the same text can.
    """
    return loss * tokens / (math.log(2) * characters)


def char_tokenizer(vocab: CharVocab, block_size: int) -> Any:
    """A `PreTrainedTokenizerFast` with the ids of `vocab`: a token a character, □ to pad (on the left), ⁇ to end.

    A character that the vocabulary lacks is an error, as in `CharVocab`.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({ch: i for i, ch in enumerate(vocab.chars)}))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    made.decoder = decoders.Fuse()
    return _fast(made, block_size)


def train_bpe(
    texts: Iterable[str], vocab_size: int, block_size: int, prefix_space: bool = False
) -> Any:
    """A `PreTrainedTokenizerFast` by byte-pair encoding, trained on `texts`: □ is 0, ⁇ is 1, then 256 bytes, then merges.

    A word is what GPT-2 takes for one, with the space before it. `prefix_space` puts a space before the text too, so
    that its first word is written as it is elsewhere. ValueError if the vocabulary has no room for the bytes.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(alphabet) + 2:
        raise ValueError(
            f"a vocabulary of {vocab_size} has no room for {len(alphabet)} bytes and the two specials: at least {len(alphabet) + 2}"
        )
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, MASK],
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    return _fast(made, block_size)


class TokenLines(_TokenDataset):
    """Whole lines through a tokenizer of this module, for `kt_core.Trainer`: ⁇ line ⁇, with the loss on every token.

    What does not fit the block is cut off. `characters` counts those of all lines, one more for each line's end.
    """

    def __init__(self, tokenizer: Any, lines: Sequence[str], block_size: int = 128):
        self.block_size, self.characters = block_size, sum(len(line) + 1 for line in lines)
        end = tokenizer.eos_token_id
        self.ids = [[end, *ids, end][: block_size + 1] for ids in tokenizer(list(lines)).input_ids]

    def __len__(self) -> int:
        return len(self.ids)

    def tokens(self, i: int) -> tuple[list[int], int]:
        return self.ids[i], 1


def _fast(made: Any, block_size: int) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token=PAD,
        eos_token=MASK,
        padding_side="left",
        model_max_length=block_size,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )

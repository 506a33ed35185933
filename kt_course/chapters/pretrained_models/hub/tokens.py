"""Text to numbers: our characters as a tokenizer of the `tokenizers` library, and byte pairs.

Sources: Sennrich et al. 2016, section 3.2 (byte-pair encoding); Radford et al. 2019, section 2.2
(on bytes).
"""

from collections.abc import Iterable, Sequence
from typing import Any

from kt_core.datasets import TokenDataset
from kt_core.vocab import MASK, PAD, CharVocab


def char_tokenizer(vocab: CharVocab, block_size: int) -> Any:
    """Make a `PreTrainedTokenizerFast` with the ids of `vocab`: one token per character.

    □ is the padding (on the left), ⁇ the end. An unknown character is an error, as in `CharVocab`.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({ch: i for i, ch in enumerate(vocab.chars)}))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return _wrap(tokenizer, block_size)


def train_bpe(
    texts: Iterable[str], vocab_size: int, block_size: int, prefix_space: bool = False
) -> Any:
    """Train a `PreTrainedTokenizerFast` by byte-pair encoding.

    □ is 0, ⁇ is 1, then come 256 bytes, then the merges. A word is what GPT-2 takes for one, with
    the space before it.

    Args:
        prefix_space: Put a space before the text too, so that its first word is written as
            elsewhere.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    least = len(alphabet) + 2
    if vocab_size < least:
        what = f"has no room for {len(alphabet)} bytes and the two specials"
        raise ValueError(f"a vocabulary of {vocab_size} {what}: at least {least}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, MASK],
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _wrap(tokenizer, block_size)


def _wrap(tokenizer: Any, block_size: int) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=MASK,
        padding_side="left",
        model_max_length=block_size,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


class TokenLines(TokenDataset):
    """Whole lines through a tokenizer, ⁇ line ⁇, with the loss on every token; for a `Trainer`.

    What does not fit the block is cut off. `characters` counts those of all lines, and one more for
    each line's end.
    """

    def __init__(self, tokenizer: Any, lines: Sequence[str], block_size: int = 128):
        self.block_size, self.characters = block_size, sum(len(line) + 1 for line in lines)
        end = tokenizer.eos_token_id
        self.ids = [[end, *ids, end][: block_size + 1] for ids in tokenizer(list(lines)).input_ids]

    def __len__(self) -> int:
        return len(self.ids)

    def tokens(self, i: int, epoch: int = 0) -> tuple[list[int], int]:
        """Give the ids of line i; all but the first have a loss."""
        return self.ids[i], 1

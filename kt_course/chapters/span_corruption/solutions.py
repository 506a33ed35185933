"""The data of pretraining: the teaching solutions of chapter 3, in the chapter's order.

B is the number of texts in a batch. The results equal those of `kt_core.datasets`.
"""

import random

import torch


# ======== exercise shift-and-pad ========
def collate(examples, length):
    """Return x and y, (B, length) each, of B pairs (ids, index of the first id with a loss)."""
    x = torch.zeros(len(examples), length + 1, dtype=torch.long)
    y = torch.zeros(len(examples), length, dtype=torch.long)
    for row, (ids, first) in enumerate(examples):
        x[row, : len(ids)] = torch.tensor(ids)  # x[j] = ids[j]
        y[row, first - 1 : len(ids) - 1] = torch.tensor(ids[first:])  # y[j] = ids[j + 1]
    return x[:, :-1], y  # the last column is predicted, never read


# ======== exercise cut-a-span ========
def cut(document, block_size, rng):
    """Return (prefix, masked, suffix) of a document's beginning, drawn from rng."""
    n = rng.randint(4, block_size * 7 // 8)  # uniform in 4 ... 7/8 of the block
    text = document[:n]  # a document shorter than n stays whole
    share = rng.uniform(1 / 8, 3 / 8)  # 1/4 on average
    length = max(1, round(len(text) * share))  # of the truncated text, not of the block
    start = rng.randint(0, len(text) - length)  # every start that leaves room
    return text[:start], text[start : start + length], text[start + length :]


# ======== exercise span-corruption ========
class SpanCorruption:
    """Documents as prefix ⁇ suffix ⁇ masked; data[i] is (x, y), each (block_size,)."""

    def __init__(self, documents, vocab, block_size=128, seed=0):
        self.documents, self.vocab = documents, vocab
        self.block_size, self.seed = block_size, seed

    def __len__(self):
        return len(self.documents)

    def __getitem__(self, i):
        x, y = collate([self.tokens(i)], self.block_size)  # a batch of one
        return x[0], y[0]

    def tokens(self, i, epoch=0):
        """Return the ids of document i in an epoch, and the index of the first id with a loss."""
        rng = random.Random(f"{self.seed} {epoch} {i}")  # the same draw whenever it is asked for
        pieces = cut(self.documents[i], self.block_size, rng)
        prefix, masked, suffix = (self.vocab.encode(piece) for piece in pieces)
        mask = [self.vocab.mask_id]  # the id of ⁇
        return prefix + mask + suffix + mask + masked, 1  # prefix ⁇ suffix ⁇ masked


# ======== exercise batches ========
def batches(data, batch_size, seed, epoch):
    """Yield all of data once, as batches (x, y) of examples of similar length."""
    rng = random.Random(f"batches {seed} {epoch}")
    order = list(range(len(data)))
    rng.shuffle(order)  # step 1
    examples = [data.tokens(i, epoch) for i in order]  # step 2
    examples.sort(key=lambda example: len(example[0]))  # step 3: by length
    groups = [examples[i : i + batch_size] for i in range(0, len(examples), batch_size)]  # step 4
    rng.shuffle(groups)  # step 5
    for group in groups:
        yield collate(group, max(len(ids) for ids, _ in group) - 1)  # step 6

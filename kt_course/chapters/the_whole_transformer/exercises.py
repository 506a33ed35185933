"""Exercises of notebook 9: teacher forcing, the blocks, the Transformer, four ways to decode."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from kt_course.chapters.the_whole_transformer import solutions
from kt_course.chapters.the_whole_transformer.seq2seq import NORMS, Memory, Seq2SeqConfig
from kt_course.chapters.the_whole_transformer.seq2seq_data import pad_rows
from kt_course.chapters.the_whole_transformer.solutions import (
    DecoderBlock,
    EncoderBlock,
    Transformer,
)
from kt_course.exercises.assertions import (
    Wrong,
    describe,
    expect_gradients,
    fresh_cases,
    parts,
    tensor,
)
from kt_course.exercises.comparison import Comparison, Results
from kt_course.exercises.diagnoses import diagnoses
from kt_course.exercises.random_cases import draw, numbers, with_weights

CHAPTER = Comparison(solutions, "09_the_whole_transformer")


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------- teacher forcing


@CHAPTER.exercise("teacher-forcing")
def forcing_of(answer: Callable, seed: int) -> Results:
    """Shift a target with a short row; others for other seeds."""
    target = torch.tensor([[5, 6, 7, 8], [9, 4, 0, 0]])
    if seed:
        lengths = draw(0, 5, 3, generator(seed)) + [1 + seed % 5]
        target = pad_rows([draw(3, 20, n, generator(seed + n)) for n in lengths])
    texts, shape = CHAPTER.texts["teacher-forcing"], (target.size(0), target.size(1) + 1)
    inputs, labels = parts(answer(target), 2, texts["two"])
    results = dict(inputs=tensor(inputs, shape, "inputs"), labels=tensor(labels, shape, "labels"))
    if any(ids.dtype != torch.int64 for ids in results.values()):
        raise Wrong(texts["no_ids"])
    return results


# ---------------------------------------------------------------- blocks

MASK = torch.tensor([[True, True, True, False], [True, True, False, False]])[:, None, None]
TEXTS = CHAPTER.texts["whole-transformer"]


def config(norm: str) -> Seq2SeqConfig:
    """Return small sizes, with different numbers of channels, hidden units and tokens."""
    return Seq2SeqConfig(7, 9, 2, 1, 2, 8, 12, norm)


def block_of(answer: type, seed: int, kind: type, reads_memory: bool) -> Results:
    """Run a block as pre-norm and as post-norm; T = S hides a mix-up of both, so sizes vary."""
    results: Results = {}
    cases = [("pre", 2, 4, 4, MASK), ("post", 2, 4, 4, MASK)]
    if seed:
        cases = [("pre", 1, 1, 3, None), ("post", 3, 6, 2, None)]
    for norm, B, T, S, mask in cases:
        x, memory = numbers(B, T, 8, seed=seed + 2), numbers(B, S, 8, seed=seed + 3)
        like, before = kind(config(norm)), x.clone()
        block = with_weights(answer(config(norm)), like, seed + 1)
        inputs = (x, memory, mask) if reads_memory else (x, mask)
        result = block(*inputs)
        if not torch.equal(x, before):
            raise Wrong("it changes its argument x in place, which its caller still needs")
        tensor(result, x.shape, f"norm {norm!r}: the result")
        expect_gradients(result, like(*inputs), block)
        results[f"norm {norm!r}: the result"] = result
    return results


@CHAPTER.exercise("encoder-block")
def encoder_of(answer: type, seed: int) -> Results:
    return block_of(answer, seed, EncoderBlock, reads_memory=False)


@CHAPTER.exercise("decoder-block")
def decoder_of(answer: type, seed: int) -> Results:
    return block_of(answer, seed, DecoderBlock, reads_memory=True)


# ---------------------------------------------------------------- the whole model


@CHAPTER.exercise("whole-transformer")
def model_outputs(answer: type, seed: int) -> Results:
    """Encode and decode a batch with padding, for both positions of the norm."""
    results: Results = {}
    lengths = [4, 2] if seed == 0 else draw(1, 6, 3, generator(seed))
    source, inputs = (pad_rows([draw(3, 6, n, generator(seed)) for n in lengths]) for _ in range(2))
    for norm in NORMS:
        like = Transformer(config(norm))
        if seed == 0:
            torch.manual_seed(0)
            fresh = answer(config(norm)).state_dict().get("source_emb.weight", torch.zeros(1))
            if not 0.2 < fresh.std() < 0.55:  # 8 ** -0.5 = 0.35; PyTorch's own is 1
                raise Wrong(TEXTS["start"])
        model = with_weights(answer(config(norm)), like, seed + 1)
        memory = model.encode(source)
        if not isinstance(memory, Memory):
            raise Wrong(TEXTS["no memory"].format(result=describe(memory)))
        if not (isinstance(memory.mask, Tensor) and torch.equal(memory.mask, source != 0)):
            raise Wrong(TEXTS["mask"])
        states, logits = memory.states, model.decode(inputs, memory)
        results[f"the memory, {norm}"] = tensor(states, (*source.shape, 8), "memory.states")
        results[f"the logits, {norm}"] = tensor(logits, (*inputs.shape, 9), "decode's result")
    return results


@CHAPTER.exercise("next-probabilities")
def probabilities_of(answer: Callable, seed: int) -> Results:
    """Filter fixed or random logits in five ways."""
    B, V = (1, 6) if seed == 0 else (2 + seed % 3, 5 + seed % 4)
    logits = 2 * numbers(B, V, seed=seed + 3)
    ways = {
        "alone": {},
        "with temperature 0.5": dict(temperature=0.5),
        "with temperature 2": dict(temperature=2.0),
        "with top_k=2": dict(top_k=2),
        "with top_p=0.8": dict(top_p=0.8),
    }
    results = {
        f"the result {name}": tensor(answer(logits, **way), (B, V), f"the result {name}")
        for name, way in ways.items()
    }
    equal = tensor(answer(torch.zeros(1, 4), top_p=0.5), (1, 4), "the result for equal logits")
    return results | {
        "the result for four equal logits and top_p=0.5, sorted,": equal.sort().values
    }


# ---------------------------------------------------------------- decoding


class ScriptModel(nn.Module):
    """A model with one fixed answer per row: the first token of a source is the row's number.

    It also checks how it is used.
    """

    LOST = 30  # what it predicts after inputs that are not the beginning of its answer

    def __init__(self, rows: Sequence[Sequence[int]], V: int = 32):
        super().__init__()
        self.script, self.V, self.n_encoded = [list(row) for row in rows], V, 0

    def encode(self, source: Tensor) -> Memory:
        self.n_encoded += 1
        return Memory(source[..., None].double(), source != 0)

    def decode(self, inputs: Tensor, memory: Memory) -> Tensor:
        if not isinstance(inputs, Tensor) or inputs.ndim != 2 or not isinstance(memory, Memory):
            raise Wrong("model.decode takes inputs (B, T) and the memory that model.encode gave")
        if (inputs[:, 0] != 1).any():
            first = f"the first input of the decoder is {int(inputs[0, 0])}"
            raise Wrong(
                f"{first}: each time, give it ▶ (1) and all tokens so far, not the newest alone"
            )
        logits = torch.full((*inputs.shape, self.V), -3.0)
        for b, row in enumerate(inputs.tolist()):
            answer = [*self.script[int(memory.states[b, 0, 0]) - 3], 2]
            for t in range(len(row)):
                follows = t < len(answer) and row[1 : t + 1] == answer[:t]
                logits[b, t, answer[t] if follows else self.LOST] = 0.0
        return logits


@CHAPTER.checked("greedy-decoding")
def check_greedy(fn: Callable) -> str:
    wrong = diagnoses(__file__, "greedy-decoding")

    def answer(rows: list[list[int]], *max_new: int) -> tuple[list[list[int]], int]:
        model = ScriptModel(rows)
        source = torch.arange(len(rows))[:, None] + torch.tensor([3, 4])  # (B, 2)
        got = fn(model, source, *max_new)
        got = got.tolist() if isinstance(got, Tensor) else got
        is_list = isinstance(got, (list, tuple)) and len(got) == len(rows)
        wrong.reject({"no list": not is_list}, n=len(rows), got=describe(got))
        return [[int(i) for i in row] for row in got], model.n_encoded

    rows = [[5, 6, 7, 8, 9], [10, 11], [12]]
    got, encoded = answer(rows, 9)
    begins = [row[: len(right)] for row, right in zip(got, rows, strict=True)]
    mistakes = {
        "holds start": any(row[:1] == [1] for row in got),
        "holds end": any(2 in row for row in got),
        "repeats": all(len(set(row)) == 1 and len(row) > 1 for row in got),
        "padding": any(0 in row for row in got),
        "too long": begins == rows and got != rows,
        "too early": got == [row[:1] for row in rows],
        "lost thread": any(ScriptModel.LOST in row for row in got),
        "rows": got != rows,
        "encoded": encoded > 1,
    }
    wrong.reject(mistakes, got=got, rows=rows, encoded=encoded)
    got, _ = answer(with_3 := [[3, 4, 5], [4, 3, 6]], 9)
    wrong.reject({"other end": got != with_3}, got=got, rows=with_3)
    short, _ = answer(rows, 3)
    wrong.reject({"max_new": short != [row[:3] for row in rows]}, n=len(short[0]))
    got, _ = answer([[5] * 70])
    wrong.reject({"default": len(got[0]) != 64}, n=len(got[0]))
    chosen = fn(ScriptModel(rows), torch.tensor([[3]]), 4, choose=lambda z: 0 * z.argmax(-1) + 7)
    wrong.reject({"choose": [list(row) for row in chosen] != [[7] * 4]})
    with fresh_cases("right for the example, wrong for other answers"):
        for B in (1, 4):
            rows = [draw(3, 20, n) for n in draw(0, 6, B)]
            assert answer(rows, 8)[0] == rows
    return "token after token, each row to its own end"


@CHAPTER.exercise("beam-step")
def beam_step_of(answer: Callable, seed: int) -> Results:
    """Extend two beginnings; the two best extensions belong to one. Other sizes if seed > 0."""
    texts, results = CHAPTER.texts["beam-step"], {}
    p = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.04, 0.06, 0.1, 0.8]]).double()
    cases = [(p.log(), torch.tensor([0.6, 0.1]).double().log(), 2)]
    if seed:
        sizes = ((1, 5, 2), (4, 6, 4), (3, 2, 9))
        cases = [
            (numbers(n, V, seed=seed).log_softmax(-1), numbers(n, seed=seed + 1), width)
            for n, V, width in sizes
        ]
    for log_p, totals, width in cases:
        three = parts(answer(log_p, totals, width), 3, texts["three"])
        if isinstance(three[0], Tensor) and three[0].ndim == 2:
            raise Wrong(texts["mistakes"]["one-each"]["text"])
        k = min(width, log_p.numel())
        for name, part in zip(("rows", "tokens", "totals"), three, strict=True):
            results[f"{name} for {tuple(log_p.shape)}"] = tensor(part, (k,), name)
    if not seed:
        results["the error for a width of 9"] = ""
        try:
            answer(*cases[0][:2], 9)
        except RuntimeError as error:
            results["the error for a width of 9"] = str(error)
    return results


EXERCISES = CHAPTER.exercises()

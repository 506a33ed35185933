"""Answers to the exercises of notebook 11, right and wrong: every mistake gets its name."""

import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from checking import Answers, mistakes, notebook_suite, quiz_suite, suite

import kt_core as kt
from kt_core.attention import MultiHeadAttention
from kt_course.chapters.pretrained_models import exercises as pretrained
from kt_course.chapters.pretrained_models import hub, solutions

FUSED = mistakes(pretrained.CHAPTER, "gpt2-attention")

# ---------------------------------------------------------------- a merge


def stub_merge(words): ...


def counted(words, weighed=True, spelled=False):
    pairs = Counter()
    for word, times in words.items():
        for a, b in zip(word, word[1:], strict=False):
            pairs["".join((a, b)) if spelled else (a, b)] += times if weighed else 1
    return pairs


def first_best(pairs):
    return min(pairs, key=lambda pair: (-pairs[pair], pair))


def joined(word, pair, every=True):
    out, at, done = [], 0, False
    while at < len(word):
        if word[at : at + 2] == pair and (every or not done):
            out.append(pair[0] + pair[1])
            at, done = at + 2, True
        else:
            out.append(word[at])
            at += 1
    return tuple(out)


def merging(
    choose=lambda words: first_best(counted(words)),
    join=joined,
    keep=lambda words, new: new,
    add=True,
):
    """An answer from its parts: which pair, how a word is joined, what is kept."""

    def answer(words):
        if not counted(words):
            return None, dict(words)
        pair, new = choose(words), {}
        for word, times in words.items():
            merged = join(word, pair)
            new[merged] = times + (new.get(merged, 0) if add else 0)
        return pair, keep(words, new)

    return answer


def by_replace(word, pair):
    return tuple(f" {' '.join(word)} ".replace(" ".join(pair), "".join(pair)).split())


def from_the_right(word, pair):
    turned = joined(word[::-1], pair[::-1])
    return tuple(t if len(t) < 2 or t != pair[1] + pair[0] else "".join(pair) for t in turned[::-1])


def skipping(word, pair):
    """Steps on by two whether it merged or not."""
    out, at = [], 0
    while at < len(word) - 1:
        whole = word[at : at + 2] == pair
        out += ["".join(pair)] if whole else [word[at]]
        at += 2 if whole else 1
    return tuple(out)


def by_spelling(words):
    best = first_best(counted(words, spelled=True))
    return next(
        p for word in words for p in zip(word, word[1:], strict=False) if "".join(p) == best
    )


def in_place(words):
    pair, new = merging()(words)
    words.clear()
    words.update(new)
    return pair, words


def by_scan(words):
    """Right, and written another way: a regular walk with an index of pairs kept in a list."""
    tally = {}
    for word in words:
        for i in range(len(word) - 1):
            tally[word[i : i + 2]] = tally.get(word[i : i + 2], 0) + words[word]
    if not tally:
        return None, words.copy()
    top = max(tally.values())
    pair = sorted(p for p, n in tally.items() if n == top)[0]
    new = {}
    for word, n in words.items():
        stack = []
        for token in word:
            if stack and (stack[-1], token) == pair and not (len(stack) > 1 and stack[-1] is None):
                stack[-1] = Joined(pair)
            else:
                stack.append(token)
        key = tuple(str(t) for t in stack)
        new[key] = new.get(key, 0) + n
    return pair, new


class Joined(str):
    """A token that was merged just now: equal to no other, so it joins nothing in this step."""

    def __new__(cls, pair):
        return super().__new__(cls, "".join(pair))

    def __eq__(self, other):
        return False

    __hash__ = str.__hash__


MERGE = Answers(
    stub=stub_merge,
    wrong={
        "not weighed": (merging(lambda w: first_best(counted(w, weighed=False))), "picks t h"),
        "rarest": (
            merging(lambda w: min(counted(w), key=lambda p: (counted(w)[p], p))),
            "t o comes most often",
        ),
        "untouched": (merging(join=lambda word, pair: word), "come back as they were"),
        "only those with it": (
            merging(keep=lambda old, new: {w: n for w, n in new.items() if w not in old}),
            "words without the pair are lost",
        ),
        "counts lost": (
            merging(keep=lambda old, new: dict.fromkeys(new, 1)),
            "how often they come is not",
        ),
        "the first alone": (
            merging(join=lambda word, pair: joined(word, pair, every=False)),
            "second a n",
        ),
        "from the right": (merging(join=from_the_right), "left to right"),
        "last one dropped": (merging(join=skipping), "last token of a word is dropped"),
        "last of a tie": (
            merging(lambda w: max(counted(w), key=lambda p: (counted(w)[p], p))),
            "first in the\\s+alphabet",
        ),
        "by spelling": (merging(by_spelling), "count pairs of tokens"),
        "replace": (merging(join=by_replace), "compare whole tokens"),
        "overwritten": (merging(add=False), "have to be added"),
        "in place": (in_place, "changes the dict"),
        "exchanged": (lambda w: merging()(w)[::-1], "exchanged"),
        "a string": (lambda w: ("".join(merging()(w)[0]), merging()(w)[1]), "is the string 'to'"),
        "words alone": (lambda w: merging()(w)[1], "instead of two things"),
        "strings as words": (
            merging(keep=lambda old, new: {" ".join(w): n for w, n in new.items()}),
            "one string",
        ),
        "a list of words": (
            merging(keep=lambda old, new: list(new)),
            "should be a dict, not a list",
        ),
        "no pair": (
            lambda w: merging()(w) if counted(w) else (first_best(counted(w)), w),
            "raised ValueError",
        ),
        "no pair, empty": (
            lambda w: merging()(w) if counted(w) else ((), {}),
            "words of one token",
        ),
    },
    right={"from its parts": merging(), "by a stack": by_scan},
    borrowed=lambda words: solutions.merge(words),
)

# ---------------------------------------------------------------- bits per character


def stub_bits(loss, tokens, characters): ...


BITS = Answers(
    stub=stub_bits,
    wrong={
        "nats": (lambda loss, n, c: loss * n / c, "nats per character"),
        "times ln 2": (lambda loss, n, c: loss * n / c * math.log(2), "instead of divided"),
        "a token": (lambda loss, n, c: loss / math.log(2), "bits per token"),
        "exchanged": (lambda loss, n, c: loss * c / n / math.log(2), "exchanged"),
        "the whole text": (lambda loss, n, c: loss * n / math.log(2), "whole text"),
        "log10": (lambda loss, n, c: loss * n / c / math.log10(2), "log10"),
        "perplexity": (lambda loss, n, c: math.exp(loss * n / c), "perplexity"),
        "power": (lambda loss, n, c: 2 ** (loss * n / c / math.log(2)), "no exp and no power"),
        "log of a log": (lambda loss, n, c: math.log2(loss) * n / c, "one already"),
        "fixed": (lambda loss, n, c: loss / 3 / math.log(2), "not for other losses"),
        "rounded": (lambda loss, n, c: round(loss * n / c / math.log(2)), "computes 0.6733"),
        "a list": (lambda loss, n, c: [loss * n / c], "a list of 1"),
    },
    right={
        "log2 of e": lambda loss, n, c: loss * math.log2(math.e) / (c / n),
        "a tensor": lambda loss, n, c: torch.tensor(loss) * n / c / torch.tensor(2.0).log(),
    },
    borrowed=lambda loss, tokens, characters: solutions.bits(loss, tokens, characters),
)

# ---------------------------------------------------------------- GPT-2's attention


def stub_fused(layer): ...


def fusing(weight="", bias="", **others):
    """c_attn with a mistake of FUSED in its weight or bias, other entries from `others`."""

    def answer(layer):
        result = hub_formula(layer)
        for name, mistake in (("c_attn.weight", weight), ("c_attn.bias", bias)):
            if mistake:
                result[name] = FUSED[mistake][0](layer)[name]
        for name, entry in others.items():
            result[name.replace("__", ".")] = entry(layer)
        return {name: value for name, value in result.items() if value is not None}

    return answer


def hub_formula(layer):
    """Right, part by part."""
    parts = (layer.query, layer.key, layer.value)
    return {
        "c_attn.weight": torch.cat([part.weight for part in parts]).T,
        "c_attn.bias": torch.cat([part.bias for part in parts]),
        "c_proj.weight": layer.proj.weight.T,
        "c_proj.bias": layer.proj.bias,
    }


def by_a_unit_batch(layer):
    """Right: what each map does to unit vectors is its matrix."""
    maps, unit = (
        (layer.query, layer.key, layer.value),
        torch.eye(layer.query.in_features, dtype=torch.double),
    )
    zero = torch.zeros_like(unit[:1])
    with torch.no_grad():
        biases = [one(zero)[0] for one in maps]
        return {
            "c_attn.weight": torch.hstack(
                [one(unit) - b for one, b in zip(maps, biases, strict=True)]
            ),
            "c_attn.bias": torch.hstack(biases),
            "c_proj.weight": layer.proj(unit) - layer.proj(zero),
            "c_proj.bias": layer.proj(zero)[0],
        }


def in_parameters(layer):
    three = torch.stack([layer.query.weight, layer.key.weight, layer.value.weight])  # (3, out, in)
    return {
        "c_attn.weight": torch.nn.Parameter(three.permute(2, 0, 1).flatten(1)),
        "c_attn.bias": torch.stack([layer.query.bias, layer.key.bias, layer.value.bias]).flatten(),
        "c_proj.weight": layer.proj.weight.t().float(),
        "c_proj.bias": layer.proj.bias.clone(),
    }


GPT2 = Answers(
    stub=stub_fused,
    wrong={
        **FUSED,
        "biases otherwise": (
            fusing("", "query-key-exchanged"),
            "biases are joined otherwise.*key, query, value",
        ),
        "biases of the value": (fusing("", "one-part"), "biases are joined otherwise"),
        "as nn.Linear": (
            fusing(c_attn__weight=lambda layer: hub_formula(layer)["c_attn.weight"].T),
            r"\(36, 12\) instead of \(12, 36\)",
        ),
        "no bias": (fusing(c_attn__bias=lambda layer: torch.zeros(36)), "bias of c_attn is 0"),
        "proj lying": (
            fusing(c_proj__weight=lambda layer: layer.proj.weight),
            "square, so nothing complains",
        ),
        "proj of the value": (
            fusing(c_proj__weight=lambda layer: layer.value.weight.T),
            "not that of layer.proj",
        ),
        "proj missing": (fusing(c_proj__weight=lambda layer: None), "c_proj.weight is missing"),
        "one name more": (fusing(bias_mask=lambda layer: torch.ones(1)), "bias_mask is no name"),
        "a tensor": (lambda layer: hub_formula(layer)["c_attn.weight"], "instead of a dict"),
        "12 channels": (
            lambda layer: (
                {k: v[..., :36] for k, v in fusing()(layer).items()}
                if layer.n_head == 3
                else fusing("not-transposed")(layer)
            ),
            "not for other sizes",
        ),
    },
    right={"unit vectors": by_a_unit_batch, "stacked": in_parameters, "formula": fusing()},
    borrowed=lambda layer: solutions.fuse(layer),
)

# ---------------------------------------------------------------- padding


def stub_padding(idx, mask): ...


def packing(order_of, back_of=lambda order: order.argsort(1)):
    def answer(idx, mask):
        order = order_of(idx, mask)
        return idx.gather(1, order), back_of(order)

    return answer


def stable(idx, mask):
    return (1 - mask).argsort(dim=1, stable=True)


def places(idx):
    return torch.arange(idx.size(1)).expand_as(idx)


def rolled(idx, mask):
    """Right for padding on the left alone."""
    pads = (mask == 0).sum(1, keepdim=True)
    return (places(idx) + pads) % idx.size(1)


def row_by_row(idx, mask):
    packed, back = torch.full_like(idx, 99), torch.zeros_like(idx)
    for b in range(len(idx)):
        at = mask[b].nonzero()[:, 0]
        packed[b, : len(at)] = idx[b, at]
        back[b, at] = torch.arange(len(at))
    return packed, back


def by_counting(idx, mask):
    """Right: token t of a row is its (number of tokens up to t)-th."""
    back = (mask.cumsum(1) - 1).clamp(min=0)
    packed = torch.zeros_like(idx).scatter_add(1, back, idx * mask)
    return packed, back


PADDING = Answers(
    stub=stub_padding,
    wrong={
        "nothing": (packing(lambda i, m: places(i)), "nothing has moved"),
        "turned round": (packing(lambda i, m: places(i).flip(1)), "turned round"),
        "all by two": (packing(lambda i, m: places(i).roll(-2, 1)), "own padding"),
        "ids sorted": (packing(lambda i, m: i.argsort(1, descending=True)), "ids are sorted"),
        "order lost": (
            packing(lambda i, m: ((1 - m) * 100 + i).argsort(dim=1)),
            "another order|stable",
        ),
        "padding first": (packing(lambda i, m: m.argsort(dim=1, stable=True)), "nothing has moved"),
        "by one less": (
            packing(lambda i, m: (rolled(i, m) - 1) % i.size(1)),
            r"the beginning of each row of packed.*gives '\[\[5, 3, 8, 2\]",
        ),
        "the way there": (packing(stable, lambda order: order), "the way back"),
        "no way back": (packing(stable, places), "not idx again"),
        "back a bool": (lambda i, m: (packing(stable)(i, m)[0], m == 1), "int64"),
        "past the row": (packing(stable, lambda order: order.argsort(1) + 6), "from 6 to 11"),
        "ids for mask": (
            packing(lambda i, m: (i == 0).long().argsort(dim=1, stable=True)),
            "mask says what is padding",
        ),
        "left alone": (packing(rolled), "padding on the right"),
        "packed alone": (lambda i, m: packing(stable)(i, m)[0], "instead of two tensors"),
        "cut": (
            lambda i, m: tuple(x[:, :4] for x in packing(stable)(i, m)),
            r"\(3, 4\) instead of \(3, 6\)",
        ),
        "three rows": (
            lambda i, m: (
                packing(stable)(i, m)
                if len(i) == 3 and i.size(1) == 6
                else packing(lambda i, m: places(i))(i, m)
            ),
            "not for other lengths",
        ),
    },
    right={"by sorting": packing(stable), "row by row": row_by_row, "by counting": by_counting},
    borrowed=lambda idx, mask: hub.left_aligned(idx, mask),
)

# ---------------------------------------------------------------- BERT


def stub_bert(weights, ids, mask, n_head): ...


def stub_pool(hidden, mask): ...


def bert_by_module(weights, ids, mask, n_head):
    """PyTorch's own encoder layers, filled with the weights."""
    C = weights["embeddings.LayerNorm.weight"].numel()
    names = {
        "self_attn.out_proj": "attention.output.dense",
        "linear1": "intermediate.dense",
        "linear2": "output.dense",
        "norm1": "attention.output.LayerNorm",
        "norm2": "output.LayerNorm",
    }
    x = F.embedding(ids, weights["embeddings.word_embeddings.weight"])
    x = x + weights["embeddings.position_embeddings.weight"][None, : ids.size(1)]
    x = x + weights["embeddings.token_type_embeddings.weight"][0]
    norm = [weights[f"embeddings.LayerNorm.{part}"] for part in ("weight", "bias")]
    x = F.layer_norm(x, (C,), *norm, 1e-12)
    for i in range(sum("intermediate.dense.bias" in name for name in weights)):
        prefix = f"encoder.layer.{i}."
        wide = weights[prefix + "intermediate.dense.bias"].numel()
        layer = torch.nn.TransformerEncoderLayer(
            C, n_head, wide, 0.0, F.gelu, 1e-12, batch_first=True, dtype=x.dtype
        )
        state = {}
        for part in ("weight", "bias"):
            state |= {f"{a}.{part}": weights[f"{prefix}{b}.{part}"] for a, b in names.items()}
            kinds = [f"{prefix}attention.self.{k}.{part}" for k in ("query", "key", "value")]
            state[f"self_attn.in_proj_{part}"] = torch.cat([weights[kind] for kind in kinds])
        layer.load_state_dict(state)
        x = layer(x, src_key_padding_mask=mask == 0).detach()
    return x


def pool_by_row(hidden, mask):
    return torch.stack([h[m == 1].mean(0) for h, m in zip(hidden, mask, strict=True)])


def compared(id, name, stub, right):
    """Answers of an exercise whose mistakes are all in exercises.toml."""
    wrong = mistakes(pretrained.CHAPTER, id)
    return Answers(
        stub, wrong, {"other words": right}, lambda *inputs: getattr(solutions, name)(*inputs)
    )


ANSWERS = {
    "bert-forward": compared("bert-forward", "bert_hidden", stub_bert, bert_by_module),
    "mean-pooling": compared("mean-pooling", "mean_pool", stub_pool, pool_by_row),
    "bpe-merge": MERGE,
    "bits-per-character": BITS,
    "gpt2-attention": GPT2,
    "left-padding": PADDING,
}
TestExercises = suite("11_pretrained_models", ANSWERS)
TestQuizzes = quiz_suite("11_pretrained_models")
TestNotebook = notebook_suite("11_pretrained_models")


@pytest.mark.parametrize("words", list(pretrained.CORPORA.values())[:4])
def test_two_right_answers_go_on_alike(words):
    mine, other = words, words
    for _ in range(8):
        (pair, mine), (same, other) = merging()(mine), by_scan(other)
        assert (pair, mine) == (same, other) == solutions.merge(mine if pair is None else words)
        words = mine


def test_right_answers_fit_where_the_package_uses_its_own():
    """With the answers a GPT-2 block computes the same, and a padded batch what its rows do."""
    torch.manual_seed(0)
    layer, x = MultiHeadAttention(12, 3).eval(), torch.randn(2, 5, 12)
    w = by_a_unit_batch(layer.double())
    q, k, v = (x.double() @ w["c_attn.weight"] + w["c_attn.bias"]).split(12, dim=-1)
    heads = [part.view(2, 5, 3, 4).transpose(1, 2) for part in (q, k, v)]
    y = kt.attend(*heads, kt.causal_mask(5))[0].transpose(1, 2).flatten(2)
    expected = layer(x.double(), mask=kt.causal_mask(5))
    torch.testing.assert_close(y @ w["c_proj.weight"] + w["c_proj.bias"], expected)
    model = kt.GPT(kt.GPTConfig(9, 8, 2, 2, 16, dropout=0.0)).eval()
    packed, back = by_counting(torch.tensor([[0, 0, 3, 4, 5]]), torch.tensor([[0, 0, 1, 1, 1]]))
    logits = model(packed)[0][0, back[0, 2:]]
    torch.testing.assert_close(logits, model(torch.tensor([[3, 4, 5]]))[0][0])


def test_the_bert_of_the_solution_is_the_librarys():
    tf = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = tf.BertConfig(
        vocab_size=30, hidden_size=24, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48, max_position_embeddings=16,
    )  # fmt: skip
    model = tf.BertModel(config).eval()
    ids, mask = torch.randint(30, (2, 7)), torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    with torch.no_grad():
        theirs = model(input_ids=ids, attention_mask=mask).last_hidden_state
        ours = solutions.bert_hidden(model.state_dict(), ids, mask, 4)
    assert torch.allclose(ours[mask == 1], theirs[mask == 1], atol=1e-5)

"""Chapter 2: exercises, their typical mistakes, the teaching solutions, and the page's claims."""

from __future__ import annotations

import ast
import math

import pytest
import torch
import torch.nn.functional as F
from checking import Answers, cells, mistakes, notebook_suite, quiz_suite, stub, suite
from torch import nn

import kt_core as kt
from kt_core.blocks import MLP as CoreMLP
from kt_core.blocks import Block as CoreBlock
from kt_course.chapters.build_a_gpt import exercises, solutions
from kt_course.exercises.registry import exercise_ids, library
from kt_course.exercises.solutions import teaching_solution

NAME = "02_build_a_gpt"
IDS = exercise_ids(NAME)
CONFIG = kt.GPTConfig(11, 9, 3, 2, 8, dropout=0.0)


@pytest.fixture(scope="module", autouse=True)
def first_optimizer():
    """PyTorch loads half of itself with the first optimiser: not the time of any check."""
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])


# ---------------------------------------------------------------- answers in other words


def loss_by_log_softmax(logits, targets):
    log_p = logits.log_softmax(-1).flatten(0, -2)
    rows = [-log_p[i, t] for i, t in enumerate(targets.flatten().tolist()) if t != 0]
    return torch.stack(rows).mean()


def loss_by_axis_1(logits, targets):
    return -logits.softmax(1).log().gather(-1, targets[..., None])[..., 0][targets != 0].mean()


def embed_by_loop(idx, token_table, position_table):
    rows = [token_table[idx[:, t]] + position_table[t] for t in range(idx.shape[1])]
    return torch.stack(rows, dim=1)


def embed_whole_table(idx, token_table, position_table):
    return token_table[idx] + position_table


class AttentionByHead(nn.Module):
    """One head after the other."""

    def __init__(self, n_embd, n_head, qk_norm=False):
        super().__init__()
        self.n_head, self.norms = n_head, qk_norm
        for name in ("proj", "value", "key", "query"):
            setattr(self, name, nn.Linear(n_embd, n_embd))

    def forward(self, x):
        T, parts = x.size(1), []
        chunks = [f(x).chunk(self.n_head, -1) for f in (self.query, self.key, self.value)]
        for q, k, v in zip(*chunks, strict=True):
            if self.norms:
                q = q / (q.square().mean(-1, keepdim=True) + 1e-20).sqrt()
                k = k / (k.square().mean(-1, keepdim=True) + 1e-20).sqrt()
            scores = self.scale(q @ k.mT, q.size(-1))
            scores = scores + torch.full((T, T), float("-inf")).triu(1)
            parts.append(scores.softmax(-1) @ v)
        return self.proj(torch.cat(parts, -1))

    def scale(self, scores, d):
        return scores * d**-0.5


class AttentionWithoutScale(AttentionByHead):
    def scale(self, scores, d):
        return scores


class MLPByFormula(nn.Module):
    def __init__(self, config):
        super().__init__()
        n = config.n_embd
        self.proj, self.up = nn.Linear(4 * n, n), nn.Linear(n, 4 * n)

    def forward(self, x):
        h = self.up(x)
        return self.proj(h * 0.5 * (1 + torch.erf(h / math.sqrt(2))))


class NarrowMLP(MLPByFormula):
    def __init__(self, config):
        super().__init__(config)
        self.up, self.proj = nn.Linear(8, 16), nn.Linear(16, 8)


class NamelessMLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.first, self.second = nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, x):
        return self.second(F.gelu(self.first(x)))


class NormByMoments(nn.Module):
    def __init__(self, n_embd):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(n_embd))
        self.weight = nn.Parameter(torch.ones(n_embd))

    def forward(self, x):
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, correction=0, keepdim=True)
        return (x - mean) * (variance + 1e-5).rsqrt() * self.weight + self.bias


class NormByStd(NormByMoments):
    def forward(self, x):
        return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) ** 2 + 1e-5) ** 0.5 * (
            self.weight
        ) + self.bias


class BlockInSteps(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.mlp, self.ln2 = solutions.MLP(config), nn.LayerNorm(config.n_embd)
        self.attn = solutions.Attention(config.n_embd, config.n_head, config.qk_norm)
        self.ln1 = nn.LayerNorm(config.n_embd)

    def forward(self, x):
        gathered = self.attn(self.ln1(x))
        computed = self.mlp(self.ln2(x + gathered))
        return computed + gathered + x


class BlockPostNorm(BlockInSteps):
    def forward(self, x):
        y = self.ln1(self.attn(x) + x)
        return self.ln2(self.mlp(y) + y)


class SequentialGPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.blocks = nn.Sequential(*(solutions.Block(config) for _ in range(config.n_layer)))
        self.pos_emb = nn.Parameter(torch.zeros(1, config.block_size, config.n_embd))
        self.tok_emb = nn.Embedding(config.vocab_size, config.n_embd)
        self.apply(solutions.init_weights)

    def forward(self, idx, targets=None):
        x = self.tok_emb(idx) + self.pos_emb[:, : idx.size(1)]
        logits = self.head(self.ln_f(self.blocks(x)))
        loss = None if targets is None else solutions.cross_entropy(logits, targets)
        return logits, loss


class ListGPT(SequentialGPT):
    def __init__(self, config):
        super().__init__(config)
        blocks = list(self.blocks)
        del self.blocks
        self.blocks = blocks


class SharedGPT(SequentialGPT):
    def __init__(self, config):
        super().__init__(config)
        self.blocks = nn.ModuleList([self.blocks[0]] * config.n_layer)


class BiasedGPT(SequentialGPT):
    def __init__(self, config):
        super().__init__(config)
        self.head = nn.Linear(config.n_embd, config.vocab_size)


class ForgetfulGPT(SequentialGPT):
    def __init__(self, config):
        super().__init__(config)
        del self.config


class LogitsOnlyGPT(SequentialGPT):
    def forward(self, idx, targets=None):
        return super().forward(idx)[0]


class EagerGPT(SequentialGPT):
    def forward(self, idx, targets=None):
        return super().forward(idx, idx if targets is None else targets)


def train_by_hand(model, batches, rates):
    model.train()
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1.0), []
    rates = iter(rates)
    for x, y in batches:
        for group in optimizer.param_groups:
            group["lr"] = next(rates)
        logits, loss = model(x, y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def train_and_return_a_mean(model, batches, rates):
    losses = train_by_hand(model, batches, rates)
    return sum(losses) / len(losses)


@torch.no_grad()
def greedy_by_for(model, ids, max_new, stop):
    model.eval()
    new = []
    for _ in range(max_new):
        window = (ids + new)[-model.config.block_size :]
        probabilities = model(torch.tensor(window)[None])[0].softmax(-1)[0, -1]
        if (best := int(probabilities.topk(1).indices)) == stop:
            return new
        new.append(best)
    return new


@torch.no_grad()
def greedy_without_batch(model, ids, max_new, stop):
    return model.eval()(torch.tensor(ids))[0][-1].argmax().item()


@torch.no_grad()
def greedy_unlimited_context(model, ids, max_new, stop):
    model.eval()
    text = list(ids)
    for _ in range(max_new):
        text.append(int(model(torch.tensor([text]))[0][0, -1].argmax()))
    return text[len(ids) :]


OTHERS = {
    "cross-entropy": {"by axis 1": (loss_by_axis_1, "loss")},
    "embedding": {"the whole table": (embed_whole_table, "size of tensor")},
    "attention-module": {"without scale": (AttentionWithoutScale, "not divided by sqrt")},
    "mlp": {
        "narrow": (NarrowMLP, r"shape \(16, 8\) instead of \(32, 8\)"),
        "other names": (NamelessMLP, "no parameter up.weight, but there is first.weight"),
    },
    "layer-norm-module": {"std": (NormByStd, "C - 1")},
    "block": {"post-norm": (BlockPostNorm, "post-norm")},
    "gpt": {
        "a list of blocks": (ListGPT, "plain Python list"),
        "one block": (SharedGPT, "one block is used several times"),
        "bias": (BiasedGPT, "head.bias is one too many"),
        "no config": (ForgetfulGPT, "self.config = config"),
        "logits only": (LogitsOnlyGPT, "two things"),
        "loss without targets": (EagerGPT, "None"),
    },
    "training-loop": {"a mean": (train_and_return_a_mean, "list of the losses")},
    "greedy-continuation": {
        "no batch axis": (greedy_without_batch, r"tensor \(1, T\)"),
        "the whole text": (greedy_unlimited_context, "at most config.block_size"),
    },
}
RIGHT = {
    "cross-entropy": loss_by_log_softmax,
    "embedding": embed_by_loop,
    "attention-module": AttentionByHead,
    "mlp": MLPByFormula,
    "layer-norm-module": NormByMoments,
    "block": BlockInSteps,
    "gpt": SequentialGPT,
    "training-loop": train_by_hand,
    "greedy-continuation": greedy_by_for,
}


def subclass(base):
    return type("Mine", (base,), {})


BORROWED = {
    "cross-entropy": lambda logits, targets: F.cross_entropy(
        logits.flatten(0, -2), targets.flatten(), ignore_index=0
    ),
    "embedding": lambda *inputs: solutions.embed(*inputs),
    "attention-module": subclass(solutions.Attention),
    "mlp": subclass(CoreMLP),
    "layer-norm-module": subclass(nn.LayerNorm),
    "block": subclass(CoreBlock),
    "gpt": subclass(kt.GPT),
    "training-loop": lambda *inputs: solutions.train(*inputs),
    "greedy-continuation": lambda *inputs: solutions.greedy(*inputs),
}


ANSWERS = {
    id: Answers(
        stub(NAME, solutions, id),
        OTHERS[id] | mistakes(exercises.CHAPTER, id),
        {"other words": RIGHT[id]},
        BORROWED[id],
    )
    for id in IDS
}
TestExercises = suite(NAME, ANSWERS)
TestQuizzes = quiz_suite(NAME)
TestNotebook = notebook_suite(NAME)


# ---------------------------------------------------------------- teaching solutions


def code_lines(id: str) -> int:
    """Lines of code of a solution that are not in the stub, without docstrings and comments."""
    lines = []
    for source in (teaching_solution(library()[id]), cells(NAME)[f"answer-{id}"].source):
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if ast.get_docstring(node) if isinstance(node, ast.FunctionDef | ast.ClassDef) else 0:
                node.body = node.body[1:]
        lines.append([line.strip() for line in ast.unparse(tree).splitlines() if line.strip()])
    answer, stub_lines = lines
    return len([line for line in answer if line not in stub_lines])


@pytest.mark.parametrize("id", IDS)
def test_a_teaching_solution_is_short(id):
    assert code_lines(id) <= 15


def test_the_solutions_agree_with_pytorch_and_kt_core():
    torch.manual_seed(0)
    logits, targets = 5 * torch.randn(2, 7, 11), torch.randint(0, 11, (2, 7))
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=0)
    assert torch.allclose(solutions.cross_entropy(logits, targets), expected)
    x = torch.randn(2, 7, 8)
    assert torch.allclose(solutions.LayerNorm(8)(x), F.layer_norm(x, (8,)), atol=1e-6)
    model, prompt = kt.GPT(CONFIG).eval(), [3, 1, 4]
    expected = kt.generate(model, [prompt], stop=[2], max_new=6)[0]
    assert solutions.greedy(model, prompt, 6, 2) == expected


@pytest.mark.parametrize("qk_norm", [False, True])
def test_the_solutions_gpt_is_kt_cores(qk_norm):
    torch.manual_seed(0)
    config = kt.GPTConfig(11, 9, 3, 2, 8, dropout=0.0, qk_norm=qk_norm)
    ours, model = kt.GPT(config), solutions.GPT(config)
    for p in ours.parameters():
        nn.init.normal_(p, std=0.3)
    assert list(model.state_dict()) == list(ours.state_dict())
    model.load_state_dict(ours.state_dict())
    idx, targets = torch.randint(2, 11, (2, 9)), torch.randint(0, 11, (2, 9))
    for a, b in zip(model(idx, targets), ours(idx, targets), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert kt.generate(model, [[3, 1]], use_cache=False) == kt.generate(ours, [[3, 1]])


def test_train_takes_the_steps_of_kt_cores_trainer(small_corpus):
    vocab = small_corpus.vocab
    config = kt.GPTConfig(len(vocab), 64, 1, 2, 16, dropout=0.0)
    pairs = kt.NamePlace(small_corpus.train[:6], vocab, 64)
    settings = dict(batch_size=3, lr=0.01, schedule="constant", weight_decay=0.01)
    losses = []
    for fit in ("solution", "trainer"):
        torch.manual_seed(0)
        model = kt.GPT(config)
        if fit == "solution":
            batches = [batch for epoch in range(2) for batch in kt.batches(pairs, 3, 0, epoch)]
            losses.append(solutions.train(model, batches, [0.01] * len(batches)))
        else:
            train_config = kt.TrainConfig(epochs=2, log_every=1, **settings)
            history = kt.Trainer(model, pairs, train_config).fit()
            losses.append([row["loss"] for row in history])
    assert losses[0][:2] == pytest.approx(losses[1][:2], abs=1e-3)


# ---------------------------------------------------------------- the page's claims


@pytest.mark.slow
@pytest.mark.notebook(NAME)
def test_what_the_page_says_of_its_trainings(facts):
    """The cells that nbval does not compare: their numbers, with room for other processors."""
    assert abs(facts["loss_at_start"] - math.log(78)) < 0.1
    slow, good, fast = facts["overfit_losses"]
    assert slow > 3.3 and good < 0.1 and fast > 1
    assert facts["mistake_loss"] < 0.1 and 2 < facts["correct_loss_beside_it"] < 2.8
    assert 0.4 < facts["loss_at_end"] < 1 and facts["held_out_loss"] < 1.1
    assert facts["shipped_weights_in_own_code"]["accuracy"] > 0.8

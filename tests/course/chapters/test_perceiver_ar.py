"""Chapter 6: exercises, their typical mistakes, the teaching solutions, and the page's claims."""

from __future__ import annotations

import functools

import pytest
import torch
from checking import Answers, cells, mistakes, notebook_suite, quiz_suite, stub, suite
from torch import nn

import kt_core as kt
from kt_core.attention import MultiHeadAttention
from kt_core.blocks import Block as CoreBlock
from kt_core.perceiver import mask_and_rotation
from kt_core.perceiver import newest_inputs as core_newest
from kt_course.chapters.build_a_gpt import solutions as gpt
from kt_course.chapters.perceiver_ar import exercises, solutions
from kt_course.exercises.random_cases import randomise
from kt_course.exercises.registry import exercise_ids, library

NAME = "06_perceiver_ar"
IDS = exercise_ids(NAME)


# ---------------------------------------------------------------- answers in other words


class CrossAttentionByHead(gpt.Attention):
    """One head after the other, on the attention of chapter 2."""

    def forward(self, x, source, mask):
        parts = []
        sides = self.query(x), self.key(source), self.value(source)
        for q, k, v in zip(*(y.chunk(self.n_head, -1) for y in sides), strict=True):
            if self.qk_norm:
                q, k = (y * y.square().mean(-1, keepdim=True).rsqrt() for y in (q, k))
            scores = torch.einsum("bqd,bkd->bqk", q, k) * q.size(-1) ** -0.5
            parts.append((scores + mask.log()).softmax(-1) @ v)
        return self.proj(torch.cat(parts, -1))


def down_in_steps(self, x):
    n = min(self.latents.size(1), x.size(1))
    z = self.latents[:, :n].repeat(x.size(0), 1, 1)
    mask = torch.arange(x.size(1)) <= torch.arange(n)[:, None]
    gathered = self.attn(self.ln1(z), self.ln_source(x), mask)
    return self.mlp(self.ln2(z + gathered)) + gathered + z


def up_in_steps(self, x, z):
    mask = torch.ones(x.size(1), z.size(1), dtype=torch.bool).tril()
    gathered = self.attn(self.ln1(x), self.ln_source(z), mask)
    return self.mlp(self.ln2(x + gathered)) + gathered + x


def with_forward(id: str, forward):
    """The page's class, whose constructor is given, with this forward."""
    return type(library()[id].name, (stub(NAME, solutions, id),), {"forward": forward})


def newest_by_loop(local, x):
    rows = []
    for t in range(x.size(1)):
        near = [local[k - 1] * x[:, t - k] for k in range(1, len(local) + 1) if t >= k]
        rows.append(sum(near, torch.zeros_like(x[:, t])))
    return torch.stack(rows, 1)


def stack_without_incomplete_latent(blocks, x, connect):
    """The last latent is left out while it is incomplete: no output reads it."""
    s, T = blocks.config.stride, x.size(1)
    complete = torch.arange(s - 1, T, s)[None]
    positions = torch.arange(T)[None]
    z = blocks[0](x[:, complete[0]], x, **connect(complete, positions))
    for block in list(blocks)[1:-1]:
        z = block(z, **connect(complete, complete))
    null = blocks[-1].null.expand(len(x), 1, -1)
    keys = torch.cat([torch.tensor([[-1]]), complete], 1)
    x = x + core_newest(blocks[-1].local, x)
    return blocks[-1](x, torch.cat([null, z], 1), **connect(positions, keys))


# ---------------------------------------------------------------- other mistakes


class NoGradient(CrossAttentionByHead):
    def forward(self, x, source, mask):
        return super().forward(x, source, mask).detach()


class Swapped(CrossAttentionByHead):
    def forward(self, x, source, mask):
        return super().forward(source, x, mask)


class OneLatentTooMany(with_forward("down-project", down_in_steps)):
    def __init__(self, config):
        super().__init__(config)
        self.latents = nn.Parameter(torch.zeros(1, config.bottleneck + 1, config.n_embd))


class NoSourceNorm(with_forward("up-project", up_in_steps)):
    def __init__(self, config):
        super().__init__(config)
        del self.ln_source


def detached_stack(blocks, x, connect):
    return stack_without_incomplete_latent(blocks, x, connect).detach()


def stack_with_a_later_mask(blocks, x, connect):
    def leaking(query, key):
        return connect(query, key) | {"mask": connect(query + 1, key)["mask"]}

    return stack_without_incomplete_latent(blocks, x, leaking)


def as_floats(query, key):
    return (key.unsqueeze(-2) <= query.unsqueeze(-1)).float()


OTHERS = {
    "cross-attention": {
        "detached": (NoGradient, "cut off from the graph"),
        "swapped": (Swapped, "raised RuntimeError.*size of tensor"),
    },
    "reach-mask": {"floats": (as_floats, "float32.*compare")},
    "down-project": {
        "too many": (OneLatentTooMany, r"latents has the shape \(1, 5, 8\) instead of \(1, 4, 8\)")
    },
    "up-project": {"no norm": (NoSourceNorm, "no parameter ln_source.weight")},
    "newest-inputs": {"none": (lambda local, x: list(x), "should be a tensor")},
    "through-latents": {
        "detached": (detached_stack, "cut off"),
        "a later mask": (stack_with_a_later_mask, "stride 2, output 0, input 1: the dependence"),
    },
}
RIGHT = {
    "cross-attention": CrossAttentionByHead,
    "reach-mask": lambda query, key: ~(query[..., :, None] < key[..., None, :]),
    "down-project": with_forward("down-project", down_in_steps),
    "up-project": with_forward("up-project", up_in_steps),
    "newest-inputs": newest_by_loop,
    "through-latents": stack_without_incomplete_latent,
}


class BorrowedAttention(solutions.CrossAttention):
    def forward(self, x, source, mask):
        return MultiHeadAttention.forward(self, x, source, mask)


def borrowed_down(self, x):
    z = self.latents[:, : x.size(1)].expand(len(x), -1, -1)
    return CoreBlock.forward(self, z, x, kt.causal_mask(x.size(1))[: z.size(1)])


def borrowed_up(self, x, z):
    return CoreBlock.forward(self, x, z, kt.causal_mask(x.size(1))[:, : z.size(1)])


BORROWED = {
    "cross-attention": BorrowedAttention,
    "reach-mask": lambda query, key: kt.reach_mask(query, key),
    "down-project": with_forward("down-project", borrowed_down),
    "up-project": with_forward("up-project", borrowed_up),
    "newest-inputs": lambda local, x: core_newest(local, x),
    "through-latents": lambda *inputs: solutions.through_latents(*inputs),
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


def perceiver_gpt(pieces):
    """The page's own class, built on these pieces."""
    names = "CrossAttention", "DownProjectBlock", "UpProjectBlock"
    namespace = {"kt": kt} | vars(gpt) | {name: getattr(pieces, name) for name in names}
    exec(cells(NAME)["perceiver"].source, namespace)
    return namespace["PerceiverGPT"]


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("bottleneck", [4, 12])
def test_the_pages_perceiver_is_kt_cores(qk_norm, bottleneck):
    sizes = dict(bottleneck=bottleneck, dropout=0.0, qk_norm=qk_norm)
    config = kt.GPTConfig(11, 12, 3, 2, 8, "perceiver", **sizes)
    ours, model = randomise(kt.GPT(config), 1), perceiver_gpt(solutions)(config).double().eval()
    model.load_state_dict(ours.state_dict())
    for T in (3, 12):
        idx = torch.randint(2, 11, (2, T), generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(model(idx, idx), ours(idx, idx))


def test_in_the_learners_file_the_perceiver_is_built_on_their_attention(monkeypatch, tmp_path):
    from kt_course.exercises import my_gpt

    monkeypatch.setenv("KT_MY_GPT", str(tmp_path / "my_gpt.py"))
    for id in ("cross-attention", "reach-mask", "down-project"):
        exercise = library()[id]
        assert "Saved" in my_gpt.save(exercise, getattr(solutions, exercise.name))
    mine = my_gpt.load(NAME)
    assert mine.pieces["DownProjectBlock"] == "" and mine.pieces["UpProjectBlock"]
    assert issubclass(mine.CrossAttention, mine.Attention)
    assert issubclass(mine.UpProjectBlock, mine.Block)


@pytest.mark.parametrize("m", [8, 4, 3, 2])
def test_the_solution_goes_through_the_latents_as_kt_core_does(m):
    model = randomise(kt.GPT(kt.GPTConfig(9, 8, 4, 2, 8, "perceiver_ar", m, dropout=0.0)), 1)
    connect = functools.partial(mask_and_rotation, rotary=model.rotary)
    for T in (1, 5, 8):
        x = torch.randn(2, T, 8, generator=torch.Generator().manual_seed(T), dtype=torch.double)
        expected = model.blocks(x, torch.arange(T)[None], model.rotary)
        result = solutions.through_latents(model.blocks, x, connect)
        torch.testing.assert_close(result, expected)


# ---------------------------------------------------------------- the page's claims


@pytest.mark.slow
@pytest.mark.notebook(NAME)
def test_what_the_page_says_of_its_trainings(facts):
    """The cells that nbval does not compare: their numbers, with room for other processors."""
    before, after = facts["loss_before_m"], facts["loss_after_m"]
    best = facts["best_possible_when_blind"]
    for name in ("GPT", "rope", "Perceiver AR, m = 16"):
        assert before[name] < 0.6 and after[name] < 0.6  # the best possible is 0.47
    assert after["Perceiver, m = 48"] < 0.9
    for name in ("Perceiver, m = 16", "Perceiver, m = 16, other seed"):
        assert before[name] < 1.1 and best - 0.1 < after[name] < best + 0.4
    assert facts["shipped_weights_in_own_code"]["accuracy"] > 0.5

"""Chapter 13: exercises, their typical mistakes, the teaching solutions, and the page's claims."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from checking import Answers, cells, mistakes, notebook_suite, quiz_suite, stub, suite
from torch import nn

import kt_core as kt
from kt_core.attention import MultiHeadAttention, attend
from kt_course.chapters.vision_transformer import exercises, solutions
from kt_course.exercises.registry import exercise_ids

NAME = "13_vision_transformer"
NOTEBOOK = Path(__file__).resolve().parents[3] / "notebooks" / f"{NAME}.ipynb"
IDS = exercise_ids(NAME)


# ---------------------------------------------------------------- answers in other words


def patches_by_slices(images, patch_size):
    H, W = images.shape[-2:]
    corners = [(i, j) for i in range(0, H, patch_size) for j in range(0, W, patch_size)]
    squares = [images[..., i : i + patch_size, j : j + patch_size] for i, j in corners]
    return torch.stack([square.flatten(1) for square in squares], dim=1)


def embedding_by_module(images, weight, bias, p):
    layer = nn.Conv2d(images.size(1), len(weight), p, p, dtype=images.dtype)
    layer.load_state_dict({"weight": weight.view_as(layer.weight), "bias": bias})
    return torch.einsum("bcij->bijc", layer(images)).flatten(1, 2)


class AttentionByEinsum(MultiHeadAttention):
    def forward(self, x):
        sides = self.query(x), self.key(x), self.value(x)
        q, k, v = (y.unflatten(-1, (self.n_head, -1)) for y in sides)  # (B, T, n_head, d)
        if self.qk_norm:
            q, k = (y * y.square().mean(-1, keepdim=True).rsqrt() for y in (q, k))
        scores = torch.einsum("bihd,bjhd->bhij", q, k) * q.size(-1) ** -0.5
        weights = scores.softmax(3)
        self.weights = weights.clone().detach()
        return self.proj(torch.einsum("bhij,bjhd->bihd", weights, v).flatten(2))


class ViTInZeros(solutions.ViT):
    """Writes the tokens into zeros."""

    def encode(self, images):
        patches = patches_by_slices(images, self.patch_size)
        x = patches.new_zeros(len(images), patches.size(1) + 1, self.config.n_embd)
        x[:, 1:] = F.linear(patches, self.patch_emb.weight, self.patch_emb.bias)
        x[:, 0] = self.class_token[0, 0]
        x = x + self.pos_emb
        return self.ln_f(nn.Sequential(*self.blocks)(x))


def rollout_by_recursion(maps):
    *before, last = maps
    layer = 0.5 * (last.mean(1) + torch.eye(last.size(-1)))
    return layer @ rollout_by_recursion(before) if before else layer


RIGHT = {
    "patchify": patches_by_slices,
    "patch-convolution": embedding_by_module,
    "full-attention": AttentionByEinsum,
    "vision-transformer": ViTInZeros,
    "attention-rollout": rollout_by_recursion,
}


# ---------------------------------------------------------------- other mistakes


def in_place(images, patch_size):
    images.mul_(2.0)
    return patches_by_slices(images / 2, patch_size)


class CutOff(AttentionByEinsum):
    def forward(self, x):
        return super().forward(x).detach()


class NotKept(AttentionByEinsum):
    def forward(self, x):
        return self.proj(self.value(x))


class PlainList(ViTInZeros):
    def __init__(self, config, patch_size, n_class):
        super().__init__(config, patch_size, n_class)
        blocks = list(self.blocks)
        del self.blocks
        self.blocks = blocks


OTHERS = {
    "patchify": {
        "in place": (in_place, "changes its argument images in place"),
        "overlapping": (lambda x, p: F.unfold(x, p).mT, "has the shape"),
    },
    "patch-convolution": {
        "one channel": (
            lambda x, w, b, p: embedding_by_module(x[:, :1], w, b, p),
            "your code raised RuntimeError",
        )
    },
    "full-attention": {
        "cut off": (CutOff, "cut off from the weights"),
        "not kept": (NotKept, "self.weights should be a tensor"),
    },
    "vision-transformer": {"a plain list": (PlainList, "no parameter blocks.0.*plain Python list")},
    "attention-rollout": {"no tensor": (list, "should be a tensor")},
}


class BorrowedAttention(solutions.FullAttention):
    def forward(self, x):
        return MultiHeadAttention.forward(self, x)


BORROWED = {
    "patchify": lambda x, p: solutions.patchify(x, p),
    "patch-convolution": lambda *args: solutions.embed_by_convolution(*args),
    "full-attention": BorrowedAttention,
    "vision-transformer": lambda *args: solutions.ViT(*args),
    "attention-rollout": lambda maps: solutions.attention_rollout(maps),
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


def config(**changes):
    sizes = dict(vocab_size=2, block_size=5, n_layer=2, n_head=2, n_embd=8, dropout=0.0)
    return kt.GPTConfig(**sizes | changes)


def test_full_attention_is_kt_cores_attention_without_a_mask():
    torch.manual_seed(0)
    ours, x = solutions.FullAttention(8, 2), torch.randn(3, 5, 8)
    torch.testing.assert_close(ours(x), MultiHeadAttention.forward(ours, x))
    heads = [ours.split_heads(layer(x)) for layer in (ours.query, ours.key, ours.value)]
    torch.testing.assert_close(ours.weights, attend(*heads)[1])


def test_every_token_attends_to_every_token_and_gradients_reach_every_weight():
    torch.manual_seed(0)
    model, images = solutions.ViT(config(), 2, 3), torch.rand(2, 1, 4, 4)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    F.cross_entropy(model(images), torch.tensor([0, 2])).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    for block in model.blocks:
        assert (block.attn.weights > 0).all()
        torch.testing.assert_close(block.attn.weights.sum(-1), torch.ones(2, 2, 5))


def test_blocks_start_as_the_identity():
    x = torch.randn(2, 5, 8)
    block = solutions.make_block(config())
    with torch.no_grad():
        for bias in (block.attn.proj.bias, block.mlp.proj.bias):
            bias.zero_()
        torch.testing.assert_close(block(x), x)


def test_the_learners_blocks_have_the_weights_of_kt_cores(monkeypatch):
    from kt_course.exercises import my_gpt

    monkeypatch.setenv("KT_MY_GPT", "off")
    mine = my_gpt.load()
    namespace = {"Block": mine.Block, "FullAttention": solutions.FullAttention, "nn": nn}
    exec(cells(NAME)["blocks"].source.split("\n\n\ntorch.manual_seed")[0], namespace)
    torch.manual_seed(0)
    theirs, ours = namespace["make_block"](config()), solutions.make_block(config())
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(theirs(x), ours(x))


# ---------------------------------------------------------------- the page's claims


def table() -> dict:
    path = NOTEBOOK.parent.parent / "data" / "results" / "vision.json"
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_table_has_three_seeds_of_every_model_with_equal_steps():
    rows = table()["rows"]
    for kind in ("ViT", "uniform", "scratch", "CNN", "SVM", "logistic regression"):
        assert [row["seed"] for row in rows if row["kind"] == kind] == [0, 1, 2]
    assert {row["curve"][-1][0] for row in rows if "curve" in row} == {table()["settings"]["steps"]}


@pytest.mark.slow
@pytest.mark.notebook(NAME)
def test_what_the_page_says_of_its_live_model(facts):
    """Numbers that depend on training, with room for other processors."""
    share = {name: fact["accuracy"] for name, fact in facts.items() if isinstance(fact, dict)}
    assert share["digits_named"] > 0.94
    assert share["odd_one_out"] > 0.5
    same = share["another_example_of_the_same_digit_odd_one"]
    assert same > share["odd_one_out"] - 0.08
    assert share["a_third_digit_odd_one"] < same - 0.1

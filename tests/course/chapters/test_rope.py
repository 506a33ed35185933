"""Chapter 7: exercises, their typical mistakes, the teaching solutions, and the page's claims."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from checking import Answers, cells, mistakes, notebook_suite, quiz_suite, stub, suite

import kt_core as kt
from kt_core.attention import MultiHeadAttention
from kt_course.chapters.build_a_gpt import solutions as gpt
from kt_course.chapters.rope import exercises, solutions
from kt_course.exercises.random_cases import randomise
from kt_course.exercises.registry import exercise_ids, library

NAME = "07_rope"
IDS = exercise_ids(NAME)


# ---------------------------------------------------------------- answers in other words


def frequencies_by_loop(head_dim, base=10000.0):
    return torch.tensor([base ** (-2 * i / head_dim) for i in range(head_dim // 2)])


def angles_by_einsum(positions, head_dim, base=10000.0):
    angle = torch.einsum("...t,i->...ti", positions.float(), frequencies_by_loop(head_dim, base))
    return [torch.sin(angle + torch.pi / 2), torch.sin(angle)]


def rotate_by_complex_numbers(x, cos, sin):
    half = x.size(-1) // 2
    z = torch.complex(x[..., :half], x[..., half:]) * torch.complex(cos, sin)
    return torch.cat([z.real, z.imag], -1)


class RotaryAttentionByDistance(gpt.Attention):
    """Rotates the query once per key, by the distance, and leaves the keys; no PyTorch helpers."""

    def forward(self, x, first=0):
        B, T, C = x.shape
        d = C // self.n_head
        sides = self.query(x), self.key(x), self.value(x)
        q, k, v = (y.view(B, T, self.n_head, d).transpose(1, 2) for y in sides)
        if self.qk_norm:
            q, k = (y * y.square().mean(-1, keepdim=True).rsqrt() for y in (q, k))
        distance = torch.arange(T)[:, None] - torch.arange(T)  # (T, T)
        cos, sin = angles_by_einsum(distance, d)
        q = rotate_by_complex_numbers(q[..., :, None, :], cos.type_as(x), sin.type_as(x))
        scores = (q * k[..., None, :, :]).sum(-1) * d**-0.5
        scores = scores + torch.full((T, T), float("-inf")).triu(1)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


# ---------------------------------------------------------------- other mistakes


class NoGradient(RotaryAttentionByDistance):
    def forward(self, x, first=0):
        return super().forward(x).detach()


class NoFirst(RotaryAttentionByDistance):
    def forward(self, x):
        return super().forward(x)


def rotate_in_place(x, cos, sin):
    half = x.size(-1) // 2
    x[..., :half] = x[..., :half] * cos
    return x


OTHERS = {
    "rotary-frequencies": {"a list": (lambda d, base=1e4: [1.0] * (d // 2), "should be a tensor")},
    "rotary-table": {"cos alone": (lambda p, d, base=1e4: p.cos(), "two tensors, cos and sin")},
    "rotate": {"in place": (rotate_in_place, "changes its argument x in place")},
    "rotary-attention": {
        "detached": (NoGradient, "cut off from the graph"),
        "no first": (NoFirst, "unexpected keyword argument 'first'"),
    },
}
RIGHT = {
    "rotary-frequencies": frequencies_by_loop,
    "rotary-table": angles_by_einsum,
    "rotate": rotate_by_complex_numbers,
    "rotary-attention": RotaryAttentionByDistance,
}


class Borrowed(gpt.Attention):
    def forward(self, x, first=0):
        self.split_heads = MultiHeadAttention.split_heads.__get__(self)
        q, k, v = (self.split_heads(f(x)) for f in (self.query, self.key, self.value))
        cos, sin = solutions.angles(torch.arange(x.size(1)), q.size(-1))
        q, k = solutions.rotate(q, cos, sin), solutions.rotate(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).flatten(2))


BORROWED = {
    "rotary-frequencies": lambda d, base=10000.0: kt.rotary_frequencies(d, base),
    "rotary-table": lambda p, d, base=10000.0: kt.rotary_table(p, d, base),
    "rotate": lambda x, cos, sin: kt.rotate(x, cos, sin),
    "rotary-attention": Borrowed,
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


@pytest.mark.parametrize("base", [100.0, 10000.0])
def test_the_solutions_are_the_functions_of_kt_core(base):
    positions = torch.randint(0, 99, (3, 5), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(solutions.frequencies(8, base), kt.rotary_frequencies(8, base))
    cos, sin = solutions.angles(positions, 8, base)
    torch.testing.assert_close((cos, sin), kt.rotary_table(positions, 8, base))
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(solutions.rotate(x, cos, sin), kt.rotate(x, cos, sin))


def rope_gpt(pieces):
    """The page's own class, built on these pieces."""
    namespace = {"kt": kt, "RotaryAttention": pieces.RotaryAttention} | vars(gpt)
    exec(cells(NAME)["rope-gpt"].source.split("\n\n\nown =")[0], namespace)
    return namespace["RopeGPT"]


@pytest.mark.parametrize("qk_norm", [False, True])
def test_the_pages_model_is_kt_cores(qk_norm):
    config = kt.GPTConfig(11, 12, 3, 2, 8, "rope", dropout=0.0, qk_norm=qk_norm)
    ours, model = randomise(kt.GPT(config), 1), rope_gpt(solutions)(config).double().eval()
    assert list(model.state_dict()) == list(ours.state_dict())
    model.load_state_dict(ours.state_dict())
    idx = torch.randint(2, 11, (2, 12), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(idx, idx), ours(idx, idx), atol=1e-5, rtol=1e-5)


def test_in_the_learners_file_the_rotation_is_in_their_attention(monkeypatch, tmp_path):
    from kt_course.exercises import my_gpt

    monkeypatch.setenv("KT_MY_GPT", str(tmp_path / "my_gpt.py"))
    for id in IDS:
        exercise = library()[id]
        assert "Saved" in my_gpt.save(exercise, getattr(solutions, exercise.name))
    mine = my_gpt.load(NAME)
    assert [mine.pieces[library()[id].name] for id in IDS] == [""] * len(IDS)
    assert issubclass(mine.RotaryAttention, mine.Attention)


# ---------------------------------------------------------------- the page's claims


@pytest.mark.slow
@pytest.mark.notebook(NAME)
def test_what_the_page_says_of_its_models(facts):
    """Numbers that depend on training or on rounding, with room for other processors."""
    trained = facts["damage_as_trained"]["accuracy"]
    for kind in ("layouts_mixed_up", "sign", "table_for_C_channels", "no_rotation"):
        assert facts[f"damage_{kind}"]["accuracy"] < trained - 0.2
    still = {facts[f"rope_positions_{k}"]["correct"] for k in (0, 8, 16, 32, 64)}
    assert max(still) - min(still) <= 2  # the algebra of section 7.3, within rounding error
    losses = facts["loss_of_last_steps"]
    assert losses["rotation"] < losses["learned table"] + 0.2

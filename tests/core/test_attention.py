"""Masks, scores, softmax, rotary embedding, multi-head attention and recorded weights."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kt_core.attention import (
    MultiHeadAttention,
    attend,
    causal_mask,
    masked_softmax,
    reach_mask,
    scaled_dot_product_score,
)
from kt_core.kv_cache import LayerCache, Slots
from kt_core.positions import rotary_frequencies, rotary_table, rotate, sinusoidal_positions
from kt_core.runs.attention_maps import record_attention

FEW = settings(max_examples=15, deadline=None)


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def heads(n_embd=16, n_head=2, **knobs):
    """A `MultiHeadAttention` whose weights are large enough for peaked attention."""
    attention = MultiHeadAttention(n_embd, n_head, **knobs)
    for i, parameter in enumerate(attention.parameters()):
        parameter.data = 0.6 * draw(*parameter.shape, seed=100 + i)
    return attention.eval()


def glass(T, dropout=0.0):
    """One head that outputs its own weights: one-hot inputs, identity values and output."""
    attention = heads(T, 1, dropout=dropout)
    for linear in (attention.value, attention.proj):
        linear.weight.data, linear.bias.data = torch.eye(T), torch.zeros(T)
    return attention, torch.eye(T)[None]


# ---------------------------------------------------------------- masks


@pytest.mark.parametrize("T", [1, 2, 5])
def test_causal_mask_is_the_lower_triangle(T):
    expected = [[key <= query for key in range(T)] for query in range(T)]
    assert causal_mask(T).dtype == torch.bool
    assert causal_mask(T).tolist() == expected


@FEW
@given(
    st.lists(st.integers(-1, 9), min_size=1, max_size=6),
    st.lists(st.integers(-1, 9), min_size=1, max_size=6),
)
def test_reach_mask_is_its_rule_spelled_out(query_reach, key_reach):
    mask = reach_mask(torch.tensor(query_reach), torch.tensor(key_reach))
    assert mask.tolist() == [[k <= q for k in key_reach] for q in query_reach]


def test_reach_mask_of_positions_is_causal_and_rows_may_differ():
    t = torch.arange(4)
    assert torch.equal(reach_mask(t, t), causal_mask(4))
    rows = reach_mask(
        torch.tensor([[1], [3]]), torch.arange(4)[None]
    )  # two rows at different positions, same keys
    assert rows.tolist() == [[[True, True, False, False]], [[True, True, True, True]]]


# ---------------------------------------------------------------- scores and softmax


def test_scores_equal_their_formula_entry_by_entry():
    q, k = draw(2, 3, 4, seed=1), draw(2, 5, 4, seed=2)
    scores = scaled_dot_product_score(q, k)
    assert scores.shape == (2, 3, 5)
    for b, i, j in [(0, 0, 0), (1, 2, 4), (0, 1, 3)]:
        torch.testing.assert_close(scores[b, i, j], q[b, i] @ k[b, j] / 2.0)  # sqrt(4)


def test_scaling_keeps_the_variance_of_scores_at_one():
    for d in (4, 64):
        q, k = draw(200, d, seed=d), draw(200, d, seed=d + 1)
        assert scaled_dot_product_score(q, k).var().item() == pytest.approx(1.0, abs=0.15)


def test_masked_softmax_rows_sum_to_one_and_forbidden_keys_get_zero():
    scores = 5 * draw(2, 3, 6, 6)
    weights = masked_softmax(scores, causal_mask(6))
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 6))
    assert (weights[..., ~causal_mask(6)] == 0).all()
    torch.testing.assert_close(weights[0, 0, 3, :4], scores[0, 0, 3, :4].softmax(-1))
    torch.testing.assert_close(masked_softmax(scores), scores.softmax(-1))


def test_a_row_without_allowed_key_is_zero_and_leaks_nothing():
    mask = torch.tensor([[False, False, False], [True, False, False]])
    scores, value = draw(2, 3).requires_grad_(), draw(3, 4).requires_grad_()
    weights = masked_softmax(scores, mask)
    assert weights.tolist() == [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    (weights @ value)[0].sum().backward()
    assert (value.grad == 0).all()
    assert (scores.grad == 0).all()  # not NaN either: a NaN is unequal to 0


def test_attend_averages_values_by_its_weights():
    q, k, v = draw(2, 3, 4, seed=1), draw(2, 5, 4, seed=2), draw(2, 5, 7, seed=3)
    context, weights = attend(q, k, v)
    assert context.shape == (2, 3, 7)
    torch.testing.assert_close(weights, (q @ k.transpose(1, 2) / 2).softmax(-1))
    torch.testing.assert_close(context, torch.einsum("bij,bjd->bid", weights, v))
    same = torch.ones(2, 5, 4)  # equal keys: the plain mean
    torch.testing.assert_close(attend(q, same, v)[0], v.mean(1, keepdim=True).expand(2, 3, 7))


def test_sinusoidal_positions():
    table = sinusoidal_positions(6, 8)
    assert table.shape == (6, 8)
    for t, i in [(0, 0), (5, 0), (3, 2), (4, 3)]:
        angle = t / 10000 ** (2 * i / 8)
        assert table[t, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
        assert table[t, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


# ---------------------------------------------------------------- rotary embedding


def turn(x, positions, layout="half", base=10000.0):
    """`x` (..., T, hs) turned to `positions` (T,)."""
    return rotate(x, *(a.to(x.dtype) for a in rotary_table(positions, x.size(-1), base)), layout)


@pytest.mark.parametrize("d", [2, 8, 32])
def test_frequencies_fall_from_one_to_the_last_of_the_formula(d):
    theta = rotary_frequencies(d)
    assert theta.shape == (d // 2,)
    assert theta.dtype == torch.float32
    assert theta[0] == 1.0
    assert theta[-1].item() == pytest.approx(10000 ** (-(d - 2) / d), rel=1e-5)
    assert (theta.diff() < 0).all()
    for i in range(d // 2):  # i from 1 in the paper: 10000^(-2(i-1)/d)
        assert theta[i].item() == pytest.approx(10000 ** (-2 * i / d), rel=1e-5)


def test_frequencies_follow_the_base():
    assert rotary_frequencies(8, 100.0)[-1].item() == pytest.approx(100 ** (-6 / 8), rel=1e-5)


@pytest.mark.parametrize("d", [0, 1, 7, -2])
def test_odd_head_dim_is_rejected(d):
    with pytest.raises(ValueError, match=f"even number, not {d}"):
        rotary_frequencies(d)


@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_position_zero_is_the_identity_and_no_other_is(layout):
    x = draw(2, 3, 4, 8)
    turned = turn(x, torch.tensor([0, 1, 2, 3]), layout)
    assert turned.shape == x.shape
    assert torch.equal(turned[:, :, 0], x[:, :, 0])
    assert (turned[:, :, 1:] - x[:, :, 1:]).abs().amax(-1).min() > 1e-3


def test_unknown_layout_is_named():
    cos, sin = rotary_table(torch.arange(3), 4)
    with pytest.raises(ValueError, match="'half' or 'interleaved', not 'thirds'"):
        rotate(draw(3, 4), cos, sin, "thirds")


@FEW
@given(
    st.integers(0, 200),
    st.integers(0, 200),
    st.sampled_from(["half", "interleaved"]),
    st.integers(0, 9),
)
def test_rotations_keep_the_norm_and_add_up(a, b, layout, seed):
    x = draw(1, 8, seed=seed, dtype=torch.float64)
    once = turn(x, torch.tensor([a]), layout)
    torch.testing.assert_close(once.norm(), x.norm())
    both = turn(x, torch.tensor([a + b]), layout)
    torch.testing.assert_close(turn(once, torch.tensor([b]), layout), both, atol=1e-4, rtol=1e-4)


@FEW
@given(
    st.integers(0, 100),
    st.integers(0, 100),
    st.integers(0, 100),
    st.sampled_from(["half", "interleaved"]),
)
def test_scores_depend_on_the_distance_alone(t1, t2, shift, layout):
    q, k = draw(1, 8, seed=1, dtype=torch.float64), draw(1, 8, seed=2, dtype=torch.float64)

    def score(at_q, at_k):
        return (turn(q, torch.tensor([at_q]), layout) * turn(k, torch.tensor([at_k]), layout)).sum()

    torch.testing.assert_close(score(t1, t2), score(t1 + shift, t2 + shift), atol=2e-4, rtol=1e-4)


def test_the_distance_matters():
    q, k, t = draw(1, 8, seed=1), draw(1, 8, seed=2), torch.arange(6)
    scores = turn(q, t[:1]) @ turn(k.expand(6, 8), t).T
    assert scores.unique().numel() == 6


def test_rotation_is_complex_multiplication():
    x, t = draw(2, 3, 5, 8, dtype=torch.float64), torch.arange(5)
    factor = torch.polar(
        torch.ones(5, 4, dtype=torch.float64), t[:, None] * rotary_frequencies(8).double()
    )
    pairs = torch.view_as_complex(x.view(2, 3, 5, 4, 2))  # interleaved
    expected = torch.view_as_real(pairs * factor).flatten(-2)
    torch.testing.assert_close(turn(x, t, "interleaved"), expected, atol=1e-6, rtol=1e-6)
    halves = torch.complex(x[..., :4], x[..., 4:]) * factor
    torch.testing.assert_close(
        turn(x, t), torch.cat([halves.real, halves.imag], -1), atol=1e-6, rtol=1e-6
    )


def test_both_layouts_are_one_map_under_a_fixed_permutation():
    q, k, t = draw(2, 5, 8, seed=1), draw(2, 5, 8, seed=2), torch.arange(5)
    order = (
        torch.arange(8).view(2, 4).T.flatten()
    )  # channel of "half" at each place of "interleaved"
    torch.testing.assert_close(turn(q, t)[..., order], turn(q[..., order], t, "interleaved"))
    same_scores = turn(q[..., order], t, "interleaved") @ turn(
        k[..., order], t, "interleaved"
    ).transpose(1, 2)
    torch.testing.assert_close(turn(q, t) @ turn(k, t).transpose(1, 2), same_scores)
    mixed = turn(q, t) @ turn(k, t, "interleaved").transpose(1, 2)  # query and key disagree
    assert (mixed - same_scores).abs().max() > 0.1


def test_table_shapes():
    cos, sin = rotary_table(torch.arange(12).view(3, 4), 8)
    assert cos.shape == sin.shape == (3, 4, 4)
    assert cos.dtype == torch.float32
    torch.testing.assert_close(cos**2 + sin**2, torch.ones(3, 4, 4))


# ---------------------------------------------------------------- multi-head attention


def by_hand(attention, x, source, mask=None):
    """The formula head by head, on slices of the projections: no reshape that could mix axes."""
    size = x.size(-1) // attention.n_head
    q, k, v = attention.query(x), attention.key(source), attention.value(source)
    parts = []
    for h in range(attention.n_head):
        s = slice(h * size, (h + 1) * size)
        scores = q[..., s] @ k[..., s].transpose(1, 2) / math.sqrt(size)
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        parts.append(scores.softmax(-1) @ v[..., s])
    return attention.proj(torch.cat(parts, -1))


def test_multi_head_attention_equals_the_formula_head_by_head():
    attention, x, source = heads(24, 3), draw(2, 5, 24, seed=1), draw(2, 7, 24, seed=2)
    mask = torch.rand(5, 7, generator=torch.Generator().manual_seed(0)) < 0.6
    mask[:, 0] = True
    torch.testing.assert_close(attention(x), by_hand(attention, x, x), atol=1e-5, rtol=1e-5)
    causal = by_hand(attention, x, x, causal_mask(5))
    torch.testing.assert_close(attention(x, mask=causal_mask(5)), causal, atol=1e-5, rtol=1e-5)
    crossed = attention(x, source, mask=mask)
    torch.testing.assert_close(crossed, by_hand(attention, x, source, mask), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_a_row_without_an_allowed_key_gathers_nothing(qk_norm):
    attention, x, source = heads(qk_norm=qk_norm), draw(2, 4, 16, seed=1), draw(2, 6, 16, seed=2)
    mask = torch.ones(4, 6, dtype=torch.bool)
    mask[1] = False
    rotation = tuple(rotary_table(torch.arange(n), 8) for n in (4, 6))
    with record_attention(attention) as maps:
        gathered = attention(x, source, mask, rotation)
    assert (maps[0][:, :, 1] == 0).all()
    torch.testing.assert_close(
        gathered[:, 1], attention.proj.bias.expand(2, -1)
    )  # nothing was gathered


def test_qk_norm_bounds_the_scores():
    attention, x = heads(qk_norm=True), draw(1, 6, 16)
    with record_attention(attention) as maps:
        attention(x)
        before = maps[0]
        attention.query.weight.data *= 100  # size alone
        attention.query.bias.data *= 100
        attention(x)
    torch.testing.assert_close(maps[0], before)


def test_attention_without_positions_is_permutation_equivariant_and_loses_it_with_them():
    attention, x, order = heads(), draw(2, 6, 16), torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(attention(x[:, order]), attention(x)[:, order], atol=1e-5, rtol=1e-5)

    def differ(f):
        return (f(x[:, order]) - f(x)[:, order]).abs().max()

    turned = rotary_table(torch.arange(6), 8)
    assert differ(lambda z: attention(z, rotation=(turned, turned))) > 1e-2
    assert differ(lambda z: attention(z + sinusoidal_positions(6, 16))) > 1e-2
    assert differ(lambda z: attention(z, mask=causal_mask(z.size(1)))) > 1e-2


def test_cache_writes_each_row_into_its_own_slots():
    slots = Slots(2, 4, never=99, device=torch.device("cpu"))
    cache = LayerCache(slots, 1, 3, torch.zeros(1))
    key, value = draw(2, 1, 2, 3, seed=1), draw(2, 1, 2, 3, seed=2)
    where = torch.tensor([[0, 1], [3, 2]])
    assert slots.place(where, where).tolist() == [[0, 1, 99, 99], [99, 99, 2, 3]]
    k, v = cache.update(key, value)
    assert torch.equal(k[0, 0, :2], key[0, 0])
    assert torch.equal(k[1, 0, [3, 2]], key[1, 0])
    assert torch.equal(v[1, 0, [3, 2]], value[1, 0])
    assert (k[0, 0, 2:] == 0).all()
    assert (v[1, 0, :2] == 0).all()
    slots.place(torch.tensor([[1], [1]]), torch.tensor([[1], [1]]))
    again, _ = cache.update(key[:, :, :1] + 1, value[:, :, :1])  # overwrites
    assert torch.equal(again[0, 0, 1], key[0, 0, 0] + 1)
    assert torch.equal(again[0, 0, 0], key[0, 0, 0])


# ---------------------------------------------------------------- recorded maps


def test_the_map_is_that_of_the_very_pass_whose_output_is_handed_out():
    attention, x = glass(6)
    with record_attention(attention) as maps:
        y = attention(x, mask=causal_mask(x.size(1)))
    torch.testing.assert_close(y, maps[0][:, 0])
    assert (maps[0][0, 0].triu(1) == 0).all()


def test_maps_are_taken_before_dropout():
    attention, x = glass(8, dropout=0.5)
    attention.train()
    torch.manual_seed(0)
    with record_attention(attention) as maps:
        y = attention(x, mask=causal_mask(x.size(1)))
    weights = maps[0][:, 0]
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 8))  # nothing is missing in the map
    dropped, survives = (y == 0) & (weights > 0), y != 0
    assert dropped.any()
    assert survives.any()
    torch.testing.assert_close(y[survives], 2 * weights[survives])  # what survives counts double


def test_dropout_on_cpu_drops_without_recording_too():
    attention, x = glass(8, dropout=0.5)
    plain = attention(x, mask=causal_mask(x.size(1)))
    attention.train()
    torch.manual_seed(0)
    y = attention(x, mask=causal_mask(x.size(1)))
    allowed = causal_mask(8)[None]
    assert (y[allowed] == 0).any()
    torch.testing.assert_close(y[y != 0], 2 * plain[y != 0])
    attention.eval()
    torch.testing.assert_close(attention(x, mask=causal_mask(x.size(1))), plain)


def test_recording_costs_no_second_pass_and_maps_are_detached():
    attention, calls = heads(), []
    attention.query.register_forward_hook(lambda *_: calls.append(1))
    with record_attention(attention) as maps:
        y = attention(draw(1, 3, 16))
    assert len(calls) == 1
    assert y.requires_grad
    assert not maps[0].requires_grad


def test_recorders_are_restored_nested_and_after_an_error():
    model = nn.ModuleList([heads(), heads()])
    x = draw(1, 4, 16)
    with record_attention(model) as outer:
        model[0](x)
        with record_attention(model) as inner:
            assert inner == [None, None]
            model[0](2 * x)
        assert not torch.allclose(outer[0], inner[0])
        first = inner[0].clone()
        model[0](3 * x)  # the outer one records again
        assert torch.equal(inner[0], first)
        assert not torch.allclose(outer[0], first)
    assert outer[1] is None  # never ran
    with pytest.raises(RuntimeError, match="inside"), record_attention(model):
        raise RuntimeError("inside")
    assert all(layer.attend is attend for layer in model)
    before = outer[0].clone()
    model[0](5 * x)
    assert torch.equal(outer[0], before)  # the list stays filled and is not written after the block

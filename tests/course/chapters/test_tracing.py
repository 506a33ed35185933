"""Tracing: hooks read and change states, leave the model as it was, and agree with plain code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import kt_core as kt
from kt_course.chapters.what_does_it_know import explorer as walks
from kt_course.chapters.what_does_it_know import tracing

QUESTION, ANSWER = "Where was Ada Hall born?", "Rome"


@pytest.fixture(scope="module")
def vocab():
    return kt.CharVocab.from_documents([QUESTION + ANSWER, "Bob Moor Lima Oslo xyz"])


def gpt(vocab, variant="rope", seed=0, **more):
    torch.manual_seed(seed)
    model = kt.GPT(kt.GPTConfig(len(vocab), 48, 3, 2, 16, variant, 24, dropout=0.0, **more))
    for p in model.parameters():
        p.data += 0.15 * torch.randn_like(p)
    return model.eval()


@pytest.fixture(params=["vanilla", "rope"])
def model(vocab, request):
    return gpt(vocab, request.param)


@pytest.fixture
def prompt(vocab):
    return tracing.make_prompt(vocab, QUESTION, ANSWER)


def run_block(model, block, x):
    """One block of a vanilla or rope model on its own."""
    T = x.size(1)
    rotation = None if model.rotary is None else (model.rotary(torch.arange(T)[None]),) * 2
    return block(x, mask=kt.causal_mask(T), rotation=rotation)


def no_hooks(model):
    return not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_question_knows_where_its_parts_stand(vocab, prompt):
    assert "".join(prompt.text[t] for t in prompt.name) == "Ada Hall"
    assert prompt.text[prompt.mark] == kt.MASK and prompt.answer == ANSWER
    assert vocab.decode(prompt.ids[0]) == prompt.text
    for wrong, answer in (("Who was Ada?", "Rome"), (QUESTION, "")):
        with pytest.raises(ValueError, match="does not read|needs an answer"):
            tracing.make_prompt(vocab, wrong, answer)


def test_the_probability_of_an_answer_is_that_of_its_characters(vocab, model, prompt):
    logits = model(prompt.ids)[0]
    steps = logits[0].softmax(-1)
    each = [steps[prompt.mark + k, prompt.ids[0, prompt.mark + 1 + k]].item() for k in range(4)]
    assert prompt.probability(logits).tolist() == pytest.approx([np.prod(each)], rel=1e-4)
    assert prompt.probability(logits, 1).tolist() == pytest.approx(each[:1], rel=1e-4)
    assert prompt.probability(logits.repeat(3, 1, 1), 2).shape == (3,)


# ---------------------------------------------------------------- hooks


def test_states_are_the_blocks_own_and_the_last_gives_the_logits(model, prompt):
    with tracing.record_residuals(model) as states:
        logits = model(prompt.ids)[0]
    assert no_hooks(model) and len(states) == 4
    assert torch.allclose(model.head(model.ln_f(states[-1])), logits, atol=1e-6)
    for i, block in enumerate(model.blocks):
        out = run_block(model, block, states[i])
        assert torch.allclose(out, states[i + 1], atol=1e-6)
    lens = tracing.logit_lens(model, states)
    assert torch.allclose(lens[-1], logits.softmax(-1), atol=1e-6)
    assert torch.allclose(lens.sum(-1), torch.ones(lens.shape[:-1]), atol=1e-5)
    cells = tracing.lens_cells(model, prompt)
    assert torch.allclose(
        cells.value[2], lens[2, 0, : prompt.mark + 1, prompt.ids[0, prompt.mark + 1]], atol=1e-6
    )
    assert torch.equal(cells.ids[..., 0], lens[:, 0, : prompt.mark + 1].argmax(-1))


def test_hooks_are_gone_even_after_an_error(model, prompt):
    with pytest.raises(RuntimeError, match="mine"), tracing.record_residuals(model):
        raise RuntimeError("mine")
    with (
        pytest.raises(ZeroDivisionError),
        tracing.edit_residuals(model, lambda i, state: state / (1 // (i - 1))),
    ):
        model(prompt.ids)
    assert no_hooks(model)


def test_an_edit_changes_what_comes_after_it_and_nothing_before(model, prompt):
    with tracing.record_residuals(model) as before:
        model(prompt.ids)

    def edit(i, state):
        return state + 1 if i == 2 else state

    with tracing.edit_residuals(model, edit), tracing.record_residuals(model) as after:
        model(prompt.ids)
    same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert same == [True, True, False, False]


@pytest.mark.parametrize("variant", ["perceiver", "perceiver_ar"])
def test_latents_are_refused(vocab, variant, prompt):
    model = gpt(vocab, variant)
    with (
        pytest.raises(ValueError, match="trace a vanilla or a rope model"),
        tracing.record_residuals(model),
    ):
        pass
    with pytest.raises(ValueError, match="latents"), tracing.limit_attention(model, [None] * 3):
        pass


# ---------------------------------------------------------------- knock-out


def test_a_cut_takes_away_just_those_looks():
    mask = tracing.cut_mask(6, [4, 5], [1, 2])
    for q in range(6):
        for k in range(6):
            assert mask[q, k] == (k <= q and not (q >= 4 and k in (1, 2)))
    itself = tracing.cut_mask(4, range(4), range(4))
    assert torch.equal(itself, torch.eye(4, dtype=torch.bool)), "a position always sees itself"
    assert torch.equal(tracing.cut_mask(3, [], [1]), kt.causal_mask(3))


def test_what_is_cut_gets_no_weight_and_other_layers_none_the_less(model, prompt):
    T = prompt.ids.size(1)
    mask = tracing.cut_mask(T, [T - 1], prompt.name)
    with kt.record_attention(model) as before:
        plain = model(prompt.ids)[0]
    with tracing.limit_attention(model, [None, mask, None]), kt.record_attention(model) as after:
        cut = model(prompt.ids)[0]
    assert no_hooks(model)
    name = slice(prompt.name.start, prompt.name.stop)
    assert not after[1][0, :, -1, name].any() and before[1][0, :, -1, name].all()
    assert after[2][0, :, -1, name].all()
    assert torch.allclose(plain[:, :-1], cut[:, :-1], atol=1e-6) and not torch.allclose(
        plain[:, -1], cut[:, -1]
    )
    with tracing.limit_attention(model, [None, mask, None]):
        fused = model(prompt.ids)[0]  # without recording it goes through the fused kernel
    assert torch.allclose(fused, cut, atol=1e-5)
    with (
        pytest.raises(ValueError, match="2 masks for 3 layers"),
        tracing.limit_attention(model, [None, None]),
    ):
        pass


def test_a_mask_cannot_show_the_future(model, prompt):
    T = prompt.ids.size(1)
    with tracing.limit_attention(model, [torch.ones(T, T, dtype=torch.bool)] * 3):
        assert torch.allclose(model(prompt.ids)[0], model(prompt.ids)[0], atol=1e-6)
        allowed = model(prompt.ids)[0]
    assert torch.allclose(allowed, model(prompt.ids)[0], atol=1e-5)


def test_an_encoder_keeps_its_own_mask(vocab, prompt):
    model = gpt(vocab, causal=False)
    T = prompt.ids.size(1)
    cut = torch.ones(T, T, dtype=torch.bool)
    cut[3, 7] = False
    with tracing.limit_attention(model, [cut, None, None]), kt.record_attention(model) as maps:
        model(prompt.ids)
    assert not maps[0][0, :, 3, 7].any() and maps[0][0, :, 3, 8:].all()


def test_knock_out_cuts_one_look_at_a_time(model, prompt):
    cells = tracing.knock_out(model, prompt)
    T = prompt.ids.size(1)
    assert cells.value.shape == (3, prompt.mark + 1) and cells.ids.shape == (3, prompt.mark + 1, 5)
    plain = prompt.probability(model(prompt.ids)[0], 1)
    assert torch.allclose(cells.value[:, -1], plain.expand(3), atol=1e-6)
    for layer, t in ((0, 12), (2, 3)):
        mask = tracing.cut_mask(T, range(prompt.mark, T), [t])
        with tracing.limit_attention(model, [mask if i == layer else None for i in range(3)]):
            logits = model(prompt.ids)[0]
        assert cells.value[layer, t] == pytest.approx(
            float(prompt.probability(logits, 1)), rel=1e-4
        )
        assert cells.ids[layer, t, 0] == logits[0, prompt.mark].argmax()
        top = logits[0, prompt.mark].softmax(-1).max()
        assert cells.shares[layer, t, 0] == pytest.approx(float(top), rel=1e-4)


# ---------------------------------------------------------------- patching


def test_another_name_stands_in_the_same_place(vocab, prompt):
    ids = tracing.other_name(prompt, vocab, "Bob Moor")
    assert vocab.decode(ids[0]) == f"Where was Bob Moor born?{kt.MASK}Rome"
    assert vocab.decode(prompt.ids[0]) == prompt.text, "the question itself is as it was"
    with pytest.raises(ValueError, match="3 characters"):
        tracing.other_name(prompt, vocab, "Bob")


def restored_by_hand(model, prompt, corrupted, state, positions):
    """The blocks run one by one, the clean state put in place at some positions."""
    with tracing.record_residuals(model) as clean:
        model(prompt.ids)
    with tracing.record_residuals(model) as other:
        model(corrupted)
    x = other[state].clone()
    x[:, positions] = clean[state][:, positions]
    for block in list(model.blocks)[state:]:
        x = run_block(model, block, x)
    return prompt.probability(model.head(model.ln_f(x)), 1)


@pytest.mark.parametrize("window", [1, 3])
def test_restoring_equals_running_the_rest_of_the_blocks_on_the_mended_state(
    vocab, model, prompt, window
):
    corrupted = tracing.other_name(prompt, vocab, "Bob Moor")
    cells = tracing.restore(model, prompt, corrupted, window)
    assert cells.value.shape == (4, prompt.mark + 1)
    for state in range(4):
        for t in (0, 12, prompt.mark - 1, prompt.mark):
            near = [k for k in range(prompt.mark + 1) if abs(k - t) <= window // 2]
            by_hand = restored_by_hand(model, prompt, corrupted, state, near)
            assert cells.value[state, t] == pytest.approx(float(by_hand), rel=1e-3, abs=1e-6)


def test_restoring_everything_gives_the_clean_answer_and_nothing_the_corrupted_one(
    vocab, model, prompt
):
    corrupted = tracing.other_name(prompt, vocab, "Bob Moor")
    whole = tracing.restore(model, prompt, corrupted, window=2 * prompt.mark + 1)
    clean = prompt.probability(model(prompt.ids)[0], 1)
    assert torch.allclose(whole.value[:, prompt.mark // 2], clean.expand(4), atol=1e-5)
    single = tracing.restore(model, prompt, corrupted)
    lost = prompt.probability(model(corrupted)[0], 1)
    assert torch.allclose(single.value[:, 0], lost.expand(4), atol=1e-5), (
        "the first W is the same in both"
    )
    assert single.value[3, prompt.mark] == pytest.approx(float(clean), abs=1e-5), (
        "the last state at ⁇ says it all"
    )
    with pytest.raises(ValueError, match="1, 3, 5"):
        tracing.restore(model, prompt, corrupted, window=2)
    with pytest.raises(ValueError, match="equally long"):
        tracing.restore(model, prompt, corrupted[:, :-1])


def test_grids_meet_by_the_role_of_their_characters(vocab):
    two = [
        tracing.make_prompt(vocab, f"Where was {name} born?", "Rome")
        for name in ("Ada Hall", "Bob")
    ]
    grids = [torch.arange(2.0 * (one.mark + 1)).view(2, -1) for one in two]
    mean, names = tracing.by_role(grids, two, letters=4)
    assert names == [*"Where was ", "…", "-4", "-3", "-2", "-1", *" born?", kt.MASK]
    assert mean.shape == (2, len(names))
    at = {name: i for i, name in enumerate(names)}
    assert mean[0, at["-1"]] == (17 + 12) / 2, "the last characters of both names"
    assert mean[0, at["-4"]] == 14, "the shorter name has no fourth last character"
    assert mean[0, at["…"]] == torch.arange(10.0, 14).mean()
    assert mean[0, -1] == (two[0].mark + two[1].mark) / 2


# ---------------------------------------------------------------- probes


def test_states_are_read_where_they_are_asked_for(vocab, model):
    questions = [QUESTION, "Where was Bob born?", "Where was Ida Hall born?".replace("I", "A")]
    positions = [lambda one: one.name.stop - 1, lambda one: one.mark]
    result = tracing.states_at(model, vocab, questions, positions)
    assert result.shape == (3, 2, 4, 16)
    for i, question in enumerate(questions):
        one = tracing.make_prompt(vocab, question, "x")
        with tracing.record_residuals(model) as states:
            model(one.ids[:, : one.mark + 1])
        for p, position in enumerate(positions):
            expected = torch.stack([s[0, position(one)] for s in states])
            assert torch.allclose(result[i, p], expected, atol=1e-5)


def test_ridge_is_where_the_gradient_of_its_cost_is_zero():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(9, n, generator=generator, dtype=torch.double) for n in (5, 3))
    w = tracing.ridge(x, y, 0.7).requires_grad_()
    assert w.shape == (5, 3)
    cost = (x @ w - y).square().sum() + 0.7 * w.square().sum()
    assert torch.autograd.grad(cost, w)[0].abs().max() < 1e-10
    wide = torch.randn(3, 5, generator=generator, dtype=torch.double)  # fewer rows than columns
    assert tracing.ridge(wide, y[:3], 1e-6).isfinite().all()


def test_a_probe_finds_what_is_linearly_there_and_chance_where_nothing_is():
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(4, (400,), generator=generator)
    directions = torch.randn(4, 20, generator=generator)
    there = directions[classes] + 0.3 * torch.randn(400, 20, generator=generator) + 5
    nothing = torch.randn(400, 20, generator=generator)
    for states, low, high in ((there, 0.97, 1.0), (nothing, 0.1, 0.42)):
        probe = tracing.Probe.fit(states[:300], classes[:300], 4)
        assert low <= probe.accuracy(states[300:], classes[300:]) <= high
    constant = tracing.Probe.fit(torch.ones(300, 20), classes[:300], 4)
    most = classes[:300].mode().values
    assert constant.accuracy(torch.ones(100, 20), classes[300:]) == pytest.approx(
        float((classes[300:] == most).float().mean())
    ), "where nothing varies it says the most frequent class"
    with pytest.raises(ValueError, match="300 states and 4 classes"):
        tracing.Probe.fit(there[:300], classes[:4], 4)


def test_a_probe_agrees_with_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    generator = torch.Generator().manual_seed(1)
    states, classes = (
        torch.randn(80, 6, generator=generator),
        torch.randint(3, (80,), generator=generator),
    )
    x = (states - states.mean(0)) / (states.std(0) + 1e-6)
    x = F.pad(x, (0, 1), value=1.0).double()
    theirs = linear_model.Ridge(alpha=100.0, fit_intercept=False).fit(
        x.numpy(), F.one_hot(classes, 3).numpy()
    )
    ours = tracing.Probe.fit(states, classes, 3, penalty=100.0)
    assert np.allclose(ours.weights.numpy(), theirs.coef_.T, atol=1e-5)


# ---------------------------------------------------------------- the explorer


@pytest.fixture
def traces(vocab):
    model = gpt(vocab)
    two = [(QUESTION, "Rome", "Bob Moor"), ("Where was Bob born?", "Lima", "Ada")]
    return [walks.trace(model, vocab, *one, window=3) for one in two]


def test_a_trace_holds_what_the_functions_compute(vocab, traces):
    model, one = gpt(vocab), traces[0]
    corrupted = tracing.other_name(one.prompt, vocab, "Bob Moor")
    assert one.clean == pytest.approx(one.prompt.probability(model(one.prompt.ids)[0], 1).item())
    assert one.corrupted == pytest.approx(one.prompt.probability(model(corrupted)[0], 1).item())
    wide, alone, cut, lens = (one.views[view].value for view in walks.VIEWS)
    assert torch.equal(wide, tracing.restore(model, one.prompt, corrupted, 3).value)
    assert torch.equal(alone, tracing.restore(model, one.prompt, corrupted).value)
    assert torch.equal(cut, tracing.knock_out(model, one.prompt).value)
    assert torch.equal(lens, tracing.lens_cells(model, one.prompt).value)
    lost = one.values(walks.VIEWS[2])
    assert np.allclose(lost, np.clip(one.clean - cut.numpy(), 0, None))


MOVES = {"person": "Bob", "view": walks.VIEWS[2], "layer": 0, "position": 3}


@pytest.mark.parametrize("control", MOVES)
def test_every_control_draws_another_picture_and_back_the_first(traces, control):
    view = walks.explore_tracing(traces)
    assert set(view.controls) == set(MOVES)
    before, first = view.state, view.png
    view.controls[control].value = MOVES[control]
    assert view.png != first
    for key, value in before.items():
        view.controls[key].value = value
    assert view.state == before and view.png == first
    assert len(view._repr_mimebundle_()[0]["image/png"]) < 60_000
    assert "http" not in view.picture.value + view.message.value


def test_the_readout_tells_the_chosen_cell(traces):
    view = walks.explore_tracing(traces)
    one = traces[0]
    view.controls["view"].value, view.controls["layer"].value, view.controls["position"].value = (
        walks.VIEWS[3],
        1,
        12,
    )
    cells = one.views[walks.VIEWS[3]]
    assert f"after block 0, “a” at 12: probability {100 * cells.value[1, 12]:.0f} %" in view.note
    symbol = one.symbols[int(cells.ids[1, 12, 0])]
    assert f"This state predicts: “{symbol}” {100 * cells.shares[1, 12, 0]:.0f} %" in view.note
    view.controls["view"].value = walks.VIEWS[2]  # a row less: layers, not states
    assert view.controls["layer"].max == 2
    view.controls["person"].value = "Bob"
    assert view.controls["position"].max == traces[1].prompt.mark
    assert not view.message.value or "role=" not in view.message.value


def test_without_a_trace_there_is_nothing_to_explore():
    with pytest.raises(ValueError, match="at least one trace"):
        walks.explore_tracing([])

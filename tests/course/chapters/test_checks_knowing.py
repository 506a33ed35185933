"""Exercises of notebook 14: answers in other words, typical mistakes, the teaching solutions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from checking import Answers, mistakes, notebook_suite, quiz_suite, stub, suite

import kt_core as kt
from kt_course.chapters.what_does_it_know import confidence, exercises, solutions
from kt_course.exercises.registry import exercise_ids, library

NAME = "14_what_does_it_know"
IDS = exercise_ids(NAME)


# ---------------------------------------------------------------- answers in other words


def record_by_class(model, ids, names):
    """One callable object per module."""

    class Keep:
        def __init__(self, name):
            self.name = name

        def __call__(self, module, args):
            inputs[self.name] = args[0].detach().clone()

    inputs = {}
    hooks = [dict(model.named_modules())[n].register_forward_pre_hook(Keep(n)) for n in names]
    with torch.no_grad():
        logits = model(ids)[0]
    for hook in hooks:
        hook.remove()
    return logits, inputs


def edit_by_nesting(model, ids, edits):
    """The first edit is hooked here, the others one level deeper."""
    if not edits:
        with torch.no_grad():
            return model(ids)[0]
    (name, edit), *others = edits.items()
    handle = model.get_submodule(name).register_forward_pre_hook(
        lambda module, args: (edit(args[0].detach().clone()), *args[1:])
    )
    logits = edit_by_nesting(model, ids, dict(others))
    handle.remove()
    return logits


def induction_by_loop(weights, period):
    rows = [weights[:, :, t, t - period + 1] for t in range(period, weights.size(-1))]
    return torch.stack(rows).mean((0, 1))


def head_by_zeroing(model, z, layer, head):
    d, proj = z.size(-1) // 2, model.blocks[layer].attn.proj
    alone = torch.zeros_like(z)
    alone[..., head * d : (head + 1) * d] = z[..., head * d : (head + 1) * d]
    return (proj(alone) - proj.bias).detach()


def path_in_steps(model, ids, other, sender, receiver):
    name, block = f"blocks.{sender[0]}.attn.proj", model.blocks[receiver[0]]
    recorded = [
        record_by_class(model, text, [name, f"blocks.{receiver[0]}"])[1] for text in (ids, other)
    ]
    old, new = (head_by_zeroing(model, r[name], *sender) for r in recorded)
    x = block.ln1(recorded[0][f"blocks.{receiver[0]}"] + new - old).detach()
    return edit_by_nesting(model, ids, {f"blocks.{receiver[0]}.attn.{receiver[1]}": lambda _: x})


def contribution_by_jacobian(model, part, stream, token, other):
    size = stream.std(-1, correction=0, keepdim=True)
    size = (size**2 + 1e-5) ** 0.5
    logits = model.head((part - part.mean(-1, keepdim=True)) / size * model.ln_f.weight)
    return (logits[..., token] - logits[..., other]).detach()


def lens_in_logs(model, states):
    return F.log_softmax(model.head(model.ln_f(states)), -1).exp().detach()


def patch_with_where(model, clean, corrupted, name, positions):
    source = record_by_class(model, clean, [name])[1][name]
    chosen = torch.zeros(source.size(1), 1, dtype=torch.bool)
    chosen[positions] = True
    return edit_by_nesting(model, corrupted, {name: lambda x: torch.where(chosen, source, x)})


def effects_by_patches(model, clean, corrupted, token, other):
    c = model.config
    names = [f"blocks.{i}.attn.proj" for i in range(c.n_layer)]
    logits, z = record_by_class(model, clean, names)

    def gap(values):
        return (values[0, -1, token] - values[0, -1, other]).item()

    low, high, rows = gap(model(corrupted)[0]), gap(logits), []
    for name in names:
        for head in range(c.n_head):
            chosen = torch.arange(c.n_embd) // (c.n_embd // c.n_head) == head

            def put(x, name=name, chosen=chosen):
                return torch.cat([x[:, :-1], torch.where(chosen, z[name], x)[:, -1:]], 1)

            rows.append((gap(edit_by_nesting(model, corrupted, {name: put})) - low) / (high - low))
    return torch.tensor(rows).view(c.n_layer, c.n_head)


def probe_by_inverse(x, y, penalty):
    return torch.linalg.inv(x.mT @ x + torch.diag(torch.full((x.shape[1],), penalty).to(x))) @ (
        x.mT @ y
    )


def probability_by_cross_entropy(logits, ids, start):
    return -F.cross_entropy(logits[start - 1 : len(ids) - 1], ids[start:], reduction="sum")


def calibration_by_scatter(sure, right, bins=10):
    where = (sure * bins).long().clamp(max=bins - 1)
    gap = torch.zeros(bins, dtype=torch.double).index_add(0, where, right.double() - sure)
    return float(gap.abs().sum() / len(sure))


def threshold_by_walking(sure, right, accuracy):
    best = float("inf")
    for t in sorted(set(sure.tolist()), reverse=True):
        arguments = [r for c, r in zip(sure.tolist(), right.tolist(), strict=True) if c >= t]
        if sum(arguments) >= (accuracy - 1e-9) * len(arguments):
            best = t
    return best


def bits_by_person(nats, share):
    return sum((-s.log() - n).item() / 0.6931471805599453 for n, s in zip(nats, share, strict=True))


RIGHT = {
    "record-inputs": record_by_class,
    "run-with-edits": edit_by_nesting,
    "induction-score": induction_by_loop,
    "head-output": head_by_zeroing,
    "path-patch": path_in_steps,
    "logit-attribution": contribution_by_jacobian,
    "logit-lens": lens_in_logs,
    "patch-state": patch_with_where,
    "head-effects": effects_by_patches,
    "ridge-probe": probe_by_inverse,
    "answer-probability": probability_by_cross_entropy,
    "calibration-error": calibration_by_scatter,
    "abstention-threshold": threshold_by_walking,
    "learned-bits": bits_by_person,
}
OTHERS = {
    "record-inputs": {
        "inputs alone": (lambda *a: record_by_class(*a)[1], "two things"),
        "no names": (lambda m, i, n: (m(i)[0].detach(), {"x": i}), "should have the keys"),
    },
    "learned-bits": {"one per person": (lambda n, s: n - s, "one number")},
    "calibration-error": {"a list": (lambda *a: [0.1], "should be one number")},
}
BORROWED = {
    "calibration-error": lambda c, r, bins=10: float(len(confidence.reliability(c, r, bins))),
    "abstention-threshold": lambda c, r, a: float(confidence.risk_coverage(c, r)[0][0]),
}


def borrow(id: str):
    """Call the solution itself."""
    return lambda *inputs: getattr(solutions, library()[id].name)(*inputs)


ANSWERS = {
    id: Answers(
        stub(NAME, solutions, id),
        OTHERS.get(id, {}) | mistakes(exercises.CHAPTER, id),
        {"other words": RIGHT[id]},
        BORROWED.get(id, borrow(id)),
    )
    for id in IDS
}
TestExercises = suite(NAME, ANSWERS)
TestQuizzes = quiz_suite(NAME)
TestNotebook = notebook_suite(NAME)


def test_the_parts_of_the_stream_add_up_to_the_logit_difference():
    model = exercises.small_gpt(3).float()
    ids = torch.randint(11, (1, 7), generator=torch.Generator().manual_seed(0))
    n_layer, n_head = model.config.n_layer, model.config.n_head
    projs = [f"blocks.{i}.attn.proj" for i in range(n_layer)]
    streams = [f"blocks.{i}" for i in range(n_layer)] + ["ln_f"]
    logits, inputs = solutions.record_inputs(model, ids, projs + streams)
    x = [inputs[name] for name in streams]
    parts = [x[0]]
    for i, block in enumerate(model.blocks):
        heads = [solutions.head_output(model, inputs[projs[i]], i, h) for h in range(n_head)]
        parts += [*heads, block.attn.proj.bias.expand_as(x[0])]
        parts.append(x[i + 1] - x[i] - sum(heads) - block.attn.proj.bias)
    shares = [solutions.logit_contribution(model, part, x[-1], 3, 7) for part in parts]
    bias = (model.ln_f.bias @ (model.head.weight[3] - model.head.weight[7])).detach()
    assert torch.allclose(sum(shares) + bias, logits[..., 3] - logits[..., 7], atol=1e-3)


def test_patching_everything_gives_the_clean_run():
    model = exercises.small_gpt(1)
    clean, corrupted = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[1, 5, 3, 4]])
    expected = solutions.record_inputs(model, clean, [])[0]
    for name in ("blocks.0", "blocks.2", "ln_f"):
        patched = solutions.patch_state(model, clean, corrupted, name, [0, 1, 2, 3])
        assert torch.allclose(patched, expected)
        nothing = solutions.patch_state(model, clean, corrupted, name, [])
        assert torch.allclose(nothing, solutions.record_inputs(model, corrupted, [])[0])


def test_the_tools_run_on_rope_models_as_well():
    model = kt.GPT(kt.GPTConfig(11, 9, 2, 2, 8, "rope", dropout=0.0)).eval()
    ids, other = torch.tensor([[1, 2, 3]]), torch.tensor([[4, 5, 6]])
    same = solutions.patch_path(model, ids, ids, (0, 1), (1, "key"))
    assert torch.allclose(same, model(ids)[0], atol=1e-6)
    assert solutions.head_effects(model, ids, other, 1, 2).shape == (2, 2)


def test_calibration_on_hand_made_answers():
    sure = torch.tensor([0.75] * 4 + [0.25] * 4)
    right = torch.tensor([True, True, True, False, True, False, False, False])
    assert solutions.calibration_error(sure, right) == pytest.approx(0, abs=1e-7)
    assert solutions.calibration_error(torch.ones(5), torch.zeros(5)) == 1
    opposite = solutions.calibration_error(torch.tensor([0.9, 0.1]), torch.tensor([False, True]))
    assert opposite == pytest.approx(0.9), "bins that err in opposite directions must not cancel"


# ---------------------------------------------------------------- the page's claims


@pytest.mark.slow
@pytest.mark.notebook(NAME)
def test_what_the_page_says_of_its_measurements(facts):
    """The training that nbval does not compare, and the claims, with room for other processors."""
    assert facts["repeats_predicted"]["accuracy"] > 0.9
    correct = [score["accuracy"] for score in facts["first_letter_correct"].values()]
    intact, named, *random_draws = correct
    assert named < intact - 0.2
    assert named < sum(random_draws) / len(random_draws) - 0.2
    assert facts["home_share_percent"] > 20

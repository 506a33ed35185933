"""Exercises of "What does it know?": what each answer is run on. The texts: exercises.toml."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kt_core.blocks import GPTConfig
from kt_core.models import GPT
from kt_course.chapters.what_does_it_know import capacity, confidence, solutions
from kt_course.exercises.assertions import Wrong, describe
from kt_course.exercises.comparison import Comparison, Results
from kt_course.exercises.random_cases import numbers, randomise
from kt_course.exercises.registry import Exercise

NOTEBOOK = "14_what_does_it_know"
CHAPTER = Comparison(solutions)
TEXTS = CHAPTER.texts
PROJ = "blocks.1.attn.proj"
MISSING = torch.zeros(())


def tensor_of(result: Any, what: str) -> Tensor:
    """Return a tensor, or a plain number as one; Wrong for anything else."""
    if isinstance(result, int | float) and not isinstance(result, bool):
        return torch.tensor(float(result), dtype=torch.double)
    if not isinstance(result, Tensor):
        raise Wrong(f"{what} should be a tensor, not {describe(result)}")
    return result.detach().double()


def number_of(result: Any, what: str) -> Tensor:
    """Return one number as a tensor without axes; Wrong for anything else."""
    value = tensor_of(result, what)
    if value.numel() != 1:
        raise Wrong(f"{what} should be one number, not {describe(result)}")
    return value.reshape(())


def integers(seed: int, high: int, *shape: int) -> Tensor:
    """Return random integers from 0 to `high` - 1."""
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def small_gpt(seed: int) -> GPT:
    """Return a GPT with random weights, in float64: 3 layers, 2 heads, 8 channels."""
    model = GPT(GPTConfig(11, block_size=9, n_layer=3, n_head=2, n_embd=8, dropout=0.0))
    return randomise(model, seed).double()


# ---------------------------------------------------------------- hooks


def recording_of(answer: Callable, seed: int) -> Results:
    model, ids = small_gpt(seed), integers(seed, 11, 2, 6)
    names = ["blocks.0", PROJ, "ln_f"]
    with torch.enable_grad():
        result = answer(model, ids, names)
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
        raise Wrong(TEXTS["record-inputs"]["pair"])
    logits, inputs = result
    if extra := set(inputs) - set(names):
        raise Wrong(f"the dict should have the keys {names}, not {extra.pop()!r}")
    inputs |= {name: MISSING for name in names if name not in inputs}
    results = {f"the input of {name}": tensor_of(inputs[name], name) for name in names}
    n_tracked = sum(value.requires_grad for value in inputs.values())
    with torch.no_grad():
        model(ids.flip(1))  # a hook that stays writes again
    return results | {
        "the logits": tensor_of(logits, "the logits"),
        "the input of ln_f after a later run of the model": tensor_of(inputs["ln_f"], "it"),
        "the number of inputs that record gradients": torch.tensor(n_tracked),
    }


def editing_of(answer: Callable, seed: int) -> Results:
    model, ids, inputs = small_gpt(seed), integers(seed, 11, 2, 6), {}

    def double(x: Tensor) -> Tensor:
        x *= 2  # in place
        return x

    def keep(name: str) -> Callable:
        def edit(x: Tensor) -> Tensor:
            inputs[name] = x.detach().clone()
            return x + 1

        return edit

    edits = {PROJ: double, "blocks.2": keep("blocks.2"), "ln_f": keep("ln_f")}
    results = {"the logits": tensor_of(answer(model, ids, edits), "the logits")}
    for name in ("blocks.2", "ln_f"):
        results[f"what the edit of {name} gets"] = inputs.get(name, MISSING)
    results |= later_run(model, ids)
    stream = numbers(1, 1, 8, seed=seed)
    model.ln_f.register_forward_pre_hook(lambda module, args: (stream,))
    answer(model, ids, {"ln_f": double})
    return results | {"the input of an edit in place, after the run,": stream}


def later_run(model: GPT, ids: Tensor) -> Results:
    """Run the model again: a hook that stays changes the logits."""
    with torch.no_grad():
        return {"the logits of a later run without edits": model(ids)[0]}


# ---------------------------------------------------------------- heads and paths


def induction_of(answer: Callable, seed: int) -> Results:
    T, period = (7, 3) if seed == 0 else (8 + seed % 4, 2 + seed % 5)
    weights = numbers(2, 3, T, T, seed=seed).softmax(-1)
    return {"the scores": tensor_of(answer(weights, period), "the scores")}


def head_of(answer: Callable, seed: int) -> Results:
    model, z = small_gpt(seed), numbers(2, 5, 8, seed=seed)
    return {
        f"what head {head} of layer {layer} adds": tensor_of(answer(model, z, layer, head), "it")
        for layer, head in ((1, 1), (2, 0))
    }


def path_of(answer: Callable, seed: int) -> Results:
    model, ids, other = small_gpt(seed), integers(seed, 11, 1, 7), integers(seed + 1, 11, 1, 7)
    paths = [((0, 1), (1, "key")), ((1, 0), (2, "query")), ((0, 0), (2, "value"))]
    results = {
        f"the logits for {sender} -> {receiver}": tensor_of(
            answer(model, ids, other, sender, receiver), "the logits"
        )
        for sender, receiver in paths
    }
    return results | later_run(model, ids)


def attribution_of(answer: Callable, seed: int) -> Results:
    model, stream = small_gpt(seed), 3 + 2 * numbers(4, 8, seed=seed)
    part = 1 + numbers(4, 8, seed=seed + 1)
    return {"the contributions": tensor_of(answer(model, part, stream, 3, 7), "the result")}


def lens_of(answer: Callable, seed: int) -> Results:
    states = 2 + numbers(3, 2, 8, seed=seed)
    return {"the probabilities": tensor_of(answer(small_gpt(seed), states), "the result")}


def patch_of(answer: Callable, seed: int) -> Results:
    model, clean, corrupted = (
        small_gpt(seed),
        integers(seed, 11, 1, 7),
        integers(seed + 9, 11, 1, 7),
    )
    return {
        f"the logits with {name} at {positions}": tensor_of(
            answer(model, clean, corrupted, name, positions), "the logits"
        )
        for name, positions in (("blocks.1", [2, 4]), (PROJ, [6]), ("ln_f", [3]))
    } | later_run(model, clean)


def effects_of(answer: Callable, seed: int) -> Results:
    model, clean, corrupted = (
        small_gpt(seed),
        integers(seed, 11, 1, 6),
        integers(seed + 9, 11, 1, 6),
    )
    return {"the effects": tensor_of(answer(model, clean, corrupted, 3, 7), "the effects")}


def probe_of(answer: Callable, seed: int) -> Results:
    n, d, k = (9, 4, 3) if seed == 0 else (3 + seed % 20, 2 + seed % 7, 1 + seed % 4)
    arguments = numbers(n, d, seed=seed), numbers(n, k, seed=seed + 1), 2.5 + seed % 5
    return {"the weights": tensor_of(answer(*arguments), "the weights")}


# ---------------------------------------------------------------- confidence and bits


def probability_of(answer: Callable, seed: int) -> Results:
    T, V, start = (9, 6, 5) if seed == 0 else (7 + seed % 9, 4 + seed % 20, 1 + seed % 6)
    logits, ids = numbers(T, V, seed=seed), integers(seed, V, T)
    return {
        "the log-probability": number_of(answer(logits, ids, start), "the result"),
        "it without the last row of logits": number_of(
            answer(logits[:-1], ids, start), "the result"
        ),
    }


def calibration_of(answer: Callable, seed: int) -> Results:
    if seed == 0:
        values = [0.97, 0.93, 0.91, 0.71, 0.76, 0.62, 0.33, 0.38, 1.0, 1.0, 1.0, 0.05]
        confidences, bins = torch.tensor(values).double(), 4
        correct = torch.tensor([1, 0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 0]).bool()
    else:  # no confidence lies on an edge of a bin
        n, bins = 5 + seed % 60, 3 + seed % 15
        inside = 0.1 + 0.8 * numbers(n, seed=seed).sigmoid()
        confidences = (integers(seed, bins, n) + inside) / bins
        correct = integers(seed + 1, 2, n).bool()
    results = {
        f"the error with {bins} bins": number_of(answer(confidences, correct, bins), "the error")
    }
    if seed == 0:
        results["the error without a third argument"] = number_of(
            answer(confidences, correct), "it"
        )
    return results


THRESHOLDS = [
    ([0.6, 0.9, 0.4, 0.8, 0.5, 0.7], [1, 1, 0, 1, 1, 0], 0.75),
    ([0.6, 0.9, 0.4, 0.8, 0.5, 0.7], [1, 1, 0, 1, 1, 0], 0.8),
    ([0.6, 0.9, 0.6, 0.6], [1, 1, 1, 0], 1.0),
    ([0.95, 0.9, 0.3, 0.2], [0, 1, 1, 1], 0.7),
    ([0.9, 0.8], [0, 1], 0.9),
]


def threshold_of(answer: Callable, seed: int) -> Results:
    cases: list = THRESHOLDS
    if seed:
        values = (integers(seed, 12, 60).double() / 12).tolist()
        cases = [(values, integers(seed + 1, 2, 60).tolist(), seed % 11 / 10)]
    results = {}
    for values, right, accuracy in cases:
        given = torch.tensor(values).double(), torch.tensor(right).bool(), accuracy
        what = f"the threshold for {values[:6]}, correct {right[:6]}, accuracy {accuracy:g}"
        results[what] = number_of(answer(*given), "the threshold").clamp(max=99)  # inf: 99
    return results


def bits_of(answer: Callable, seed: int) -> Results:
    n = 5 if seed == 0 else 1 + seed % 30
    nats, share = 3 * numbers(n, seed=seed).abs(), 0.01 + 0.4 * numbers(n, seed=seed + 1).sigmoid()
    return {"the bits": number_of(answer(nats, share), "the result")}


# exercise: teaching solution, what it is compared on, what grading does not let an answer call
PIECES: dict[str, tuple[Callable, Callable, tuple]] = {
    "record-inputs": (solutions.record_inputs, recording_of, ()),
    "run-with-edits": (solutions.run_with_edits, editing_of, ()),
    "induction-score": (solutions.induction_score, induction_of, ()),
    "head-output": (solutions.head_output, head_of, ()),
    "path-patch": (solutions.patch_path, path_of, ()),
    "logit-attribution": (solutions.logit_contribution, attribution_of, ()),
    "logit-lens": (solutions.logit_lens, lens_of, ()),
    "patch-state": (solutions.patch_state, patch_of, ()),
    "head-effects": (solutions.head_effects, effects_of, ()),
    "ridge-probe": (solutions.fit_linear, probe_of, ()),
    "answer-probability": (
        solutions.log_probability_of,
        probability_of,
        (confidence.answer_log_probability,),
    ),
    "calibration-error": (solutions.calibration_error, calibration_of, (confidence.reliability,)),
    "abstention-threshold": (
        solutions.lowest_threshold,
        threshold_of,
        (confidence.choose_threshold, confidence.risk_coverage),
    ),
    "learned-bits": (solutions.bits_learned, bits_of, (capacity.learned_bits,)),
}
EXERCISES = tuple(
    Exercise(
        id,
        NOTEBOOK,
        *(TEXTS[id][key] for key in ("title", "difficulty", "minutes")),
        reference,
        CHAPTER.check(id, reference.__name__, compute),
        forbidden,
    )
    for id, (reference, compute, forbidden) in PIECES.items()
)

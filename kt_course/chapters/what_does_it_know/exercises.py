"""Exercises of "What does it know?": what each answer is run on. The texts: exercises.toml."""

from collections.abc import Callable

import torch
from torch import Tensor

from kt_core.blocks import GPTConfig
from kt_core.models import GPT
from kt_course.chapters.what_does_it_know import confidence, solutions
from kt_course.exercises.assertions import Wrong, any_tensor, number_of
from kt_course.exercises.comparison import Comparison, Results
from kt_course.exercises.random_cases import integers, numbers, randomise

CHAPTER = Comparison(solutions, "14_what_does_it_know")
TEXTS = CHAPTER.texts
PROJ = "blocks.1.attn.proj"
MISSING = torch.zeros(())


def small_gpt(seed: int) -> GPT:
    """Return a GPT with random weights, in float64: 3 layers, 2 heads, 8 channels."""
    model = GPT(GPTConfig(11, block_size=9, n_layer=3, n_head=2, n_embd=8, dropout=0.0))
    return randomise(model, seed).double()


# ---------------------------------------------------------------- hooks


@CHAPTER.exercise("record-inputs")
def recording_of(answer: Callable, seed: int) -> Results:
    model, ids = small_gpt(seed), integers(0, 10, 2, 6, seed=seed)
    names = ["blocks.0", PROJ, "ln_f"]
    with torch.enable_grad():
        result = answer(model, ids, names)
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
        raise Wrong(TEXTS["record-inputs"]["pair"])
    logits, inputs = result
    if extra := set(inputs) - set(names):
        raise Wrong(f"the dict should have the keys {names}, not {extra.pop()!r}")
    inputs |= {name: MISSING for name in names if name not in inputs}
    results = {f"the input of {name}": any_tensor(inputs[name], name) for name in names}
    n_tracked = sum(value.requires_grad for value in inputs.values())
    with torch.no_grad():
        model(ids.flip(1))  # a hook that stays writes again
    return results | {
        "the logits": any_tensor(logits, "the logits"),
        "the input of ln_f after a later run of the model": any_tensor(inputs["ln_f"], "it"),
        "the number of inputs that record gradients": torch.tensor(n_tracked),
    }


@CHAPTER.exercise("run-with-edits")
def editing_of(answer: Callable, seed: int) -> Results:
    model, ids, inputs = small_gpt(seed), integers(0, 10, 2, 6, seed=seed), {}

    def double(x: Tensor) -> Tensor:
        x *= 2  # in place
        return x

    def keep(name: str) -> Callable:
        def edit(x: Tensor) -> Tensor:
            inputs[name] = x.detach().clone()
            return x + 1

        return edit

    edits = {PROJ: double, "blocks.2": keep("blocks.2"), "ln_f": keep("ln_f")}
    results = {"the logits": any_tensor(answer(model, ids, edits), "the logits")}
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


@CHAPTER.exercise("induction-score")
def induction_of(answer: Callable, seed: int) -> Results:
    T, period = (7, 3) if seed == 0 else (8 + seed % 4, 2 + seed % 5)
    weights = numbers(2, 3, T, T, seed=seed).softmax(-1)
    return {"the scores": any_tensor(answer(weights, period), "the scores")}


@CHAPTER.exercise("head-output")
def head_of(answer: Callable, seed: int) -> Results:
    model, z = small_gpt(seed), numbers(2, 5, 8, seed=seed)
    return {
        f"what head {head} of layer {layer} adds": any_tensor(answer(model, z, layer, head), "it")
        for layer, head in ((1, 1), (2, 0))
    }


@CHAPTER.exercise("path-patch")
def path_of(answer: Callable, seed: int) -> Results:
    model, (ids, other) = small_gpt(seed), integers(0, 10, 2, 1, 7, seed=seed)
    paths = [((0, 1), (1, "key")), ((1, 0), (2, "query")), ((0, 0), (2, "value"))]
    results = {
        f"the logits for {sender} -> {receiver}": any_tensor(
            answer(model, ids, other, sender, receiver), "the logits"
        )
        for sender, receiver in paths
    }
    return results | later_run(model, ids)


@CHAPTER.exercise("logit-attribution")
def attribution_of(answer: Callable, seed: int) -> Results:
    model, stream = small_gpt(seed), 3 + 2 * numbers(4, 8, seed=seed)
    part = 1 + numbers(4, 8, seed=seed + 1)
    return {
        f"the contributions{name}": any_tensor(answer(model, part, x, 3, 7), "the result")
        for name, x in {"": stream, " to a stream of numbers near 0.001": stream / 1000}.items()
    }


@CHAPTER.exercise("logit-lens")
def lens_of(answer: Callable, seed: int) -> Results:
    states = 2 + numbers(3, 2, 8, seed=seed)
    return {"the probabilities": any_tensor(answer(small_gpt(seed), states), "the result")}


@CHAPTER.exercise("patch-state")
def patch_of(answer: Callable, seed: int) -> Results:
    model, (clean, corrupted) = small_gpt(seed), integers(0, 10, 2, 1, 7, seed=seed)
    return {
        f"the logits with {name} at {positions}": any_tensor(
            answer(model, clean, corrupted, name, positions), "the logits"
        )
        for name, positions in (("blocks.1", [2, 4]), (PROJ, [6]), ("ln_f", [3]))
    } | later_run(model, clean)


@CHAPTER.exercise("head-effects")
def effects_of(answer: Callable, seed: int) -> Results:
    model, (clean, corrupted) = small_gpt(seed), integers(0, 10, 2, 1, 6, seed=seed)
    return {"the effects": any_tensor(answer(model, clean, corrupted, 3, 7), "the effects")}


@CHAPTER.exercise("ridge-probe")
def probe_of(answer: Callable, seed: int) -> Results:
    n, d, k = (9, 4, 3) if seed == 0 else (3 + seed % 20, 2 + seed % 7, 1 + seed % 4)
    arguments = numbers(n, d, seed=seed), numbers(n, k, seed=seed + 1), 2.5 + seed % 5
    return {"the weights": any_tensor(answer(*arguments), "the weights")}


# ---------------------------------------------------------------- confidence and bits


@CHAPTER.exercise("answer-probability")
def probability_of(answer: Callable, seed: int) -> Results:
    T, V, start = (9, 6, 5) if seed == 0 else (7 + seed % 9, 4 + seed % 20, 1 + seed % 6)
    logits, ids = numbers(T, V, seed=seed), integers(0, V - 1, T, seed=seed)
    return {
        "the log-probability": number_of(answer(logits, ids, start), "the result"),
        "it without the last row of logits": number_of(
            answer(logits[:-1], ids, start), "the result"
        ),
    }


@CHAPTER.exercise("calibration-error", forbidden=(confidence.reliability,))
def calibration_of(answer: Callable, seed: int) -> Results:
    if seed == 0:
        values = [0.97, 0.93, 0.91, 0.71, 0.76, 0.62, 0.33, 0.38, 1.0, 1.0, 1.0, 0.05, 0.0]
        confidences, bins = torch.tensor(values).double(), 4
        correct = torch.tensor([1, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1, 0, 1]).bool()
    else:  # no confidence lies on an edge of a bin
        n, bins = 5 + seed % 60, 3 + seed % 15
        inside = 0.1 + 0.8 * numbers(n, seed=seed).sigmoid()
        confidences = (integers(0, bins - 1, n, seed=seed) + inside) / bins
        correct = integers(0, 1, n, seed=seed + 1).bool()
    results = {
        f"the error with {bins} bins": number_of(answer(confidences, correct, bins), "the error")
    }
    if seed == 0:
        even = (torch.arange(40).double() + 0.5) / 40  # no edge of ten bins, of which one is empty
        even = even[(even < 0.3) | (even > 0.4)]
        result = answer(even, integers(0, 2, len(even), seed=5) == 0)
        results["the error without a third argument"] = number_of(result, "it")
    return results


THRESHOLDS = [
    ([0.6, 0.9, 0.4, 0.8, 0.5, 0.7], [1, 1, 0, 1, 1, 0], 0.75),
    ([0.6, 0.9, 0.4, 0.8, 0.5, 0.7], [1, 1, 0, 1, 1, 0], 0.8),
    ([0.6, 0.9, 0.6, 0.6], [1, 1, 1, 0], 1.0),
    ([0.95, 0.9, 0.3, 0.2], [0, 1, 1, 1], 0.7),
    ([0.9, 0.8], [0, 1], 0.9),
]


@CHAPTER.exercise("abstention-threshold", forbidden=(confidence.risk_coverage,))
def threshold_of(answer: Callable, seed: int) -> Results:
    cases: list = THRESHOLDS
    if seed:
        values = (integers(0, 11, 60, seed=seed).double() / 12).tolist()
        cases = [(values, integers(0, 1, 60, seed=seed + 1).tolist(), seed % 11 / 10)]
    results = {}
    for values, right, accuracy in cases:
        arguments = torch.tensor(values).double(), torch.tensor(right).bool(), accuracy
        what = f"the threshold for {values[:6]}, correct {right[:6]}, accuracy {accuracy:g}"
        results[what] = number_of(answer(*arguments), "the threshold")
    return results


@CHAPTER.exercise("learned-bits")
def bits_of(answer: Callable, seed: int) -> Results:
    n = 5 if seed == 0 else 1 + seed % 30
    nats, share = 3 * numbers(n, seed=seed).abs(), 0.01 + 0.4 * numbers(n, seed=seed + 1).sigmoid()
    return {"the bits": number_of(answer(nats, share), "the result")}


EXERCISES = CHAPTER.exercises()

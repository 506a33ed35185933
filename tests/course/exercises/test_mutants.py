"""Solutions with one small mistake: the checks reject them, with a diagnosis that names it."""

import re

import pytest
from mutants import EQUIVALENT, WRAPPERS, accepted, is_equivalent, mutants, source_of

from kt_course.exercises.check import judge
from kt_course.exercises.registry import library

# exercise, a part of its solution, what stands there instead, the diagnosis
MISTAKES = [
    ("sinusoidal-positions", "10000 **", "10001 **", "is the base exactly 10000"),
    ("leak-detector", "range(1, T)", "range(2, T)", "only position 0 sees position 1"),
    ("span-corruption", "return x[0], y[0]", "return x[:1], y[0]", r"data\[1\].* shape \(1, 128\)"),
    ("span-corruption", "block_size=128", "block_size=127", "x of data.1. with the block size"),
    ("span-corruption", "epoch=0", "epoch=1", "seed and epoch left out"),
    ("evaluate", "prompt, 30", "prompt, 31", "instead of 30"),
    ("cross-attention", "qk_norm=False", "qk_norm=True", "normalised with qk_norm=False"),
    ("cross-attention", "self.query(x)", "self.query(x).detach()", "cut off"),
    ("down-project", "nn.init.xavier_uniform_(self.latents)", "pass", "the start of latents"),
    ("rotary-frequencies", "10000.0", "10001.0", "the list of 1 / frequency"),
    ("question-window", "randint(0, 4)", "randint(0, 3)", "word 4 before"),
    ("question-window", "randint(0, 2)", "randint(1, 2)", "word 1 after"),
    ("greedy-decoding", "source[:, :1]", "source[:, :2]", "holds ▶"),
    ("greedy-decoding", "max_new=64", "max_new=63", "the default is 64"),
    ("greedy-decoding", "inputs == 2", "inputs == 3", "the id 2"),
    (
        "encoder-block",
        "return self.ln2(x + self.ff(x))",
        "return self.ln2(x + self.ff(x)).detach()",
        "cut off",
    ),
    ("decoder-block", "self.ff(self.ln3(x))", "self.ff(self.ln3(x).detach())", "cut off"),
    ("next-probabilities", "before < top_p", "before <= top_p", "four equal logits"),
    ("bert-rule", "randrange(2, ", "randrange(3, ", "the id 2 is never drawn"),
    ("masked-training", "rule=(0.8, 0.1)", "rule=(0.8, 0.2)", "without a rule"),
    ("masked-training", "*w, vocab_size", "*w, 12", "without a rule"),
    ("best-span", "longest=20", "longest=21", "`longest` is left out"),
    ("finetune-groups", "min(1, ", "min(2, ", "the list of losses"),
    ("finetune-groups", "1.0)", "2.0)", "the list of losses"),
    ("lora", "**0.5", "**-0.5", "standard deviation of down"),
    (
        "vision-transformer",
        "0.02 * torch.randn(1, 1",
        "torch.randn(1, 1",
        "deviation of class_token",
    ),
    ("full-attention", "qk_norm=False", "qk_norm=True", "the output"),
    ("logit-attribution", "+ 1e-5", "", "1e-5 under the root"),
    ("calibration-error", "bins=10", "bins=11", "without a third argument"),
    ("calibration-error", "long() - 1", "long()", "the error with 4 bins"),
    ("calibration-error", "clamp(0,", "clamp(-1,", "the error with 4 bins"),
    ("compare-recipes", "first[0]", "first[1]", "IndexError"),
]


@pytest.mark.parametrize(("id", "old", "new", "diagnosis"), MISTAKES)
def test_a_small_mistake_is_named(id, old, new, diagnosis):
    source, namespace, name = source_of(library()[id])
    assert source.count(old) >= 1
    exec(source.replace(old, new), namespace)
    verdict = judge(library()[id], namespace[name])
    assert verdict.status == "wrong", verdict
    assert re.search(diagnosis, verdict.diagnosis), verdict
    assert len(str(verdict)) < 400


@pytest.mark.parametrize("id", EQUIVALENT)
def test_every_equivalent_mutant_is_one(id):
    source, _, _ = source_of(library()[id])
    changes = [what.partition(" -> ")[2] for what, _ in mutants(source)]
    assert not [part for part in EQUIVALENT[id] if not any(part in line for line in changes)]
    assert any(is_equivalent(id, what) for what, _ in mutants(source))


@pytest.mark.slow
@pytest.mark.parametrize("id", library())
def test_no_mutant_is_right(id):
    assert WRAPPERS
    _, passed = accepted(id, most=6)
    assert not passed

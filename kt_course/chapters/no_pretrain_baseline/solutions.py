"""Finetune, ask, and compare: the teaching solutions of chapter 4, in the chapter's order."""

import math

import kt_core as kt
from kt_course.exercises.registry import reference_of
from kt_course.exercises.training import schedule

# of the chapters before; in my_gpt.py they are the learner's own
train = reference_of("training-loop")
greedy = reference_of("greedy-continuation")
batches = reference_of("batches")


# ======== exercise finetune ========
def finetune(model, data, epochs, batch_size, peak, seed=0, measure=None):
    """Train for some epochs and return the losses; measure(epoch) is called before each epoch."""
    device = next(model.parameters()).device

    def all_batches():
        for epoch in range(epochs):
            if measure is not None:
                measure(epoch)  # before the first batch of the epoch
            for x, y in batches(data, batch_size, seed, epoch):  # another order in every epoch
                yield x.to(device), y.to(device)

    steps = epochs * math.ceil(len(data) / batch_size)  # the last batch may be smaller
    return train(model, all_batches(), schedule(steps, peak))


# ======== exercise evaluate ========
def evaluate(model, vocab, pairs):
    """Answer each question: return the list of answers, and their kt.Score."""
    answers = []
    for question, _ in pairs:
        prompt = vocab.encode(question) + [vocab.mask_id]  # question ⁇
        answers.append(vocab.decode(greedy(model, prompt, 30, vocab.mask_id)))  # up to ⁇
    correct = [a.strip() == gold.strip() for a, (_, gold) in zip(answers, pairs, strict=True)]
    return answers, kt.Score(sum(correct), len(pairs))


# ======== exercise wilson-interval ========
def wilson(correct, total, z=1.96):
    """Return (low, high), the 95 % interval of a share as fractions; (0, 1) if total is 0."""
    if total == 0:
        return 0.0, 1.0
    p = correct / total  # the observed share, k / n
    centre = p + z**2 / (2 * total)  # before the sign ±
    half = z * math.sqrt(p * (1 - p) / total + z**2 / (4 * total**2))  # after ±
    scale = 1 + z**2 / total  # the denominator in front
    return (centre - half) / scale, (centre + half) / scale


# ======== exercise sign-test ========
def sign_test(wins, losses):
    """Return the probability that fair coins fall at least as unevenly as wins : losses."""
    n, most = wins + losses, max(wins, losses)
    tail = sum(math.comb(n, k) for k in range(most, n + 1)) / 2**n  # sum of C(n, k) / 2^n
    return min(1.0, 2 * tail)  # both directions

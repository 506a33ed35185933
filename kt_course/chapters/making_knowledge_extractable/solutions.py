"""The teaching solutions of chapter 8, in the chapter's order."""

import kt_core as kt


# ======== exercise stored-and-retrieved ========
def stored_and_retrieved(filled, answers, gold):
    """Return three scores: (stored, retrieved, guessed)."""
    rows = [[text.strip() for text in row] for row in zip(filled, answers, gold, strict=True)]
    of_stored = [a == g for f, a, g in rows if f == g]  # True: retrieved
    of_others = [a == g for f, a, g in rows if f != g]  # True: guessed
    stored = kt.Score(len(of_stored), len(rows))  # of all people
    return (
        stored,
        kt.Score(sum(of_stored), len(of_stored)),  # of the stored ones
        kt.Score(sum(of_others), len(of_others)),  # of the others
    )


# ======== exercise question-window ========
def make_window(title, facts, rng):
    """Return (question, answer) about one fact: (answer, words before, words after)."""
    weights = [1 / k for k in range(1, len(facts) + 1)]  # the k-th fact: proportional to 1 / k
    answer, before, after = rng.choices(facts, weights)[0]
    words = before + after
    first = max(0, len(before) - rng.randint(0, 4))  # 0 to 4 words before the answer
    stop = min(len(words), len(before) + rng.randint(0, 2))  # 0 to 2 words after it
    context = [word for word in words[first:stop] if rng.random() >= 0.5]  # drop half of them
    context.insert(rng.randint(0, len(context)), title)  # the name at a random position
    return " ".join(context) + "?", answer

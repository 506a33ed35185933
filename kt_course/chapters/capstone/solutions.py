"""The teaching solution of the capstone."""


# ======== exercise compare-recipes ========
def compare_recipes(first, second):
    """Return (wins, losses) of the first recipe, in people; True means a correct answer."""
    wins = losses = 0
    for i in range(len(first[0])):  # person i
        a = sum(answers[i] for answers in first)  # seeds of the first recipe that are correct
        b = sum(answers[i] for answers in second)
        wins += a > b
        losses += a < b
    return wins, losses

"""The pretraining windows of chapter 5, as its page defines them."""

from kt_core.runs.question_windows import QuestionWindows


class FillInWindows(QuestionWindows):
    """Windows without a question mark, so that pretraining shows no question."""

    def window(self, i: int, epoch: int = 0) -> tuple[str, str]:
        """Return (words with the name, hidden name) of window i in an epoch."""
        words, answer = super().window(i, epoch)
        return words.removesuffix("?"), answer

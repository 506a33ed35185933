"""The course around kt_core: exercises, figures, explorers, chapters, tools and grading."""

__all__ = ["check", "exercise_ids"]


def __getattr__(name: str):
    """Import `check` and `exercise_ids` at their first use: `kt --help` waits for no PyTorch."""
    if name in __all__:
        from kt_course import exercises

        return getattr(exercises, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

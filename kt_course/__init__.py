"""The course around kt_core: exercises, figures, explorers, chapters, tools and grading."""

from kt_course.exercises import check, exercise_ids

__all__ = ["check", "exercise_ids"]

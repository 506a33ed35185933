"""Run-time checks for functions with jaxtyping shapes. Others are left as they are."""

from __future__ import annotations

from typing import Any

from beartype import beartype

MARKS = ("Float", "Int[", "Bool[")


def check_shapes(function: Any) -> Any:
    """beartype for functions whose annotations name a shape; called by jaxtyping's hook."""
    annotations = getattr(function, "__annotations__", {}).values()
    shaped = any(mark in str(annotation) for annotation in annotations for mark in MARKS)
    return beartype(function) if shaped else function

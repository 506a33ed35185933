"""Shapes in annotations: jaxtyping's where it is installed, else plain tensors.

    def attend(query: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]: ...

The tests check such shapes at run time; elsewhere they are documentation.
"""

from torch import Tensor

try:
    from jaxtyping import Bool, Float, Int
except ImportError:

    class _Plain:
        """`Float[Tensor, "B T"]` is then just `Tensor`."""

        def __class_getitem__(cls, item: object) -> type[Tensor]:
            return Tensor

    Bool = Float = Int = _Plain

__all__ = ["Bool", "Float", "Int", "Tensor"]

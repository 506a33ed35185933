"""A living view of a Vision Transformer: click a patch, see which patches it attends to.

The attention maps are computed once and lie in the page; `engine/patches_view.js` shows them.
"""

import base64
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np

from kt_course._typing import Float, Int, Tensor
from kt_course.chapters.vision_transformer.figures import attention_figure
from kt_course.chapters.vision_transformer.solutions import attention_rollout
from kt_course.explorers.living_page import LivingView, attach_data
from kt_course.figures.style import array

N_DRAWN = 5  # images in the picture for readers who cannot run the view


def explore_patches(
    images: Float[Tensor, "n 1 side side"],
    maps: Sequence[Float[Tensor, "n nh T T"]],
    answers: Int[Tensor, " n"],
    notes: Sequence[str],
) -> LivingView:
    """Choose an image, a head and a patch, and see which patches this one attends to.

    Args:
        images: Grey, with ink from 0 to 1.
        maps: Attention weights of each layer; token 0 is the class token.
        answers: The patch to frame in the picture of each image.
        notes: A sentence about each image.
    """
    weights = np.stack([array(layer) for layer in maps], axis=1)  # (n, L, nh, T, T)
    _, n_layer, n_head, T, _ = weights.shape
    data = {
        "side": images.size(-1),
        "grid": round((T - 1) ** 0.5),
        "layers": n_layer,
        "heads": n_head,
        "most": min(1.0, 0.1 + round(float(weights[..., 1:].max()), 1)),
        "pixels": packed(array(images)),
        "weights": packed(weights),
        "rollout": packed(array(attention_rollout(maps))),
        "images": [{"name": f"image {i}", "note": note} for i, note in enumerate(notes, 1)],
    }
    last = maps[-1].mean(1)[:N_DRAWN, 0, 1:]
    name = f"layer {n_layer - 1}"
    title = "Weights of the class token (frame: the correct answer)"
    figure = attention_figure(images[:N_DRAWN], {name: last}, answers[:N_DRAWN], title)
    plt.close(figure)
    alt = (
        f"Attention of a Vision Transformer on {len(images)} images of {T - 1} patches: "
        "the weights of the class token, drawn on the patches."
    )
    return attach_data("patches", data, alt=alt, picture=figure)


def packed(shares: np.ndarray) -> str:
    """Return numbers from 0 to 1 as base64 of bytes."""
    return base64.b64encode((255 * shares).round().astype(np.uint8).tobytes()).decode()

"""Explorers: pictures with controls, for notebooks. Each is one function that returns a widget.

They need matplotlib, and ipywidgets for the controls; without it each shows its first picture. Nothing is fetched.
"""

from kt_core.explorers.ask import explore_answers
from kt_core.explorers.attention import explore_attention
from kt_core.explorers.corruption import explore_corruption
from kt_core.explorers.perceiver import explore_perceiver
from kt_core.explorers.replay import (
    Replay,
    explore_replay,
    load_replay,
    record_replay,
    replay_of_curve,
    shipped_replay,
)
from kt_core.explorers.rotary import explore_rope
from kt_core.explorers.vision import attention_pictures, explore_vision
from kt_core.explorers.windows import explore_windows

__all__ = [
    "Replay",
    "attention_pictures",
    "explore_answers",
    "explore_attention",
    "explore_corruption",
    "explore_perceiver",
    "explore_replay",
    "explore_rope",
    "explore_vision",
    "explore_windows",
    "load_replay",
    "record_replay",
    "replay_of_curve",
    "shipped_replay",
]

"""Options that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

VARIANTS = ("vanilla", "rope", "perceiver", "perceiver_ar")


def add_corpus(command: argparse.ArgumentParser) -> None:
    """--corpus"""
    command.add_argument(
        "--corpus",
        default="bios",
        help="bios, bios:people=300,lines=8, wiki, or a folder (default bios)",
    )


def add_set(command: argparse.ArgumentParser) -> None:
    """--set KEY=VALUE"""
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set a field of the recipe; may be given again",
    )


def settings(pairs: Sequence[str]) -> dict[str, str]:
    """KEY=VALUE strings as a dict; ValueError for one without a sign."""
    for pair in pairs:
        if "=" not in pair:
            raise ValueError(f"--set {pair}: write KEY=VALUE, as in --set pretrain_epochs=5")
    return dict(pair.split("=", 1) for pair in pairs)

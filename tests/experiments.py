"""Loads the authors' experiment scripts, which are in tools/experiments and in no package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).resolve().parent.parent / "tools" / "experiments"


sys.path.append(str(FOLDER))  # the scripts share page_code.py


def load_experiment(name: str) -> ModuleType:
    """Import tools/experiments/`name`.py as a module."""
    spec = importlib.util.spec_from_file_location(f"experiment_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module

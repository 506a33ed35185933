"""The `transformers` library offline and silent."""

import os
from collections.abc import Mapping
from pathlib import Path


def offline(
    code_folder: str | Path | None = None, more_settings: Mapping[str, str] | None = None
) -> None:
    """Fetch nothing, show no progress bars, print only errors. Call it before the first import.

    Args:
        code_folder: Where the library puts the code of models that bring their own (by default the
            user's cache).
        more_settings: Environment variables, such as `LocalHub.settings` returns.
    """
    settings = {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if code_folder is not None:
        settings["HF_MODULES_CACHE"] = str(Path(code_folder).resolve())
    os.environ.update(settings | dict(more_settings or {}))
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()

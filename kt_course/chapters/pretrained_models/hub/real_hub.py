"""Models of the real hub, huggingface.co, for pages that also run without it."""

import os
from pathlib import Path
from typing import Any

# As the user set them, before `offline` points the libraries to another hub.
ENDPOINT = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
IS_OFFLINE = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
FILES = ("config.json", "model.safetensors", "tokenizer.json")


def fetch_model(
    name: str, size: str, endpoint: str = ENDPOINT, cache: Path | None = None
) -> str | None:
    """Download a model from the hub, once, into the cache that the user's own programs use.

    Args:
        name: OWNER/NAME on the hub.
        size: What there is to download, for the message.
        cache: Another cache folder.

    Returns:
        The model's folder; None after one line if the hub cannot be reached, or if the user set
        HF_HUB_OFFLINE=1 and the model is not in the cache.
    """
    from huggingface_hub import constants, snapshot_download

    place: dict[str, Any] = dict(
        cache_dir=cache or Path(constants.HF_HOME) / "hub",
        allow_patterns=[*FILES, "tokenizer_config.json", "vocab.*", "merges.txt"],
        endpoint=endpoint,
        etag_timeout=5,
    )
    for is_local in (True,) if IS_OFFLINE else (True, False):
        try:
            folder = Path(snapshot_download(name, local_files_only=is_local, **place))
        except Exception as error:  # its classes differ between versions of the library
            reason = "HF_HUB_OFFLINE is set" if IS_OFFLINE else type(error).__name__
        else:
            if all((folder / file).is_file() for file in FILES):
                return str(folder)
            reason = "files are missing"
    print(f"{name} ({size}) is not loaded from {endpoint} ({reason}): the page goes on without it.")
    return None

"""Print requirements.lock for pip, without torch where an allowed one is installed already.

So a build that was chosen by hand stays. `make setup` runs it with the Python of .venv.
"""

import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent


def keeps_torch(installed: str | None, dependencies: list[str]) -> bool:
    """Is the installed torch (its version, or None) in the range of `dependencies`?"""
    wanted = next(r for r in map(Requirement, dependencies) if r.name == "torch")
    return installed is not None and wanted.specifier.contains(installed, prereleases=True)


def pins(lock: str, keep_torch: bool) -> str:
    """The lock's lines, less that of torch if it is kept."""
    lines = lock.splitlines(keepends=True)
    return "".join(line for line in lines if not (keep_torch and line.startswith("torch==")))


def main() -> None:
    """Prints what pip is to install."""
    try:
        installed = version("torch")
    except PackageNotFoundError:
        installed = None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    print(pins(lock, keeps_torch(installed, project["dependencies"])), end="")


if __name__ == "__main__":
    main()

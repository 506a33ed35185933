"""One list of dependencies in three files, a wheel with its data, an import that needs little."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import kt_core as kt

ROOT = Path(__file__).resolve().parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
CONDA_NAMES = {"pytorch-cpu": "torch", "matplotlib-base": "matplotlib"}  # conda-forge's: PyPI's


def parsed(lines: list[str]) -> dict[str, Requirement]:
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


def lock() -> dict[str, Requirement]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return parsed([line for line in lines if line and not line.startswith("#")])


def tool(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


COURSE = PROJECT["dependencies"] + EXTRAS["course"] + EXTRAS["lab"] + EXTRAS["dask"]
DIRECT = parsed(COURSE + EXTRAS["test"] + EXTRAS["tensorboard"])


# ---------------------------------------------------------------- ranges, pins, conda


@pytest.mark.parametrize("name", sorted(DIRECT))
def test_every_direct_dependency_is_pinned_within_its_range(name):
    pin = lock()[name]
    version = str(pin.specifier).removeprefix("==")
    assert pin.marker is None
    assert DIRECT[name].specifier.contains(version), (
        f"{name}: {version} is not in {DIRECT[name].specifier}"
    )


def test_the_lock_holds_exact_pins_and_nothing_else():
    pins = lock()
    assert all(
        re.fullmatch(r"==[\w.]+", str(pin.specifier)) and pin.url is None for pin in pins.values()
    )
    assert str(pins["torch"].specifier) == "==2.13.0"
    assert "://" not in (ROOT / "requirements.lock").read_text(encoding="utf-8")


def test_every_range_has_a_lower_bound_and_torch_admits_what_it_should():
    assert all(any(s.operator == ">=" for s in r.specifier) for r in DIRECT.values())
    assert all(DIRECT["torch"].specifier.contains(v) for v in ("2.6.0", "2.11.0", "2.13.0+cpu"))
    assert PROJECT["requires-python"] == ">=3.11"


def test_dev_is_all_the_extras_that_fit_into_one_environment():
    (everything,), (dev,) = (map(Requirement, EXTRAS[name]) for name in ("all", "dev"))
    assert {everything.name, dev.name} == {PROJECT["name"]}
    assert everything.extras | dev.extras == EXTRAS.keys() - {"dev", "api", "lms", "lens"}


def test_a_learner_who_only_wants_the_models_needs_five_packages():
    assert parsed(PROJECT["dependencies"]).keys() == {
        "torch",
        "numpy",
        "safetensors",
        "tqdm",
        "matplotlib",
    }


def test_conda_environment_has_the_same_dependencies_and_ranges():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    plain = [d for d in environment["dependencies"] if isinstance(d, str)]
    assert [d for d in environment["dependencies"] if not isinstance(d, str)] == [{"pip": ["-e ."]}]
    assert {"pip", "python=3.12"} <= set(plain)
    conda = parsed([d for d in plain if d not in ("pip", "python=3.12")])
    conda = {CONDA_NAMES.get(name, name): r for name, r in conda.items()}
    requirements = parsed(COURSE + EXTRAS["test"])
    assert {n: str(r.specifier) for n, r in conda.items()} == {
        n: str(r.specifier) for n, r in requirements.items()
    }


def test_version_is_the_packages():
    assert kt.__version__ == PROJECT["version"]


# ---------------------------------------------------------------- make setup


@pytest.mark.parametrize(
    ("installed", "is_kept"),
    [
        (None, False),
        ("2.5.1", False),
        ("2.11.0", True),
        ("2.13.0+cpu", True),
        ("2.15.0+cu130", True),
    ],
)
def test_an_installed_torch_within_the_range_is_kept(installed, is_kept):
    pins = tool("pins")
    keep = pins.keeps_torch(installed, PROJECT["dependencies"])
    assert keep is is_kept
    text = pins.pins("numpy==2.0\ntorch==2.13.0\ntorchx==1\n", keep)
    torch = "" if is_kept else "torch==2.13.0\n"
    assert text == f"numpy==2.0\n{torch}torchx==1\n"


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_says_which_python_it_needs(tmp_path):
    old = tmp_path / "python-old"  # runs the Makefile's question with a version of 3.9
    pretend = "import sys; sys.version_info = (3, 9); sys.version = '3.9.18 x'"
    old.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{pretend}\n$2"\n')
    old.chmod(0o755)
    shutil.copy(ROOT / "Makefile", tmp_path)
    done = subprocess.run(
        ["make", "venv", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "Python 3.11 or newer is needed" in done.stderr
    assert "3.9.18" in done.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_help_lists_every_target():
    done = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    phony = " ".join(re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)).split()
    assert [line.split()[1] for line in done.stdout.splitlines()] == phony


# ---------------------------------------------------------------- import


def test_import_needs_torch_and_numpy_alone():
    """With every other dependency out of reach, from another folder."""
    hidden = [{"pytest-xdist": "xdist"}.get(n, n) for n in DIRECT if n not in ("torch", "numpy")]
    hidden += ["IPython", "nbformat", "yaml", "sklearn", "distributed"]
    code = f"import sys\nfor name in {hidden!r}: sys.modules[name] = None\n"
    code += f"sys.path.insert(0, {str(ROOT)!r})\n"
    code += "import kt_core\nprint(kt_core.GPTConfig(9).variant)\n"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.anchor
    )
    assert done.stdout == "vanilla\n", done.stderr


def test_shapes_are_plain_tensors_without_jaxtyping():
    code = f"import sys; sys.modules['jaxtyping'] = None; sys.path.insert(0, {str(ROOT)!r})\n"
    code += "from kt_course._typing import Bool, Float, Int, Tensor\n"
    code += "print({kind[Tensor, 'B T'] for kind in (Bool, Float, Int)} == {Tensor})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_shapes_are_checked_while_testing():
    """The hook reads annotations that `from __future__ import annotations` turned into strings."""
    pytest.importorskip("beartype")
    from jaxtyping import TypeCheckError

    from kt_course.chapters.pretrained_models.hub.padding import left_aligned

    ids = torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(TypeCheckError):
        left_aligned(ids[0], ids[0])  # no matrix
    with pytest.raises(TypeCheckError):
        left_aligned(ids.float(), ids)  # not ids


# ---------------------------------------------------------------- wheel


@pytest.mark.slow
def test_the_wheel_holds_package_and_data(tmp_path):
    """Built from a copy without notebooks and checkpoints too: a missing folder stops nothing."""
    builder = pytest.importorskip("hatchling.builders.wheel")

    copy = tmp_path / "copy"
    ignored = shutil.ignore_patterns("__pycache__", "wiki")
    for folder in ("kt_core", "kt_course", "data"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignored)
    for name in ("pyproject.toml", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, copy)
    (copy / "README.md").write_text("# kt\n")
    shutil.rmtree(copy / "data" / "checkpoints", ignore_errors=True)
    (bare,) = builder.WheelBuilder(str(copy)).build(directory=str(tmp_path / "bare"))
    names = set(zipfile.ZipFile(bare).namelist())
    assert {"kt_core/__init__.py", "kt_core/_data/bios/cities.txt"} <= names
    assert "kt_course/chapters/attention_math/quiz.toml" in names
    assert not any(name.startswith(("data/", "notebooks/", "tests/")) for name in names)

    for folder, name in (("data/checkpoints", "a.safetensors"), ("notebooks", "01.ipynb")):
        (copy / folder).mkdir(parents=True)
        (copy / folder / name).write_text("{}")
    (full,) = builder.WheelBuilder(str(copy)).build(directory=str(tmp_path / "full"))
    names = set(zipfile.ZipFile(full).namelist())
    assert {"kt_core/_data/checkpoints/a.safetensors", "kt_core/_data/notebooks/01.ipynb"} <= names

    zipfile.ZipFile(full).extractall(tmp_path / "installed")
    (tmp_path / "empty").mkdir()
    code = "from kt_course.tools.workbook import find_notebooks\n"
    code += "import kt_course\nprint([p.name for p in find_notebooks()], kt_course.__file__)"
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "installed")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "empty",
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("['01.ipynb'] " + str(tmp_path)), done.stdout + done.stderr
    parts = ("run_autograder", "written.toml", "pages/frame.html.j2")
    assert {f"kt_course/grading/{part}" for part in parts} <= names

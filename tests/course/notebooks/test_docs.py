"""What the README and docs/ name exists: files, commands, make targets, Python names."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

from kt_course.exercises.registry import library
from kt_course.grading.written import written_questions
from kt_course.tools.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@page
def test_links_resolve(path):
    text = path.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    for target in targets:
        if re.match(r"https?:|mailto:", target):
            continue
        name, _, section = target.partition("#")
        file = (path.parent / name) if name else path
        assert file.exists(), target
        if section and file.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.M)
            assert section in map(anchor, headings), target


@page
def test_commands_exist(path):
    text = path.read_text(encoding="utf-8")
    commands = set(re.findall(r"(?:^|`|bin/|&& )kt ([a-z]+)", text, re.M))
    assert commands <= {*COMMANDS}, commands - {*COMMANDS}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"(?:^|`)make ([a-z]+)", text, re.M)):
        assert re.search(rf"^{target}:", makefile, re.M), target
    for script in set(re.findall(r"python3? ((?:tools|tests)/[\w/]+\.py)", text)):
        assert (ROOT / script).is_file(), script


@page
def test_imports_of_python_examples_exist(path):
    for code in re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.S):
        try:
            tree = ast.parse(code)
        except SyntaxError:  # a sketch with an ellipsis
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("kt_co"):
                module = importlib.import_module(node.module)
                for name in node.names:
                    assert hasattr(module, name.name), f"{node.module}.{name.name}"


def test_the_readme_names_its_main_commands():
    text = PAGES[0].read_text(encoding="utf-8")
    assert "make lab" in text and "kt doctor" in text


def test_the_instructors_map_names_exercises_and_questions_that_exist():
    text = (ROOT / "docs" / "instructor.md").read_text(encoding="utf-8")
    section = text[text.index("## From each question") : text.index("## Common misconceptions")]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    ids = {id for row in rows for id in re.findall(r"`([\w-]+)`", row)}
    assert ids <= {*library(), *written_questions()}, ids - {*library(), *written_questions()}
    of_the_assignment = {q.id for q in written_questions().values() if q.editions != "course"}
    assert of_the_assignment <= ids


def test_the_hours_of_each_chapter_leave_time_for_its_exercises():
    text = (ROOT / "docs" / "instructor.md").read_text(encoding="utf-8")
    hours = {
        n.zfill(2): float(h) for n, h in re.findall(r"^\| (\d+) \w+ \| ([\d.]+) \|", text, re.M)
    }
    minutes: dict[str, int] = {}
    for exercise in library().values():
        number = exercise.notebook[:2]
        minutes[number] = minutes.get(number, 0) + exercise.minutes
    assert minutes.keys() <= hours.keys()
    assert all(minutes[number] <= 45 * hours[number] for number in minutes)

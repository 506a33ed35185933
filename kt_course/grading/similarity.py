"""Find answers that are alike, for a person to look at: code without names, comments and layout."""

import ast
import io
import itertools
import re
import statistics
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher

from kt_course.grading.answers import parse

LIMIT = 0.9  # Share of tokens in common.
LEAST = 20  # Tokens; shorter answers are often the same by chance.
FEW = 5  # Fewer answers than this have no meaningful median.


@dataclass(frozen=True)
class Pair:
    """Two answers to an exercise that are alike."""

    exercise: str
    students: tuple[str, str]
    similarity: float  # share of tokens in common, from 0 to 1
    typical: float | None  # the median over all pairs of the class; None if there are few answers
    is_copy: bool  # names and comments are the same too


def similar_pairs(answers: Mapping[str, Mapping[str, str]]) -> list[Pair]:
    """Compare answers; students who are alike in most exercises come first.

    Where most of a class writes the same, only answers with equal names and comments are listed.

    Args:
        answers: By exercise, the source by student.
    """
    pairs = [pair for id, sources in answers.items() for pair in _pairs(id, sources)]
    counts: dict[tuple[str, str], int] = {}
    for pair in pairs:
        counts[pair.students] = counts.get(pair.students, 0) + 1
    return sorted(pairs, key=lambda p: (-counts[p.students], p.students, -p.similarity))


def _pairs(id: str, sources: Mapping[str, str]) -> list[Pair]:
    codes = {student: tokens for student, text in sources.items() if (tokens := normal_code(text))}
    codes = {student: tokens for student, tokens in codes.items() if len(tokens) >= LEAST}
    texts = {student: re.sub(r"\s+", "", sources[student]) for student in codes}
    close, matches = [], []
    for a, b in itertools.combinations(sorted(codes), 2):
        matcher = SequenceMatcher(None, codes[a], codes[b], autojunk=False)
        close.append(matcher.quick_ratio())  # an upper bound, and fast
        if close[-1] >= LIMIT and (ratio := matcher.ratio()) >= LIMIT:
            matches.append(((a, b), ratio, texts[a] == texts[b]))
    typical = statistics.median(close) if len(codes) >= FEW else None
    is_rare = typical is None or typical < LIMIT
    return [Pair(id, ab, ratio, typical, same) for ab, ratio, same in matches if is_rare or same]


def normal_code(source: str) -> tuple[str, ...]:
    """Tokens of a cell; names that it binds are numbered, docstrings and hints are left out."""
    try:
        tree = _Plain().visit(parse(source))
        text = ast.unparse(ast.fix_missing_locations(tree))
        words = tokenize.generate_tokens(io.StringIO(text).readline)
        return tuple(word.string for word in words if word.string.strip())
    except (SyntaxError, ValueError, RecursionError, tokenize.TokenError):
        return ()


class _Plain(ast.NodeTransformer):
    """Numbers bound names in the order in which they appear."""

    def visit_Module(self, node: ast.Module) -> ast.Module:
        self.numbers: dict[str, str] = {}
        for part in ast.walk(node):
            name = getattr(part, "arg" if isinstance(part, ast.arg) else "name", None)
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                name = part.id
            if isinstance(name, str):
                self.numbers.setdefault(name, f"v{len(self.numbers)}")
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.name, node.returns, node.decorator_list = self._number(node.name), None, []
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.arg, node.annotation = self._number(node.arg), None
        return node

    def visit_Name(self, node: ast.Name) -> ast.Name:
        node.id = self._number(node.id)
        return node

    def _number(self, name: str) -> str:
        return self.numbers.get(name, name)

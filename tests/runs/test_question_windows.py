"""QuestionWindows: the form of a window, its draws, and what each of its four options does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest
import torch

from kt_core.datasets import Mixture, batches
from kt_core.runs.question_windows import WORDS_AFTER, WORDS_BEFORE, QuestionWindows
from kt_core.vocab import CharVocab

MOOR = "Ada Moor. Ada Moor (born 4 May 1871 in Oslo) is a Norwegian author, living in Telemark."
LINES = [
    MOOR,
    "Bo Ek. The painter Bo Ek was born on 4 May 1902 in Rio de Janeiro and lived there until 1950.",
    "Çelik Öz. Çelik Öz, a doctor, was born in Łódź. He worked in Århus for most of his life.",
    "Di Wu. Di Wu was born in Paris. He taught music in Rome.",
]
LONG = "Ann Lee. " + " ".join(f"word{i} City{i}" for i in range(60))
VOCAB = CharVocab.from_documents(
    [*LINES, LONG, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-"]
)


def windows(documents=LINES, block=128, **options):
    return QuestionWindows(documents, VOCAB, block, **options)


def draws(data, epochs):
    """(index, question, answer) of every window in each of the epochs."""
    for epoch in range(epochs):
        for i in range(len(data)):
            yield i, *data.window(i, epoch)


def answers(document, epochs=300, **options):
    """How often each fact of one document is hidden."""
    return Counter(answer for _, _, answer in draws(windows([document], **options), epochs))


def context_of(question, title):
    """The words of a question around the person's name."""
    assert question.endswith("?") and title in question, question
    before, after = question.removesuffix("?").split(title, 1)
    return before.split() + after.split()


# ---------------------------------------------------------------- form


@pytest.mark.parametrize("block", [16, 32, 128])
def test_a_window_is_a_question_an_answer_and_a_loss_on_the_answer_alone(block):
    data = windows([*LINES, LONG], block)
    for epoch in range(30):
        data.set_epoch(epoch)
        for i in range(len(data)):
            question, answer = data.window(i, epoch)
            x, y = data[i]
            assert x.shape == y.shape == (block,) and x.dtype == y.dtype == torch.int64
            text = f"{question}⁇{answer}⁇"
            assert len(text) <= block and question.endswith("?") and answer
            assert VOCAB.decode(x[x != 0].tolist()) == text
            assert VOCAB.decode(y[y != 0].tolist()) == f"{answer}⁇"
            scored = y[:-1] != 0
            assert torch.equal(y[:-1][scored], x[1:][scored])


def test_the_title_is_among_words_of_its_own_document_in_their_order():
    sides = Counter()
    for i, question, _ in draws(windows(LINES[2:]), 300):
        document = LINES[2 + i]
        title = document.split(". ")[0]
        words = iter(document.removeprefix(f"{title}. ").replace(".", "").replace(",", "").split())
        assert all(word in words for word in context_of(question, title)), question
        sides[question.startswith(title), question.endswith(f"{title}?")] += 1
    assert sides[True, False] and sides[False, True] and sides[False, False]


def test_the_context_comes_from_a_few_words_around_the_answer():
    line = "Ada Moor. a1 b1 c1 d1 e1 Oslo a2 b2 c2 d2"  # numbers are no plain words
    lengths = Counter()
    for _, question, answer in draws(windows([line], plain=False, drop=0.0), 400):
        words = context_of(question, "Ada Moor")
        assert answer == "Oslo" and f" {' '.join(words)}".replace(" a2", " Oslo a2") in f" {line} "
        lengths[len(words)] += 1
    assert set(lengths) == set(range(WORDS_BEFORE + WORDS_AFTER + 1))


def test_the_answer_is_not_in_the_question():
    for i, question, answer in draws(windows(), 300):
        title = LINES[i].split(". ")[0]
        assert not set(answer.split()) & set(context_of(question, title)), (question, answer)


def test_names_in_the_title_are_no_facts():
    data = windows([LINES[1], "Bo Ek. He came to York with Ek."])
    assert {answer for _, _, answer in draws(data, 50)} == {"Rio de Janeiro", "York"}


def test_documents_without_a_fact_are_left_out():
    assert len(windows([*LINES, "Ann Lee. she came home."])) == len(LINES)
    assert answers("Ann Lee. she came home in 1902.") == {"1902": 300}  # better than nothing
    assert set(answers("Ann Lee. He met Bo at " + "Abcdefg" * 20, block=64)) == {"Bo"}


# ---------------------------------------------------------------- draws


def test_draws_depend_on_seed_epoch_and_index_alone():
    data, again = windows(LINES * 4), windows(LINES * 4)
    forward = [data.tokens(i, 0) for i in range(16)]
    again.tokens(3, 5)
    assert [again.tokens(i, 0) for i in reversed(range(16))] == forward[::-1]
    assert len({data.window(i, 0) for i in (0, 4, 8, 12)}) > 1  # the same line, another index
    others = [windows(LINES * 4, seed=1).tokens(i, 0) for i in range(16)]
    for other in (others, [data.tokens(i, 1) for i in range(16)]):
        assert sum(a != b for a, b in zip(other, forward, strict=True)) >= 8


def test_draws_do_not_depend_on_pythonhashseed():
    code = (
        "from kt_core.runs.question_windows import *; from kt_core.datasets import batches\n"
        f"lines = {LINES!r}; vocab = CharVocab.from_documents([*lines, '?⁇'])\n"
        "d = QuestionWindows(lines, vocab, 64, 7)\n"
        "draws = [d.window(i, 1) for i in range(4)], [x.tolist() for x, _ in batches(d, 2, 3, 1)]"
    ).replace(", '?⁇'", ", '?'")
    here: dict = {}
    exec(code, here)
    other = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    there = subprocess.run(
        [sys.executable, "-c", code + "\nprint(ascii(draws))"],
        env={**os.environ, "PYTHONHASHSEED": other},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert there.strip() == ascii(here["draws"]) and "Moor" in there


def test_each_view_of_an_epoch_is_another_draw():
    data = windows()
    mixture = Mixture([(data, 4)])
    examples = [mixture.tokens(i, 2) for i in range(len(mixture))]
    assert examples == [data.tokens(i, 8 + view) for view in range(4) for i in range(4)]
    n_scored = sum(int((y == VOCAB.mask_id).sum()) for _, y in batches(mixture, 3, 0, 2))
    assert n_scored == len(mixture) == 16  # one ⁇ is predicted per window


# ---------------------------------------------------------------- the four options


def test_select_leaves_out_states_other_forms_of_the_title_and_adjectives():
    line = "Ada Moor. Ada Maria Moor is an Italian author in Cambridge, Ontario, and Rome."
    assert set(answers(line, select=True)) == {"Cambridge", "Rome"}
    everything = {"Ada Maria Moor", "Italian", "Cambridge", "Ontario", "Rome"}
    assert set(answers(line, select=False)) == everything
    city = "Ada Moor. She lived in the Italian city and in Rome."
    assert set(answers(city)) == {"Italian", "Rome"}
    pair = windows([city, "Bo Lind. He is an Italian."])  # half of the occurrences follow "an"
    assert {answer for i, _, answer in draws(pair, 300) if i == 0} == {"Rome"}
    only = "Ada Moor. She is an Italian author."
    assert set(answers(only)) == {"Italian"}  # a document without another fact keeps this one


@pytest.mark.parametrize("plain", [True, False])
def test_plain_shows_no_other_names_dates_and_numbers(plain):
    counts = Counter()
    for i, question, _ in draws(windows(plain=plain), 200):
        words = context_of(question, LINES[i].split(". ")[0])
        counts.update(word for word in words if word != "He" and not word.islower())
    assert bool(counts) != plain, counts


@pytest.mark.parametrize("drop", [0.0, 0.5, 1.0])
def test_drop_is_the_share_of_context_words_left_out(drop):
    line = "Ada Moor. one two three four Rome five six seven"
    lengths = [
        len(context_of(question, "Ada Moor"))
        for _, question, _ in draws(windows([line], drop=drop), 600)
    ]
    # 0 to 4 words before and 0 to 2 after: 3 on average
    assert sum(lengths) / len(lengths) == pytest.approx(3 * (1 - drop), abs=0.25)


def test_a_document_without_other_words_is_asked_by_its_name():
    assert [q for _, q, _ in draws(windows(["Di Wu. Rio Grande"]), 5)] == ["Di Wu?"] * 5


@pytest.mark.parametrize(("power", "n", "first"), [(1, 1100, 600), (3, 1255, 1080), (0, 900, 300)])
def test_favour_first_asks_more_often_for_what_the_text_says_first(power, n, first):
    counts = answers("Ada Moor. she was in Oslo then in Rome then in Bonn", n, favour_first=power)
    for k, name in enumerate(("Oslo", "Rome", "Bonn"), 1):
        assert counts[name] == pytest.approx(first / k**power, abs=75)


def test_names_of_several_words_in_no_other_document_come_last():
    lines = ["Ada Moor. she met Bo Hall in Bonn near New York in Rome", "Di Wu. in New York"]
    [(_, facts), _] = windows(lines).documents
    assert [name for name, *_ in facts] == ["Bonn", "New York", "Rome", "Bo Hall"]


# ---------------------------------------------------------------- errors and speed


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(block=15), "QuestionWindows.block_size must be 16 or more, not 15"),
        (dict(select=1), "QuestionWindows.select must be True or False, not 1"),
        (dict(plain=0.5), "QuestionWindows.plain must be True or False, not 0.5"),
        (dict(favour_first=True), "QuestionWindows.favour_first must be in 0 ... 9, not True"),
        (dict(drop=1.5), "QuestionWindows.drop must be in 0 ... 1, not 1.5"),
        (dict(drop=-0.1), "QuestionWindows.drop must be in 0 ... 1, not -0.1"),
        (dict(drop="half"), "QuestionWindows.drop must be in 0 ... 1, not 'half'"),
        (dict(documents=["Di Wu. in Paris", ""]), "QuestionWindows: document 1 is empty"),
        (dict(documents=["Di Wu. P€ris"]), "'€'"),
        (dict(documents=["nothing", "at all"]), "2 documents, and none has a title and a fact"),
    ],
)
def test_errors_say_what_would_be_right(options, words):
    with pytest.raises(ValueError) as error:
        windows(**options)
    assert words in str(error.value)


def test_no_documents_are_no_error():
    assert len(windows([])) == 0


def test_data_never_holds_the_trainer_up():
    """In a process of its own: checks of types slow the tests down."""
    code = (
        "import time; from kt_core.runs.question_windows import *\n"
        "from kt_core.datasets import batches\n"
        f"lines = {LINES!r}; vocab = CharVocab.from_documents([*lines, '?'])\n"
        "data = QuestionWindows([lines[i % 4] for i in range(2000)], vocab)\n"
        "for epoch in range(3):\n"
        "    start = time.process_time()\n"
        "    characters = sum(int((x != 0).sum()) for x, _ in batches(data, 128, 0, epoch))\n"
        "    print(characters / (time.process_time() - start))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    best = max(map(float, run.stdout.split()))
    assert best > 200_000, f"{best:.0f} characters per second"

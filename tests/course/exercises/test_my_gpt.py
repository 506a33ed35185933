"""The learner's own file: pieces are saved, kept, replaced on request, and assembled to a model."""

from __future__ import annotations

import linecache

import pytest
import torch

import kt_core as kt
from kt_course.exercises import exercise, my_gpt
from kt_course.exercises.my_gpt import HEADER, pieces
from kt_course.exercises.solutions import split_sections, teaching_solution
from kt_course.exercises.training import schedule

CONFIG = kt.GPTConfig(11, 9, 3, 2, 8, dropout=0.0)


@pytest.fixture(autouse=True)
def path(tmp_path, monkeypatch):
    """The file of a test's learner."""
    monkeypatch.setenv("KT_MY_GPT", str(tmp_path / "my_gpt.py"))
    return tmp_path / "my_gpt.py"


cell_number = 0


def run_cell(source, namespace=None):
    """Execute source as a notebook cell does: its text is in linecache, no file has its name."""
    global cell_number
    cell_number += 1
    filename = f"<cell {cell_number}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    namespace = namespace if namespace is not None else {}
    exec(
        compile(HEADER + "from kt_course.exercises import exercise", "<imports>", "exec"), namespace
    )
    exec(compile(source, filename, "exec"), namespace)
    return namespace


def answered(id, change=("", "")):
    """The cell of an exercise with its teaching solution."""
    source, name = teaching_solution(pieces()[id]), pieces()[id].name
    starts = ("@torch.no_grad", f"def {name}", f"class {name}")
    at = min(source.index(start) for start in starts if start in source)
    return (source[:at] + f'@exercise("{id}")\n' + source[at:]).replace(*change)


def answer_all(ids=None):
    """Answer the exercises; the others are the course's own, as in a notebook."""
    namespace = {exercise.name: exercise.reference for exercise in pieces().values()}
    for id in ids or pieces():
        run_cell(answered(id), namespace)
    return namespace


def same_logits(module):
    """Whether the module's GPT gives the logits and the loss of kt_core.GPT with the same weights."""  # noqa: E501
    torch.manual_seed(0)
    ours = kt.GPT(CONFIG).eval()
    for p in ours.parameters():
        torch.nn.init.normal_(p, std=0.3)
    model = module.GPT(CONFIG).eval()
    model.load_state_dict(ours.state_dict())
    idx, targets = torch.randint(1, 11, (2, 7)), torch.randint(0, 11, (2, 7))
    pairs = zip(model(idx, targets), ours(idx, targets), strict=True)
    return all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)


def test_a_passing_answer_becomes_a_section_of_a_readable_file(path, capsys):
    run_cell(answered("mlp"))
    assert capsys.readouterr().out.splitlines()[-1] == "Saved as MLP in my_gpt.py."
    text = path.read_text()
    assert text.startswith('"""My GPT.') and "@exercise" not in text
    assert split_sections(text)["mlp"] == teaching_solution(pieces()["mlp"])
    namespace = {}
    exec(compile(text, str(path), "exec"), namespace)  # an ordinary Python file
    assert namespace["MLP"](CONFIG)(torch.zeros(1, 2, 8)).shape == (1, 2, 8)


def test_sections_are_in_the_courses_order(path):
    answer_all(["gpt", "mlp", "cross-entropy", "block"])
    assert list(split_sections(path.read_text())) == ["", "cross-entropy", "mlp", "block", "gpt"]


def test_a_wrong_answer_is_not_saved(path, capsys):
    run_cell(answered("mlp", ("F.gelu", "F.relu")))
    assert "mlp: wrong." in capsys.readouterr().out
    assert not path.exists()


def test_helpers_imports_and_constants_of_the_cell_are_saved_but_no_other_statements(path):
    source = answered("mlp", ("F.gelu", "activation"))
    run_cell(
        f"import itertools\nWIDTH = 4\n\n# ours\ndef activation(x):\n    return F.gelu(x)\n\n\n{source}\nprint(1)\n"  # noqa: E501
    )
    section = split_sections(path.read_text())["mlp"]
    assert section.startswith("import itertools\n\n\nWIDTH = 4\n\n\n# ours\ndef activation")
    assert "print" not in section


def test_an_answer_that_needs_another_cell_is_not_saved(path, capsys):
    namespace = run_cell("def activation(x):\n    return F.gelu(x)\n")
    run_cell(answered("mlp", ("F.gelu", "activation")), namespace)
    out = capsys.readouterr().out
    assert "mlp: right." in out and "Not saved" in out and "activation" in out
    assert not path.exists()


def test_a_saved_section_is_kept_and_the_new_answer_offered(path, capsys):
    run_cell(answered("mlp"))
    run_cell(answered("mlp"))
    assert "has another" not in capsys.readouterr().out
    run_cell(answered("mlp", ("4 *", "2 * 2 *")))
    assert 'my_gpt.replace("mlp")' in capsys.readouterr().out
    assert "2 * 2 *" not in path.read_text()
    my_gpt.replace("mlp")
    assert "2 * 2 *" in path.read_text()
    with pytest.raises(ValueError, match="new answer"):
        my_gpt.replace("mlp")


def test_the_learners_own_changes_to_the_file_survive(path):
    answer_all(["mlp", "block"])
    path.write_text(
        path.read_text().replace("import math\n", "import math\nimport random\n")
        + "\n# mine\nX = 1\n"
    )
    run_cell(answered("cross-entropy"))
    text = path.read_text()
    assert "import random" in text and "# mine\nX = 1" in text
    assert my_gpt.load().X == 1


def test_a_model_of_the_learners_pieces_alone_equals_kt_cores(capsys):
    namespace = answer_all()
    module = my_gpt.load()
    out = capsys.readouterr().out
    assert "my_gpt.py: 9 of 9 pieces are yours.\n" in out and "From the course" not in out
    assert set(module.pieces.values()) == {""}
    assert same_logits(module)
    for name in ("GPT", "Block", "Attention"):  # the code is the learner's, not the package's
        assert not getattr(module, name).__module__.startswith("kt_co")
        assert not namespace[name].__module__.startswith("kt_co")
    blocks = module.GPT(CONFIG).blocks
    assert type(blocks[0]) is module.Block and type(blocks[0].attn) is module.Attention


def test_missing_and_failing_pieces_are_the_courses_own_around_the_learners(path, capsys):
    answer_all(["attention-module", "mlp", "gpt"])
    path.write_text(path.read_text().replace("F.gelu", "F.relu"))
    module = my_gpt.load()
    out = capsys.readouterr().out
    last = out.splitlines()[-1]
    assert "2 of 9 pieces are yours. From the course: MLP (the activation is ReLU" in last
    assert "cross_entropy, embed, LayerNorm, Block, train, greedy (not saved yet)." in last
    assert same_logits(module)
    assert type(module.GPT(CONFIG).blocks[0].attn).__init__.__code__.co_filename == str(path)


def test_a_section_that_cannot_run_is_reported(path, capsys):
    answer_all(["mlp"])
    path.write_text(path.read_text().replace("def forward(self, x):", "def forward(self, x:"))
    assert same_logits(my_gpt.load())
    assert "From the course: MLP (SyntaxError" in capsys.readouterr().out
    path.write_text(
        path.read_text().replace("class MLP", "class Mine").replace("self, x:", "self, x):")
    )
    assert same_logits(my_gpt.load())
    assert "its section defines no MLP" in capsys.readouterr().out


def test_broken_imports_are_reported(path, capsys):
    answer_all(["mlp"])
    path.write_text(path.read_text().replace("import math", "import no_such_module"))
    assert same_logits(my_gpt.load())
    assert "no_such_module" in capsys.readouterr().out


def test_off_keeps_the_pieces_in_memory(path, monkeypatch, capsys):
    monkeypatch.setenv("KT_MY_GPT", "off")
    monkeypatch.setitem(my_gpt._memory, "text", "")
    answer_all(["mlp"])
    my_gpt.load()
    assert "1 of 9 pieces" in capsys.readouterr().out
    assert not path.exists()


def test_checkpoints_of_kt_core_load_into_the_learners_model(tmp_path):
    answer_all()
    vocab = kt.CharVocab("abcdefghi")
    kt.save_checkpoint(tmp_path / "model.safetensors", kt.GPT(CONFIG), vocab, {})
    ours, _, _ = kt.load_checkpoint(tmp_path / "model.safetensors")
    model = my_gpt.load().GPT(ours.config)
    model.load_state_dict(ours.state_dict())
    assert [*model.state_dict()] == [*ours.state_dict()]


def test_pieces_of_later_notebooks_are_left_out_unless_a_notebook_is_named(monkeypatch):
    import dataclasses

    later = dataclasses.replace(pieces()["mlp"], id="later", notebook="07_rope")
    monkeypatch.setattr(my_gpt, "pieces", lambda: pieces() | {"later": later})
    source = {"later": "LATER = 1\n"}
    solution = lambda exercise: source.get(exercise.id) or teaching_solution(exercise)  # noqa: E731
    monkeypatch.setattr(my_gpt, "teaching_solution", solution)
    assert not hasattr(my_gpt.load(), "LATER")
    assert my_gpt.load("07_rope").LATER == 1


# ---------------------------------------------------------------- what later notebooks do with it


@pytest.fixture(scope="module")
def trained(small_corpus):
    """(mine, model, vocab, pairs, losses): a model of the learner's pieces, by their own loop."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KT_MY_GPT", "off")
        patch.setitem(my_gpt._memory, "text", "")
        answer_all()
        mine = my_gpt.load()
    vocab, pairs = small_corpus.vocab, small_corpus.train[:8]
    torch.manual_seed(0)
    model = mine.GPT(kt.GPTConfig(len(vocab), 64, 2, 2, 32, dropout=0.0))
    data = kt.NamePlace(pairs, vocab, 64)
    losses = mine.fit(model, data, epochs=60, batch_size=8, peak=1e-2)
    return mine, model, vocab, pairs, losses


def test_the_learners_loop_trains_the_learners_model_to_answer_by_its_own_decoding(trained):
    mine, model, vocab, pairs, losses = trained
    assert set(mine.pieces.values()) == {""}  # nothing is the course's
    assert len(losses) == 60 and losses[-1] < 0.1 < losses[0]
    questions, gold = zip(*pairs, strict=True)
    assert mine.answer(model, vocab, questions) == list(gold)


def test_the_tools_of_kt_core_take_the_learners_model(trained, tmp_path):
    _, model, vocab, pairs, _ = trained
    questions, gold = zip(*pairs, strict=True)
    assert kt.answer(model, vocab, questions) == list(gold)
    sampled = kt.generate(model, [[5, 6]], temperature=1.0, seed=3)
    assert sampled == kt.generate(my_gpt.twin(model), [[5, 6]], temperature=1.0, seed=3)
    with pytest.raises(ValueError, match="no MultiHeadAttention"), kt.record_attention(model):
        pass
    with kt.record_attention(twin := my_gpt.twin(model)) as maps:
        twin(torch.tensor([[3, 4, 5]]))
    assert [m.shape for m in maps] == [(1, 2, 3, 3)] * 2
    path = kt.save_checkpoint(tmp_path / "mine.safetensors", model, vocab)
    loaded, _, _ = kt.load_checkpoint(path)
    idx = torch.tensor([vocab.encode(questions[0])])
    with torch.no_grad():
        assert torch.allclose(loaded(idx)[0], model.eval()(idx)[0], atol=1e-5)


def test_the_trainer_of_kt_core_trains_the_learners_model(trained):
    mine, _, vocab, pairs, _ = trained
    model = mine.GPT(kt.GPTConfig(len(vocab), 64, 2, 2, 32, dropout=0.0))
    for optimizer in ("adamw", "muon"):
        config = kt.TrainConfig(steps=30, batch_size=8, lr=1e-2, optimizer=optimizer)
        history = kt.Trainer(model, kt.NamePlace(pairs, vocab, 64), config).fit()
    assert history[-1]["loss"] < history[0]["loss"] < 4


def test_the_learners_model_lives_in_a_page(trained):
    from kt_course.explorers.living_page import attach

    _, model, vocab, pairs, _ = trained
    view = attach({"mine": (model, vocab)}, "ask", alt="Answers of my model", examples=pairs[:2])
    assert view.given()["models"][0]["config"]["n_embd"] == 32


def test_the_schedule_warms_up_and_ends_near_zero():
    rates = schedule(1000, 8e-3)
    assert rates[0] == pytest.approx(8e-5) and rates[200] == max(rates) == 8e-3
    assert rates[-1] == pytest.approx(2e-5) and len(rates) == 1000
    assert max(schedule(5, 1.0)) == 1.0 and min(schedule(5, 1.0)) > 0


def test_the_reference_itself_is_not_saved(path):
    exercise("mlp")(pieces()["mlp"].reference)
    assert not path.exists()

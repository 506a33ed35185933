"""Grading: answers of a notebook, verdicts that no answer can forge, limits, a row for each."""

from __future__ import annotations

import csv
import os
import platform
import re
import sys
import textwrap
import time

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from kt_course.exercises import exercise_ids
from kt_course.exercises.registry import library
from kt_course.grading import batch, copies, isolation, sandbox, submissions
from kt_course.grading.answers import answers
from kt_course.grading.batch import Row, grade
from kt_course.grading.copies import Late, Lost, run_in_copy
from kt_course.grading.judging import judge_notebook, verdict
from kt_course.grading.sandbox import Limits, Outcome, run_confined
from kt_course.tools.cli import main

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="grading needs fork: Linux or macOS"
)
isolated = pytest.mark.skipif(
    bool(isolation.bubblewrap_problem()),
    reason=isolation.bubblewrap_problem() or "bubblewrap works",
)
both = pytest.mark.parametrize("bubblewrap", [False, pytest.param(True, marks=isolated)])

IMPORTS = "import torch\nimport kt_core as kt\nfrom kt_course.exercises import exercise"
RIGHT = '@exercise("causal-mask")\ndef mask(T):\n    return torch.ones(T, T).bool().tril()'
LIMITS = Limits(cell=60, notebook=120)


def notebook(*cells, **metadata):
    cells = [new_markdown_cell("text"), new_code_cell("  \n"), *map(new_code_cell, cells)]
    return nbformat.writes(new_notebook(cells=cells, metadata=metadata)).encode()


def judged(*cells, id="causal-mask"):
    return judge_notebook(notebook(IMPORTS, *cells))["verdicts"][id]


def mask(body, above=""):
    """An answer to causal-mask with that body, a line each."""
    return above + '@exercise("causal-mask")\ndef mask(T):\n    ' + body.replace("\n", "\n    ")


# ---------------------------------------------------------------- answers out of a notebook


def test_an_answer_takes_what_it_needs_of_the_cells_above_and_nothing_else():
    collected = answers(
        [
            "import torch, math",
            "data = open('/nowhere/at/all')",
            "size = 3\nsize += 1\nT = print('not this T')",
            "def helper(T):\n    return torch.ones(T, T) * size",
            "def helper2(): ...\nraise KeyError('not needed')",
            '%matplotlib inline\n@kt_course.exercises.exercise("causal-mask")\n'
            "def mine(T):\n    return helper(T)",
        ]
    )
    answer = collected["causal-mask"]
    cells = [statement.code.co_filename for statement in answer.statements]
    assert cells == ["<cell 1>", "<cell 3>", "<cell 3>", "<cell 4>", "<cell 6>"]
    assert answer.define()(2).tolist() == [[4, 4], [4, 4]]


def test_the_last_cell_of_an_exercise_counts_and_tags_do_not():
    first, second = (f'@exercise("causal-mask")\ndef mine(T):\n    return {n}' for n in (1, 2))
    assert answers([first, second])["causal-mask"].define()(3) == 2
    assert list(answers([first, RIGHT.replace("causal-mask", "batches"), second])) == [
        "batches",
        "causal-mask",
    ]


def test_an_earlier_exercise_stands_for_kt_cores_own_unless_it_is_right():
    user = (
        '@exercise("masked-softmax")\ndef mine(scores, mask=None):\n    return earlier(len(scores))'
    )
    collected = answers(['@exercise("causal-mask")\ndef earlier(T):\n    return T', user])[
        "masked-softmax"
    ]
    assert collected.define({"causal-mask"})([1, 2]) == 2
    assert collected.define()([1, 2]).tolist() == [[True, False], [True, True]]


@pytest.mark.parametrize(
    "body",
    ["return (", "return '\0'", "return " + "(" * 5000 + ")" * 5000],
    ids=["open", "null", "deep"],
)
def test_a_cell_that_cannot_be_read_is_wrong_and_says_why(body):
    assert re.match(r"the cell cannot be read: .*line", answers([mask(body)])["causal-mask"])
    assert judged(mask(body)).startswith("wrong: the cell cannot be read")


# ---------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("cells", "pattern"),
    [
        ([RIGHT], "right$"),
        (
            ["def low(x):\n    return x.tril()", mask("return low(torch.ones(T, T).bool())")],
            "right$",
        ),
        (["%%time\n" + RIGHT], "right$"),
        ([mask('"""Doc."""\n...')], "not attempted$"),
        ([mask("return torch.ones(T, T).bool().triu()")], "wrong: leak from the future"),
        ([mask("return kt.causal_mask(T)")], "wrong: this calls kt_core's own"),
        (
            [mask("return torch.ones(T, T).bool().tril() & unknown")],
            "wrong: .*NameError.*at line 3",
        ),
        ([RIGHT.replace("(T)", "(T=unknown)")], "wrong: its cell raised NameError.*at line 2"),
        (
            [RIGHT, '@exercise("causal-mask")\ndef mask(T):\n    return 1'],
            "wrong: the mask for T = 6",
        ),
        (["mask = 1"], "not attempted: its cell is missing"),
    ],
)
def test_verdicts(cells, pattern):
    other = '@exercise("scaled-score")\ndef score(query, key): ...'
    assert re.match(pattern, judged(*cells, other))


FORGED = """import io, os
forged = io.BytesIO()
torch.save(("result", ("right", "fine")), forged)
for fd in range(3, 100):
    try:
        os.write(fd, len(forged.getvalue()).to_bytes(8, "big") + forged.getvalue())
    except OSError:
        pass
never = os._exit(0)
"""
PATCHED = """from kt_course.chapters.attention_math import exercises
from kt_course.exercises import assertions, registry
exercises.close = assertions.close = torch.equal = torch.allclose = lambda *given, **options: True
patched = object.__setattr__(registry.library()["causal-mask"], "check", lambda fn: "fine")
"""
WRONG = "return torch.ones(T, T).bool()"
ONLY_THERE = "wrong: it passes only where it can reach the check: "
OUT_OF_REACH = "wrong: where the check is out of its reach it gives back something else"


@pytest.mark.parametrize(
    ("answer", "pattern"),
    [
        (mask(PATCHED + WRONG), "wrong: (leak|True and False)"),
        (mask(f"patched\n{WRONG}", PATCHED), ONLY_THERE + ".*leak"),
        (mask(FORGED), OUT_OF_REACH),
        (mask("return never", f"if True:\n{textwrap.indent(FORGED, '  ')}"), OUT_OF_REACH),
        (mask("import os\nos._exit(0)"), "wrong: it died"),
        (mask("import ctypes\nctypes.string_at(0)"), "wrong: it died"),
        (
            mask("raise Wrong()", "class Wrong(BaseException): pass\n"),
            "wrong: your code raised Wrong",
        ),
        (mask("print('causal-mask: right.')\nreturn 1"), "wrong: the mask for T = 6"),
    ],
    ids=[
        "patches",
        "patches above",
        "forges",
        "forges above",
        "exits",
        "crashes",
        "raises",
        "prints",
    ],
)
def test_an_answer_cannot_forge_its_verdict(answer, pattern):
    verdict = judged(answer)
    assert re.match(pattern, verdict), verdict


def test_subclasses_of_plain_data_are_handed_over_as_plain_data():
    loads = "class Pair(list): pass\n" + '@exercise("shift-and-pad")\ndef mine(examples, length):\n'
    borrowed = judged(
        loads + "    return Pair(kt.datasets.collate(examples, length))", id="shift-and-pad"
    )
    assert "calls kt_core's own" in borrowed or "calls datasets.collate" in borrowed
    own = """    x = torch.zeros(len(examples), length + 1).long()
    y = torch.zeros(len(examples), length).long()
    for row, (ids, first) in enumerate(examples):
        x[row, :len(ids)] = torch.tensor(ids)
        y[row, first - 1:len(ids) - 1] = torch.tensor(ids[first:])
"""
    assert judged(loads + own + "    return Pair([x[:, :-1], y])", id="shift-and-pad") == "right"
    assert judged(loads + own + "    return x[:, :-1], y", id="shift-and-pad") == "right"


class Reference:
    """kt_core's own answer, handed in."""

    def __init__(self, id):
        own = library()[id].reference
        self.define = lambda right: own


@pytest.mark.parametrize("id", exercise_ids())
def test_every_right_answer_is_confirmed(id):
    assert verdict(library()[id], Reference(id), ()) == "right"


MLP = """class Mine(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.up, self.proj = (torch.nn.Linear(*sizes) for sizes in (
            (config.n_embd, 4 * config.n_embd), (4 * config.n_embd, config.n_embd)))

    def forward(self, x):
        return self.proj(torch.nn.functional.gelu(self.up(x)))
"""
# Patches of the checks, put above or into an answer that is wrong. Most make the copy that judges
# say "right"; the results that come out are still not right.
HOSTILE = {
    "check": """from kt_course.exercises import registry
object.__setattr__(registry.library()["mlp"], "check", lambda fn: "fine")
""",
    "comparison": """from kt_course.exercises import comparison
comparison.same = lambda a, b: True
""",
    "compute": """from kt_course.exercises import registry
fake = lambda answer, seed: {"the output": torch.zeros(2, 5, 8).double()}
object.__setattr__(registry.library()["mlp"], "compute", fake)
object.__setattr__(registry.library()["mlp"], "check", lambda fn: "fine")
""",
    "helpers": """from kt_course.chapters.build_a_gpt import exercises
exercises.with_weights = lambda module, like, seed: module
exercises.numbers = lambda *shape, seed: torch.zeros(*shape)
exercises.solutions.MLP = lambda c: (lambda x: x)
""",
    "torch": """torch.allclose = torch.equal = lambda *given, **options: True
""",
    "verdict": """from kt_course.exercises import check
check.judge = lambda exercise, fn: check.Verdict(exercise.id, "right", "")
""",
}


@pytest.mark.parametrize("patch", HOSTILE)
def test_a_module_is_confirmed_by_its_numbers_and_a_patched_check_gives_nothing(patch):
    handed_in = f'@exercise("mlp")\n{MLP}'
    assert judged(handed_in, id="mlp") == "right"
    wrong = handed_in.replace("gelu", "relu")
    inside = textwrap.indent(HOSTILE[patch], " " * 8)
    above = f"if True:\n{inside}        patched = 1\n"  # it is needed, so it runs
    for cell in (
        above + wrong.replace("        super", "        patched, super"),
        wrong.replace("        super", f"{inside}        super"),
    ):
        assert judged(cell, id="mlp").startswith("wrong"), cell


@pytest.mark.parametrize(
    ("work", "error", "message"),
    [
        (lambda: (_ for _ in ()).throw(UnicodeError("so")), ValueError, "so"),
        (lambda: {}["key"], RuntimeError, "KeyError: 'key'"),
        (lambda: sys.exit(3), RuntimeError, "SystemExit"),
        (lambda: os.kill(os.getpid(), 9), Lost, "died"),
        (lambda: object(), Lost, "no plain data"),
        (lambda: [1] * 200_000_000, Late, "too (much|long)"),
        (lambda: time.sleep(60), Late, "too long"),
    ],
)
def test_what_comes_back_from_a_copy(work, error, message, monkeypatch):
    monkeypatch.setattr(copies, "MAX_RESULT", 10**6)
    with pytest.raises(error, match=message):
        run_in_copy(work, 1.0 if error is Late else 60.0)
    assert not [
        child for child in psutil.Process().children() if child.status() == psutil.STATUS_ZOMBIE
    ]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"{]", "not a notebook: .*JSON"),
        (b"\xff\xfe", "not a notebook"),
        (b"[1, 2]", "not a notebook"),
        (b'{"nbformat": 4, "nbformat_minor": 5, "cells": 3, "metadata": {}}', "not a notebook"),
        (b"[" * 100_000, "not a notebook: .*Recursion"),
        (
            notebook("x <- 1", kernelspec={"name": "ir", "language": "R", "display_name": "R"}),
            "language is R",
        ),
        (notebook("1 + 1"), "no exercise of this workbook"),
        (notebook('@exercise("of another course")\ndef f(): ...'), "no exercise of this workbook"),
    ],
    ids=["no JSON", "bytes", "list", "cells", "nested", "R", "no exercise", "other course"],
)
def test_what_is_no_notebook_of_ours_is_said(data, problem):
    assert re.search(problem, judge_notebook(data)["problem"])


# ---------------------------------------------------------------- limits


def python(code, data=b"", limits=LIMITS, seconds=60, bubblewrap=False):
    """What Python code tells by `tell`."""
    above = "import json, os, subprocess, sys, time\ndef report(**fact):\n"
    above += "    os.write(int(sys.argv[1]), json.dumps(fact).encode() + b'\\n')\n"
    return run_confined(["-c", above + code, "FD"], data, limits, seconds, bubblewrap)


def running_sleeps(seconds):
    """Processes that stay; those that were killed may need a moment to end."""
    every = psutil.process_iter(["cmdline"])
    return psutil.wait_procs([p for p in every if (p.info["cmdline"] or [])[-1:] == [seconds]], 5)[
        1
    ]


@both
def test_a_process_sees_its_input_an_environment_of_its_own_and_an_empty_home(
    bubblewrap, monkeypatch
):
    monkeypatch.setenv("SECRET_TOKEN", "x")
    code = "home = os.listdir(os.path.expanduser('~'))\n"
    code += "report(given=sys.stdin.read(), env=dict(os.environ), home=home, cwd=os.listdir())"
    (facts,) = python(code, b"text", bubblewrap=bubblewrap).facts
    assert facts["given"] == "text" and facts["home"] == [] and facts["cwd"] == []
    assert "SECRET_TOKEN" not in facts["env"] and facts["env"]["KT_PROGRESS_FILE"] == "off"
    assert facts["env"]["HOME"] != os.path.expanduser("~")


@both
@pytest.mark.parametrize(
    ("code", "limits", "stopped"),
    [
        ("time.sleep(60)", {}, "timed out: more than 2 s"),
        ("os.close(int(sys.argv[1]))\ntime.sleep(60)", {}, "^$"),
        (
            "for _ in range(30): subprocess.Popen(['sleep', '61.375'])\ntime.sleep(60)",
            {"processes": 20},
            "more than 20 processes",
        ),
        (
            "x = bytearray(400 * 2**20)\ntime.sleep(60)",
            {"memory": 0.3},
            "out of memory: more than 0.3 GB",
        ),
        ("while True: os.write(int(sys.argv[1]), b'x' * 4096)", {}, "it reports too much"),
    ],
    ids=["time", "closed", "processes", "memory", "report"],
)
def test_a_process_that_takes_too_much_is_stopped_with_all_that_it_started(
    code, limits, stopped, bubblewrap
):
    ended = python(
        code,
        limits=Limits(**limits),
        seconds=2 if "timed" in stopped else 30,
        bubblewrap=bubblewrap,
    )
    assert re.search(stopped, ended.stopped)
    assert not running_sleeps("61.375")


@both
@pytest.mark.skipif(sys.platform != "linux", reason="macOS does not keep to these limits")
def test_the_system_refuses_memory_and_large_files(bubblewrap):
    code = """
def refused(work):
    try: work()
    except (MemoryError, OSError) as error: return type(error).__name__
    return "allowed"
memory = refused(lambda: bytearray(40 * 2**30))
report(memory=memory, file=refused(lambda: open('x', 'wb').write(bytes(3 * 2**20))))"""
    (facts,) = python(code, limits=Limits(memory=1, disk=0.001), bubblewrap=bubblewrap).facts
    assert facts == {"memory": "MemoryError", "file": "OSError"}


@isolated
def test_bubblewrap_hides_files_other_processes_and_the_network(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("x")
    code = f"""
import socket
def fails(work):
    try: work()
    except OSError: return True
processes = [int(p) for p in os.listdir("/proc") if p.isdigit()]
report(
    secret=os.path.exists({str(secret)!r}),
    network=not fails(lambda: socket.create_connection(("1.1.1.1", 53), timeout=3)),
    package=not fails(lambda: open({sandbox.__file__!r}, "a")),
    root=not fails(lambda: open("/x", "w")),
    system=not fails(lambda: os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY)),
    shadow=os.path.exists("/etc/shadow"),
    outside={os.getpid()} in processes[5:],
)"""
    (facts,) = python(code, bubblewrap=True).facts
    assert not any(facts.values()), facts


HOLDING = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
def reason(result): return errno.errorcode[ctypes.get_errno()] if result < 0 else "allowed"
try: os.memfd_create("x"); memfd = "allowed"
except OSError as error: memfd = errno.errorcode[error.errno]
libc.unshare(0x10020000)  # namespaces of its own, in which it may mount
report(
    memfd=memfd,
    sysv=reason(libc.shmget(0, 2**20, 0o1600)),
    queue=reason(libc.msgget(0, 0o1600)),
    tmpfs=reason(libc.mount(b"x", b"/tmp", b"tmpfs", 0, None)),
    newer=reason(libc.syscall(430, b"tmpfs", 0)),
)"""


@isolated
@pytest.mark.skipif(platform.machine() not in isolation.SYSCALLS, reason="no filter for it")
def test_memory_that_no_process_maps_is_refused():
    (facts,) = python(HOLDING, bubblewrap=True).facts
    assert set(facts.values()) == {"ENOSYS"}, facts


@isolated
@pytest.mark.parametrize("machine", ["riscv64", "x86_64", "aarch64"])
def test_a_filter_of_another_architecture_refuses_all_and_an_unknown_one_has_none(
    machine, monkeypatch
):
    here = platform.machine()
    monkeypatch.setattr(isolation.platform, "machine", lambda: machine)
    ended = python("report(x=1)", bubblewrap=True)
    assert bool(ended.facts) == (machine in (here, "riscv64"))
    assert ("not filtered on riscv64" in batch.describe_isolation(True)) == (machine == "riscv64")


@isolated
def test_an_ordinary_submission_with_torch_finishes_under_bubblewrap(tmp_path):
    work = """from torch import nn
model = nn.Linear(64, 64)
data = torch.utils.data.TensorDataset(torch.randn(64, 64))
for (x,) in torch.utils.data.DataLoader(data, batch_size=32, num_workers=1):
    model(x).square().mean().backward()
assert model.weight.grad.isfinite().all()"""
    (tmp_path / "a.ipynb").write_bytes(notebook(IMPORTS, RIGHT, work))
    (row,) = grade([tmp_path], tmp_path / "out.csv", LIMITS, bubblewrap=True)
    assert (row.status, row.right) == ("finished", 1)


@pytest.mark.parametrize("limits", [{"cell": 0}, {"memory": -1.0}, {"processes": 0}])
def test_limits_are_above_zero(limits):
    with pytest.raises(ValueError, match=f"limit {next(iter(limits))}"):
        Limits(**limits)


# ---------------------------------------------------------------- the run


RUN = """import sys
from kt_course.grading.running import run_notebook
run_notebook(int(sys.argv[1]), sys.stdin.read(), int(sys.argv[2]))
"""


@pytest.mark.parametrize(
    ("cells", "pattern"),
    [
        (
            ["x = 1", "print(x)", "import os; assert os.environ['KT_PROGRESS'] == 'off'"],
            "^finished$",
        ),
        (["x = 1", "1 / 0"], "^failed at cell 2: ZeroDivisionError: division by zero$"),
        (
            ["import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"],
            "^failed at cell 1: the kernel died$",
        ),
        (
            ["import os\nos.kill(os.getppid(), 9)"],
            "^failed at cell 1: it ended the process that runs it$",
        ),
        (["x = bytearray(40 * 2**30)"], "^out of memory at cell 1: MemoryError"),
        (["print('x' * 60 * 2**20)"], "^failed at cell 1: more than 50 MB of output$"),
        (
            [
                "import subprocess\nsubprocess.Popen(['sleep', '61.25'], start_new_session=True)",
                "while True: pass",
            ],
            "^timed out at cell 2: more than 3 s$",
        ),
    ],
    ids=["finishes", "fails", "kernel dies", "kills", "memory", "output", "endless"],
)
def test_how_a_run_ends(cells, pattern):
    seconds = "3" if "timed out" in pattern else "60"
    command = ["-P", "-c", RUN, "FD", seconds]
    ran = run_confined(command, notebook(*cells), LIMITS, 90, False)
    assert re.search(pattern, batch.describe_run(ran)), ran
    assert not running_sleeps("61.25")


def test_a_status_says_what_is_known():
    assert (
        batch.describe_run(Outcome([], "timed out: more than 9 s in all"))
        == "timed out: more than 9 s in all"
    )
    assert (
        batch.describe_run(Outcome([{"cell": 3}], "out of memory: more than 1 GB"))
        == "out of memory at cell 3: more than 1 GB"
    )
    refused = {"end": "failed", "error": "RuntimeError: DefaultCPUAllocator: can't allocate memory"}
    assert batch.describe_run(Outcome([{"cell": 3}, refused])).startswith("out of memory at cell 3")


# ---------------------------------------------------------------- the batch


def test_kt_grade_gives_a_row_for_everything(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("KT_PROGRESS_FILE", str(tmp_path / "progress.json"))
    folder = tmp_path / "handed in"
    (folder / "deep").mkdir(parents=True)
    parameters = new_code_cell('profile = "quick"', metadata={"tags": ["parameters"]})
    good = [
        parameters,
        new_code_cell("import torch\nfrom kt_course.exercises import exercise"),
        new_code_cell(RIGHT),
    ]
    good += [new_code_cell('mask(2), 1 / (profile == "smoke")')]
    nbformat.write(new_notebook(cells=good), folder / "deep" / "good.ipynb")
    (folder / "=broken.ipynb").write_bytes(b"{]")
    (folder / "link.ipynb").symlink_to(folder / "deep" / "good.ipynb")
    os.mkfifo(folder / "pipe.ipynb")
    out = tmp_path / "grades.csv"
    assert (
        main(
            [
                "grade",
                str(folder),
                str(tmp_path / "gone.ipynb"),
                "--out",
                str(out),
                "--profile",
                "smoke",
            ]
        )
        == 0
    )
    with out.open(newline="", encoding="utf-8") as file:
        rows = {os.path.basename(row["file"]): row for row in csv.DictReader(file)}
    assert {name: row["status"].split(":")[0] for name, row in rows.items()} == {
        "good.ipynb": "finished",
        "=broken.ipynb": "not a notebook",
        "link.ipynb": "not a notebook",
        "pipe.ipynb": "not a notebook",
        "gone.ipynb": "not a notebook",
    }
    row = rows["good.ipynb"]
    assert row["notebook"] == "01_attention_math" and row["causal-mask"] == "right"
    assert (row["right"], row["of"], row["unconfirmed"]) == (
        "1",
        str(len(exercise_ids("01_attention_math"))),
        "0",
    )
    assert float(row["seconds"]) > 0 and row["one-head"] == "not attempted: its cell is missing"
    printed = capsys.readouterr().out
    assert "good.ipynb: finished, 1 of" in printed and "5 submissions in" in printed
    assert not (tmp_path / "progress.json").exists()


def test_a_submission_that_breaks_the_grader_gives_a_row(tmp_path, monkeypatch):
    def broken(arguments, *rest):
        assert (
            arguments[0] == "-P"
        )  # else a module that an answer writes would be imported from the current folder
        raise OSError("too many open files")

    monkeypatch.setattr(batch, "run_confined", broken)
    for name in "ab":
        (tmp_path / f"{name}.ipynb").write_bytes(notebook(RIGHT))
    lines: list[str] = []
    rows = grade([tmp_path], tmp_path / "out.csv", bubblewrap=False, log=lines.append)
    assert [row.status for row in rows] == ["failed: OSError: too many open files"] * 2
    assert "NOT ISOLATED" in lines[0] and "docs/instructor.md" in lines[0] and len(lines) == 3
    monkeypatch.setattr(submissions, "MAX_BYTES", 10)
    assert (
        "larger than"
        in grade([tmp_path / "a.ipynb"], tmp_path / "out.csv", log=lines.append)[0].status
    )


def test_an_interrupted_batch_keeps_its_rows(tmp_path, monkeypatch):
    def one(path, *rest):
        if path.name == "b.ipynb":
            raise KeyboardInterrupt
        return Row(str(path), "finished", 1.0)

    monkeypatch.setattr(batch, "grade_one", one)
    for name in "ab":
        (tmp_path / f"{name}.ipynb").touch()
    assert main(["grade", str(tmp_path), "--out", str(tmp_path / "out.csv")]) == 130
    assert "a.ipynb,,finished" in (tmp_path / "out.csv").read_text()
    monkeypatch.undo()  # and the next batch is not stopped by it
    (tmp_path / "a.ipynb").write_bytes(notebook(IMPORTS, mask("...")))
    assert grade([tmp_path / "a.ipynb"], tmp_path / "out.csv", LIMITS)[0].status == "finished"


def test_nothing_to_grade_and_a_system_without_fork_are_said(tmp_path, monkeypatch, capsys):
    assert main(["grade", str(tmp_path), "--out", str(tmp_path / "out.csv")]) == 2
    assert "no notebook in" in capsys.readouterr().err
    assert main(["grade", str(tmp_path), "--out", "a.ipynb"]) == 2
    assert "must end in .csv" in capsys.readouterr().err
    monkeypatch.delattr(os, "fork")
    with pytest.raises(ValueError, match="Linux or macOS"):
        grade([tmp_path], tmp_path / "out.csv")


def test_a_table_is_harmless_in_a_spreadsheet():
    verdicts = {"scaled-score": "wrong: it\x1b[31m raised", "causal-mask": "right, unconfirmed: x"}
    row = Row("=cmd\udcff|x", "finished", 1.5, "01_attention_math", verdicts)
    assert (row.right, len(row.unconfirmed)) == (0, 1)
    assert batch.table([row]).splitlines() == [
        "file,notebook,status,right,of,unconfirmed,seconds,scaled-score,causal-mask",
        "'=cmd�|x,01_attention_math,finished,0,2,1,1.5,wrong: it�[31m raised,"
        '"right, unconfirmed: x"',
    ]


# ---------------------------------------------------------------- kt progress


def test_kt_progress_tells_what_is_done_wrong_and_open(tmp_path, monkeypatch, capsys):
    record = tmp_path / "progress.json"
    monkeypatch.setenv("KT_PROGRESS_FILE", str(record))
    record.write_text('{"causal-mask": "right", "scaled-score": "wrong"}')
    assert main(["progress"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["notebook", "done", "wrong", "open", "next"]
    name, done, wrong, left, following = lines[1].split()
    assert (name, done, wrong) == ("01_attention_math", "1", "1")
    assert following == exercise_ids("01_attention_math")[0] and int(left) > 0

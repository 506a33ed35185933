"""The `kt` command: each command is a function elsewhere, and its signature is its command line.

cyclopts reads the options from the signature and their help from the docstring. It imports a
command's module only when that command runs, so `kt --help` does not wait for PyTorch.
"""

import difflib
import os
import sys
from collections.abc import Sequence
from dataclasses import is_dataclass
from pathlib import Path

try:
    from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError

    from kt_course.tools.parent import watch_parent
except ModuleNotFoundError as missing:
    sys.exit(f"kt: {missing.name} is not installed: pip install 'kt-core[course,lab]'")

# name: (module:function, one line for the list of commands)
COMMANDS = {
    "pretrain": ("tools.assignment:pretrain", "the assignment: pretrain on a text file"),
    "finetune": ("tools.assignment:finetune", "the assignment: finetune on question-answer pairs"),
    "evaluate": ("tools.assignment:evaluate", "the assignment: answer the questions of a file"),
    "run": ("tools.run_commands:run", "pretrain, finetune and evaluate in one folder"),
    "score": ("chapters.capstone.scoring:score", "answer the test questions of a run, once"),
    "baseline": ("tools.run_commands:baseline", 'count how many answers "London" gets right'),
    "fetch": ("tools.run_commands:fetch", "fetch a corpus that is not part of the project"),
    "sweep": ("tools.sweep:sweep", "run a grid of settings in parallel, into one table and plot"),
    "report": ("tools.report:report", "gather runs into one table and a bar chart, best first"),
    "workbook": ("tools.workbook:run_workbook", "run the notebooks; gather pages and results"),
    "doctor": ("tools.doctor:doctor", "check this machine, and say how to mend what is wrong"),
    "lab": ("grading.learner_copies:lab", "open JupyterLab on your own copies of the notebooks"),
    "progress": ("grading.certificate:report", "list which exercises are done, wrong, or open"),
    "release": ("grading.release:release", "write clean notebooks for learners"),
    "grade": ("grading.batch:grade_command", "run and judge learners' notebooks into a CSV file"),
    "export": ("tools.run_commands:export", "write a checkpoint for the transformers library"),
}


def make_app() -> App:
    """Build the command line; no command's module is imported yet."""
    app = App(
        name="kt",
        help="Knowledge transfer: pretrain, finetune and question a small GPT.",
        version_flags=(),
        default_parameter=Parameter(negative=()),
        suppress_keyboard_interrupt=False,
        exit_on_error=False,
        print_error=False,
        result_action="return_value",
    )
    for name, (target, summary) in COMMANDS.items():
        app.command(f"kt_course.{target}", name=name, help=summary)
    return app


def reject_empty_paths(tokens: Sequence[str]) -> None:
    """Raise ValueError for an empty name of a file or folder: Path("") would be this folder."""
    if "" not in tokens or "." in tokens:
        return
    _, bound, _ = make_app().parse_args(tokens)
    for name, value in bound.arguments.items():
        values = list(vars(value).values()) if is_dataclass(value) else value
        if Path() in (values if isinstance(values, list | tuple) else [value]):
            before = tokens[tokens.index("") - 1]
            option = before if before.startswith("--") else name.upper()
            raise ValueError(f"{option} '': the name is empty; write . for this folder")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`, or the one that this process got.

    Returns:
        The exit status: 0; 1 if the work itself failed; 2 for bad input; 130 after Ctrl-C.
    """
    tokens = sys.argv[1:] if argv is None else list(argv)
    for stream in (sys.stdout, sys.stderr):  # a terminal that lacks a letter stops nothing
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    watch_parent()
    if tokens and not tokens[0].startswith("-") and tokens[0] not in COMMANDS:
        near = difflib.get_close_matches(tokens[0], COMMANDS, n=1)  # cyclopts would import them all
        hint = f", did you mean {near[0]!r}?" if near else f"; there are {', '.join(COMMANDS)}"
        print(f"kt {tokens[0]}: no such command{hint}", file=sys.stderr)
        return 2
    try:
        reject_empty_paths(tokens)
        result = make_app()(tokens)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except BrokenPipeError:  # nobody reads on, as in `kt report runs | head -3`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except ModuleNotFoundError as error:
        message, status = f"{error.name} is not installed: pip install 'kt-core[all]'", 2
    except UnusedCliTokensError as error:
        unused = ", ".join(map(repr, error.unused_tokens))
        message, status = f"{unused}: one argument too many; see kt {tokens[0]} --help", 2
    except (CycloptsError, ValueError, OSError) as error:
        message, status = str(error), 2
    except FloatingPointError as error:
        message, status = str(error), 1
    except KeyboardInterrupt:
        message, status = "stopped", 130
    print(f"{' '.join(['kt', *tokens[:1]])}: {' '.join(message.split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())

"""Draws the README's pictures from what ships: docs/overview.png, learning curves and one answer
being recalled, and
docs/wiki.png, the learning curve on the assignment's data.

python tools/overview.py
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import matplotlib.pyplot as plt  # noqa: E402
import torch  # noqa: E402

import kt_core as kt  # noqa: E402
from kt_core.corpora.files import write_atomically  # noqa: E402
from kt_course.figures import plots  # noqa: E402
from kt_course.figures.style import visible  # noqa: E402
from kt_course.shipped import learning_curve, shipped  # noqa: E402

VARIANTS = ("rope", "perceiver_ar", "vanilla", "perceiver")


def save(figure, name: str) -> None:
    """Write a figure to docs in one step."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    write_atomically(ROOT / "docs" / name, buffer.getvalue())


def assignment() -> None:
    """Write docs/wiki.png: loss and dev accuracy while pretraining on the assignment's data,
    against London."""
    told = json.loads(
        (ROOT / "data" / "results" / "wiki-rope-seed0.json").read_text(encoding="utf-8")
    )
    rows = [row for row in learning_curve("wiki", "rope") if row["phase"] == "pretrain"]
    london = kt.Score(told["london"]["correct"], told["london"]["total"])
    figure, axes = plots.rows(1, 2)
    for ax, key, factor in zip(axes, ("loss", "dev"), (1, 100), strict=True):
        points = [(r["characters"] / 1e6, factor * r[key]) for r in rows if key in r]
        ax.plot(*zip(*points, strict=True))
        ax.set(xlabel="million characters read")
    axes[0].set(ylabel="loss (nats per character)")
    axes[1].axhline(100 * london.accuracy, color="black", ls="--", lw=1, label="always London")
    axes[1].set(ylabel="dev questions answered (%)", ylim=(0, 100))
    axes[1].legend()
    save(figure, "wiki.png")


def main() -> None:
    """Write both pictures."""
    assignment()
    corpus = kt.load_corpus("bios")
    london = kt.london_baseline(corpus.dev)
    figure, (left, right) = plots.rows(
        1, 2, figsize=(11, 4.2), gridspec_kw={"width_ratios": [5, 6]}
    )
    for variant in VARIANTS:
        told = json.loads(
            (ROOT / "data" / "results" / f"bios-{variant}-seed0.json").read_text(encoding="utf-8")
        )
        rows = [r for r in told["curve"] if r["phase"] == "pretrain" and "dev" in r]
        left.plot(
            [r["characters"] / 1e6 for r in rows], [100 * r["dev"] for r in rows], label=variant
        )
    left.axhline(100 * london.accuracy, color="black", ls="--", lw=1, label="always London")
    left.set(
        xlabel="million characters read",
        ylabel="dev questions answered (%)",
        ylim=(0, 100),
        title="Nothing, nothing, then the facts",
    )
    left.legend(frameon=False)

    model, vocab, _ = shipped("bios", "rope", "finetuned")
    answers = kt.answer(model, vocab, [q for q, _ in corpus.dev])
    question, city = next(
        (q, told)
        for (q, told), said in zip(corpus.dev, answers, strict=True)
        if said == told and len(q) < 32 and len(told) > 5
    )
    text = f"{question}{kt.MASK}{city}"
    with kt.record_attention(model) as maps:
        model(torch.tensor([vocab.encode(text)]))
    first = len(question)  # the ⁇ from which the answer's first character is written
    name = slice(question.index("was ") + 4, question.index(" born"))
    layer, head = max(
        ((i, h) for i in range(len(maps)) for h in range(maps[i].size(1))),
        key=lambda at: float(maps[at[0]][0, at[1], first:-1, name].sum()),
    )
    weights = maps[layer][0, head, first:-1]  # (characters of the answer, characters of the text)
    right.imshow(weights.numpy(), cmap="Blues", vmin=0, vmax=1)
    right.set_xticks(range(len(text)), visible(text))
    right.set_yticks(range(len(weights)), visible(text[first:-1]))
    right.set(title=f"Writing {city!r}: layer {layer}, head {head} attends to the name")
    save(figure, "overview.png")


if __name__ == "__main__":
    main()

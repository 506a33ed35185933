"""Draw the README's pictures from what ships.

    python tools/overview.py

docs/overview.png shows learning curves, and one answer being recalled; docs/wiki.png the learning
curve on the assignment's data.
"""

from __future__ import annotations

import io
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
from kt_course.shipped import learning_curve, shipped, shipped_result  # noqa: E402

VARIANTS = ("rope", "perceiver_ar", "vanilla", "perceiver")


def save(figure, name: str) -> None:
    """Write a figure to docs in one step."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    write_atomically(ROOT / "docs" / name, buffer.getvalue())


def draw_london(ax, score: kt.Score) -> None:
    """Draw the accuracy of the constant answer, and the axis of accuracies."""
    ax.axhline(100 * score.accuracy, color="black", ls="--", lw=1, label="always London")
    ax.set(ylabel="dev questions answered (%)", ylim=(0, 100))


def assignment() -> None:
    """Write docs/wiki.png: loss and dev accuracy while pretraining, against London."""
    counts = shipped_result("wiki-rope-seed0")["london"]
    rows = [row for row in learning_curve("wiki", "rope") if row["phase"] == "pretrain"]
    figure, axes = plots.rows(1, 2)
    for ax, key, factor in zip(axes, ("loss", "dev"), (1, 100), strict=True):
        points = [(r["characters"] / 1e6, factor * r[key]) for r in rows if key in r]
        ax.plot(*zip(*points, strict=True))
        ax.set(xlabel="million characters read")
    axes[0].set(ylabel="loss (nats per character)")
    draw_london(axes[1], kt.Score(counts["correct"], counts["total"]))
    axes[1].legend()
    save(figure, "wiki.png")


def draw_curves(ax, corpus: kt.Corpus) -> None:
    """Draw the learning curve of each variant."""
    for variant in VARIANTS:
        curve = learning_curve("bios", variant)
        rows = [r for r in curve if r["phase"] == "pretrain" and "dev" in r]
        millions = [r["characters"] / 1e6 for r in rows]
        ax.plot(millions, [100 * r["dev"] for r in rows], label=variant)
    draw_london(ax, kt.london_baseline(corpus.dev))
    ax.set(xlabel="million characters read", title="Nothing, nothing, then the facts")
    ax.legend(frameon=False)


def draw_recall(ax, corpus: kt.Corpus) -> None:
    """Draw the head that attends most to the name, while one correct answer is written."""
    model, vocab, _ = shipped("bios", "rope", "finetuned")
    answers = kt.answer(model, vocab, [q for q, _ in corpus.dev])
    question, city = next(
        (q, gold)
        for (q, gold), reply in zip(corpus.dev, answers, strict=True)
        if reply == gold and len(q) < 32 and len(gold) > 5
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
    ax.imshow(weights.numpy(), cmap="Blues", vmin=0, vmax=1)
    ax.set_xticks(range(len(text)), visible(text))
    ax.set_yticks(range(len(weights)), visible(text[first:-1]))
    ax.set(title=f"Writing {city!r}: layer {layer}, head {head} attends to the name")


def main() -> None:
    """Write both pictures."""
    assignment()
    corpus = kt.load_corpus("bios")
    options = dict(figsize=(11, 4.2), gridspec_kw={"width_ratios": [5, 6]})
    figure, (left, right) = plots.rows(1, 2, **options)
    draw_curves(left, corpus)
    draw_recall(right, corpus)
    save(figure, "overview.png")


if __name__ == "__main__":
    main()

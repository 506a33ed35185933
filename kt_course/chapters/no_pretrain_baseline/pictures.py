"""Pictures of chapter 4."""

from collections.abc import Mapping

from kt_course.figures.panels import picture


def memorising(curves: Mapping[str, Mapping[int, float]], guess: float, alt: str) -> None:
    """Draw the loss on the answers by epoch, for several groups of people.

    Args:
        curves: Loss by epoch, by the name of the group.
        guess: The loss of a model that gives all characters the same probability.
        alt: Text alternative.
    """
    with picture(3.4, alt) as ax:
        for (name, losses), style in zip(curves.items(), ("-", "--"), strict=True):
            ax.plot(list(losses), list(losses.values()), style, label=name)
        ax.axhline(guess, color="#777777", lw=1, ls=":")
        ax.text(0, guess, f" ln V = {guess:.2f}", va="bottom", fontsize=9)
        ax.set(xlabel="epoch", ylabel="loss on the answer (nats per character)", ylim=(0, None))
        ax.set_title("It memorises its people, and becomes confidently wrong about others")
        ax.legend()

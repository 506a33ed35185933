"""`kt progress`: what a learner has done, as a table, or as a page to print."""

import datetime
from pathlib import Path

from kt_core.corpora.files import write_atomically
from kt_course.exercises.progress import count_statuses, progress
from kt_course.exercises.registry import library
from kt_course.grading.written import render
from kt_course.tools.options import check_output


def report(*, certificate: Path | None = None, name: str = "") -> None:
    """List which exercises and questions are done, wrong and open.

    Args:
        certificate: Also write a page with the chapters' results to this HTML file.
        name: Whose certificate it is.
    """
    progress()
    if certificate is None:
        return
    check_output(certificate, "--certificate")
    if certificate.suffix != ".html":
        raise ValueError(f"--certificate {certificate}: the name of the page must end in .html")
    if certificate.exists():
        raise ValueError(f"--certificate {certificate}: it exists already; name another file")
    write_atomically(certificate, certificate_page(name).encode())
    print(f"written: {certificate}")


def certificate_page(name: str) -> str:
    """Return the page: chapters with correct answers, their minutes, and what it is worth."""
    chapters, minutes = [], 0
    for notebook, (ids, done) in count_statuses().items():
        minutes += sum(library()[id].minutes for id in done if id in library())
        if done:
            chapters.append((notebook, len(done), len(ids)))
    date, name = datetime.date.today().isoformat(), name or "A learner"
    values = dict(name=name, date=date, chapters=chapters, minutes=minutes)
    return render("certificate.html.j2", **values)

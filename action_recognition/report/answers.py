"""What a model answered for videos, and the sections of a page that need no more: classes, confusion, scores.

In: the scores of an evaluation, or of a validation, and which videos they are of. Out: HTML.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from action_recognition.data.index import Index
from action_recognition.data.survey import printable
from action_recognition.report import svg
from action_recognition.report.clips import evenly
from action_recognition.report.figures import (
    at_thresholds,
    calibration,
    class_figures,
    confused_pairs,
    hardest,
    roc,
    score_histograms,
)
from action_recognition.report.page import Cell, Column, meter, table, text
from action_recognition.training.metrics import VideoScores, confusion_matrix

MAX_LISTED = 3000  # videos
MAX_MATRIX = 60  # classes
_MAX_NAMED = 20  # videos without a valid answer
_MAX_PAIRS = 8
_MAX_POINTS = 400  # of a curve
_MANY = 14  # classes, from which on the heads of the matrix are turned


@dataclass(frozen=True)
class Answers:
    """The scores of the videos of `index`, which lie under `root`; `names` are those of the classes.

    `epoch`: how many epochs were finished when a training run asked for these answers.
    """

    scores: VideoScores
    index: Index
    root: str
    names: tuple[str, ...]
    epoch: int | None = None

    @cached_property
    def valid(self) -> np.ndarray:
        """Which videos (V,) have an answer at all: all their scores are finite, which fp16 that overflows can't say."""
        return np.isfinite(self.scores.probabilities).all(axis=1)

    @cached_property
    def right(self) -> np.ndarray:
        """Which videos (V,) were recognised."""
        return self.valid & (self.scores.predictions == self.scores.labels)

    @cached_property
    def num_wrong(self) -> int:
        """Valid answers that are mistakes."""
        return int((self.valid & ~self.right).sum())

    @cached_property
    def scored(self) -> tuple[np.ndarray, np.ndarray]:
        """The score of each valid answer, and whether it is right."""
        return self.scores.probabilities.max(axis=1)[self.valid], self.right[self.valid]

    @cached_property
    def confusion(self) -> np.ndarray:
        """Of the valid answers."""
        valid = self.valid
        return confusion_matrix(self.scores.labels[valid], self.scores.predictions[valid], len(self.names))

    @cached_property
    def order(self) -> np.ndarray:
        """All videos: first those without a valid answer, then the hardest first."""
        order = hardest(self.scores.labels, self.scores.probabilities)
        return order[np.argsort(self.valid[order], kind="stable")]

    @property
    def num_unlisted(self) -> int:
        """Videos that are too many for the list on the page."""
        return max(0, len(self.scores) - MAX_LISTED)

    def name(self, position: int) -> str:
        """A video's path in the test data."""
        path = self.index.videos[self.scores.video_ids[position]].path
        return path.removeprefix(self.root.rstrip("/")).lstrip("/")


def _without_valid_answer(answers: Answers) -> str:
    """The videos that have none, by name."""
    invalid = np.flatnonzero(~answers.valid).tolist()
    if not invalid:
        return ""
    more = f" and {len(invalid) - _MAX_NAMED} more" if len(invalid) > _MAX_NAMED else ""
    names = ", ".join(text(answers.name(position)) for position in invalid[:_MAX_NAMED])
    return (
        f'<p class="note">{len(invalid)} of {len(answers.scores)} videos have no valid answer: their scores are not '
        "finite numbers, mostly because fp16 overflowed, which bf16 and fp32 do not. They are not counted as right, "
        f"and are left out of the classes, the confusion matrix and the calibration: {names}{more}.</p>"
    )


def classes_section(answers: Answers) -> str:
    """A table of the classes that can be sorted: precision, recall and F1."""
    columns = [Column("class", is_text=True), *map(Column, ("videos", "right", "precision", "recall", "F1"))]
    most: dict[int, str] = {}
    for label, answer, count in confused_pairs(answers.confusion):
        most.setdefault(label, f"<bdi>{text(answers.names[answer])}</bdi> ({count})")
    rows = []
    for i, (name, c) in enumerate(zip(answers.names, class_figures(answers.confusion), strict=True)):
        counts = [Cell(str(n), n) for n in (c.videos, c.right)]
        shares = [_share(c.precision), _share(c.recall), _share(c.f1, with_meter=True)]
        rows.append((name, [*counts, *shares, Cell(most.get(i, "-"))]))
    lead = (
        "Precision: of the videos that got this answer, the share that are of the class. Recall: of the videos of the "
        "class, the share that got this answer. F1: the harmonic mean of both. Press a head to sort by it."
    )
    note = _without_valid_answer(answers)
    return f'<p class="lead">{lead}</p>{note}' + table([*columns, Column("most often taken for", is_text=True)], rows)


def _share(share: float | None, with_meter: bool = False) -> Cell:
    if share is None:
        return Cell("-", math.nan)
    return Cell(percent(share) + (meter(share) if with_meter else ""), share)


def confusion_section(answers: Answers) -> str:
    """The confusion matrix, and the list of videos that its numbers choose from (the script's data.videos)."""
    confusion, names = answers.confusion, answers.names
    shown, note = np.arange(len(names)), ""
    if len(names) > MAX_MATRIX:
        wrong = confusion.sum(axis=0) + confusion.sum(axis=1) - 2 * confusion.diagonal()
        shown = np.sort(np.argsort(-wrong, kind="stable")[:MAX_MATRIX])
        note = f" Of {len(names)} classes, the {MAX_MATRIX} with the most mistakes are shown; the lists below have all."
    lead = f"A row is a class, a column an answer. Press a number to see its videos.{note}"
    heads = "".join(f'<th scope="col" title="{text(names[j])}"><span>{text(names[j])}</span></th>' for j in shown)
    rows = "".join(_matrix_row(confusion, names, i, shown) for i in shown.tolist())
    many = " many" if len(shown) >= _MANY else ""
    head = f"<thead><tr><th>class / answer</th>{heads}</tr></thead>"
    matrix = f'<table class="matrix{many}">{head}<tbody>{rows}</tbody></table>'
    box = f'<div class="box" tabindex="0" role="region" aria-label="Confusion matrix">{matrix}</div>'
    left_out = answers.num_unlisted
    cut = f'<p class="note">{left_out} videos that were easier than these are not listed.</p>' if left_out else ""
    beside = f'<div class="beside">{box}{_pairs(confused_pairs(confusion), names)}</div>'
    return f'<p class="lead">{lead}</p>{beside}{_VIDEO_LIST}{cut}'


_VIDEO_LIST = """
<div class="tools">
<label>Class <select id="truth"><option value="">all</option></select></label>
<label>Answer <select id="answer"><option value="">all</option>
<option value="wrong" selected>all wrong ones</option></select></label>
<strong id="count" tabindex="-1" aria-live="polite"></strong>
</div>
<ul class="videos" id="videos"></ul>
<p class="more"><button type="button" class="button" id="more" hidden></button></p>"""


def _pairs(pairs: Sequence[tuple[int, int, int]], names: Sequence[str]) -> str:
    items = "".join(
        f'<li><button type="button" data-truth="{t}" data-answer="{p}"><span>{text(names[t])}, taken for '
        f"{text(names[p])}</span><b>{count}</b></button></li>"
        for t, p, count in pairs[:_MAX_PAIRS]
    )
    title = "Most frequent mistakes" if len(pairs) > _MAX_PAIRS else "Mistakes by frequency"
    return f'<div class="pairs"><h3>{title}</h3><ol>{items}</ol></div>' if items else ""


def _matrix_row(confusion: np.ndarray, names: Sequence[str], label: int, shown: np.ndarray) -> str:
    total = max(1, int(confusion[label].sum()))
    cells = []
    for answer in shown.tolist():
        count = int(confusion[label, answer])
        if not count:
            cells.append("<td></td>")
            continue
        what = f"{names[label]} recognised" if label == answer else f"{names[label]} taken for {names[answer]}"
        cells.append(
            f'<td{" class=hit" * (label == answer)}><button type="button" data-truth="{label}" data-answer="{answer}" '
            f'style="--p:{count / total:.2f}" aria-label="{text(what)}: {count}">{count}</button></td>'
        )
    head = f'<th scope="row" title="{text(names[label])}">{text(names[label])}</th>'
    return f"<tr>{head}{''.join(cells)}</tr>"


def scores_section(answers: Answers) -> str:
    """How far scores are from chances: the reliability diagram, and the scores of right and wrong answers."""
    found = calibration(*answers.scored)
    right, wrong = score_histograms(*answers.scored)
    lead = (
        "Can a score be taken for a chance? Bars show how often answers of a score were right. On the dashed line they "
        "would be right as often as they say; the shaded part is what is missing or too much. At the foot is the "
        f"number of videos: few of them say little. The expected calibration error is {percent(found.ece)} "
        f"in {len(found.counts)} bins (Guo et al., On Calibration of Modern Neural Networks, 2017)."
    )
    diagram = svg.reliability(
        found.counts.tolist(),
        found.scores.tolist(),
        found.accuracies.tolist(),
        "Reliability",
        ("score", "right answers"),
    )
    below = ("score of the answer", "videos")
    histograms = "".join(
        svg.histogram(counts.tolist(), kind, f"Scores of {kind} answers ({counts.sum()})", below)
        for kind, counts in (("right", right), ("wrong", wrong))
    )
    return f'<p class="lead">{lead}</p><div class="charts">{diagram}<div>{histograms}</div></div>{_thresholds(answers)}'


def _thresholds(answers: Answers) -> str:
    """Of two classes, what another threshold than one half would do, for the one with fewer videos."""
    totals = answers.confusion.sum(axis=1)
    if len(totals) != 2 or not totals.all():
        return ""
    chosen = int(totals.argmin())
    name, other = (printable(answers.names[i]) for i in (chosen, 1 - chosen))
    scores, own = answers.scores.probabilities[answers.valid, chosen], answers.scores.labels[answers.valid] == chosen
    alarms, found, area = roc(scores, own)
    drawn = evenly(len(alarms), _MAX_POINTS)
    cuts = np.linspace(0, 1, 101)
    precision, recall = at_thresholds(scores, own, cuts)
    lead = (
        f"An answer is {name} from a score of 50 % on. A lower threshold finds more of the {totals[chosen]} videos of "
        f"{name}, and takes more of the {totals[1 - chosen]} of {other} for it. The area under the ROC curve, "
        f"{area:.3f}, is the chance that a video of {name} scores higher for it than one of {other}; 0.5 is a guess."
    )
    curve = [
        svg.Line("model", (100 * alarms[drawn]).tolist(), (100 * found[drawn]).tolist()),
        svg.Line("guess", (0, 100), (0, 100)),
    ]
    by_threshold = [
        svg.Line(what, (100 * cuts).tolist(), (100 * shares).tolist())
        for what, shares in (("precision", precision), ("recall", recall))
    ]
    charts = (
        svg.lines(curve, f"ROC, area {area:.3f}", ("false alarms, %", "found, %"), y_range=(0, 100)),
        svg.lines(by_threshold, "By threshold", ("threshold, %", "%"), y_range=(0, 100)),
    )
    return (
        f'<h3>Threshold of {text(name)}</h3><p class="lead">{text(lead)}</p><div class="charts">{"".join(charts)}</div>'
    )


def number(value: float) -> str:
    """A figure as text, a dash where it is not finite."""
    return f"{value:.3f}" if math.isfinite(value) else "-"


def percent(share: float | None) -> str:
    """A share in 0..1 as text, a dash where it is not known."""
    return "-" if share is None or math.isnan(share) else f"{100 * share:.1f} %"

"""The report of a training run: curves, what the last validation answered, where the time went, and all settings.

In: the history, the spec, and the answers of the validation where there was one. Out: report.html and plots/*.png.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from action_recognition.clip.contract import Contract
from action_recognition.config import Spec, load_spec, to_plain
from action_recognition.files import write_text
from action_recognition.report import svg
from action_recognition.report.answers import Answers, classes_section, confusion_section, number, scores_section
from action_recognition.report.page import Cell, Column, Section, folded, page, settings, table, text, tiles
from action_recognition.report.plots import plot_confusion, plot_history
from action_recognition.report.videos import listed
from action_recognition.training.metrics import best_epoch
from action_recognition.training.report import duration, what_limits

History = list[dict[str, Any]]
_COLUMNS = {
    "train_loss": ("train loss", "{:.4f}"),
    "train_acc": ("train accuracy, %", "{:.1f}"),
    "val_loss": ("val. loss", "{:.4f}"),
    "val_acc": ("val. accuracy, %", "{:.1f}"),
    "val_m_acc": ("val. class mean, %", "{:.1f}"),
    "lr": ("learning rate", "{:.3g}"),
    "data_sec": ("data, s", "{:.1f}"),
    "compute_sec": ("computing, s", "{:.1f}"),
}


def write_training_report(
    folder: Path, history: History, spec: Spec, contract: Contract, num_workers: int, answers: Answers | None
) -> None:
    """report.html and plots/*.png in `folder`, of the epochs finished so far. OutputError where they can't be.

    `answers` are those of the last validation, None where there was none.
    """
    plot_history(history, folder / "plots" / "curves.png")
    if answers:
        plot_confusion(answers.confusion, answers.names, folder / "plots" / "confusion.png")
    write_text(folder / "report.html", training_page(history, spec, contract, num_workers, answers))


def training_page(
    history: History, spec: Spec, contract: Contract, num_workers: int, answers: Answers | None = None
) -> str:
    """The page as text."""
    sections = [
        Section("overview", "Overview", _overview(history, spec)),
        Section("curves", "Curves", _curves(history) + _time(history, num_workers)),
        *(_validation(history, spec, answers) if answers else ()),
        Section("epochs", "Epochs", _epochs(history)),
        Section("settings", "Settings", _settings(spec, contract)),
    ]
    network = f"{contract.input_type} {spec.model.backbone} for {contract.model_type}"
    subtitle = f"{text(network)}, trained on {text(spec.dataset.train_dataset_dir)}"
    data = {}
    if answers:
        data = {"classes": answers.names, "videos": listed(answers, {}, {}), "videosLeftOut": answers.num_unlisted}
    return page("Training report", subtitle, sections, data)


def _validation(history: History, spec: Spec, answers: Answers) -> list[Section]:
    """What the last validation answered."""
    epoch = answers.epoch or max(row["epoch"] + 1 for row in _validated(history) or history)
    command = (
        f"python tools/evaluate.py evaluate.checkpoint={spec.train.results_dir}/ar_model_latest.pth "
        f"evaluate.test_dataset_dir={spec.dataset.val_dataset_dir} evaluate.report=true results_dir={spec.results_dir}"
    )
    lead = f"The validation videos after epoch {epoch}. Their pictures, and the worst mistakes as clips, come with "
    return [
        Section(
            "classes", "Classes", f'<p class="note">{lead}<code>{text(command)}</code></p>{classes_section(answers)}'
        ),
        Section("confusion", "Confusion", confusion_section(answers)),
        Section("scores", "Scores", scores_section(answers)),
    ]


def _overview(history: History, spec: Spec) -> str:
    last = history[-1]
    seconds = sum(row.get("data_sec", 0) + row.get("compute_sec", 0) for row in history)
    facts = [("epochs", f"{len(history)} of {spec.train.num_epochs}", "")]
    validated = _validated(history)
    if best := best_epoch(validated):
        facts.append(("validation accuracy", f"{best['val_acc']:.1f} %", f"the best, epoch {best['epoch'] + 1}"))
        facts.append(("validation loss", number(validated[-1]["val_loss"]), f"epoch {validated[-1]['epoch'] + 1}"))
    facts.append(("training accuracy", f"{last['train_acc']:.1f} %", f"epoch {last['epoch'] + 1}"))
    facts.append(("training loss", f"{last['train_loss']:.3f}", f"epoch {last['epoch'] + 1}"))
    if seconds:
        facts.append(("time of training", duration(seconds), "without validation and saving"))
    if "peak_gpu_mib" in last:
        facts.append(("GPU memory", f"{last['peak_gpu_mib'] / 1024:.1f} GiB", "most that tensors took"))
    how = "Accuracies of training are those of augmented clips while the weights still changed, of validation those of "
    return f'{tiles(facts)}<p class="lead">{how}whole videos at the end of an epoch.</p>'


def _validated(history: History) -> History:
    return [row for row in history if row.get("val_acc") is not None]


def _curves(history: History) -> str:
    def line(name: str, key: str) -> svg.Line:
        return svg.Line(name, [row["epoch"] + 1 for row in history], [row.get(key) for row in history])

    accuracies = [line("training", "train_acc"), line("validation", "val_acc")]
    rates = [row["lr"] for row in history]
    by_powers = min(rates) > 0 and max(rates) > 20 * min(rates)
    charts = (
        svg.lines(_known([line("training", "train_loss"), line("validation", "val_loss")]), "Loss", ("epoch", "loss")),
        svg.lines(_known(accuracies), "Accuracy", ("epoch", "accuracy, %"), y_range=(0, 100)),
        svg.lines([line("learning rate", "lr")], "Learning rate", ("epoch", "lr"), logarithmic=by_powers),
        svg.stacked_bars(
            ("waiting for data", "computing"),
            [(row.get("data_sec", 0), row.get("compute_sec", 0)) for row in history],
            "Seconds an epoch",
            ("epoch", "seconds"),
        ),
    )
    return f'<div class="charts">{"".join(charts)}</div>'


def _known(lines: Sequence[svg.Line]) -> list[svg.Line]:
    return [line for line in lines if any(y is not None for y in line.ys)]


def _time(history: History, num_workers: int) -> str:
    timed = [row for row in history if "data_sec" in row]
    if not timed:
        return ""
    data, compute = (sum(row[key] for row in timed) for key in ("data_sec", "compute_sec"))
    advice = (
        "If data limits: more dataset.workers, smaller frames, dataset.cache_dir. If computing does: a GPU, or bf16."
    )
    said = f"{what_limits(data, compute, num_workers)}, over all epochs, with {num_workers} workers."
    return f'<p class="note">{text(said[0].upper() + said[1:])} {advice}</p>'


def _epochs(history: History) -> str:
    keys = [key for key in _COLUMNS if any(row.get(key) is not None for row in history)]
    rows = [(str(row["epoch"] + 1), [_figure(row.get(key), _COLUMNS[key][1]) for key in keys]) for row in history]
    return table([Column("epoch"), *(Column(_COLUMNS[key][0]) for key in keys)], rows)


def _figure(value: float | None, form: str) -> Cell:
    if value is None or not math.isfinite(value):
        return Cell("-", math.nan)
    return Cell(form.format(value), value)


def _settings(spec: Spec, contract: Contract) -> str:
    plain = to_plain(spec)
    wanted = {name: plain[name] for name in ("model", "dataset", "train")}
    lead = (
        '<p class="lead">Every key of model, dataset and train as used; those that are not the defaults stand out.</p>'
    )
    contract_too = folded("What the model expects and answers (its contract)", settings(contract.to_plain()))
    return f"{lead}{folded('The spec', settings(wanted, to_plain(load_spec(None))))}{contract_too}"

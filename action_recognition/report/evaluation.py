"""The report of an evaluation: figures, confusion, calibration, the hardest videos with what spoke for their answers.

In: an evaluation that is over. Out: report.html and plots/*.png.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from action_recognition.files import write_text
from action_recognition.report.answers import classes_section, confusion_section, number, percent, scores_section
from action_recognition.report.figures import (
    calibration,
    class_figures,
    confused_pairs,
    score_histograms,
    wilson_interval,
)
from action_recognition.report.gradcam import has_gradients
from action_recognition.report.page import Section, folded, meter, page, settings, text, tiles
from action_recognition.report.plots import plot_confusion, plot_scores
from action_recognition.report.videos import (
    MAX_WINDOWS,
    Card,
    Evaluated,
    Film,
    Look,
    all_windows,
    cards_of,
    listed,
    looks_at,
    runs,
    windows_of,
)
from action_recognition.training.report import duration, what_limits

_MAX_LENGTHS = 12  # of videos, drawn


def write_evaluation_report(folder: Path, evaluated: Evaluated) -> None:
    """report.html and plots/*.png in `folder`. OutputError where they can't be written."""
    found = calibration(*evaluated.scored)
    plot_confusion(evaluated.confusion, evaluated.names, folder / "plots" / "confusion.png")
    histograms = score_histograms(*evaluated.scored)
    plot_scores(found, *histograms, folder / "plots" / "scores.png")
    write_text(folder / "report.html", evaluation_page(evaluated))


def evaluation_page(evaluated: Evaluated) -> str:
    """The page as text."""
    looks = looks_at(evaluated)
    cards = list(cards_of(evaluated, looks))
    lengths = {look.num_frames for look in looks.values()}
    sections = [
        Section("overview", "Overview", _overview(evaluated)),
        Section("classes", "Classes", classes_section(evaluated)),
        Section("confusion", "Confusion", confusion_section(evaluated)),
        Section("scores", "Scores", scores_section(evaluated)),
        Section("hardest", "Hardest videos", _hardest(evaluated, cards)),
        Section("seen", "What the model saw", _seen(evaluated, looks)),
        Section("time", "Time", _time(evaluated)),
        Section("model", "Model", _model(evaluated)),
    ]
    data = {
        "classes": list(evaluated.names),
        "videos": listed(evaluated, looks, {card.position: i for i, card in enumerate(cards)}),
        "videosLeftOut": evaluated.num_unlisted,
        "thumbnails": [look.thumbnail for look in looks.values() if look.thumbnail],
        "windows": {n: [runs(ids) for ids in windows_of(evaluated, n)] for n in sorted(lengths)},
    }
    subtitle = (
        f"{text(evaluated.results['checkpoint'])} on {text(evaluated.root)}<br>{text(_model_in_short(evaluated))}"
    )
    return page("Evaluation report", subtitle, sections, data)


def _model_in_short(evaluated: Evaluated) -> str:
    contract = evaluated.contract
    lengths = " + ".join(f"{length} {modality}" for modality, length in contract.lengths.items())
    return f"{contract.input_type} model of {lengths} frames of {contract.width}x{contract.height}"


# --- sections ---


def _overview(evaluated: Evaluated) -> str:
    results, num_right = evaluated.results, int(evaluated.right.sum())
    num_videos = len(evaluated.scores)
    facts = [("accuracy", "-", "no videos")]
    if num_videos:
        low, high = wilson_interval(num_right, num_videos)
        facts = [
            ("accuracy", percent(num_right / num_videos), f"{100 * low:.1f} to {100 * high:.1f} % (95 % interval)")
        ]
    facts.append(("mean class accuracy", f"{results['mean_class_accuracy']:.1f} %", "each class counts the same"))
    if "top5_accuracy" in results:
        facts.append(("top-5 accuracy", f"{results['top5_accuracy']:.1f} %", "the class is among the best five"))
    if results["windows"] > num_videos:
        facts.append(("clip accuracy", f"{results['clip_accuracy']:.1f} %", f"of {results['windows']} clips"))
    facts.append(("loss", number(results["loss"]), "cross entropy"))
    ece = calibration(*evaluated.scored).ece
    facts.append(("calibration error", percent(ece), "how far scores are from chances"))
    facts.append(("videos", f"{num_videos}", f"{num_right} right, {evaluated.num_wrong} wrong"))
    if num_invalid := int((~evaluated.valid).sum()):
        facts.append(("no valid answer", f"{num_invalid}", "scores that are not finite, see Classes"))
    if results["skipped"]:
        facts.append(("left out", f"{results['skipped']}", "videos that can't be read"))
    return tiles(facts) + _in_short(evaluated)


def _in_short(evaluated: Evaluated) -> str:
    """What a reader would say of the figures, in sentences."""
    names, pairs, said = evaluated.names, confused_pairs(evaluated.confusion), []
    if pairs:
        worst = [f"{names[t]} taken for {names[p]} ({n})" for t, p, n in pairs[:3]]
        said.append(f"Most frequent mistakes: {', '.join(worst)}.")
    elif evaluated.valid.all():
        said.append("No mistakes.")
    known = [(c.recall, c, name) for c, name in zip(class_figures(evaluated.confusion), names, strict=True) if c.videos]
    if len(known) > 1:
        if pairs:
            recall, figures, name = min(known, key=lambda entry: entry[0] or 0)
            said.append(
                f"Hardest class: {name}, {figures.right} of {figures.videos} videos recognised ({percent(recall)})."
            )
        _, figures, name = max(known, key=lambda entry: entry[1].videos)
        always = percent(figures.videos / int(evaluated.confusion.sum()))
        said.append(f"To compare: always answering {name} would be right for {always} of the videos.")
    if evaluated.valid.any():
        mean, share = (float(values.mean()) for values in evaluated.scored)
        low, high = wilson_interval(int(evaluated.right.sum()), int(evaluated.valid.sum()))
        word = "too sure" if mean > share else "too unsure"
        if abs(mean - share) < 0.02 or low <= mean <= high:  # too little, or so few videos that it may be chance
            word = "about as sure as it is right"
        said.append(
            f"The model is {word}: its answers score {percent(mean)} on average, and {percent(share)} are right."
        )
    return f'<ul class="summary">{"".join(f"<li>{text(line)}</li>" for line in said)}</ul>'


def _hardest(evaluated: Evaluated, cards: Sequence[Card]) -> str:
    if not evaluated.valid.any():
        return '<p class="note">No video has a valid answer.</p>'
    num_wrong = evaluated.num_wrong
    shown = sum(not evaluated.right[card.position] for card in cards)
    lead = f"The {shown} worst of {num_wrong} mistakes" if shown < num_wrong else f"All mistakes ({num_wrong})"
    if not num_wrong:
        lead = "There are no mistakes; these right answers were the least sure"
    elif len(cards) > shown:
        lead += f", then the least sure of the right answers ({len(cards) - shown})"
    lead += ". Each clip is the window that scored highest for the answer, cropped and resized as "
    lead += "the model saw it, then brought back to the proportions of the video. "
    if has_gradients(evaluated.model):
        lead += (
            "Beside it Grad-CAM (Selvaraju et al., 2017): what stays grey did not speak for the answer, "
            "what is yellow most. "
            f"{_WHEN if evaluated.contract.is_3d else 'A 2D network has one map for the whole clip.'}"
        )
    else:
        lead += "The model is an exported one, which has no gradients: there is no Grad-CAM."
    if not cards:
        return f'<p class="lead">{lead}</p>'
    heat = '<span class="heat"><b>spoke little</b><i>much</i></span>' * has_gradients(evaluated.model)
    button = f'<div class="tools"><button type="button" class="button" id="all-clips">Pause all</button>{heat}</div>'
    body = "".join(_card(evaluated, card, i) for i, card in enumerate(cards))
    return f'<p class="lead">{lead}</p>{button}<div class="cards">{body}</div>'


_WHEN = "The strip below it shows when."


def _card(evaluated: Evaluated, card: Card, number: int) -> str:
    scores, names = evaluated.scores, evaluated.names
    label, answer = int(scores.labels[card.position]), int(scores.predictions[card.position])
    if label == answer:
        verdict = f'<b class="hit">{text(names[answer])}</b>, right but not sure'
    else:
        verdict = f'<b class="wrong">{text(names[answer])}</b>, but it is <b>{text(names[label])}</b>'
    num_frames = max(film.num_frames for film in card.films)
    films = "".join(_film(film, card.aspect, names[answer]) for film in card.films)
    name = text(evaluated.name(card.position))
    slider = f'<input type="range" min="0" max="{num_frames - 1}" value="0" aria-label="Frame of {name}">'
    return (
        f'<article class="card" id="clip-{number}" data-frames="{num_frames}"><h3>{name}</h3><p>{verdict}</p>'
        f'<div class="films">{films}</div>'
        f'<div class="player"><button type="button" class="button">Play</button>{slider}</div>'
        f"{_best_scores(scores.probabilities[card.position], names, label)}</article>"
    )


def _film(film: Film, aspect: float, answer: str) -> str:
    what = "" if film.modality == "rgb" else " (optical flow)"
    plain = _strip(film.strip, film.num_frames, aspect, f"what the model saw{what}")
    if not film.heated:
        return f"{plain}<figure><figcaption>{text(film.note)}</figcaption></figure>"
    strongest = "".join(f'<i style="opacity:{share:.2f}"></i>' for share in film.times)
    when = f'<div class="when">{strongest}</div>' if film.times else ""
    return plain + _strip(film.heated, film.num_frames, aspect, f"what spoke for {answer}", when)


def _strip(uri: str, num_frames: int, aspect: float, caption: str, below: str = "") -> str:
    image = f'<img src="{uri}" data-frames="{num_frames}" style="width:{100 * num_frames}%" alt="{text(caption)}">'
    film = f'<div class="film" style="aspect-ratio:{aspect:.4f}">{image}</div>'
    return f"<figure>{film}{below}<figcaption>{text(caption)}</figcaption></figure>"


def _best_scores(probabilities: np.ndarray, names: Sequence[str], label: int) -> str:
    best = np.argsort(-probabilities, kind="stable")[:3].tolist()
    if label not in best:
        best[-1] = label
    items = "".join(
        f'<li{" class=own" * (i == label)}><span title="{text(names[i])}">{text(names[i])}</span>'
        f"{meter(float(probabilities[i]))}<span>{percent(float(probabilities[i]))}</span></li>"
        for i in best
    )
    return f'<ul class="bars">{items}</ul>'


def _seen(evaluated: Evaluated, looks: Mapping[int, Look]) -> str:
    lengths = Counter(look.num_frames for look in looks.values())
    if not lengths:
        return '<p class="note">No video could be read again.</p>'
    windows = {n: all_windows(evaluated, n) for n in lengths}
    shares = [len(np.unique(windows[n])) / n for n in lengths.elements()]
    most = max(map(len, windows.values()))
    views = f", each in {evaluated.windows.num_views} crops" if evaluated.windows.num_views > 1 else ""
    mode, strategy = evaluated.windows.mode, evaluated.contract.sample_strategy
    lead = (
        f"Evaluated in mode {mode}, with {strategy} frames{views}. On average the model saw "
        f"{percent(float(np.mean(shares)))} of a video's frames, and never less than {percent(min(shares))}. What "
        "happens elsewhere can't be recognised. A bar is a video from its first frame to its last, a row in it a "
        "window, and what is coloured was seen."
    )
    if most > MAX_WINDOWS:
        lead += f" Of up to {most} windows, {MAX_WINDOWS} are drawn."
    common = sorted(n for n, _ in lengths.most_common(_MAX_LENGTHS))
    bars = "".join(
        f'<span>{n} frames, {lengths[n]} video{"s" * (lengths[n] > 1)}</span><span data-frames-seen="{n}"></span>'
        for n in common
    )
    rest = len(lengths) - len(common)
    note = (
        f'<p class="note">{rest} rarer lengths are not drawn here; each video in the list has its bar.</p>'
        if rest
        else ""
    )
    return f'<p class="lead">{lead}</p><div class="lengths">{bars}</div>{note}'


def _time(evaluated: Evaluated) -> str:
    data, compute = evaluated.times.data_sec, evaluated.times.compute_sec
    total = max(data + compute, 1e-9)
    said = what_limits(data, compute, evaluated.num_workers)
    where = f" in the first of {evaluated.num_processes} processes" if evaluated.num_processes > 1 else ""
    pace = f"{total / max(len(evaluated.scores), 1) * evaluated.num_processes:.2g} s a video"
    how = f"{evaluated.num_workers} workers on {evaluated.device}"
    lead = f"{duration(total)} of scoring{where}, {pace}: {said}, with {how}."
    parts = "".join(f'<i style="width:{100 * seconds / total:.1f}%"></i>' for seconds in (data, compute))
    share = f'<div class="share">{parts}</div>'
    legend = (
        '<ul class="legend solid"><li><i class="s0"></i>waiting for data</li><li><i class="s1"></i>computing</li></ul>'
    )
    return f'<p class="lead">{text(lead)}</p>{share}{legend}'


def _model(evaluated: Evaluated) -> str:
    parts = [folded("What the model expects and answers (its contract)", settings(evaluated.contract.to_plain()))]
    trained_as = {
        name: evaluated.trained_as[name] for name in ("model", "dataset", "train") if name in evaluated.trained_as
    }
    if trained_as:
        parts.append(folded("How it was trained (the checkpoint's spec)", settings(trained_as)))
    parts.append(folded("How it was evaluated", settings(evaluated.settings)))
    return "".join(parts)

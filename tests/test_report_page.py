"""report.html of train and evaluate: what it holds, what it must not hold, and what becomes of it at the limits."""

import base64
import importlib
import io
import json
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lossless import write_video_tree
from PIL import Image
from tiny import MakeTree, run_evaluate, run_train, save_sigmoid_model, use_tiny_models
from torch import nn

from action_recognition.config import load_spec
from action_recognition.data.dataset import EvaluationWindows
from action_recognition.data.index import Video
from action_recognition.errors import UserError
from action_recognition.report import answers as answers_of
from action_recognition.report import clips, evaluation, plots, svg, training, videos
from action_recognition.report.answers import Answers
from action_recognition.report.page import script_data, settings
from action_recognition.report.videos import Evaluated
from action_recognition.tasks import evaluate
from action_recognition.training.metrics import video_scores
from action_recognition.training.report import Times

pytest.importorskip("matplotlib", reason="needs matplotlib: pip install .[report]")
MARKUP = "<img src=x onerror=alert(1)>"
# Of five videos of 3, 5, 9, 6 and 8 frames two are mistakes: 2, of the class named by markup, and 3, of a.
CLASSES = (MARKUP, "a")
LENGTHS = (3, 5, 9, 6, 8)


class Reader(HTMLParser):
    """What a browser would make of a page: elements with their attributes, and the text outside of scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(autouse=True)
def _tiny_models(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_models(monkeypatch)


@pytest.fixture(scope="module")
def finished(make_tree: MakeTree, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Evaluated]:
    """An evaluation with a report: its folder, and what the report was made of."""
    folder = tmp_path_factory.mktemp("report")
    make_tree(folder / "data", {MARKUP: 3, "a": 2}, num_frames=LENGTHS, modalities=("rgb",))
    save_sigmoid_model(folder / "model.pth", CLASSES)
    kept: list[Evaluated] = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_tiny_models(monkeypatch)

        def write(target: Path, evaluated: Evaluated) -> None:
            kept.append(evaluated)
            evaluation.write_evaluation_report(target, evaluated)

        monkeypatch.setattr(evaluate, "write_evaluation_report", write)
        run_evaluate(folder / "model.pth", folder / "data", folder, "evaluate.report=true")
    return folder / "evaluate", kept[0]


@pytest.fixture(scope="module")
def page(finished: tuple[Path, Evaluated]) -> str:
    return (finished[0] / "report.html").read_text()


class Wide(nn.Module):
    """A network of 400 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = nn.Conv2d(6, 400, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.stage(x).mean(dim=(2, 3))


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def picture(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/webp;base64,"))))


def of_size(evaluated: Evaluated, num_classes: int, labels: Sequence[int], answers: Sequence[int]) -> Evaluated:
    """The same evaluation with other videos, whose frames are those of the first, and more classes."""
    names = tuple(f"class {i}" for i in range(num_classes))
    video = evaluated.index.videos[0]
    logits = np.zeros((len(labels), num_classes))
    logits[np.arange(len(labels)), answers] = 5 + np.arange(len(labels)) / len(labels)
    index = replace(evaluated.index, videos=[video] * len(labels), class_names=names)
    contract = replace(evaluated.contract, class_names=names)
    return replace(
        evaluated,
        index=index,
        names=names,
        scores=video_scores(range(len(labels)), labels, logits),
        windows=EvaluationWindows(index.videos, contract),
        results={**evaluated.results, "class_names": names},
    )


# --- the page of an evaluation ---


def test_report_is_written_only_where_it_is_asked_for(make_tree: MakeTree, tmp_path: Path) -> None:
    make_tree(tmp_path / "data", {"a": 1, "b": 1}, modalities=("rgb",))
    save_sigmoid_model(tmp_path / "model.pth")
    run_evaluate(tmp_path / "model.pth", tmp_path / "data", tmp_path)
    assert sorted(path.name for path in (tmp_path / "evaluate").iterdir()) == [
        "predictions.csv",
        "results.json",
        "status.json",
    ]


def test_report_stands_beside_its_plots(finished: tuple[Path, Evaluated]) -> None:
    folder, _ = finished
    assert (folder / "report.html").is_file()
    assert {path.name: Image.open(path).format for path in (folder / "plots").iterdir()} == {
        "confusion.png": "PNG",
        "scores.png": "PNG",
    }


def test_page_lists_every_video_with_its_scores_the_hardest_first(page: str) -> None:
    rows = data_of(page)["videos"]
    assert [row[0] for row in rows[:2]] == [f"{MARKUP}/video_002", "a/video_003"]
    assert [row[1:3] for row in rows] == [[0, 1], [1, 0], *(row[1:3] for row in rows[2:])]
    assert all(label == answer for _, label, answer, *_ in rows[2:])
    assert [row[3] for row in rows[:2]] == pytest.approx([0.5744, 0.525], abs=1e-4)
    assert [row[5] for row in rows[:2]] == [9, 6]  # frames


def test_page_says_which_frames_of_each_length_were_seen(page: str) -> None:
    """The middle clip of 2 frames."""
    assert data_of(page)["windows"] == {
        "3": [[[1, 2]]],
        "5": [[[2, 2]]],
        "6": [[[2, 2]]],
        "8": [[[3, 2]]],
        "9": [[[4, 2]]],
    }


def test_page_shows_precision_recall_and_f1_of_each_class(page: str) -> None:
    cells = [attributes["data-value"] for attributes in Reader(page).all("td") if attributes.get("data-value")]
    assert cells == ["3", "2", "0.666667", "0.666667", "0.666667", "2", "1", "0.5", "0.5", "0.5"]


def test_page_has_a_button_for_each_number_of_the_confusion_matrix(page: str) -> None:
    buttons = [b for b in Reader(page).all("button") if "data-truth" in b and "aria-label" in b]
    assert [(b["data-truth"], b["data-answer"], b["aria-label"]) for b in buttons] == [
        ("0", "0", f"{MARKUP} recognised: 2"),
        ("0", "1", f"{MARKUP} taken for a: 1"),
        ("1", "0", f"a taken for {MARKUP}: 1"),
        ("1", "1", "a recognised: 1"),
    ]


def test_page_shows_the_clips_of_the_mistakes_beside_what_spoke_for_the_answer(page: str) -> None:
    films = [image for image in Reader(page).all("img") if image.get("data-frames")]
    assert (
        len(films) == 5 + 2
    )  # two mistakes and three right answers; two of the five answers are a, which pixels speak for
    assert page.count("no place spoke for the answer") == 3
    assert picture(str(films[0]["src"])).size == (2 * 8, 8)
    assert picture(str(films[1]["src"])).size == (2 * 8, 8)
    assert films[1]["alt"] == "what spoke for a"


def test_pictures_in_the_list_are_of_the_middle_of_their_videos(page: str) -> None:
    data = data_of(page)
    name, *_, thumbnail, card = data["videos"][0]
    assert (name, card) == (f"{MARKUP}/video_002", 0)
    green = np.asarray(picture(data["thumbnails"][thumbnail]).convert("RGB"))[..., 1]
    assert abs(float(green.mean()) - 4) < 4  # frame 4 of 9, whose green is its id


def test_page_shows_settings_of_the_evaluation_and_of_the_training(page: str) -> None:
    texts = Reader(page).texts
    assert texts[texts.index("video_eval_mode") + 1] == '"center"'
    assert texts[texts.index("model.rgb_seq_length") + 1] == "2"
    assert texts[texts.index("sample_strategy") + 1] == '"consecutive"'


def test_page_loads_nothing(page: str) -> None:
    assert re.findall(r"https?:|src=.?//|url\(|@import", page) == []
    assert {str(e.get("src") or "data:")[:5] for _, e in Reader(page).elements} == {"data:"}
    assert [e for tag, e in Reader(page).elements if tag in ("link", "iframe", "object", "base", "form")] == []


def test_names_with_markup_stay_text(page: str) -> None:
    reader = Reader(page)
    assert MARKUP in reader.texts
    assert [name for _, attributes in reader.elements for name in attributes if name.startswith("on")] == []
    assert all(str(image["src"]).startswith("data:image/webp") for image in reader.all("img"))


def test_data_of_the_script_can_not_end_it() -> None:
    written = script_data({"name": "</script><!-- <script> \u2028"})
    assert "<" not in written
    assert json.loads(written) == {"name": "</script><!-- <script> \u2028"}


def test_name_that_is_no_text_is_shown_with_question_marks(finished: tuple[Path, Evaluated]) -> None:
    """Names on disk may be any bytes."""
    _, evaluated = finished
    bad = Video(f"{evaluated.root}/a/bytes\udcff\nline", 0, evaluated.index.videos[0].files)
    others = replace(evaluated, index=replace(evaluated.index, videos=[bad] * 5))
    page = evaluation.evaluation_page(others)
    assert page.encode()
    assert data_of(page)["videos"][0][0] == "a/bytes??line"


def test_video_that_can_not_be_read_any_more_is_listed_without_a_picture(finished: tuple[Path, Evaluated]) -> None:
    _, evaluated = finished
    gone = [replace(video, path=f"{evaluated.root}/a/gone") for video in evaluated.index.videos]
    windows = EvaluationWindows(gone, evaluated.contract)
    page = evaluation.evaluation_page(replace(evaluated, index=replace(evaluated.index, videos=gone), windows=windows))
    assert [row[-2:] for row in data_of(page)["videos"]] == [[-1, -1]] * 5
    assert "No video could be read again." in page


def test_exported_model_has_clips_without_grad_cam_and_the_page_says_why(finished: tuple[Path, Evaluated]) -> None:
    _, evaluated = finished
    page = evaluation.evaluation_page(replace(evaluated, model=nn.Identity()))
    assert "The model is an exported one, which has no gradients: there is no Grad-CAM." in page
    assert len([image for image in Reader(page).all("img") if image.get("data-frames")]) == 5


def with_invalid(evaluated: Evaluated, *positions: int) -> Evaluated:
    """The same evaluation where fp16 overflowed in the windows of some videos."""
    probabilities = evaluated.scores.probabilities.copy()
    probabilities[list(positions)] = math.nan
    return replace(
        evaluated,
        scores=replace(evaluated.scores, probabilities=probabilities, loss=math.nan),
        results={**evaluated.results, "loss": math.nan},
    )


@pytest.mark.filterwarnings("error")
def test_page_of_scores_that_are_not_finite_names_their_videos_and_leaves_them_out(
    finished: tuple[Path, Evaluated],
) -> None:
    """Of five videos 0 and 1 were right, 2 and 3 mistakes."""
    evaluated = with_invalid(finished[1], 0, 3)
    page = evaluation.evaluation_page(evaluated)
    texts = Reader(page).texts
    assert "2 of 5 videos have no valid answer" in page
    assert texts[texts.index("no valid answer") + 1] == "2"
    assert data_of(page)["videos"][:2] == [
        ["a/video_003", 1, None, None, None, 6, 0, -1],
        [f"{MARKUP}/video_000", 0, None, None, None, 3, 1, -1],
    ]
    assert evaluated.confusion.tolist() == [[1, 1], [0, 1]]
    assert texts[texts.index("accuracy") + 1] == "40.0 %"
    assert texts[texts.index("loss") + 1] == "-"
    assert "2 right, 1 wrong" in page
    assert "All mistakes (1), then the least sure of the right answers (2). " in page
    assert "Scores of right answers (2)" in texts
    assert "NaN" not in json.dumps(data_of(page))


def test_page_without_any_valid_answer_is_written(finished: tuple[Path, Evaluated], tmp_path: Path) -> None:
    evaluation.write_evaluation_report(tmp_path, with_invalid(finished[1], *range(5)))
    page = (tmp_path / "report.html").read_text()
    assert "5 of 5 videos have no valid answer" in page
    assert [row[2] for row in data_of(page)["videos"]] == [None] * 5


def test_evaluation_of_a_set_without_mistakes_says_so(finished: tuple[Path, Evaluated]) -> None:
    _, evaluated = finished
    page = evaluation.evaluation_page(of_size(evaluated, 2, [0, 1], [0, 1]))
    assert "There are no mistakes; these right answers were the least sure." in page
    assert "No mistakes." in page
    assert "Hardest class" not in page


def test_overview_compares_with_always_answering_the_class_of_most_videos(page: str) -> None:
    sentence = f"To compare: always answering {MARKUP} would be right for 60.0 % of the videos."
    assert sentence in Reader(page).texts


@pytest.mark.parametrize(
    ("right", "total", "verdict"),
    [
        (10, 10, "about as sure as it is right"),  # 72.2 to 100 %
        (30, 100, "too sure"),  # 21.9 to 39.6 %
        (300, 300, "too unsure"),  # 98.7 to 100 %
        (9900, 10000, "about as sure as it is right"),  # 98.8 to 99.2 %, but nearer than 2 %
    ],
)
def test_model_is_called_too_sure_only_where_its_scores_are_outside_of_the_interval(
    finished: tuple[Path, Evaluated], monkeypatch: pytest.MonkeyPatch, right: int, total: int, verdict: str
) -> None:
    score = 0.98 if total == 10000 else 0.9
    logits = np.tile([math.log(score / (1 - score)), 0], (total, 1))
    scores = video_scores(range(total), [0] * right + [1] * (total - right), logits)
    assert f"The model is {verdict}: " in evaluation._in_short(replace(finished[1], scores=scores))


def test_page_of_two_classes_has_the_roc_of_the_one_with_fewer_videos(page: str) -> None:
    """By hand: i + j, which the score for a grows with, is 5 and 7 for a, 3, 5 and 9 for the other: 3.5 of 6 pairs."""
    texts = Reader(page).texts
    assert "Threshold of a" in texts
    assert "ROC, area 0.583" in texts
    assert "By threshold" in texts


@pytest.mark.parametrize(("num_classes", "labels"), [(3, [0, 1]), (2, [0, 0])])
def test_page_of_more_classes_or_of_one_without_videos_has_no_roc(
    finished: tuple[Path, Evaluated], num_classes: int, labels: list[int]
) -> None:
    assert "ROC" not in evaluation.evaluation_page(of_size(finished[1], num_classes, labels, [0, 1]))


def test_plot_of_names_whose_letters_the_usual_font_lacks_is_drawn_without_a_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.plot_confusion(np.eye(2, dtype=int), ("a", "走"), tmp_path / "plots" / "confusion.png")
    assert (tmp_path / "plots" / "confusion.png").is_file()


def test_fonts_of_a_plot_are_those_of_the_system_that_have_more_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = importlib.import_module("matplotlib.font_manager").fontManager
    monkeypatch.setattr(manager, "get_font_names", lambda: ["Malgun Gothic", "Comic"])
    assert plots._fonts() == ["DejaVu Sans", "Malgun Gothic"]


def test_many_classes_and_videos_are_cut_and_the_page_says_so(
    finished: tuple[Path, Evaluated], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (answers_of, videos):
        monkeypatch.setattr(module, "MAX_LISTED", 20)
    monkeypatch.setattr(videos, "MAX_CLIPS", 3)
    monkeypatch.setattr(videos, "MIN_CLIPS", 1)
    monkeypatch.setattr(videos, "MAX_THUMBNAILS", 4)
    evaluated = replace(finished[1], model=Wide())
    labels = [i % 400 for i in range(800)]
    answers = [label ^ 1 if label < 50 else label for label in labels]
    page = evaluation.evaluation_page(of_size(evaluated, 400, labels, answers))
    data, reader = data_of(page), Reader(page)
    assert len([e for e in reader.all("th") if e.get("scope") == "row"]) > 400  # every class has its row of figures
    assert page.count("<span>class ") == answers_of.MAX_MATRIX + 8  # heads of the matrix, most frequent mistakes
    assert "Of 400 classes, the 60 with the most mistakes are shown" in page
    assert "780 videos that were easier than these are not listed." in page
    assert "The 3 worst of 100 mistakes" in page
    assert (len(data["videos"]), data["videosLeftOut"], len(data["thumbnails"])) == (20, 780, 4)
    assert len(page) < 500_000


def test_clips_stop_where_the_file_would_become_too_large(
    finished: tuple[Path, Evaluated], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(videos, "MAX_CLIP_CHARACTERS", 1000)
    page = evaluation.evaluation_page(of_size(finished[1], 2, [0] * 9, [1] * 9))
    shown = page.count('class="card"')
    assert 0 < shown < 9
    assert f"The {shown} worst of 9 mistakes" in page


def test_windows_of_a_video_are_drawn_up_to_ten(finished: tuple[Path, Evaluated]) -> None:
    _, evaluated = finished
    windows = EvaluationWindows(evaluated.index.videos, evaluated.contract, "all")
    page = evaluation.evaluation_page(replace(evaluated, windows=windows))
    assert data_of(page)["windows"]["9"] == [[[0, 2]], [[2, 2]], [[4, 2]], [[6, 2]]]
    assert len(videos.windows_of(replace(evaluated, windows=windows), 100)) == 10


def test_report_of_three_crops_of_each_clip(
    finished: tuple[Path, Evaluated], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("plot_confusion", "plot_scores"):
        monkeypatch.setattr(evaluation, name, lambda *_: None)
    folder, evaluated = finished
    how = ("evaluate.report=true", "evaluate.video_num_crops=3", "evaluate.video_eval_mode=all")
    run_evaluate(folder.parent / "model.pth", Path(evaluated.root), tmp_path, *how)
    page = (tmp_path / "evaluate" / "report.html").read_text()
    assert "each in 3 crops" in page
    assert data_of(page)["windows"]["3"] == [[[0, 2]]]
    assert 'style="aspect-ratio:1.0000"' in page  # the crops are square, the frames 20x16


@pytest.mark.parametrize("cached", [False, True])
def test_report_of_video_files_is_that_of_their_frames(
    cached: bool, page: str, finished: tuple[Path, Evaluated], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("av", reason="needs PyAV: pip install .[video]")
    for name in ("plot_confusion", "plot_scores"):
        monkeypatch.setattr(evaluation, name, lambda *_: None)
    root = write_video_tree(tmp_path / "videos", {MARKUP: 3, "a": 2}, LENGTHS)
    how = ("evaluate.report=true", *[f"dataset.cache_dir={tmp_path / 'cache'}"] * cached)
    run_evaluate(finished[0].parent / "model.pth", root, tmp_path, *how)
    written = (tmp_path / "evaluate" / "report.html").read_text()
    assert set(re.findall(r"aspect-ratio:[0-9.]+", written)) == {"aspect-ratio:1.2500"}  # 20x16, cached as 8x8
    found, expected = data_of(written), data_of(page)
    assert [row[0] for row in found["videos"]] == [f"{row[0]}.avi" for row in expected["videos"]]
    assert [row[1:] for row in found["videos"]] == [row[1:] for row in expected["videos"]]
    assert (found["thumbnails"], found["windows"]) == (expected["thumbnails"], expected["windows"])


def test_report_without_matplotlib_ends_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch, make_tree: MakeTree, tmp_path: Path
) -> None:
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    make_tree(tmp_path / "data", {"a": 1, "b": 1}, modalities=("rgb",))
    save_sigmoid_model(tmp_path / "model.pth")
    wanted = r'^{}\.report: the plots of a report need matplotlib: pip install "\.\[report\]"$'
    with pytest.raises(UserError, match=wanted.format("evaluate")):
        run_evaluate(tmp_path / "model.pth", tmp_path / "data", tmp_path, "evaluate.report=true")
    with pytest.raises(UserError, match=wanted.format("train")):
        run_train(tmp_path / "data", tmp_path, "train.report=true")
    assert not (tmp_path / "evaluate").exists()
    assert not (tmp_path / "train").exists()


# --- the page of a training run, and two streams ---


def test_training_and_evaluation_of_two_streams(
    make_tree: MakeTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("plot_confusion", "plot_scores"):
        monkeypatch.setattr(evaluation, name, lambda *_: None)  # half of the time
    root = make_tree(tmp_path / "data", {"a": 2, "b": 2}, num_frames=4)
    joint = ("model.model_type=joint", f"dataset.val_dataset_dir={root}", "train.num_epochs=1", "dataset.batch_size=2")
    run_train(root, tmp_path, *joint, "train.report=true", "train.optim.lr=0.0625")
    page = (tmp_path / "train" / "report.html").read_text()
    texts = Reader(page).texts
    assert ("1 of 1" in texts, "validation accuracy" in texts) == (True, True)
    assert texts[texts.index("train.optim.lr") + 1] == "0.0625"
    (row,) = map(json.loads, (tmp_path / "train" / "metrics.jsonl").read_text().splitlines())
    listed = data_of(page)["videos"]
    assert len(listed) == 4
    assert 100 * sum(label == answer for _, label, answer, *_ in listed) / 4 == row["val_acc"]
    counts = [e for e in Reader(page).all("button") if "data-truth" in e and "style" in e]  # of the confusion matrix
    assert len(counts) == len({(label, answer) for _, label, answer, *_ in listed})
    assert re.findall(r"https?:|src=.?//", page) == []
    assert Image.open(tmp_path / "train" / "plots" / "curves.png").format == "PNG"

    run_evaluate(tmp_path / "train" / "ar_model_latest.pth", root, tmp_path, "evaluate.report=true")
    page = (tmp_path / "evaluate" / "report.html").read_text()
    assert page.count("what the model saw (optical flow)") == 2 * 4  # the caption of each of four, and its alt
    assert data_of(page)["windows"] == {"3": [[[1, 2]]]}


def test_finished_run_that_is_started_again_with_a_report_writes_one(
    make_tree: MakeTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("plot_confusion", "plot_history"):
        monkeypatch.setattr(training, name, lambda *_: None)
    root = make_tree(tmp_path / "data", {"a": 2, "b": 2}, num_frames=3, modalities=("rgb",))
    once = ("train.num_epochs=1", "dataset.batch_size=2", f"dataset.val_dataset_dir={root}")
    run_train(root, tmp_path, *once)
    assert not (tmp_path / "train" / "report.html").exists()
    run_train(root, tmp_path, *once, "train.report=true")
    page = (tmp_path / "train" / "report.html").read_text()
    assert "1 of 1" in Reader(page).texts
    assert sorted(name for name, *_ in data_of(page)["videos"]) == [
        f"{video.parent.name}/{video.name}" for video in sorted(root.glob("*/*"))
    ]


def rows_of(**columns: Sequence[float | None]) -> list[dict[str, Any]]:
    """The history of a run by its columns; None where an epoch has no such figure."""
    fixed = {"train_loss": 1.0, "train_acc": 50.0, "lr": 0.1}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [
        {"epoch": i, **fixed, **{key: value for key, value in row.items() if value is not None}}
        for i, row in enumerate(rows)
    ]


def training_page_of(history: list[dict[str, Any]], evaluated: Evaluated, epoch: int | None = None) -> str:
    """The page of a run whose last validation gave the answers of an evaluation."""
    answers = Answers(evaluated.scores, evaluated.index, evaluated.root, evaluated.names, epoch)
    return training.training_page(history, load_spec(None), evaluated.contract, 0, answers)


def test_answers_of_a_run_that_never_validated_before_are_shown(finished: tuple[Path, Evaluated]) -> None:
    """A finished run that is started again with a report, and with validation videos for the first time."""
    page = training_page_of(rows_of(val_acc=[None, None]), finished[1])
    assert "The validation videos after epoch 2." in page
    assert len(data_of(page)["videos"]) == 5


@pytest.mark.parametrize(("epoch", "named"), [(3, 3), (None, 2)])
def test_answers_of_a_validation_are_said_to_be_of_the_epochs_that_had_finished(
    epoch: int | None, named: int, finished: tuple[Path, Evaluated]
) -> None:
    """Only the second of three epochs was validated, as it ended."""
    page = training_page_of(rows_of(val_acc=[None, 60.0, None], val_loss=[None, 0.5, None]), finished[1], epoch)
    assert f"The validation videos after epoch {named}." in page


def test_best_epoch_of_equal_accuracies_is_that_of_lowest_loss_as_in_the_checkpoint(
    finished: tuple[Path, Evaluated],
) -> None:
    page = training_page_of(rows_of(val_acc=[70.0, 80.0, 80.0], val_loss=[0.5, 0.6, 0.4]), finished[1])
    assert "the best, epoch 3" in Reader(page).texts


# --- parts ---


def test_settings_that_differ_from_the_defaults_stand_out_and_long_values_are_cut() -> None:
    plain: Mapping[str, Any] = {"a": {"same": 1, "other": 2}, "long": "x" * 500}
    rows = re.findall(
        r'<tr( class="set")?><th scope="row">(.*?)</th><td>(.*?)</td>', settings(plain, {"a": {"same": 1}})
    )
    assert [(bool(mark), key) for mark, key, _ in rows] == [(False, "a.same"), (True, "a.other"), (True, "long")]
    assert len(rows[2][2]) < 220


def test_settings_of_a_checkpoint_may_be_anything() -> None:
    endless: dict[Any, Any] = {"<b>": object(), (1, 2): [1.5, None], "many": {i: i for i in range(500)}}
    endless["itself"] = endless
    shown = settings(endless)
    assert "&lt;b&gt;" in shown
    assert "[1.5, None]" in shown
    assert shown.count("<tr>") == 400


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 176, [0, 50, 100, 150]),
        (1, 30, [10, 20, 30]),
        (0, 0.07, [0, 0.02, 0.04, 0.06]),
        (3, 3, [3]),
    ],
)
def test_ticks_are_round_numbers_inside_the_range(low: float, high: float, expected: list[float]) -> None:
    assert svg.nice_ticks(low, high) == pytest.approx(expected)


def test_line_chart_leaves_out_epochs_without_a_value_and_survives_infinity() -> None:
    line = svg.Line("loss", [1, 2, 3, 4], [1.0, None, float("inf"), 0.5])
    drawn = svg.lines([line], "Loss", ("epoch", "loss"))
    found = re.search(r'points="(.*?)"', drawn)
    assert found
    assert [place.split(",")[0] for place in found[1].split()] == ["58.0", "402.0"]
    assert "no values" in svg.lines([svg.Line("loss", [1], [None])], "Loss", ("epoch", "loss"))


def test_heat_of_zero_leaves_the_grey_frame_and_one_covers_it() -> None:
    frames = np.full((2, 1, 2, 3), (30, 60, 90), np.uint8)
    heat = np.array([[[0, 1]]], np.float32)
    shown = clips.heated(frames, heat)
    assert shown[:, 0, 0].tolist() == [[60, 60, 60]] * 2
    assert shown[0, 0, 1].tolist() == [198, 200, 135]  # 0.28 of grey, 0.72 of the lightest


def test_strip_holds_its_frames_side_by_side_and_is_no_taller_than_it_may_be() -> None:
    frames = np.zeros((3, 288, 144, 3), np.uint8)
    frames[1] = 255
    strip = picture(clips.strip(frames))
    assert strip.size == (3 * 72, 144)
    assert [strip.convert("L").getpixel((36 + 72 * i, 70)) for i in range(3)] == [0, 255, 0]


def test_frames_of_a_long_clip_are_chosen_evenly() -> None:
    assert clips.evenly(5, 3).tolist() == [0, 2, 4]
    assert clips.evenly(2, 3).tolist() == [0, 1]


def test_times_add_up_to_the_time_of_the_pass() -> None:
    times = Times()
    assert list(times.spent_on([1, 2, 3])) == [1, 2, 3]
    assert times.data_sec > 0
    assert times.compute_sec > 0

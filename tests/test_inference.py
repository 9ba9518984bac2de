"""Inference end to end: the documented lines, the files, names that are hard to print. Scores are by hand."""

import csv
import json
import os
import re
from pathlib import Path

import pytest
import torch
from lossless import write_video_tree
from tiny import BASE, MakeTree, run_infer, save_sigmoid_model, second_score, use_tiny_models

from action_recognition.errors import DataError, SpecError

# Five frames in clips of 2: the middle one; two spread evenly; whole blocks. Above 0.5 is the second class.
WINDOWS = {"center": [(2, 3)], "conv": [(1, 2), (3, 4)], "all": [(0, 1), (2, 3)]}
LABELS = {"center": ["a"], "conv": ["a", "b"], "all": ["a", "a"]}


@pytest.fixture(autouse=True)
def _tiny_models(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_models(monkeypatch)


@pytest.fixture
def videos(make_tree: MakeTree, tmp_path: Path) -> Path:
    """A class-level folder with one video of 5 frames."""
    return make_tree(tmp_path / "data", {"unsorted": 1}, num_frames=5, modalities=("rgb",)) / "unsorted"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    save_sigmoid_model(tmp_path / "model.pth")
    return tmp_path / "model.pth"


def csv_rows(results: Path) -> list[list[str]]:
    with (results / "inference" / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("mode", list(WINDOWS))
def test_inference_prints_the_path_and_one_label_a_segment(
    mode: str, checkpoint: Path, videos: Path, tmp_path: Path
) -> None:
    how = (f"inference.video_inf_mode={mode}", "inference.video_num_segments=2")
    rows, lines = run_infer(checkpoint, videos, tmp_path, *how)
    path = str(videos / "video_000")
    assert f"{path} [{', '.join(LABELS[mode])}]" in lines
    score = second_score(*WINDOWS[mode])
    best, value = ("b", score) if score > 0.5 else ("a", 1 - score)
    assert rows == [
        {
            "path": path,
            "label": best,
            "score": pytest.approx(value, abs=2e-6),
            "scores": {"a": pytest.approx(1 - score, abs=2e-6), "b": pytest.approx(score, abs=2e-6)},
            "segments": [
                {"label": label, "score": pytest.approx(max(second_score(w), 1 - second_score(w)), abs=2e-6)}
                for label, w in zip(LABELS[mode], WINDOWS[mode], strict=True)
            ],
        }
    ]
    written = [json.loads(line) for line in (tmp_path / "inference" / "predictions.jsonl").read_text().splitlines()]
    assert written == rows


def test_inference_writes_a_csv_row_a_video_with_an_empty_label(
    checkpoint: Path, make_tree: MakeTree, tmp_path: Path
) -> None:
    root = make_tree(tmp_path / "data", {"any": 3}, num_frames=(3, 9, 5), modalities=("rgb",)) / "any"
    run_infer(checkpoint, root, tmp_path)
    header, *rows = csv_rows(tmp_path)
    assert header == ["path", "label", "prediction", "score", "a", "b"]
    assert [row[:3] for row in rows] == [
        [str(root / "video_000"), "", "a"],
        [str(root / "video_001"), "", "b"],
        [str(root / "video_002"), "", "a"],
    ]
    assert [float(row[5]) for row in rows] == pytest.approx(
        [second_score((1, 2)), second_score((4, 5)), second_score((2, 3))], abs=2e-6
    )


def test_inference_writes_status_json(checkpoint: Path, videos: Path, tmp_path: Path) -> None:
    run_infer(checkpoint, videos, tmp_path)
    lines = (tmp_path / "inference" / "status.json").read_text().splitlines()
    assert [json.loads(line)["status"] for line in lines] == ["STARTED", "SUCCESS"]


@pytest.mark.parametrize(
    ("name", "in_csv"),
    [
        ("fall, hard", "fall, hard"),
        ('so-called "walk"', 'so-called "walk"'),
        ("=1+1", "'=1+1"),
        ("+cmd", "'+cmd"),
        ("-1", "'-1"),
        ("@sum", "'@sum"),
        ("sitzen überall 走", "sitzen überall 走"),
    ],
)
def test_inference_with_a_class_name_that_is_hard_in_csv_writes_it_whole_and_harmless(
    name: str, in_csv: str, videos: Path, tmp_path: Path
) -> None:
    save_sigmoid_model(tmp_path / "model.pth", (name, "b"))
    rows, lines = run_infer(tmp_path / "model.pth", videos, tmp_path)
    assert f"{videos / 'video_000'} [{name}]" in lines
    header, row = csv_rows(tmp_path)
    assert (header[4], row[2], float(row[3])) == (in_csv, in_csv, rows[0]["score"])
    assert json.loads((tmp_path / "inference" / "predictions.jsonl").read_text())["label"] == name


@pytest.mark.parametrize("name", ["my video", " leading", "a,b", 'quo"te', "=2", "x\ty", "ü走", "[a]"])
def test_inference_on_a_video_whose_name_is_unusual_keeps_the_name(
    name: str, checkpoint: Path, videos: Path, tmp_path: Path
) -> None:
    os.rename(videos / "video_000", videos / name)
    rows, lines = run_infer(checkpoint, videos, tmp_path)
    assert f"{videos / name} [a]" in lines
    assert rows[0]["path"] == csv_rows(tmp_path)[1][0] == str(videos / name)


def test_inference_on_a_video_whose_name_is_no_utf8_says_and_writes_it_escaped(
    checkpoint: Path, videos: Path, tmp_path: Path
) -> None:
    try:
        os.rename(videos / "video_000", os.fsencode(videos) + b"/caf\xe9")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    _, lines = run_infer(checkpoint, videos, tmp_path)
    assert f"{videos}/caf\\xe9 [a]" in lines
    assert csv_rows(tmp_path)[1][0] == f"{videos}/caf\\xe9"
    row = json.loads((tmp_path / "inference" / "predictions.jsonl").read_text())
    assert os.fsencode(row["path"]) == os.fsencode(videos) + b"/caf\xe9"


def test_inference_with_bare_weights_and_no_label_map_asks_for_it(videos: Path, tmp_path: Path) -> None:
    content = save_sigmoid_model(tmp_path / "model.pth")
    torch.save(content["state_dict"], tmp_path / "weights.pth")
    given = (*BASE, "model.backbone=resnet18")
    with pytest.raises(SpecError, match=r"weights\.pth: holds no class names; set dataset\.label_map as in training$"):
        run_infer(tmp_path / "weights.pth", videos, tmp_path, *given)
    plain = ("dataset.augmentation_config.rgb_input_mean=[0]", "dataset.augmentation_config.rgb_input_std=[1]")
    rows, _ = run_infer(tmp_path / "weights.pth", videos, tmp_path, *given, *plain, "dataset.label_map={x: 0, y: 1}")
    assert rows[0]["label"] == "x"


def test_inference_on_video_files_labels_them_by_their_paths(checkpoint: Path, videos: Path, tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs PyAV: pip install .[video]")
    root = write_video_tree(tmp_path / "files", {"unsorted": 1}, num_frames=5) / "unsorted"
    expected, _ = run_infer(checkpoint, videos, tmp_path / "1")
    rows, lines = run_infer(checkpoint, root, tmp_path / "2")
    assert rows == [{**expected[0], "path": f"{root}/video_000.avi"}]
    assert f"{root}/video_000.avi [a]" in lines


def test_inference_on_a_corrupt_image_stops_and_names_it(checkpoint: Path, videos: Path, tmp_path: Path) -> None:
    image = videos / "video_000" / "rgb" / "000002.png"
    image.write_bytes(b"no image")
    with pytest.raises(DataError, match=rf"^{re.escape(str(image))}: the image can't be read"):
        run_infer(checkpoint, videos, tmp_path)

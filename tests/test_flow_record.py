"""What flow.json says of the flow images, held against what the model takes."""

import json
from pathlib import Path

import pytest
from tiny import MakeTree, run_evaluate, run_infer, run_train, use_tiny_models

from action_recognition.data.flow_record import checked_flow
from action_recognition.data.index import Index, index_classes
from action_recognition.errors import DataError


@pytest.fixture
def index(make_tree: MakeTree, tmp_path: Path) -> Index:
    root = make_tree(tmp_path / "data", {"a": 2}, num_frames=3)
    return index_classes(root, ("a",), ["rgb", "of"], "error")


def record(index: Index, video_id: int, encoding: str = "max_rad", method: str = "dis") -> None:
    path = Path(index.videos[video_id].path, "flow.json")
    path.write_text(json.dumps({"method": method, "preset": "slow", "encoding": encoding}))


def test_checked_flow_of_the_wanted_encoding_says_nothing(index: Index) -> None:
    record(index, 0)
    record(index, 1)
    assert checked_flow(index, "max_rad", "dataset.flow_encoding").notes == []


def test_checked_flow_of_another_encoding_is_an_error_naming_both(index: Index) -> None:
    record(index, 0)
    record(index, 1, "clip20")
    with pytest.raises(
        DataError,
        match=r"video_001/flow\.json: u and v are in the encoding 'clip20', and dataset\.flow_encoding takes 'max_rad'",
    ):
        checked_flow(index, "max_rad", "dataset.flow_encoding")


def test_checked_flow_without_records_counts_as_max_rad_with_a_line(index: Index) -> None:
    record(index, 0)
    assert checked_flow(index, "max_rad", "x").notes == ["1 videos have no flow.json: their flow counts as max_rad"]


def test_checked_flow_without_records_where_clip20_is_wanted_says_that_it_differs(index: Index) -> None:
    assert checked_flow(index, "clip20", "best.pth").notes == [
        "2 videos have no flow.json: their flow counts as max_rad, which is not the clip20 of best.pth"
    ]


def test_checked_flow_of_two_methods_tells_them(index: Index) -> None:
    record(index, 0)
    record(index, 1, method="nvof")
    assert checked_flow(index, "max_rad", "x").notes == [
        "flow made in different ways, which the model sees: dis slow (1 videos), nvof slow (1 videos)"
    ]


@pytest.mark.parametrize("content", ["", "[]", "{}", "null"])
def test_checked_flow_of_a_damaged_record_names_it(index: Index, content: str) -> None:
    Path(index.videos[0].path, "flow.json").write_text(content)
    with pytest.raises(DataError, match=r"video_000/flow\.json: is damaged \("):
        checked_flow(index, "max_rad", "x")


def test_checked_flow_of_rgb_alone_looks_at_nothing(make_tree: MakeTree, tmp_path: Path) -> None:
    root = make_tree(tmp_path / "rgb", {"a": 1}, modalities=("rgb",))
    index = index_classes(root, ("a",), ["rgb"], "error")
    Path(index.videos[0].path, "flow.json").write_text("damaged")
    assert checked_flow(index, "clip20", "x").notes == []


# --- in the tasks ---


def test_train_evaluate_and_infer_hold_the_flow_against_the_model(
    make_tree: MakeTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_tiny_models(monkeypatch)
    root = make_tree(tmp_path / "data", {"a": 2, "b": 2}, num_frames=4)
    _, lines = run_train(root, tmp_path, "model.model_type=of", "train.num_epochs=1")
    assert "4 videos have no flow.json: their flow counts as max_rad" in lines
    (root / "a/video_000/flow.json").write_text(json.dumps({"method": "dis", "encoding": "clip20"}))
    with pytest.raises(DataError, match=r"in the encoding 'clip20', and dataset\.flow_encoding takes 'max_rad'"):
        run_train(root, tmp_path / "again", "model.model_type=of", "train.num_epochs=1")
    checkpoint = tmp_path / "train/ar_model_latest.pth"
    with pytest.raises(DataError, match=r"in the encoding 'clip20', and \S*ar_model_latest\.pth takes 'max_rad'"):
        run_evaluate(checkpoint, root, tmp_path)
    with pytest.raises(DataError, match=r"in the encoding 'clip20', and \S*ar_model_latest\.pth takes 'max_rad'"):
        run_infer(checkpoint, root / "a", tmp_path)

"""Evaluation end to end: figures by hand, the files, and what of the spec is used, refused and said."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from lossless import write_video_tree
from tiny import BASE, MakeTree, run_evaluate, save_sigmoid_model, second_score, use_tiny_models

from action_recognition.config import load_spec
from action_recognition.errors import CheckpointError, DataError, DeployError, SpecError, UserError
from action_recognition.tasks import export, scoring
from action_recognition.tasks.evaluate import table

# The windows of five videos of 3, 5, 9, 6 and 8 frames in clips of 2, by section 3 of the reference's behaviour.
LENGTHS = (3, 5, 9, 6, 8)
WINDOWS: dict[str, list[list[tuple[int, int]]]] = {
    "center": [[(1, 2)], [(2, 3)], [(4, 5)], [(2, 3)], [(3, 4)]],
    "conv": [[(0, 1), (1, 2)], [(1, 2), (3, 4)], [(2, 3), (6, 7)], [(1, 2), (3, 4)], [(1, 2), (5, 6)]],
    "all": [[(i, i + 1) for i in range(0, n - 1, 2)] for n in LENGTHS],
}
# Above 0.5 is class b: in each mode a, a, b for the videos of a, and a, b for those of b.
CONFUSION = [[2, 1], [1, 1]]
CLIP_ACCURACY = {"center": 60, "conv": 60, "all": 800 / 14}


@pytest.fixture(autouse=True)
def _tiny_models(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_models(monkeypatch)


@pytest.fixture(scope="module")
def tree(make_tree: MakeTree, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos 0, 1, 2 of class a and 3, 4 of class b."""
    root = tmp_path_factory.mktemp("evaluate") / "data"
    return make_tree(root, {"a": 3, "b": 2}, num_frames=LENGTHS, modalities=("rgb",))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "ar_model_best.pth"
    save_sigmoid_model(path)
    return path


def predictions_in(results: Path) -> list[list[str]]:
    with (results / "evaluate" / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


# --- figures and files ---


@pytest.mark.parametrize("mode", list(WINDOWS))
@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_evaluation_in_each_mode_equals_the_one_by_hand_whatever_the_batch_size(
    mode: str, batch_size: int, checkpoint: Path, tree: Path, tmp_path: Path
) -> None:
    how = (f"evaluate.video_eval_mode={mode}", "evaluate.video_num_segments=2", f"evaluate.batch_size={batch_size}")
    results, _ = run_evaluate(checkpoint, tree, tmp_path, *how)
    scores = [second_score(*windows) for windows in WINDOWS[mode]]
    assert [float(row[-1]) for row in predictions_in(tmp_path)[1:]] == pytest.approx(scores, abs=2e-6)
    assert results["confusion_matrix"] == CONFUSION
    assert (results["videos"], results["windows"]) == (5, sum(map(len, WINDOWS[mode])))
    assert results["accuracy"] == 60
    assert results["clip_accuracy"] == pytest.approx(CLIP_ACCURACY[mode])


def test_evaluation_writes_results_json_with_all_figures(checkpoint: Path, tree: Path, tmp_path: Path) -> None:
    returned, _ = run_evaluate(checkpoint, tree, tmp_path)
    results = json.loads((tmp_path / "evaluate" / "results.json").read_text())
    assert results == returned
    assert results.pop("loss") > 0
    assert results.pop("mean_class_accuracy") == pytest.approx((200 / 3 + 50) / 2)
    assert results.pop("class_accuracy") == {"a": pytest.approx(200 / 3), "b": 50}
    assert results == {
        "mode": "center",
        "accuracy": 60,
        "clip_accuracy": 60,
        "windows": 5,
        "class_names": ["a", "b"],
        "confusion_matrix": CONFUSION,
        "checkpoint": str(checkpoint),
        "videos": 5,
        "skipped": 0,
    }


def test_evaluation_writes_predictions_csv_with_a_row_a_video(checkpoint: Path, tree: Path, tmp_path: Path) -> None:
    run_evaluate(checkpoint, tree, tmp_path)
    header, *rows = predictions_in(tmp_path)
    assert header == ["path", "label", "prediction", "score", "a", "b"]
    scores = [second_score(*windows) for windows in WINDOWS["center"]]
    predicted = [("b", b) if b > 0.5 else ("a", 1 - b) for b in scores]
    paths = [str(tree / name / f"video_{i:03d}") for i, name in enumerate("aaabb")]
    assert [row[:3] for row in rows] == [
        [p, t, name] for p, t, (name, _) in zip(paths, "aaabb", predicted, strict=True)
    ]
    assert [float(row[3]) for row in rows] == pytest.approx([score for _, score in predicted], abs=2e-6)
    assert [float(row[4]) + float(row[5]) for row in rows] == pytest.approx([1] * 5, abs=2e-6)


def test_evaluation_writes_status_json_with_taos_kpi(checkpoint: Path, tree: Path, tmp_path: Path) -> None:
    run_evaluate(checkpoint, tree, tmp_path)
    started, done = map(json.loads, (tmp_path / "evaluate" / "status.json").read_text().splitlines())
    assert (started["status"], done["status"]) == ("STARTED", "SUCCESS")
    assert done["kpi"] == {"accuracy": 60, "m_accuracy": pytest.approx((200 / 3 + 50) / 2)}


def test_evaluation_with_more_than_five_classes_has_top5_accuracy(tree: Path, tmp_path: Path) -> None:
    save_sigmoid_model(tmp_path / "six.pth", tuple("abcdef"))
    results, lines = run_evaluate(tmp_path / "six.pth", tree, tmp_path)
    assert results["top5_accuracy"] == 100
    assert any("top-5 accuracy 100.00 %" in line for line in lines)


def test_evaluation_that_lost_a_video_on_the_way_does_not_pass_for_one_of_all(
    checkpoint: Path, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = scoring.evaluation_loader

    class Some(list[Any]):
        dataset = None

    def some(*arguments: Any) -> Some:
        return Some(list(whole(*arguments))[:3])

    monkeypatch.setattr(scoring, "evaluation_loader", some)
    with pytest.raises(RuntimeError, match=r"^3 videos scored and 0 skipped, of 5$"):
        run_evaluate(checkpoint, tree, tmp_path)
    assert not (tmp_path / "evaluate" / "results.json").exists()


def test_evaluation_of_a_network_that_answers_nan_stops_and_names_the_first_video(tree: Path, tmp_path: Path) -> None:
    content = save_sigmoid_model(tmp_path / "model.pth")
    for name in ("norm.weight", "fc_cls.weight"):
        content["state_dict"][name].fill_(1e38)  # their product is beyond fp32
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(
        UserError, match=r"not a number for \d+ of 5 videos, \S+ the first: .* evaluate\.precision=fp32"
    ):
        run_evaluate(tmp_path / "model.pth", tree, tmp_path)


def test_table_shows_accuracies_the_matrix_and_the_totals() -> None:
    results = {
        "class_names": ["walk", "fall, hard"],
        "confusion_matrix": [[12, 3], [0, 0]],
        "class_accuracy": {"walk": 80.0, "fall, hard": None},
        "accuracy": 80.0,
        "mean_class_accuracy": 80.0,
        "clip_accuracy": 75.0,
        "windows": 30,
        "videos": 15,
    }
    assert table(results).splitlines() == [
        "    class       accuracy  videos  predicted as   0   1",
        "  0 walk          80.0 %      15                12   3",
        "  1 fall, hard         -       0                 0   0",
        "video accuracy 80.00 %, mean class accuracy 80.00 %, clip accuracy 75.00 % (30 clips)",
    ]


# --- the spec beside the checkpoint ---


def test_spec_that_agrees_with_the_checkpoint_changes_nothing(checkpoint: Path, tree: Path, tmp_path: Path) -> None:
    plain = ("dataset.augmentation_config.rgb_input_mean=[0, 0, 0]", "dataset.augmentation_config.rgb_input_std=[1]")
    results, _ = run_evaluate(checkpoint, tree, tmp_path, *BASE, *plain, "dataset.label_map={b: 1, a: 0}")
    assert results["confusion_matrix"] == CONFUSION


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("model.rgb_seq_length=3", "model.rgb_seq_length is 3, the checkpoint's is 2"),
        ("model.backbone=resnet50", "model.backbone is 'resnet50', the checkpoint's is 'resnet18'"),
        ("model.input_type=3d", "model.input_type is '3d', the checkpoint's is '2d'"),
        ("dataset.output_shape=[9, 8]", "dataset.output_shape is [9, 8], the checkpoint's is [8, 8]"),
        (
            "dataset.augmentation_config.rgb_input_std=[0.5]",
            "dataset.augmentation_config.rgb_input_std is [0.5, 0.5, 0.5], the checkpoint's is [1.0, 1.0, 1.0]",
        ),
        ("dataset.label_map={a: 1, b: 0}", "dataset.label_map differs from the checkpoint's: a, b"),
    ],
)
def test_spec_that_contradicts_the_checkpoint_is_refused_naming_both_values(
    given: str, line: str, checkpoint: Path, tree: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        SpecError,
        match=rf"^the spec contradicts {re.escape(str(checkpoint))}; leave these keys out, or use its values:\n"
        rf"  command line: {re.escape(line)}$",
    ):
        run_evaluate(checkpoint, tree, tmp_path, given)


# --- weights from elsewhere ---


@pytest.fixture
def tao_checkpoint(tmp_path: Path) -> Path:
    """The same weights as TAO's Lightning module saves them."""
    content = save_sigmoid_model(tmp_path / "ours.pth")
    weights = {f"model.{name}": tensor for name, tensor in content["state_dict"].items()}
    path = tmp_path / "model_epoch_004_step_00120.pth"
    torch.save({"state_dict": weights, "epoch": 4, "global_step": 120, "pytorch-lightning_version": "2.2"}, path)
    return path


PLAIN = (
    "model.backbone=resnet_18",
    "dataset.augmentation_config.rgb_input_mean=[0]",
    "dataset.augmentation_config.rgb_input_std=[1]",
)


def test_tao_checkpoint_without_a_spec_is_an_error_that_asks_for_it(
    tao_checkpoint: Path, tree: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        SpecError,
        match=rf"^{re.escape(str(tao_checkpoint))}: holds weights but no description of its model; give the SPEC that",
    ):
        run_evaluate(tao_checkpoint, tree, tmp_path)


def test_tao_checkpoint_with_its_spec_is_evaluated_and_the_origin_of_the_classes_is_said(
    tao_checkpoint: Path, tree: Path, tmp_path: Path
) -> None:
    results, lines = run_evaluate(tao_checkpoint, tree, tmp_path, *BASE, *PLAIN)
    assert results["confusion_matrix"] == CONFUSION
    assert (
        f"{tao_checkpoint}: no contract inside; model, input and normalisation come from the spec, classes from the "
        "test data" in lines
    )


def test_tao_checkpoint_with_a_label_map_takes_its_order(tao_checkpoint: Path, tree: Path, tmp_path: Path) -> None:
    results, lines = run_evaluate(tao_checkpoint, tree, tmp_path, *BASE, *PLAIN, "dataset.label_map={b: 0, a: 1}")
    assert results["class_names"] == ["b", "a"]
    assert results["confusion_matrix"] == [[1, 1], [2, 1]]
    assert any(line.endswith("classes from dataset.label_map") for line in lines)


def test_tao_checkpoint_with_another_number_of_classes_is_refused(
    tao_checkpoint: Path, tree: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=rf"^{re.escape(str(tao_checkpoint))}: "):
        run_evaluate(tao_checkpoint, tree, tmp_path, *BASE, *PLAIN, "dataset.label_map={a: 0, b: 1, c: 2}")


# --- data ---


def test_test_data_without_a_class_says_so_and_leaves_it_out_of_the_mean(
    checkpoint: Path, make_tree: MakeTree, tmp_path: Path
) -> None:
    root = make_tree(tmp_path / "data", {"b": 2}, num_frames=(8, 3), modalities=("rgb",))
    results, lines = run_evaluate(checkpoint, root, tmp_path)
    assert [line for line in lines if "no video of" in line] == [f"{root}: no video of 1 of 2 classes: a"]
    assert results["class_accuracy"] == {"a": None, "b": 50}
    assert results["mean_class_accuracy"] == 50


def test_test_data_with_a_class_the_model_does_not_know_is_refused(
    checkpoint: Path, make_tree: MakeTree, tmp_path: Path
) -> None:
    root = make_tree(tmp_path / "data", {"a": 1, "c": 1}, num_frames=2, modalities=("rgb",))
    with pytest.raises(DataError, match=r"class folder 'c' is not one of the classes a, b"):
        run_evaluate(checkpoint, root, tmp_path)
    status = (tmp_path / "evaluate" / "status.json").read_text().splitlines()
    assert json.loads(status[-1])["status"] == "FAILURE"


def test_evaluation_of_video_files_is_that_of_their_frames(checkpoint: Path, tree: Path, tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs PyAV: pip install .[video]")
    videos = write_video_tree(tmp_path / "videos", {"a": 3, "b": 2}, LENGTHS)
    expected, _ = run_evaluate(checkpoint, tree, tmp_path / "1", "evaluate.video_eval_mode=conv")
    results, _ = run_evaluate(checkpoint, videos, tmp_path / "2", "evaluate.video_eval_mode=conv")
    assert results == expected


def test_evaluation_in_three_views_scores_three_windows_for_each_clip(
    checkpoint: Path, tree: Path, tmp_path: Path
) -> None:
    how = ("evaluate.video_eval_mode=conv", "evaluate.video_num_crops=3")
    once, thrice = (run_evaluate(checkpoint, tree, tmp_path / str(len(h)), *h)[0] for h in (how[:1], how))
    assert thrice["windows"] == 3 * once["windows"]
    assert thrice["accuracy"] == once["accuracy"]  # every frame is of one colour


@pytest.fixture
def spoilt(make_tree: MakeTree, tmp_path: Path) -> tuple[Path, Path]:
    """20 videos of 2 frames, and an image of video 3 that is cut short."""
    root = make_tree(tmp_path / "data", {"a": 10, "b": 10}, num_frames=2, modalities=("rgb",))
    image = root / "a" / "video_003" / "rgb" / "000001.png"
    image.write_bytes(image.read_bytes()[:40])
    return root, image


def test_evaluation_on_a_corrupt_image_stops_and_names_it(
    checkpoint: Path, spoilt: tuple[Path, Path], tmp_path: Path
) -> None:
    root, image = spoilt
    with pytest.raises(DataError, match=rf"^{re.escape(str(image))}: the image can't be read .*\nmend or remove"):
        run_evaluate(checkpoint, root, tmp_path)


def test_evaluation_that_skips_a_bad_video_names_it_and_counts_it(
    checkpoint: Path, spoilt: tuple[Path, Path], tmp_path: Path
) -> None:
    root, image = spoilt
    results, lines = run_evaluate(checkpoint, root, tmp_path, "dataset.on_bad_video=skip")
    assert (results["videos"], results["skipped"], sum(map(sum, results["confusion_matrix"]))) == (19, 1, 19)
    assert [line for line in lines if line.startswith(f"skipped {image.parent.parent}: {image}: the image can't")]
    assert len(predictions_in(tmp_path)) == 20


def test_evaluation_that_skips_more_than_5_percent_stops(
    checkpoint: Path, spoilt: tuple[Path, Path], tmp_path: Path
) -> None:
    root, _ = spoilt
    (root / "b" / "video_015" / "rgb" / "000000.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 20"):
        run_evaluate(checkpoint, root, tmp_path, "dataset.on_bad_video=skip")


# --- exported models ---


def exported(checkpoint: Path, target: Path, *overrides: str) -> Path:
    """The checkpoint's model as an ONNX file."""
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install .[deploy]")
    paths = (f"export.checkpoint={checkpoint}", f"export.onnx_file={target}")
    return export.export(load_spec(None, [*paths, *overrides], task="export"), lambda text: None)


@pytest.mark.parametrize("softmax", ["false", "true"])
@pytest.mark.parametrize("mode", list(WINDOWS))
def test_exported_model_scores_every_video_as_its_checkpoint_does(
    mode: str, softmax: str, checkpoint: Path, tree: Path, tmp_path: Path
) -> None:
    model = exported(checkpoint, tmp_path / "model.onnx", f"export.softmax={softmax}")
    how = (f"evaluate.video_eval_mode={mode}", "evaluate.batch_size=3")
    of_file, said = run_evaluate(model, tree, tmp_path / "onnx", *how)
    of_checkpoint, _ = run_evaluate(checkpoint, tree, tmp_path / "pth", *how)
    assert said[0] == f"{model}: 2d model, 2 rgb frames of 8x8, 2 classes; exported in fp32, and runs so"
    assert of_file["confusion_matrix"] == of_checkpoint["confusion_matrix"]
    rows = [predictions_in(tmp_path / name)[1:] for name in ("onnx", "pth")]
    for ours, theirs in zip(*rows, strict=True):
        assert ours[:3] == theirs[:3]
        assert list(map(float, ours[3:])) == pytest.approx(list(map(float, theirs[3:])), abs=3e-6)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_exported_model_of_fixed_batch_gets_that(size: int, tree: Path, tmp_path: Path, checkpoint: Path) -> None:
    model = exported(checkpoint, tmp_path / "model.onnx")
    fixed = onnx.load(model)
    for tensor in (*fixed.graph.input, *fixed.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_value = size
    onnx.save(fixed, model)
    run_evaluate(model, tree, tmp_path, "evaluate.batch_size=4")
    scores = [second_score(*windows) for windows in WINDOWS["center"]]
    assert [float(row[-1]) for row in predictions_in(tmp_path)[1:]] == pytest.approx(scores, abs=2e-6)


def test_exported_model_without_a_contract_is_described_by_the_spec(
    checkpoint: Path, tree: Path, tmp_path: Path
) -> None:
    model = exported(checkpoint, tmp_path / "model.onnx")
    bare = onnx.load(model)
    del bare.metadata_props[:]
    onnx.save(bare, model)
    with pytest.raises(SpecError, match=r"model\.onnx: carries no contract; give the SPEC that its model was trained"):
        run_evaluate(model, tree, tmp_path / "none")
    plain = ("dataset.augmentation_config.rgb_input_mean=[0]", "dataset.augmentation_config.rgb_input_std=[1]")
    results, said = run_evaluate(model, tree, tmp_path / "spec", *BASE, *plain)
    assert "it carries no contract, the spec says what it takes" in said[0]
    assert results["confusion_matrix"] == CONFUSION
    with pytest.raises(DeployError, match=r"takes input_rgb Nx6x8x8 .* it should take input_rgb Nx9x8x8"):
        run_evaluate(model, tree, tmp_path / "long", *BASE, "model.rgb_seq_length=3")


def test_spec_that_contradicts_an_exported_model_is_refused(checkpoint: Path, tree: Path, tmp_path: Path) -> None:
    model = exported(checkpoint, tmp_path / "model.onnx")
    with pytest.raises(SpecError, match=r"model\.rgb_seq_length is 4, the checkpoint's is 2"):
        run_evaluate(model, tree, tmp_path, "model.rgb_seq_length=4")


def test_plan_on_a_cpu_is_refused_with_what_to_take(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "model.plan").write_bytes(b"plan")
    with pytest.raises(DeployError, match="runs on an NVIDIA GPU only; for the CPU take the ONNX file"):
        run_evaluate(tmp_path / "model.plan", tree, tmp_path)

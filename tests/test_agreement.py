"""The spec, the folders and the checkpoint's contract held against one another: what is found, and in which words."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from action_recognition.clip.contract import Stream
from action_recognition.config import Problem, Spec, load_spec, to_plain
from action_recognition.data.agreement import (
    check_agreement,
    contract_of,
    evaluation_problems,
    inference_problems,
    training_problems,
)
from action_recognition.errors import SpecError

Found = list[tuple[str, str]]


def found(problems: Callable[[Spec], Iterator[Problem]], *overrides: str) -> Found:
    return [(problem.key, problem.text) for problem in problems(load_spec(None, overrides))]


def folders(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
    return root


# --- the contract of a spec ---


def test_contract_of_a_joint_spec_takes_every_value_from_it() -> None:
    spec = load_spec(
        None,
        [
            *("model.model_type=joint", "model.input_type=3d", "model.rgb_seq_length=8", "model.of_seq_length=16"),
            *("model.input_height=64", "model.input_width=96", "model.sample_rate=2"),
            *("model.sample_strategy=random_interval", "dataset.flow_encoding=clip20"),
            "dataset.augmentation_config={val_center_crop: true, crop_smaller_edge: 128, rgb_input_mean: [0.5], "
            "rgb_input_std: [0.1, 0.2, 0.3], of_input_mean: [0.4, 0.6], of_input_std: [1]}",
        ],
    )
    contract = contract_of(spec, ("walk", "fall"))
    assert contract.streams == {
        "rgb": Stream(8, (0.5, 0.5, 0.5), (0.1, 0.2, 0.3)),
        "of": Stream(16, (0.4, 0.6), (1.0, 1.0)),
    }
    assert replace(contract, streams={}).to_plain() == {
        "model_type": "joint",
        "input_type": "3d",
        "streams": {},
        "height": 64,
        "width": 96,
        "center_crop": True,
        "smaller_edge": 128,
        "sample_strategy": "random_interval",
        "sample_rate": 2,
        "flow_encoding": "clip20",
        "class_names": ["walk", "fall"],
    }


@pytest.mark.parametrize(("model_type", "streams"), [("rgb", ["rgb"]), ("of", ["of"]), ("joint", ["rgb", "of"])])
def test_contract_of_has_the_streams_of_the_model_type(model_type: str, streams: list[str]) -> None:
    assert list(contract_of(load_spec(None, [f"model.model_type={model_type}"]), ("a",)).streams) == streams


# --- the spec against a checkpoint ---


TRAINED = load_spec(None, ["model.model_type=rgb", "model.input_height=64", "model.input_width=64"])


def check(*overrides: str, path: Path | None = None, trained: Spec = TRAINED, **changes: Any) -> None:
    contract = replace(contract_of(trained, ("walk", "fall")), **changes)
    check_agreement(load_spec(path, overrides), contract, to_plain(trained.model), "best.pth")


def test_check_agreement_of_a_spec_that_says_nothing_of_the_model_passes() -> None:
    check("evaluate.batch_size=4")


def test_check_agreement_of_equal_values_however_written_passes() -> None:
    check(
        *("model.model_type=rgb", "dataset.output_shape=[64,64]", "model.backbone=resnet_18"),
        *("dataset.label_map={fall: 1, walk: 0}", "dataset.augmentation_config.rgb_input_mean=[0.485,0.456,0.406]"),
    )


def test_check_agreement_ignores_values_that_mean_nothing_to_the_model() -> None:
    check("model.of_seq_length=5", "dataset.flow_encoding=clip20", "dataset.augmentation_config.of_input_mean=[0.1]")
    check("dataset.augmentation_config.crop_smaller_edge=300", "dataset.augmentation_config.scales=[0.5]")


def test_check_agreement_names_both_values_and_where_the_spec_has_its_own(tmp_path: Path) -> None:
    path = tmp_path / "eval.yaml"
    path.write_text("model:\n  model_type: rgb\n  rgb_seq_length: 8\n")
    with pytest.raises(SpecError) as caught:
        check("model.sample_rate=2", path=path)
    assert str(caught.value) == (
        "the spec contradicts best.pth; leave these keys out, or use its values:\n"
        "  command line: model.sample_rate is 2, the checkpoint's is 1\n"
        f"  {path}, line 3: model.rgb_seq_length is 8, the checkpoint's is 3"
    )


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("model.model_type=joint", "model.model_type is 'joint', the checkpoint's is 'rgb'"),
        ("model.backbone=resnet34", "model.backbone is 'resnet34', the checkpoint's is 'resnet18'"),
        ("model.input_type=3d", "model.input_type is '3d', the checkpoint's is '2d'"),
        ("model.input_height=32", "model.input_height is 32, the checkpoint's is 64"),
        ("dataset.output_shape=[32,64]", r"dataset.output_shape is \[32, 64\], the checkpoint's is \[64, 64\]"),
        ("model.sample_strategy=random_interval", "sample_strategy is 'random_interval', the .* 'consecutive'"),
        (
            "dataset.augmentation_config.rgb_input_std=[0.5]",
            r"rgb_input_std is \[0.5, 0.5, 0.5\], the checkpoint's is \[0.229, 0.224, 0.225\]",
        ),
        ("dataset.augmentation_config.val_center_crop=true", "val_center_crop is True, the checkpoint's is False"),
        ("dataset.label_map={walk: 1, fall: 0}", "dataset.label_map differs from the checkpoint's: walk, fall"),
        ("dataset.label_map={walk: 0}", "dataset.label_map differs from the checkpoint's: walk, fall"),
    ],
)
def test_check_agreement_refuses_each_contradiction(override: str, line: str) -> None:
    with pytest.raises(SpecError, match=f"the spec contradicts best.pth; .*\n  command line: .*{line}$"):
        check(override)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("model.of_seq_length=5", "model.of_seq_length is 5, the checkpoint's is 10"),
        ("dataset.flow_encoding=clip20", "dataset.flow_encoding is 'clip20', the checkpoint's is 'max_rad'"),
        ("dataset.augmentation_config.of_input_std=[1]", r"of_input_std is \[1.0, 1.0\], the .* is \[0.5, 0.5\]"),
        ("model.num_fc=32", "model.num_fc is 32, the checkpoint's is 64"),
    ],
)
def test_check_agreement_of_a_joint_model_holds_its_flow_keys_too(override: str, line: str) -> None:
    with pytest.raises(SpecError, match=f"command line: .*{line}$"):
        check(override, trained=load_spec(None))


def test_check_agreement_with_a_centre_crop_holds_the_short_side_too() -> None:
    with pytest.raises(SpecError, match="crop_smaller_edge is 256, the checkpoint's is 300"):
        check(
            *("dataset.augmentation_config.val_center_crop=true", "dataset.augmentation_config.crop_smaller_edge=256"),
            center_crop=True,
            smaller_edge=300,
        )


# --- folders of a training run ---


def test_training_problems_of_a_run_that_can_start_are_none(tmp_path: Path) -> None:
    train, val = folders(tmp_path / "train", "a", "b"), folders(tmp_path / "val", "b")
    (tmp_path / "w.pth").touch()
    assert not found(
        training_problems,
        *(f"dataset.train_dataset_dir={train}", f"dataset.val_dataset_dir={val}"),
        *(f"results_dir={tmp_path}/new/deep", f"model.rgb_pretrained_model_path={tmp_path}/w.pth"),
    )


def test_training_problems_of_a_label_map_that_fits_are_none(tmp_path: Path) -> None:
    train = folders(tmp_path / "train", "a", "b")
    overrides = [f"dataset.train_dataset_dir={train}", "dataset.label_map={b: 0, a: 1}", f"results_dir={tmp_path}"]
    assert not found(training_problems, *overrides)


@pytest.mark.parametrize(
    ("overrides", "key", "text"),
    [
        (["dataset.train_dataset_dir=T/no"], "dataset.train_dataset_dir", "no such folder or list of videos: 'T/no'"),
        (
            ["dataset.train_dataset_dir=T/file"],
            "dataset.train_dataset_dir",
            "'T/file' is neither a folder nor a list of videos (.txt, .csv, .json)",
        ),
        (
            ["dataset.train_dataset_dir=T/empty.csv"],
            "dataset.train_dataset_dir",
            "T/empty.csv: lists no video",
        ),
        (
            ["dataset.train_dataset_dir=T/ab.txt", "dataset.label_map={a: 0, c: 1}"],
            "dataset.train_dataset_dir",
            "T/ab.txt, line 1 'ab/b b': label 'b' is not one of the classes a, c",
        ),
        (
            ["dataset.train_dataset_dir=T/ab.txt", "dataset.val_dataset_dir=T/abc"],
            "dataset.val_dataset_dir",
            "class folder 'c' is not in dataset.train_dataset_dir (a, b)",
        ),
        (
            ["dataset.train_dataset_dir=T/abc", "dataset.val_dataset_dir=T/ac.txt"],
            "dataset.val_dataset_dir",
            "T/ac.txt: 1 of 2 videos do not exist:\n  T/ac.txt, line 2 'ac/c c'",
        ),
        (
            ["dataset.train_dataset_dir=T/empty"],
            "dataset.train_dataset_dir",
            "'T/empty' holds no class folder; expected <class>/<video file>, or <class>/<video>/rgb (and u, v)",
        ),
        (
            ["dataset.train_dataset_dir=T/ab", "dataset.label_map={a: 0, c: 1}"],
            "dataset.train_dataset_dir",
            "class folder 'b' is not in dataset.label_map (a, c)",
        ),
        (
            ["dataset.train_dataset_dir=T/ab", "dataset.label_map={a: 0, b: 1, c: 2}"],
            "dataset.label_map",
            "no folder for class 'c' in 'T/ab', which has a, b",
        ),
        (
            ["dataset.train_dataset_dir=T/ab", "dataset.val_dataset_dir=T/abc"],
            "dataset.val_dataset_dir",
            "class folder 'c' is not in dataset.train_dataset_dir (a, b)",
        ),
        (
            ["dataset.train_dataset_dir=T/ab", "dataset.val_dataset_dir=T/no"],
            "dataset.val_dataset_dir",
            "no such folder or list of videos: 'T/no'",
        ),
        (
            ["model.of_pretrained_model_path=T/no.pth"],
            "model.of_pretrained_model_path",
            "no such file: 'T/no.pth'",
        ),
        (
            ["train.resume_training_checkpoint_path=T/ab"],
            "train.resume_training_checkpoint_path",
            "'T/ab' is a folder, not a file",
        ),
        (
            ["dataset.cache_dir=T/file/x"],
            "dataset.cache_dir",
            "'T/file/x' can't be made or written to; give a folder that can",
        ),
        (
            ["results_dir=T/file/x"],
            "results_dir",
            "'T/file/x/train' can't be made or written to; set results_dir=FOLDER to one that can",
        ),
        (
            ["train.results_dir=T/file"],
            "train.results_dir",
            "'T/file' can't be made or written to; set train.results_dir=FOLDER to one that can",
        ),
    ],
)
def test_training_problems_name_the_key_and_what_is_wrong(tmp_path: Path, overrides, key: str, text: str) -> None:
    folders(tmp_path, "empty", "ab/a", "ab/b", "abc/a", "abc/b", "abc/c")
    (tmp_path / "file").touch()
    (tmp_path / "empty.csv").touch()
    (tmp_path / "ab.txt").write_text("ab/b b\nab/a a\n")
    (tmp_path / "ac.txt").write_text("ab/a a\nac/c c\n")
    given = [f"results_dir={tmp_path}", *(o.replace("T/", f"{tmp_path}/") for o in overrides)]
    assert found(training_problems, *given) == [(key, text.replace("T/", f"{tmp_path}/"))]


def test_training_problems_of_a_folder_that_may_not_be_read_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    assert found(training_problems, f"dataset.train_dataset_dir={tmp_path}", f"results_dir={tmp_path}") == [
        ("dataset.train_dataset_dir", f"'{tmp_path}' can't be listed; give this user the right to read it")
    ]


# --- evaluation and inference ---


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("evaluate.test_dataset_dir=/no/such", "evaluate.test_dataset_dir"),
        ("dataset.val_dataset_dir=/no/such", "dataset.val_dataset_dir"),
    ],
)
def test_evaluation_problems_name_the_key_that_the_folder_came_from(tmp_path: Path, override: str, key: str) -> None:
    assert found(evaluation_problems, override, f"results_dir={tmp_path}") == [
        (key, "no such folder or list of videos: '/no/such'")
    ]


def test_evaluation_problems_are_those_of_the_checkpoint_the_classes_and_the_results(tmp_path: Path) -> None:
    folders(tmp_path, "test/a", "test/x")
    (tmp_path / "file").touch()
    assert found(
        evaluation_problems,
        *(f"evaluate.checkpoint={tmp_path}/no.pth", f"evaluate.test_dataset_dir={tmp_path}/test"),
        *("dataset.label_map={a: 0, b: 1}", f"evaluate.results_dir={tmp_path}/file"),
    ) == [
        ("evaluate.checkpoint", f"no such file: '{tmp_path}/no.pth'"),
        ("evaluate.test_dataset_dir", "class folder 'x' is not in dataset.label_map (a, b)"),
        (
            "evaluate.results_dir",
            f"'{tmp_path}/file' can't be made or written to; set evaluate.results_dir=FOLDER to one that can",
        ),
    ]


def test_evaluation_of_some_of_the_classes_is_no_problem(tmp_path: Path) -> None:
    folders(tmp_path, "test/a")
    given = [f"evaluate.test_dataset_dir={tmp_path}/test", "dataset.label_map={a: 0, b: 1}", f"results_dir={tmp_path}"]
    assert not found(evaluation_problems, *given)


def test_inference_problems_are_those_of_the_checkpoint_and_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert found(
        inference_problems,
        *(f"inference.checkpoint={tmp_path}", f"inference.inference_dataset_dir={tmp_path}/file"),
        f"results_dir={tmp_path}",
    ) == [
        ("inference.checkpoint", f"'{tmp_path}' is a folder, not a file"),
        ("inference.inference_dataset_dir", f"'{tmp_path}/file' is a file, not a folder"),
    ]


def test_problems_reach_the_user_with_the_spec_s_own_in_one_list(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="2 problems") as caught:
        load_spec(
            None,
            ["dataset.train_dataset_dir=/no/such", f"results_dir={tmp_path}", "model.backbone=resnet19"],
            task="train",
            checks=[training_problems],
        )
    assert "dataset.train_dataset_dir: no such folder or list of videos: '/no/such'" in str(caught.value)

"""The spec: what is read, what is refused and in which words."""

import dataclasses
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from action_recognition.config import (
    KEYS,
    DatasetSpec,
    ModelSpec,
    Problem,
    Spec,
    TrainSpec,
    describe,
    load_spec,
    model_spec_from_plain,
    to_plain,
)
from action_recognition.errors import SpecError

DOCUMENTED_SPEC = """\
model:
  model_type: rgb
  backbone: resnet18
  rgb_seq_length: 3
  input_type: 3d
  sample_strategy: consecutive
  dropout_ratio: 0.0
dataset:
  train_dataset_dir: /data/train
  val_dataset_dir: /data/test
  label_map:
    walk: 0
    sits: 1
    squat: 2
    fall: 3
    bend: 4
  output_shape: [224, 224]
  batch_size: 32
  workers: 8
  clips_per_video: 5
  augmentation_config:
    train_crop_type: no_crop
    horizontal_flip_prob: 0.5
    rgb_input_mean: [0.5]
    rgb_input_std: [0.5]
    val_center_crop: False
    crop_smaller_edge: 256
train:
  optim:
    lr: 0.001
    momentum: 0.9
    weight_decay: 0.0001
    lr_scheduler: MultiStep
    lr_steps: [5, 15, 25]
    lr_decay: 0.1
  num_epochs: 20
  checkpoint_interval: 1
evaluate:
  checkpoint: ???
results_dir: /results
"""

AUGMENTATION = "dataset.augmentation_config"
DEFAULTS = {
    "model.model_type": "joint",
    "model.backbone": "resnet18",
    "model.input_type": "2d",
    "model.rgb_seq_length": 3,
    "model.of_seq_length": 10,
    "model.rgb_pretrained_model_path": None,
    "model.of_pretrained_model_path": None,
    "model.joint_pretrained_model_path": None,
    "model.rgb_pretrained_num_classes": 0,
    "model.of_pretrained_num_classes": 0,
    "model.num_fc": 64,
    "model.sample_strategy": "consecutive",
    "model.sample_rate": 1,
    "model.dropout_ratio": 0.5,
    "model.input_height": 224,
    "model.input_width": 224,
    "model.imagenet_pretrained": False,
    "model.pretrained": None,
    "dataset.train_dataset_dir": None,
    "dataset.val_dataset_dir": None,
    "dataset.label_map": None,
    "dataset.output_shape": (224, 224),
    "dataset.batch_size": 32,
    "dataset.workers": 8,
    "dataset.timeout_sec": 600,
    "dataset.clips_per_video": 1,
    "dataset.balance": "none",
    "dataset.on_bad_video": "error",
    "dataset.flow_encoding": "max_rad",
    "dataset.cache_dir": None,
    "dataset.index_cache": True,
    f"{AUGMENTATION}.train_crop_type": "random_crop",
    f"{AUGMENTATION}.scales": (1.0,),
    f"{AUGMENTATION}.horizontal_flip_prob": 0.5,
    f"{AUGMENTATION}.rgb_input_mean": (0.485, 0.456, 0.406),
    f"{AUGMENTATION}.rgb_input_std": (0.229, 0.224, 0.225),
    f"{AUGMENTATION}.of_input_mean": (0.5,),
    f"{AUGMENTATION}.of_input_std": (0.5,),
    f"{AUGMENTATION}.val_center_crop": False,
    f"{AUGMENTATION}.crop_smaller_edge": 256,
    f"{AUGMENTATION}.color_jitter": (0.0, 0.0, 0.0, 0.0),
    "train.num_gpus": 1,
    "train.gpu_ids": (0,),
    "train.num_nodes": 1,
    "train.seed": 1234,
    "train.num_epochs": 10,
    "train.checkpoint_interval": 1,
    "train.checkpoint_interval_unit": "epoch",
    "train.keep_checkpoints": None,
    "train.validation_interval": 1,
    "train.resume_training_checkpoint_path": None,
    "train.results_dir": "/results/train",
    "train.clip_grad_norm": 0.0,
    "train.precision": None,
    "train.device": "auto",
    "train.accumulate_steps": 1,
    "train.freeze": None,
    "train.label_smoothing": 0.0,
    "train.mixup_alpha": 0.0,
    "train.cutmix_alpha": 0.0,
    "train.ema_decay": 0.0,
    "train.early_stopping": None,
    "train.gradient_checkpointing": False,
    "train.sync_bn": False,
    "train.memory_format": "auto",
    "train.compile": False,
    "train.report": False,
    "train.wandb_project": None,
    "train.profile": False,
    "train.timeout_sec": 1800,
    "train.optim.name": "SGD",
    "train.optim.lr": 5e-4,
    "train.optim.momentum": 0.9,
    "train.optim.weight_decay": 5e-4,
    "train.optim.stage_lr_decay": 1.0,
    "train.optim.warmup_epochs": 0,
    "train.optim.lr_scheduler": "MultiStep",
    "train.optim.lr_monitor": "val_loss",
    "train.optim.lr_steps": (15, 25),
    "train.optim.lr_decay": 0.1,
    "train.optim.patience": 1,
    "train.optim.min_lr": 1e-4,
    "train.cudnn.benchmark": False,
    "train.cudnn.deterministic": True,
    "evaluate.num_gpus": 1,
    "evaluate.gpu_ids": (0,),
    "evaluate.num_nodes": 1,
    "evaluate.checkpoint": None,
    "evaluate.test_dataset_dir": None,
    "evaluate.results_dir": "/results/evaluate",
    "evaluate.batch_size": 1,
    "evaluate.video_eval_mode": "center",
    "evaluate.video_num_segments": 10,
    "evaluate.video_num_crops": 1,
    "evaluate.precision": "fp32",
    "evaluate.report": False,
    "evaluate.device": "auto",
    "inference.num_gpus": 1,
    "inference.gpu_ids": (0,),
    "inference.num_nodes": 1,
    "inference.checkpoint": None,
    "inference.inference_dataset_dir": None,
    "inference.results_dir": "/results/inference",
    "inference.batch_size": 1,
    "inference.video_inf_mode": "center",
    "inference.video_num_segments": 10,
    "inference.video_num_crops": 1,
    "inference.precision": "fp32",
    "inference.device": "auto",
    "export.checkpoint": None,
    "export.onnx_file": None,
    "export.gpu_id": 0,
    "export.precision": "fp32",
    "export.opset": 20,
    "export.softmax": False,
    "export.overwrite": False,
    "export.results_dir": "/results/export",
    "results_dir": "/results",
    "encryption_key": None,
}
# What each task can't do without.
NEEDED = {
    "train": ["dataset.train_dataset_dir=/d"],
    "evaluate": ["evaluate.checkpoint=/c.pth", "evaluate.test_dataset_dir=/d"],
    "inference": ["inference.checkpoint=/c.pth", "inference.inference_dataset_dir=/d"],
    "export": ["export.checkpoint=/c.pth"],
}


def value_of(spec: Spec, name: str) -> object:
    found: object = spec
    for part in name.split("."):
        found = getattr(found, part)
    return found


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "spec.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def problems_of(*overrides: str, task: str | None = None) -> str:
    with pytest.raises(SpecError, match=r"^spec: \d+ problem") as caught:
        load_spec(None, overrides, task=task)
    return str(caught.value)


# --- defaults and reading ---


@pytest.mark.parametrize(("name", "expected"), DEFAULTS.items())
def test_default_of_each_key_is_the_documented_one(name, expected):
    value = value_of(load_spec(None), name)
    assert value == expected
    assert type(value) is type(expected)


def test_keys_of_the_spec_are_those_of_the_table():
    assert list(KEYS) == list(DEFAULTS)


def test_section_when_built_alone_has_its_defaults():
    assert ModelSpec(model_type="rgb", backbone="resnet18", input_type="3d").rgb_seq_length == 3
    assert Spec().train == TrainSpec()


def test_documented_spec_is_read_for_training(tmp_path):
    spec = load_spec(write(tmp_path, DOCUMENTED_SPEC), task="train")
    expected = DEFAULTS | {
        "model.model_type": "rgb",
        "model.input_type": "3d",
        "model.dropout_ratio": 0.0,
        "dataset.train_dataset_dir": "/data/train",
        "dataset.val_dataset_dir": "/data/test",
        "dataset.label_map": {"walk": 0, "sits": 1, "squat": 2, "fall": 3, "bend": 4},
        "dataset.clips_per_video": 5,
        f"{AUGMENTATION}.train_crop_type": "no_crop",
        f"{AUGMENTATION}.rgb_input_mean": (0.5,),
        f"{AUGMENTATION}.rgb_input_std": (0.5,),
        "train.optim.lr": 0.001,
        "train.optim.weight_decay": 0.0001,
        "train.optim.lr_steps": (5, 15, 25),
        "train.num_epochs": 20,
        "evaluate.test_dataset_dir": "/data/test",
    }
    assert {name: value_of(spec, name) for name in expected} == expected
    assert spec.notes == ()


def test_documented_spec_when_evaluated_names_the_open_checkpoint(tmp_path):
    path = write(tmp_path, DOCUMENTED_SPEC)
    with pytest.raises(SpecError, match="1 problem") as caught:
        load_spec(path, task="evaluate")
    assert str(caught.value) == (
        f"{path}: 1 problem\n  line 39: evaluate.checkpoint: evaluate needs it: set evaluate.checkpoint in the spec, "
        "or evaluate.checkpoint=PATH on the command line"
    )


@pytest.mark.parametrize(
    ("override", "name", "expected"),
    [
        ("train.optim.lr=1e-4", "train.optim.lr", 1e-4),
        ("train.optim.lr=5E-4", "train.optim.lr", 5e-4),
        ("train.optim.lr=.5", "train.optim.lr", 0.5),
        ("train.optim.lr=1.", "train.optim.lr", 1.0),
        ("train.optim.lr=1", "train.optim.lr", 1.0),
        ("train.optim.lr=+1_0.5", "train.optim.lr", 10.5),
        ("train.seed=-1", "train.seed", -1),
        ("train.seed=1_000", "train.seed", 1000),
        ("train.sync_bn=on", "train.sync_bn", True),
        ("train.cudnn.deterministic=No", "train.cudnn.deterministic", False),
        ("results_dir=on", "results_dir", "on"),
        ("results_dir=2024", "results_dir", "2024"),
        ("results_dir=/runs/a #3", "results_dir", "/runs/a #3"),
        ("results_dir='a: b'", "results_dir", "a: b"),
        ("model.backbone=resnet_50", "model.backbone", "resnet50"),
        ("model.backbone=resnet_152", "model.backbone", "resnet152"),
        ("train.precision=bf16", "train.precision", "bf16"),
        ("train.precision=null", "train.precision", None),
        ("train.device=cuda:3", "train.device", "cuda:3"),
        ("train.optim.lr_steps=[]", "train.optim.lr_steps", ()),
        (f"{AUGMENTATION}.scales=[1, 8e-1]", f"{AUGMENTATION}.scales", (1.0, 0.8)),
        ("dataset.label_map={on: 0, no: 1, 7: 2, null: 3}", "dataset.label_map", {"on": 0, "no": 1, "7": 2, "null": 3}),
        ("dataset.label_map=???", "dataset.label_map", None),
        ("dataset.train_dataset_dir=", "dataset.train_dataset_dir", None),
        ("dataset.train_dataset_dir=''", "dataset.train_dataset_dir", None),
        ("encryption_key=null", "encryption_key", None),
    ],
)
def test_value_is_read_as_the_type_of_its_key(override, name, expected):
    value = value_of(load_spec(None, [override]), name)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.num_epochs=1.0", "must be an integer, got 1.0"),
        ("train.num_epochs=true", "must be an integer, got true"),
        ("train.num_epochs='5'", "must be an integer (without quotes), got '5'"),
        ("train.num_epochs=010", "must be an integer, got 010"),
        ("train.num_epochs=1:30", "must be an integer, got 1:30"),
        ("train.num_epochs=0", "must be > 0, got 0"),
        ("train.num_epochs=[1]", "must be an integer, got [1]"),
        ("train.num_epochs={a: 1}", "must be an integer, got {'a': ...}"),
        ("train.num_epochs=", "no value (null): give one, or leave the key out for 10"),
        ("train.num_epochs=???", "no value ('???'): give one, or leave the key out for 10"),
        ("train.seed=3000000000", "must be between -2147483647 and 2147483647, got 3000000000"),
        ("train.optim.lr=-0.01", "must be > 0, got -0.01"),
        ("train.optim.lr=0", "must be > 0, got 0.0"),
        ("train.optim.lr=.nan", "must be a finite number, got .nan"),
        ("train.optim.lr=.inf", "must be a finite number, got .inf"),
        ("train.optim.lr=1e999", "must be a finite number, got '1e999'"),
        ("train.optim.lr=true", "must be a finite number, got true"),
        ("train.optim.momentum=1", "must be >= 0 and < 1, got 1.0"),
        ("train.sync_bn=1", "must be true or false, got 1"),
        ("train.sync_bn='yes'", "must be true or false (without quotes), got 'yes'"),
        ("train.device=gpu", "'gpu' is not one of auto, cpu, cuda, cuda:N, mps"),
        ("train.precision=fp8", "'fp8' is not one of fp32, bf16, fp16"),
        ("model.dropout_ratio=1.01", "must be between 0 and 1, got 1.01"),
        ("model.rgb_seq_length=4097", "must be <= 4096, got 4097"),
        ("dataset.workers=-1", "must be between 0 and 1024, got -1"),
        ("dataset.output_shape=[224]", "must be a list of 2 integers, got [224]"),
        ("dataset.output_shape=[224, 0]", "element 2 must be > 0, got 0"),
        ("train.gpu_ids=0", "must be a list of integers such as [1], got 0"),
        ("train.gpu_ids=[0, a]", "must be a list of integers; an element must be an integer, got 'a'"),
        ("train.gpu_ids=[0, 0]", "must be at most 1024 different ids >= 0, got [0, 0]"),
        ("train.gpu_ids=[-1]", "must be at most 1024 different ids >= 0, got [-1]"),
        ("train.optim.lr_steps=[25, 15]", "must be ascending, got [25, 15]"),
        ("train.optim.lr_steps=[5, 5]", "must be ascending, got [5, 5]"),
        ("train.optim.lr_steps=[0, 5]", "element 1 must be > 0, got 0"),
        (f"{AUGMENTATION}.scales=[]", "must not be empty, got []"),
        (f"{AUGMENTATION}.rgb_input_mean=[1, 2]", "rgb takes 1 or 3 numbers, got 2: [1.0, 2.0]"),
        (f"{AUGMENTATION}.rgb_input_std=[0]", "element 1 must be > 0, got 0.0"),
        (f"{AUGMENTATION}.of_input_std=[0.5, -1]", "element 2 must be > 0, got -1.0"),
        ("dataset.label_map=[a]", "must be a mapping of names to integers, got ['a']"),
        ("dataset.label_map={}", "must name at least one class, got {}"),
        ("dataset.label_map={a: true}", "'a' must be an integer, got true"),
        ("dataset.label_map={a: 0, b: 0}", "index 0 is given to both 'a' and 'b'"),
        ("dataset.label_map={a: 1, b: 2}", "2 classes take the indices 0..1, each once; 'b' has 2 and 0 is missing"),
        ("dataset.label_map={a: 0, b: -1}", "2 classes take the indices 0..1, each once; 'b' has -1 and 1 is missing"),
        ("dataset.label_map={a: 0, a: 1}", "'a' is given twice (line 1)"),
        ("results_dir=", "no value (null): give one, or leave the key out for /results"),
        ("results_dir=''", "must not be empty"),
        ("results_dir=${HOME}/r", "'${HOME}/r': ${...} is not filled in here; write the value out"),
        ('results_dir="a\\0b"', "has a character no file name or log can hold: 'a\\x00b'"),
        ('results_dir="\\ud800"', "has a character no file name or log can hold: '\\ud800'"),
        ("results_dir=[a", "not valid YAML: expected ',' or ']', but got '<stream end>' (put text in quotes)"),
        ("results_dir=!!str a", "not valid YAML: tags (words that begin with !) are not accepted: remove the tag"),
        ("train=5", "must be a section of keys, got 5"),
    ],
)
def test_value_when_wrong_is_refused_in_these_words(override, expected):
    name = override.partition("=")[0]
    assert problems_of(override).startswith(f"spec: 1 problem\n  command line: {name}: {expected}")


def test_flow_mean_of_three_is_refused_with_the_reason():
    text = problems_of(f"{AUGMENTATION}.of_input_mean=[0.5, 0.5, 0.5]")
    assert "optical flow (u, v) takes 1 or 2 numbers, got 3" in text
    assert "TAO skips the normalisation without a word" in text


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.optim.momentum=0", "model.dropout_ratio=0"],
        [f"{AUGMENTATION}.of_input_mean=[0.5, 0.5]", f"{AUGMENTATION}.of_input_std=[0.5]"],
        [f"{AUGMENTATION}.rgb_input_mean=[0]", f"{AUGMENTATION}.rgb_input_std=[1]"],
        ["inference.video_inf_mode=all", "evaluate.video_eval_mode=conv"],
        ["dataset.label_map={a: 1, b: 0}"],
        ["train.optim.lr_decay=1", "dataset.workers=0", "train.optim.patience=0", "train.clip_grad_norm=0"],
    ],
)
def test_value_at_its_bound_is_accepted(overrides):
    assert load_spec(None, overrides).notes == ()


# --- overrides ---


def test_override_when_given_twice_the_last_wins():
    assert load_spec(None, ["train.seed=1", "train.seed=2"]).train.seed == 2


def test_override_of_a_bad_value_repairs_the_spec(tmp_path):
    path = write(tmp_path, "train: {seed: x, num_epochs: 3}\n")
    train = load_spec(path, ["train.seed=7"]).train
    assert (train.seed, train.num_epochs) == (7, 3)


def test_override_of_a_section_replaces_all_of_it(tmp_path):
    path = write(tmp_path, "train: {optim: {lr: 0.1, momentum: 0.5}}\n")
    optim = load_spec(path, ["train.optim={lr: 0.2}"]).train.optim
    assert (optim.lr, optim.momentum) == (0.2, 0.9)


def test_override_of_a_list_and_of_a_mapping_replaces_it(tmp_path):
    path = write(tmp_path, "dataset: {label_map: {a: 0, b: 1}}\ntrain: {optim: {lr_steps: [1, 2, 3]}}\n")
    spec = load_spec(path, ["dataset.label_map={c: 0}", "train.optim.lr_steps=[9]"])
    assert (spec.dataset.label_map, spec.train.optim.lr_steps) == ({"c": 0}, (9,))


@pytest.mark.parametrize("override", ["train.seed", "", "=3", "train seed=3", "dataset.output_shape[0]=3"])
def test_override_without_a_key_and_value_is_refused(override):
    assert problems_of(override).endswith("an override is section.key=value")


# --- the list of problems ---


def test_problems_are_listed_at_once_in_the_order_of_the_spec(tmp_path):
    path = write(
        tmp_path, "# a comment\n\nmodel:\n  backbone: resnet19\n" + "\n" * 26 + "train: {optim: {lr: -0.01}}\n"
    )
    with pytest.raises(SpecError, match="2 problems") as caught:
        load_spec(path)
    assert str(caught.value) == (
        f"{path}: 2 problems\n"
        "  line 4: model.backbone: 'resnet19' is not one of resnet18, resnet34, resnet50, resnet101, resnet152, i3d, "
        "r3d_18, mc3_18, r2plus1d_18, s3d, mvit_v2_s, swin3d_t "
        "(did you mean resnet18?)\n"
        "  line 31: train.optim.lr: must be > 0, got -0.01"
    )
    assert [problem.key for problem in caught.value.problems] == ["model.backbone", "train.optim.lr"]


def test_problems_of_the_spec_come_before_the_command_line_and_what_is_missing(tmp_path):
    path = write(tmp_path, "train:\n  seed: x\n")
    with pytest.raises(SpecError, match="3 problems") as caught:
        load_spec(path, ["model.num_fc=0"], task="train")
    assert str(caught.value) == (
        f"{path}: 3 problems\n"
        "  line 2: train.seed: must be an integer, got 'x'\n"
        "  command line: model.num_fc: must be > 0, got 0\n"
        "  dataset.train_dataset_dir: train needs it: set dataset.train_dataset_dir in the spec, "
        "or dataset.train_dataset_dir=PATH on the command line"
    )


def test_problems_found_in_another_order_are_listed_by_line(tmp_path):
    path = write(tmp_path, "model:\n  num_fc: 0\n  num_fx: 1\n  dropout_ratio: 2\n")
    with pytest.raises(SpecError, match="3 problems") as caught:
        load_spec(path)
    assert [problem.key for problem in caught.value.problems] == ["model.num_fc", "model.num_fx", "model.dropout_ratio"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train.optim.learning_rate", "unknown key (did you mean train.optim.lr?)"),
        ("train.optim.momentun", "unknown key (did you mean train.optim.momentum?)"),
        ("train.lr", "unknown key (its place is train.optim.lr)"),
        ("crop_smaller_edge", f"unknown key (its place is {AUGMENTATION}.crop_smaller_edge)"),
        ("optim.lr", "unknown key (its place is train.optim.lr)"),
        ("augmentation_config", f"unknown key (its place is {AUGMENTATION})"),
        ("modle", "unknown key (did you mean model?)"),
        ("model.onnx", "unknown key; see -h for the keys"),
        ("train.epochs", "unknown key (did you mean train.num_epochs?)"),
        (
            "model.batch_size",
            "unknown key (did you mean dataset.batch_size or evaluate.batch_size or inference.batch_size?)",
        ),
        ("dataset.label_map.walk", "unknown key; see -h for the keys"),
    ],
)
def test_unknown_key_is_told_its_place_or_the_nearest_name(name, expected):
    assert problems_of(f"{name}=1") == f"spec: 1 problem\n  command line: {name}: {expected}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ": the spec is empty: it needs at least a section such as model or dataset"),
        ("# nothing\n---\n", ": the spec is empty: it needs at least a section such as model or dataset"),
        ("- a\n", ": a spec is a mapping of sections (model: ...), got a list"),
        ("encryption_key=tlt\n", ": a spec is a mapping of sections (model: ...), got plain text"),
        ("model: {\n", ": 1 problem\n  line 2: not valid YAML: expected the node content, but found '<stream end>'"),
        ("model:\n\tbackbone: i3d\n", ": 1 problem\n  line 2: not valid YAML: found character '\\t' that cannot start"),
        ("a: 1\n---\nb: 1\n", ": 1 problem\n  line 2: not valid YAML: but found another document"),
        ("model: !!python/object:os.system {}\n", ": 1 problem\n  line 1: not valid YAML: tags (words that begin with"),
        ("model: {backbone: *xyz}\n", ": 1 problem\n  line 1: not valid YAML: found undefined alias '...'"),
        ('results_dir: "\\U00110000"\n', ": not valid YAML: a character escape or number is out of range"),
        ('results_dir: "\\UFFFFFFFF"\n', ": not valid YAML: a character escape or number is out of range"),
        ("[" * 100_000, ": 1 problem\n  line 1: not valid YAML: deeper than 32 levels: no spec needs that"),
        ("a: [" + "1," * 10_000 + "]", ": 1 problem\n  line 1: not valid YAML: more than 10000 values: no spec needs"),
        ("# " + "x" * 2**18, ": larger than 262144 bytes; give the path of a spec (YAML)"),
        (b"model: \xff\n", ": not UTF-8 text (byte 0xff at 7); give the path of a spec (YAML)"),
        ("a\0b: 1\n", ": 1 problem\n  line 1: not valid YAML: special characters are not allowed (character 0)"),
        ("? [a, b]\n: 1\n", ": 1 problem\n  line 1: a key must be a word, got ['a', 'b']"),
        ("train: 5\n", ": 1 problem\n  line 1: train: must be a section of keys, got 5"),
        (
            "train: {seed: 1}\ntrain: {seed: 1}\n",
            ": 1 problem\n  line 2: train: given twice (first on line 1): keep one",
        ),
        (
            "model: &a {num_fc: 3}\ntrain: {<<: *a}\n",
            ": 1 problem\n  line 2: train.<<: YAML merge keys are not accepted",
        ),
    ],
)
def test_document_when_it_is_no_spec_is_refused(tmp_path, text, expected):
    path = write(tmp_path, text)
    with pytest.raises(SpecError, match=re.escape(f"{path}{expected}")):
        load_spec(path)


def test_path_when_missing_a_folder_or_no_path_is_named(tmp_path):
    with pytest.raises(SpecError, match=re.escape(f"{tmp_path}/no.yaml: no such file; give the path of a spec")):
        load_spec(tmp_path / "no.yaml")
    with pytest.raises(SpecError, match=re.escape(f"{tmp_path}: cannot be read: Is a directory")):
        load_spec(tmp_path)
    with pytest.raises(SpecError, match=r"^a\\x00b: not a path: embedded null byte"):
        load_spec("a\0b")


def test_alias_is_read_like_the_value_it_names(tmp_path):
    path = write(tmp_path, "train: {gpu_ids: &ids [2, 3]}\nevaluate: {gpu_ids: *ids}\n")
    assert load_spec(path).evaluate.gpu_ids == (2, 3)


def test_aliases_that_explode_are_refused_briefly(tmp_path):
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30))]
    path = write(tmp_path, "\n".join([*lines, "train: {gpu_ids: *a29, seed: *a29, optim: *a29}", "x: &x [*x]"]))
    with pytest.raises(SpecError, match=r"train\.seed: must be an integer, got ") as caught:
        load_spec(path)
    assert len(str(caught.value)) < 5000


def test_value_of_a_megabyte_is_cut_in_the_message():
    text = problems_of("model.backbone=" + "x" * 10**6, "y" * 10**6 + "=1")
    assert "'" + "x" * 59 + "... (1000002 characters) is not one of" in text
    assert len(text) < 500


# --- contradictions ---


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["dataset.output_shape=[112, 128]"], (112, 128)),
        (["model.input_height=112"], (112, 224)),
        (["model.input_height=112", "model.input_width=128"], (112, 128)),
        (["model.input_height=112", "dataset.output_shape=[112, 128]"], (112, 128)),
    ],
)
def test_input_size_is_taken_from_whichever_was_given(overrides, expected):
    spec = load_spec(None, overrides)
    assert (spec.model.input_height, spec.model.input_width) == expected
    assert spec.dataset.output_shape == expected


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["dataset.output_shape=[224, 224]", "model.input_height=112"],
            "dataset.output_shape: [224, 224] and model.input_height x input_width 112 x 224 differ: leave",
        ),
        (
            ["model.input_height=257"],
            f"{AUGMENTATION}.crop_smaller_edge: 256 is smaller than the 257 x 224 that random_crop cuts out: "
            "raise it to 257 or more",
        ),
        (
            [f"{AUGMENTATION}={{crop_smaller_edge: 223, train_crop_type: no_crop, val_center_crop: true}}"],
            f"{AUGMENTATION}.crop_smaller_edge: 223 is smaller than the 224 x 224 that val_center_crop",
        ),
        (
            ["model.backbone=i3d", "model.rgb_seq_length=9"],
            "  model.input_type: i3d takes 3d only, got '2d'",
        ),
        (
            ["model.backbone=i3d", "model.input_type=3d", "model.model_type=rgb", "model.rgb_seq_length=8"],
            "command line: model.rgb_seq_length: i3d needs at least 9 frames, got 8",
        ),
        (
            ["model.backbone=i3d", "model.input_type=3d", "model.model_type=of", "model.of_seq_length=8"],
            "command line: model.of_seq_length: i3d needs at least 9 frames, got 8",
        ),
        (
            ["model.backbone=i3d", "model.input_type=3d", "model.model_type=of", "model.input_width=192"],
            "command line: model.input_width: i3d needs 193..224 pixels, got 192",
        ),
        (
            ["model.backbone=i3d", "model.input_type=3d", "model.model_type=of", "dataset.output_shape=[225, 225]"],
            "command line: dataset.output_shape: i3d needs 193..224 pixels, got 225",
        ),
        (
            ["model.backbone=i3d", "model.input_type=3d", "model.model_type=of", "model.imagenet_pretrained=true"],
            "command line: model.imagenet_pretrained: there are no ImageNet weights for i3d",
        ),
        (
            ["train.sync_bn=true", "train.device=cpu"],
            "command line: train.sync_bn: needs GPUs, and train.device is 'cpu': set it to false or change the device",
        ),
        (
            ["train.optim.lr_scheduler=AutoReduce", "train.optim.lr_decay=1"],
            "command line: train.optim.lr_decay: AutoReduce needs a factor < 1, got 1.0",
        ),
        (
            ["export.precision=bf16", "export.opset=21"],
            "command line: export.opset: bf16 needs 22 or more, got 21: ONNX has no bf16 convolution before",
        ),
        (
            ["export.onnx_file=model.pth"],
            "command line: export.onnx_file: 'model.pth' must end in .onnx, or in .etlt for an encrypted file",
        ),
    ],
)
def test_keys_that_contradict_each_other_are_refused(overrides, expected):
    text = problems_of(*overrides)
    assert text.startswith("spec: 1 problem\n")
    assert expected in text


@pytest.mark.parametrize(
    "overrides",
    [
        [f"{AUGMENTATION}.crop_smaller_edge=224", f"{AUGMENTATION}.val_center_crop=true"],
        [f"{AUGMENTATION}.crop_smaller_edge=100", f"{AUGMENTATION}.train_crop_type=no_crop"],
        [
            "model={backbone: i3d, input_type: 3d, model_type: rgb, rgb_seq_length: 9}",
            "dataset.output_shape=[193, 224]",
        ],
        ["model.backbone=i3d", "model.input_type=3d", "model.rgb_seq_length=64", "model.of_seq_length=64"],
        ["train.sync_bn=true", "train.device=cuda"],
    ],
)
def test_keys_that_are_just_compatible_are_accepted(overrides):
    assert load_spec(None, overrides).notes == ()


def test_auto_reduce_without_validation_data_is_refused_for_training_only():
    overrides = ["train.optim.lr_scheduler=AutoReduce", "dataset.train_dataset_dir=/d"]
    expected = "command line: train.optim.lr_scheduler: AutoReduce watches val_loss and there is no validation data"
    assert expected in problems_of(*overrides, task="train")
    assert load_spec(None, [*overrides, "train.optim.lr_monitor=train_loss"], task="train").notes == ()
    assert load_spec(None, [*overrides, "dataset.val_dataset_dir=/v"], task="train").notes == ()
    assert load_spec(None, overrides).notes == ()


def test_random_crop_is_no_matter_when_evaluating():
    overrides = [*NEEDED["evaluate"], "model.input_height=300"]
    assert load_spec(None, overrides, task="evaluate").model.input_height == 300


@pytest.mark.parametrize("task", NEEDED)
def test_task_without_what_it_needs_is_refused(task):
    names = [override.partition("=")[0] for override in NEEDED[task]]
    text = problems_of(task=task)
    assert [line.split(":")[0].strip() for line in text.splitlines()[1:]] == names
    assert load_spec(None, NEEDED[task], task=task).notes == ()


def test_task_when_unknown_is_a_value_error():
    with pytest.raises(ValueError, match="task 'eval' is not one of train, evaluate, inference, export"):
        load_spec(None, task="eval")
    with pytest.raises(ValueError, match="task 'eval' is not one of train, evaluate, inference, export"):
        describe("eval")


# --- checks of the caller ---


def test_check_of_the_caller_sees_defaults_and_is_listed_with_the_others():
    def check(spec):
        assert spec.train.seed == 1234
        yield Problem("dataset.train_dataset_dir", "no such folder")
        yield Problem("train.seed", "never listed: it has a problem already")
        yield Problem("model.num_fc", "never listed: what it rests on has one", involves=("train.seed",))

    with pytest.raises(SpecError, match="2 problems") as caught:
        load_spec(None, ["train.seed=x", "dataset.train_dataset_dir=/d"], checks=[check])
    assert str(caught.value) == (
        "spec: 2 problems\n"
        "  command line: train.seed: must be an integer, got 'x'\n"
        "  command line: dataset.train_dataset_dir: no such folder"
    )


# --- resolved values ---


def test_results_dirs_follow_the_root_one_unless_given():
    spec = load_spec(None, ["results_dir=/r", "export.results_dir=/e"])
    folders = [spec.train.results_dir, spec.evaluate.results_dir, spec.inference.results_dir, spec.export.results_dir]
    assert folders == ["/r/train", "/r/evaluate", "/r/inference", "/e"]


def test_onnx_file_when_not_given_lies_beside_the_checkpoint():
    assert load_spec(None, ["export.checkpoint=/r/a.b.pth"]).export.onnx_file == "/r/a.b.onnx"
    assert load_spec(None, ["export.checkpoint=/r/a.pth", "export.onnx_file=m.onnx"]).export.onnx_file == "m.onnx"


@pytest.mark.parametrize(
    ("overrides", "num_gpus", "gpu_ids", "notes"),
    [
        (["train.num_gpus=2"], 2, (0, 1), ()),
        (["train.gpu_ids=[3, 5]"], 2, (3, 5), ()),
        (["train.num_gpus=2", "train.gpu_ids=[3, 5]"], 2, (3, 5), ()),
        (
            ["train.num_gpus=1", "train.gpu_ids=[3, 5]"],
            2,
            (3, 5),
            ("train.num_gpus 1 and gpu_ids [3, 5] disagree: 2 processes, gpu_ids [3, 5]",),
        ),
        (
            ["train.num_gpus=3", "train.gpu_ids=[3, 5]"],
            3,
            (0, 1, 2),
            ("train.num_gpus 3 and gpu_ids [3, 5] disagree: 3 processes, gpu_ids [0, 1, 2]",),
        ),
    ],
)
def test_gpus_are_as_many_as_the_larger_count(overrides, num_gpus, gpu_ids, notes):
    spec = load_spec(None, overrides)
    assert (spec.train.num_gpus, spec.train.gpu_ids, spec.notes) == (num_gpus, gpu_ids, notes)


def test_lr_monitor_without_auto_reduce_is_noted():
    notes = load_spec(None, ["train.optim.lr_monitor=train_loss"]).notes
    assert notes == ("train.optim.lr_monitor train_loss is ignored: only AutoReduce watches a loss",)


def test_origins_name_only_what_was_given(tmp_path):
    path = write(tmp_path, "results_dir: /r\nexport:\n  checkpoint: ???\n  gpu_id: 1\n")
    assert load_spec(path, ["train.seed=1"]).origins == {
        "results_dir": f"{path}, line 1",
        "export.gpu_id": f"{path}, line 4",
        "train.seed": "command line",
    }


# --- TAO's other names ---


def test_tao_keys_without_a_meaning_are_ignored_in_one_note(tmp_path):
    text = "model_name: ar\nwandb: {enable: true}\ntrain: {checkpointer: {a: 1}}\nevaluate: {trt_engine: x}\n"
    path = write(tmp_path, text + "inference: {trt_engine: x}\nexport: {batch_size: -1}\n")
    assert load_spec(path, ["wandb.name=x"]).notes == (
        "TAO keys without a meaning here are ignored: model_name, wandb, train.checkpointer, evaluate.trt_engine, "
        "inference.trt_engine, export.batch_size, wandb.name",
    )


def test_old_spec_is_mapped_in_one_note(tmp_path):
    text = """\
model_config: {model_type: rgb, backbone: resnet_34}
dataset_config: {train_dataset_dir: /d, augmentation_config: {of_input_rgb: [0.25]}}
train_config: {epochs: 7, optim: {lr: 0.01}}
output_dir: /o
gpu_ids: [1]
key:
"""
    spec = load_spec(write(tmp_path, text), task="train")
    assert (spec.model.backbone, spec.train.num_epochs, spec.train.optim.lr) == ("resnet34", 7, 0.01)
    assert spec.dataset.augmentation_config.of_input_std == (0.25,)
    assert (spec.train.results_dir, spec.train.gpu_ids) == ("/o/train", (1,))
    assert spec.notes == (
        "older names were mapped: model_config -> model, dataset_config -> dataset, "
        f"dataset_config.augmentation_config.of_input_rgb -> {AUGMENTATION}.of_input_std, train_config -> train, "
        "train_config.epochs -> train.num_epochs, output_dir -> results_dir, gpu_ids -> train.gpu_ids, "
        "key -> encryption_key",
    )


@pytest.mark.parametrize(
    ("task", "text", "expected"),
    [
        (
            "evaluate",
            "model: /c.pth\nbatch_size: 4\ntest_dataset_dir: /t\nvideo_eval_mode: conv\n"
            "video_num_segments: 5\ngpu_id: 2\n",
            {
                "evaluate.checkpoint": "/c.pth",
                "evaluate.batch_size": 4,
                "evaluate.test_dataset_dir": "/t",
                "evaluate.video_eval_mode": "conv",
                "evaluate.video_num_segments": 5,
                "evaluate.gpu_ids": (2,),
                "inference.batch_size": 1,
            },
        ),
        (
            "inference",
            "model: /c.pth\nbatch_size: 4\ninference_dataset_dir: /t\nvideo_inf_mode: conv\nvideo_num_segments: 5\n",
            {
                "inference.checkpoint": "/c.pth",
                "inference.batch_size": 4,
                "inference.inference_dataset_dir": "/t",
                "inference.video_inf_mode": "conv",
                "inference.video_num_segments": 5,
                "evaluate.video_num_segments": 10,
            },
        ),
        (
            "export",
            "model: /c.pth\nbatch_size: 4\noutput_file: /o.onnx\ngpu_id: 2\n",
            {"export.checkpoint": "/c.pth", "export.onnx_file": "/o.onnx", "export.gpu_id": 2},
        ),
        ("export", "model: /c.pth\ngpu_ids: [3]\n", {"export.gpu_id": 3}),
    ],
)
def test_old_root_keys_belong_to_the_task_that_reads_them(tmp_path, task, text, expected):
    spec = load_spec(write(tmp_path, text), task=task)
    assert {name: value_of(spec, name) for name in expected} == expected
    assert "older names were mapped: model -> " in spec.notes[-1]


def test_old_and_new_name_when_both_given_must_agree(tmp_path):
    same = write(tmp_path, "train_config: {epochs: 7}\ntrain: {num_epochs: 7}\n")
    assert load_spec(same).train.num_epochs == 7
    different = write(tmp_path, "train_config: {epochs: 7}\ntrain: {num_epochs: 8}\n")
    expected = (
        "line 1: train.num_epochs: train_config.epochs and train.num_epochs are the same key and differ: keep one"
    )
    with pytest.raises(SpecError, match=expected):
        load_spec(different)
    assert load_spec(different, ["train.num_epochs=9"]).train.num_epochs == 9


@pytest.mark.parametrize(
    ("overrides", "opset"),
    [([], 20), (["export.precision=bf16"], 22), (["export.precision=bf16", "export.opset=23"], 23)],
)
def test_opset_of_an_export_follows_from_its_precision(overrides, opset):
    assert load_spec(None, overrides).export.opset == opset


@pytest.mark.parametrize("opset", [17, 26])
def test_opset_that_is_not_written_or_not_read_elsewhere_is_refused(opset):
    assert f"export.opset: must be between 18 and 25, got {opset}" in problems_of(f"export.opset={opset}")


def test_int8_export_without_training_clips_is_refused():
    how = ("export.checkpoint=/c.pth", "export.precision=int8")
    expected = "export.precision: int8 is calibrated on training clips: set dataset.train_dataset_dir"
    assert expected in problems_of(*how, task="export")
    assert load_spec(None, [*how, "dataset.train_dataset_dir=/d"], task="export").export.precision == "int8"


# --- the secret ---


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        ("encryption_key: [tlt_secret]\n", []),
        ("encryption_key: {tlt_secret: tlt_secret}\n", []),
        ("encryption_key: *tlt_secret\n", []),
        ("encryption_key: !tlt_secret! x\n", []),
        ("key: tlt_secret\nencryption_key: tlt_secret2\n", []),
        ("train: {encryption_key: tlt_secret}\n", []),
        ("results_dir:\n  encryption_key: tlt_secret\n", []),
        ("encryption_key: !tlt_secret [1]\n", []),
        ("encryption_key=tlt_secret\n", []),
        ("results_dir: /r\n", ["key=[tlt_secret"]),
        ("results_dir: /r\n", ["encryption_key=*tlt_secret"]),
        ("results_dir: /r\n", ["encryption_key tlt_secret"]),
        ("results_dir: /r\n", ["encryption_key:tlt_secret"]),
        ("results_dir: /r\n", ["model.encryption_key=tlt_secret"]),
    ],
)
def test_encryption_key_that_is_wrong_is_refused_and_its_value_never_shown(tmp_path, text, overrides):
    with pytest.raises(SpecError, match=r"problem|mapping of sections") as caught:
        load_spec(write(tmp_path, text), overrides)
    assert "tlt_secret" not in str(caught.value) + repr(caught.value) + repr(caught.value.problems)


def test_encryption_key_that_is_no_text_is_refused_without_a_word_of_it():
    expected = "encryption_key: must be text (what was given is not shown)"
    assert expected in problems_of("key=[tlt_secret]")


@pytest.mark.parametrize("key", ["tlt_secret", "1234", "no", "1e3", "a b # c", "${tlt}", "schlüssel"])
def test_encryption_key_is_the_text_that_was_given_and_its_value_is_shown_nowhere(tmp_path, key):
    quoted = yaml.safe_dump({"encryption_key": key}, allow_unicode=True)
    old = yaml.safe_dump({"key": key}, allow_unicode=True)
    for spec in (
        load_spec(write(tmp_path, quoted)),
        load_spec(write(tmp_path, old)),
        load_spec(None, [f"encryption_key={key}"]),
    ):
        assert spec.encryption_key == key
        shown = repr(spec) + str(to_plain(spec)) + str(spec.notes) + str(spec.origins)
        assert f"={key!r}" not in shown
        assert "encryption_key=" not in shown
        assert len(key) < 6 or key not in shown


def test_encryption_key_of_a_spec_built_by_hand_is_hidden():
    spec = Spec(encryption_key="tlt_secret")
    assert "tlt_secret" not in repr(spec) + str(to_plain(spec))


# --- plain values and help ---


def test_plain_spec_when_written_and_read_again_is_the_same(tmp_path):
    overrides = [
        "dataset.label_map={on: 0, 1e3: 1}",
        "train.optim.lr=1e-5",
        "train.num_gpus=2",
        "model.input_width=200",
    ]
    spec = load_spec(None, overrides)
    plain = to_plain(spec)
    assert plain["dataset"]["output_shape"] == [224, 200]
    assert plain["dataset"]["label_map"] == {"on": 0, "1e3": 1}
    assert plain["train"]["gpu_ids"] == [0, 1]
    assert not plain.keys() & {"encryption_key", "origins", "notes"}
    assert load_spec(write(tmp_path, yaml.safe_dump(plain))) == spec


def test_spec_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError, match="batch_size"):
        DatasetSpec().batch_size = 3


def test_model_spec_from_plain_gives_back_what_to_plain_took():
    model = ModelSpec(model_type="of", backbone="resnet50", dropout_ratio=0.25, of_pretrained_model_path="/w.pth")
    assert model_spec_from_plain(to_plain(model)) == model
    assert model_spec_from_plain({"dropout_ratio": 1, "backbone": "resnet_34"}) == ModelSpec(
        dropout_ratio=1.0, backbone="resnet34"
    )


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        ([], "the model spec must be a mapping, got list"),
        ({"depth": 3}, "model spec: unknown key 'depth'"),
        ({3: 3}, "model spec: unknown key 3"),
        ({"num_fc": True}, "num_fc must be an integer, got True"),
        ({"num_fc": 3.0}, "num_fc must be an integer, got 3.0"),
        ({"num_fc": "3"}, "num_fc must be an integer, got '3'"),
        ({"num_fc": None}, "num_fc must be an integer, got a NoneType"),
        ({"num_fc": 10**5000}, "num_fc must be between -2147483647 and 2147483647"),
        ({"num_fc": 0}, "num_fc must be > 0, got 0"),
        ({"dropout_ratio": float("nan")}, "dropout_ratio must be a finite number, got nan"),
        ({"dropout_ratio": 10**5000}, "dropout_ratio must be between"),
        ({"imagenet_pretrained": 1}, "imagenet_pretrained must be true or false, got 1"),
        ({"model_type": ["rgb"]}, "model_type must be text, got a list"),
        ({"model_type": "flow"}, "model_type 'flow' is not one of rgb, of, joint"),
        ({"backbone": "i3d", "input_type": "2d"}, "input_type: i3d takes 3d only, got '2d'"),
    ],
)
def test_model_spec_from_plain_when_wrong_is_refused(mapping, expected):
    with pytest.raises(ValueError, match=re.escape(expected)):
        model_spec_from_plain(mapping)


@pytest.mark.parametrize("task", NEEDED)
def test_describe_lists_every_key_of_the_task_in_columns(task):
    lines = describe(task).splitlines()
    sections = ("model", "dataset", task, "results_dir", "encryption_key")
    assert [line.split()[0] for line in lines] == [name for name in DEFAULTS if name.split(".")[0] in sections]
    column = lines[0].index("joint")
    assert all(line[column - 2 : column] == "  " and line[column] != " " for line in lines)


def test_describe_gives_default_meaning_and_what_is_accepted():
    (line,) = (line for line in describe("train").splitlines() if line.startswith("train.optim.lr_scheduler "))
    assert line.split(maxsplit=2)[1:] == [
        "MultiStep",
        "MultiStep lowers lr at lr_steps, AutoReduce on a plateau, Cosine at every step, to 0 at the end "
        "(MultiStep, AutoReduce, Cosine)",
    ]


def test_import_loads_nothing_heavy():
    code = "import sys, action_recognition.config; print(sorted({'torch', 'numpy', 'cv2', 'av'} & set(sys.modules)))"
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout == "[]\n"


# --- whatever a user may write ---

ODD_TEXTS = ["{", "]", "*a", "&a", "!x", "<<", "- ", "? ", ": ", '"', "\t", "\0", "\u2028", "---\n", "%YAML 9.9\n"]
ODD_TEXTS += ['"\\UFFFFFFFF"', '"\\ud800"', "9" * 5000, "|\n", "@", "1e999", "010", "???", "on", "${a}", "key: k\n"]
ODD_VALUES = [None, True, -1, 2**40, 10**30, 1.5, float("nan"), "", "???", "on", "1e-4", [], [[1]], {}, {"a": {"b": 1}}]
ODD_VALUES += ["\0", "x" * 10_000, {1: 2}, {None: 3}, {True: 0}, "i3d", "AutoReduce", "3d", "/d", 0, 1, 9, 0.25, [0.5]]


def mutated_text(rng: random.Random) -> str:
    text = DOCUMENTED_SPEC
    for _ in range(rng.randint(1, 2)):
        start = rng.randrange(len(text) + 1)
        text = text[:start] + rng.choice(["", *ODD_TEXTS]) + text[start + rng.randint(0, 9) :]
    return text


def mutated_structure(rng: random.Random) -> str:
    plain = yaml.safe_load(DOCUMENTED_SPEC)
    for _ in range(rng.randint(1, 2)):
        section = rng.choice([value for value in plain.values() if isinstance(value, dict)] or [plain])
        name = rng.choice([*section] * 4 + ["model", "model_config", "lr", 1, None])
        section[name] = rng.choice(ODD_VALUES)
    return yaml.safe_dump(plain)


def test_spec_however_mutated_is_read_or_refused_with_problems(tmp_path):
    rng = random.Random(0)
    read = 0
    for turn in range(300):
        path = write(tmp_path, (mutated_text, mutated_structure)[turn % 2](rng))
        try:
            spec = load_spec(path, task=rng.choice([None, "train"]))
        except SpecError as error:
            assert error.problems  # noqa: PT017 (either outcome is fine; anything else escapes and fails the test)
            assert len(str(error)) < 20_000  # noqa: PT017
        else:
            read += 1
            assert model_spec_from_plain(to_plain(spec.model)) == spec.model
    assert 0 < read < 300

"""The spec and the data, the spec and the contract: made from one another, and held against one another.

The `*_problems` functions are checks for config.load_spec: they look at folders and lists (no image is opened) and
yield what is wrong, so that the user gets it in one list with the spec's own faults.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from action_recognition.clip.contract import CHANNELS, MODALITIES, Contract, Stream
from action_recognition.config import Problem, Spec
from action_recognition.config.backbones import KINETICS
from action_recognition.data.index import class_names_of
from action_recognition.data.lists import read_list
from action_recognition.errors import DataError, SpecError
from action_recognition.files import writable_parent

LIST_SUFFIXES = (".txt", ".csv", ".json")


def contract_of(spec: Spec, class_names: tuple[str, ...]) -> Contract:
    """The contract of a model that is trained with `spec` on these classes."""
    model, augmentation = spec.model, spec.dataset.augmentation_config
    streams = {}
    for modality in MODALITIES[model.model_type]:
        mean = getattr(augmentation, f"{modality}_input_mean")
        std = getattr(augmentation, f"{modality}_input_std")
        length = getattr(model, f"{modality}_seq_length")
        streams[modality] = Stream(length, _per_channel(mean, modality), _per_channel(std, modality))
    return Contract(
        model_type=model.model_type,
        input_type=model.input_type,
        streams=streams,
        height=model.input_height,
        width=model.input_width,
        center_crop=augmentation.val_center_crop,
        smaller_edge=augmentation.crop_smaller_edge,
        sample_strategy=model.sample_strategy,
        sample_rate=model.sample_rate,
        flow_encoding=spec.dataset.flow_encoding,
        class_names=class_names,
    )


def check_agreement(spec: Spec, contract: Contract, trained_as: Mapping[str, Any], checkpoint: str) -> None:
    """SpecError where a value that the spec gives contradicts the checkpoint's contract or network, naming both.

    `trained_as` is the plain model section that the checkpoint was trained with, as far as it is known.
    """
    wanted, problems = contract_of(spec, contract.class_names), []
    network = ("backbone", "num_fc") if contract.model_type == "joint" else ("backbone",)
    stored = {**_contract_keys(contract), **{f"model.{key}": trained_as[key] for key in network if key in trained_as}}
    given = {**_contract_keys(wanted), "model.backbone": spec.model.backbone, "model.num_fc": spec.model.num_fc}
    for key, value in stored.items():
        if key in spec.origins and key in given and given[key] != value:
            problems.append(f"  {spec.origins[key]}: {key} is {_text(given[key])}, the checkpoint's is {_text(value)}")
    label_map = spec.dataset.label_map
    if label_map and tuple(sorted(label_map, key=label_map.__getitem__)) != contract.class_names:
        names = ", ".join(contract.class_names)
        problems.append(
            f"  {spec.origins['dataset.label_map']}: dataset.label_map differs from the checkpoint's: {names}"
        )
    if problems:
        listing = "\n".join(problems)
        raise SpecError(f"the spec contradicts {checkpoint}; leave these keys out, or use its values:\n{listing}")


def training_problems(spec: Spec) -> Iterator[Problem]:
    """What is wrong with the folders of a training run."""
    train, val = spec.dataset.train_dataset_dir, spec.dataset.val_dataset_dir
    yield from _class_problems(spec, "dataset.train_dataset_dir", train, must_have_all=True)
    classes = spec.dataset.label_map or (_classes_of(train) if train else None)
    yield from _class_problems(spec, "dataset.val_dataset_dir", val, classes=classes)
    yield from _file_problems(spec, *(f"model.{m}_pretrained_model_path" for m in ("rgb", "of", "joint")))
    yield from _pretrained_problems(spec)
    yield from _file_problems(spec, "train.resume_training_checkpoint_path")
    yield from _cache_problems(spec)
    yield from _results_problems(spec, "train")


def evaluation_problems(spec: Spec) -> Iterator[Problem]:
    """What is wrong with the paths of an evaluation."""
    key = "evaluate.test_dataset_dir"
    if key not in spec.origins and "dataset.val_dataset_dir" in spec.origins:
        key = "dataset.val_dataset_dir"
    yield from _file_problems(spec, "evaluate.checkpoint")
    yield from _class_problems(spec, key, spec.evaluate.test_dataset_dir)
    yield from _cache_problems(spec)
    yield from _results_problems(spec, "evaluate")


def inference_problems(spec: Spec) -> Iterator[Problem]:
    """What is wrong with the paths of an inference run."""
    yield from _file_problems(spec, "inference.checkpoint")
    yield from _folder_problems("inference.inference_dataset_dir", spec.inference.inference_dataset_dir)
    yield from _cache_problems(spec)
    yield from _results_problems(spec, "inference")


def export_problems(spec: Spec) -> Iterator[Problem]:
    """What is wrong with the paths of an export."""
    yield from _file_problems(spec, "export.checkpoint")
    target = spec.export.onnx_file
    if target is not None and not os.path.isdir(os.path.dirname(target) or "."):
        yield Problem("export.onnx_file", f"no such folder: {os.path.dirname(target)!r}", ("export.checkpoint",))
    elif target is not None and os.path.isdir(target):
        yield Problem("export.onnx_file", f"{target!r} is a folder, not a file")
    elif target is not None and os.path.exists(target) and not spec.export.overwrite:
        text = f"{target!r} exists; set export.overwrite=true to replace it, or export.onnx_file=FILE"
        yield Problem("export.onnx_file", text)
    if spec.export.precision == "int8":
        yield from _class_problems(spec, "dataset.train_dataset_dir", spec.dataset.train_dataset_dir)
    key = "dataset.val_dataset_dir" if spec.dataset.val_dataset_dir else "evaluate.test_dataset_dir"
    yield from _class_problems(spec, key, spec.evaluate.test_dataset_dir)


def _class_problems(
    spec: Spec, key: str, root: str | None, must_have_all: bool = False, classes: Any = None
) -> Iterator[Problem]:
    if root is None:
        return
    label_map = spec.dataset.label_map
    known = classes or label_map
    if not os.path.isdir(root):
        yield from _list_problems(key, root, known, spec.dataset.on_bad_video == "skip")
        return
    present = _classes_of(root)
    if present is None:
        yield Problem(key, f"{root!r} can't be listed; give this user the right to read it")
    elif not present:
        yield Problem(
            key,
            f"{root!r} holds no class folder; expected <class>/<video file>, or <class>/<video>/rgb (and u, v)",
        )
    elif known and (unknown := [name for name in present if name not in known]):
        where = "dataset.label_map" if label_map else "dataset.train_dataset_dir"
        yield Problem(
            key, f"class folder {unknown[0]!r} is not in {where} ({', '.join(known)})", ("dataset.label_map",)
        )
    elif must_have_all and label_map and (absent := [name for name in label_map if name not in present]):
        text = f"no folder for class {absent[0]!r} in {root!r}, which has {', '.join(present)}"
        yield Problem("dataset.label_map", text)


def _classes_of(root: str) -> tuple[str, ...] | None:
    """The class folders of root or the classes of a list, or None where it can't be read."""
    try:
        return class_names_of(None, root)
    except (OSError, DataError):
        return None


def _list_problems(key: str, path: str, known: Iterable[str] | None, allow_missing: bool) -> Iterator[Problem]:
    if not os.path.exists(path):
        yield Problem(key, f"no such folder or list of videos: {path!r}")
    elif not path.lower().endswith(LIST_SUFFIXES):
        yield Problem(key, f"{path!r} is neither a folder nor a list of videos ({', '.join(LIST_SUFFIXES)})")
    else:
        try:
            read_list(Path(path), class_names=tuple(known or ()), allow_missing=allow_missing)
        except DataError as error:
            yield Problem(key, str(error), ("dataset.label_map",))


def _folder_problems(key: str, path: str | None) -> Iterator[Problem]:
    if path is None or os.path.isdir(path):
        return
    yield Problem(key, f"{path!r} is a file, not a folder" if os.path.exists(path) else f"no such folder: {path!r}")


def _file_problems(spec: Spec, *keys: str) -> Iterator[Problem]:
    for key in keys:
        section, _, name = key.partition(".")
        path = getattr(getattr(spec, section), name)
        if path is not None and not os.path.isfile(path):
            yield Problem(
                key, f"{path!r} is a folder, not a file" if os.path.isdir(path) else f"no such file: {path!r}"
            )


def _pretrained_problems(spec: Spec) -> Iterator[Problem]:
    path = spec.model.pretrained
    if path not in (None, KINETICS) and not os.path.isfile(str(path)):
        yield Problem("model.pretrained", f"{path!r} is neither {KINETICS} nor a file of weights", ("model.backbone",))


def _cache_problems(spec: Spec) -> Iterator[Problem]:
    folder = spec.dataset.cache_dir
    if folder is not None and not writable_parent(folder):
        yield Problem("dataset.cache_dir", f"{folder!r} can't be made or written to; give a folder that can")


def _results_problems(spec: Spec, task: str) -> Iterator[Problem]:
    folder = getattr(spec, task).results_dir
    if not writable_parent(folder):
        key = f"{task}.results_dir" if f"{task}.results_dir" in spec.origins else "results_dir"
        yield Problem(key, f"{folder!r} can't be made or written to; set {key}=FOLDER to one that can")


def _per_channel(values: tuple[float, ...], modality: str) -> tuple[float, ...]:
    return tuple(map(float, values)) * (CHANNELS[modality] if len(values) == 1 else 1)


def _contract_keys(contract: Contract) -> dict[str, Any]:
    """The contract as spec keys. `streams` the model doesn't have are left out: their values mean nothing to it."""
    keys: dict[str, Any] = {
        "model.model_type": contract.model_type,
        "model.input_type": contract.input_type,
        "model.input_height": contract.height,
        "model.input_width": contract.width,
        "dataset.output_shape": (contract.height, contract.width),
        "model.sample_strategy": contract.sample_strategy,
        "model.sample_rate": contract.sample_rate,
        "dataset.augmentation_config.val_center_crop": contract.center_crop,
    }
    if contract.center_crop:
        keys["dataset.augmentation_config.crop_smaller_edge"] = contract.smaller_edge
    if "of" in contract.streams:
        keys["dataset.flow_encoding"] = contract.flow_encoding
    for modality, stream in contract.streams.items():
        keys[f"model.{modality}_seq_length"] = stream.num_frames
        keys[f"dataset.augmentation_config.{modality}_input_mean"] = stream.mean
        keys[f"dataset.augmentation_config.{modality}_input_std"] = stream.std
    return keys


def _text(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else repr(value)

"""Export from a checkpoint: one ONNX file, held against the network on clips before it is kept."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import nn

from action_recognition.clip.contract import Contract
from action_recognition.clip.flow_encoding import encode_clip20, encode_max_rad
from action_recognition.clip.sampling import window_ids
from action_recognition.clip.transform import fit_clip
from action_recognition.config import Spec
from action_recognition.data.dataset import EvaluationWindows, Sample
from action_recognition.data.flow_record import checked_flow
from action_recognition.data.index import class_names_of, index_classes
from action_recognition.data.index_cache import with_memory
from action_recognition.data.loader import ToInput
from action_recognition.demo.dataset import CLASSES
from action_recognition.demo.render import render
from action_recognition.demo.scene import random_scene
from action_recognition.deploy.bundles import OUTPUT_NAME, clip_shapes
from action_recognition.deploy.description import SEALED_ONNX_SUFFIX, Description
from action_recognition.deploy.executor import OnnxExecutor
from action_recognition.deploy.export import (
    DTYPES,
    TOLERANCES,
    Deployable,
    check_can_quantize,
    compare,
    quantize,
    rounded,
    to_onnx,
)
from action_recognition.errors import DataError, DeployError, SpecError
from action_recognition.files import write_whole
from action_recognition.sealing import HOW_TO_GIVE_A_KEY, check_can_seal, key_from, sealed_pieces
from action_recognition.tasks.exported import is_exported
from action_recognition.tasks.scoring import load_trained
from action_recognition.tasks.setting import Readable, Say, make_results_folder
from action_recognition.training.distributed import choose_device
from action_recognition.training.report import StatusFile

BATCHES = (1, 3, 4)  # clips that the exported model gets at a time when it is checked
MAX_SCORED = 500  # videos that the accuracy of an int8 model is measured on
MAX_CALIBRATION_CLIPS, MAX_CALIBRATION_BYTES = 64, 2**30
RENDERED_FRAMES, RENDERED_SIZE = 24, 96

CPU = torch.device("cpu")
Inputs = list[np.ndarray]  # one float32 array (N, ...) for each modality


@dataclass(frozen=True)
class Run:
    """A network that can be called, and where it runs."""

    where: str
    forward: Callable[[Inputs], np.ndarray]

    def __call__(self, inputs: Inputs) -> np.ndarray:
        """Outputs (N, K)."""
        return self.forward(inputs)


@dataclass(frozen=True)
class Clip:
    """The network's inputs for one clip, N = 1, and its class, -1 where that is not known."""

    inputs: Inputs
    label: int


def export(spec: Spec, say: Say) -> Path:
    """Export export.checkpoint to export.onnx_file, and return its path. Where anything is wrong no file is left."""
    section = spec.export
    for line in spec.notes:
        say(line)
    target, key = Path(str(section.onnx_file)), key_from(spec.encryption_key)
    is_sealed = target.suffix.lower() == SEALED_ONNX_SUFFIX
    _check_possible(spec, target, is_sealed, key)
    status = _status_file(spec)
    status.write("STARTED", f"exporting {section.checkpoint}")
    try:
        content = _checked_content(spec, say)
        _write(target, sealed_pieces(content, str(key)) if is_sealed else [content])
    except BaseException as error:
        status.write("FAILURE", str(error) or type(error).__name__)
        raise
    say(f"wrote {target}: {len(content) / 1e6:,.1f} MB")
    if is_sealed:
        say("it is encrypted: only this program reads it, with the same key; DeepStream and trtexec want a plain .onnx")
    status.write("SUCCESS", f"exported to {target}")
    return target


def _check_possible(spec: Spec, target: Path, is_sealed: bool, key: str | None) -> None:
    """Tell now what would otherwise come up when the work is done."""
    if is_exported(str(spec.export.checkpoint)):
        raise SpecError(f"export.checkpoint: {spec.export.checkpoint} is exported already; give the checkpoint (.pth)")
    if target.exists() and not spec.export.overwrite:
        raise SpecError(f"export.onnx_file: {target} exists; set export.overwrite=true to replace it")
    if is_sealed and key is None:
        raise SpecError(f"export.onnx_file: {target} is to be encrypted; {HOW_TO_GIVE_A_KEY}, or name it .onnx")
    if is_sealed:
        check_can_seal()
    if spec.export.precision == "int8":
        check_can_quantize()


def _write(target: Path, pieces: Iterable[bytes]) -> None:
    try:
        write_whole(target, lambda file: file.writelines(pieces))
    except OSError as error:
        raise DeployError(f"{target}: can't be written: {error.strerror}; set export.onnx_file=FILE") from error


def _status_file(spec: Spec) -> StatusFile:
    """status.json, where the spec says where: an export needs no folder besides that of its file."""
    if not {"results_dir", "export.results_dir"} & set(spec.origins):
        return StatusFile(Path(), enabled=False)
    return StatusFile(make_results_folder(spec.export.results_dir, "export.results_dir"))


def _checked_content(spec: Spec, say: Say) -> bytes:
    """The bytes of the ONNX file. DeployError where they do not compute what the network does."""
    section = spec.export
    device = choose_device("auto", [section.gpu_id], 0, "export.gpu_id")
    if device == CPU and "export.gpu_id" in spec.origins:
        say("export.gpu_id is ignored: running on cpu")
    checkpoint, root = str(section.checkpoint), spec.dataset.val_dataset_dir or spec.evaluate.test_dataset_dir
    trained = load_trained(spec, checkpoint, class_names_of(None, root) if root else (), say)
    contract, precision, opset = trained.contract, section.precision, int(section.opset or 0)
    description = Description(contract, "softmax" if section.softmax else "logits", precision)
    clips = _Clips(spec, contract)

    module = Deployable(trained.model, DTYPES[precision], section.softmax)
    content = to_onnx(module, description, opset)
    if precision == "int8":
        content = quantize(content, description, clips.for_calibration(), opset)
    say(f"opset {opset}, {precision}: {_tensors(description)}")

    network, is_bf16 = _in_torch(trained.model, device, section.softmax), precision == "bf16"
    if is_bf16:
        say("not run: ONNX Runtime has no bf16 convolution on a CPU; onnx.checker finds the file in order")
    exported = _bf16_in_torch(module, device) if is_bf16 else _in_onnxruntime(content)
    _compare(network, exported, clips, description, say)
    if precision == "int8":
        _say_accuracies(network, exported, clips, say)
    return content


def _tensors(description: Description) -> str:
    contract = description.contract
    inputs = (f"{name} (N, {', '.join(map(str, shape))})" for name, shape in clip_shapes(contract).items())
    return f"{', '.join(inputs)} -> {OUTPUT_NAME} (N, {len(contract.class_names)}) {description.output}, all float32"


# --- the network and the file behind one call ---


def _in_torch(module: nn.Module, device: torch.device, softmax: bool = False) -> Run:
    """The module on `device`, in the precision that it is in: without TF32, which would be taken for an error."""
    module.to(device)

    def forward(inputs: Inputs) -> np.ndarray:
        with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
            outputs = module(*(torch.from_numpy(x).to(device) for x in inputs))
        outputs = outputs.softmax(dim=1) if softmax else outputs
        return np.asarray(outputs.cpu())

    return Run("torch", forward)


def _bf16_in_torch(module: Deployable, device: torch.device) -> Run:
    if device == CPU:
        return replace(_in_torch(rounded(module), CPU), where="torch with each layer's result rounded to bf16")
    return replace(_in_torch(module, device), where="torch in bf16")


def _in_onnxruntime(content: bytes) -> Run:
    """The file's content as whoever runs the file will: from a file, through the executor."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        path.write_bytes(content)
        executor = OnnxExecutor(path)
    return Run("ONNX Runtime", lambda x: executor(dict(zip(executor.inputs, x, strict=True)))[OUTPUT_NAME])


def _compare(network: Run, exported: Run, clips: "_Clips", description: Description, say: Say) -> None:
    """DeployError where the two differ by more than the precision explains."""
    batches = list(_batches(clips.for_check()))
    found = compare(*(np.concatenate([run(inputs) for inputs in batches]) for run in (network, exported)))
    found.check(description.precision)
    sizes = ", ".join(str(len(inputs[0])) for inputs in batches)
    say(
        f"{exported.where} against {network.where}, {sizes} clips at a time of {clips.source}: {found} "
        f"({description.precision} accepts {TOLERANCES[description.precision]:.0e} of the largest output)"
    )


def _say_accuracies(network: Run, exported: Run, clips: "_Clips", say: Say) -> None:
    correct, count = np.zeros(2, dtype=int), 0
    for clip in clips.for_accuracy():
        correct += [int(run(clip.inputs).argmax() == clip.label) for run in (network, exported)]
        count += 1
    before, after = 100 * correct / max(count, 1)
    say(f"accuracy on {count} videos of {clips.accuracy_root}: {before:.2f} % before int8, {after:.2f} % after")


def _batches(clips: Sequence[Clip]) -> Iterator[Inputs]:
    """The clips in batches of the sizes in BATCHES."""
    waiting = iter(clips)
    for size in BATCHES:
        if batch := list(islice(waiting, size)):
            yield _stacked(batch)


def _stacked(clips: Sequence[Clip]) -> Inputs:
    return [np.concatenate(arrays) for arrays in zip(*(clip.inputs for clip in clips), strict=True)]


# --- clips ---


class _Clips:
    """Clips to check and to calibrate on: of the spec's data where it names any, else rendered ones."""

    def __init__(self, spec: Spec, contract: Contract) -> None:
        self._spec, self._contract = spec, contract
        self._to_input = ToInput(contract, CPU)
        self._root = spec.dataset.val_dataset_dir or spec.evaluate.test_dataset_dir
        self.accuracy_root = str(self._root or spec.dataset.train_dataset_dir)
        self.source = self._root or "rendered people"

    def for_check(self) -> list[Clip]:
        count = sum(BATCHES)
        return list(self._read(self._root, count)) if self._root else list(self._rendered(count))

    def for_calibration(self) -> dict[str, np.ndarray]:
        """Training clips by input name, as many as are usual and fit into memory, spread over all videos."""
        shapes = clip_shapes(self._contract)
        clip_bytes = 4 * sum(int(np.prod(shape)) for shape in shapes.values())
        count = max(1, min(MAX_CALIBRATION_CLIPS, MAX_CALIBRATION_BYTES // clip_bytes))
        clips = list(self._read(str(self._spec.dataset.train_dataset_dir), count))
        return dict(zip(shapes, _stacked(clips), strict=True))

    def for_accuracy(self) -> Iterator[Clip]:
        return self._read(self.accuracy_root, MAX_SCORED)

    def _read(self, root: str, count: int) -> Iterator[Clip]:
        """The middle clips of up to `count` videos, evenly spread over a sorted data set and so over its classes."""
        contract, on_bad = self._contract, self._spec.dataset.on_bad_video
        find = partial(index_classes, root, contract.class_names, contract.modalities, on_bad)
        index = with_memory(find, root, self._spec.dataset)
        index = checked_flow(index, contract.flow_encoding, str(self._spec.export.checkpoint))
        chosen = np.linspace(0, len(index.videos) - 1, min(count, len(index.videos))).round().astype(int)
        windows = EvaluationWindows([index.videos[i] for i in chosen], contract)
        num_read = 0
        for sample in Readable[Sample]((windows[i] for i in range(len(windows))), on_bad):
            if not sample.problem:
                num_read += 1
                yield self._clip({m: clip[0] for m, clip in sample.clips.items()}, sample.video.label)
        if not num_read:
            raise DataError(f"{root}: none of {len(windows)} videos could be read")

    def _rendered(self, count: int) -> Iterator[Clip]:
        contract = self._contract
        encode = encode_max_rad if contract.flow_encoding == "max_rad" else encode_clip20
        for i in range(count):
            scene = random_scene(CLASSES[i % len(CLASSES)], i, 0, RENDERED_FRAMES, RENDERED_SIZE)
            frames, flows = zip(*render(scene, with_flow="of" in contract.modalities), strict=True)
            images = {"rgb": np.stack(frames)}
            if "of" in contract.modalities:
                images["of"] = np.stack([np.dstack(encode(flow)) for flow in flows if flow is not None])
            num_frames = min(len(images[m]) for m in contract.modalities)
            ids = window_ids(num_frames, contract.lengths, strategy=contract.sample_strategy, rate=contract.sample_rate)
            yield self._clip({m: fit_clip(images[m][ids[m][0]], contract) for m in contract.modalities}, -1)

    def _clip(self, clips: dict[str, np.ndarray], label: int) -> Clip:
        """Clips uint8 (T, H, W, C) by modality -> the network's inputs."""
        tensors = {modality: torch.from_numpy(clip)[None] for modality, clip in clips.items()}
        return Clip([np.ascontiguousarray(x) for x in self._to_input(tensors)], label)

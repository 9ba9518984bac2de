"""Checkpoints of a run: what is saved, under which names, and where a run goes on.

One dict of tensors and plain values a file, readable with torch.load(weights_only=True); `state_dict` has bare names.
With a key all of it is sealed.
`model_epoch_<epoch>.pth` as often as asked for, `ar_model_latest.pth` the newest, `ar_model_best.pth` the best.
"""

import io
import os
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from action_recognition.errors import CheckpointError
from action_recognition.files import link_or_copy, why_unwritable, write_whole
from action_recognition.sealing import check_can_seal, sealed_pieces
from action_recognition.torch_files import read_file

LATEST, BEST = "ar_model_latest.pth", "ar_model_best.pth"
FORMAT = 1
# What a process that was killed while it wrote leaves behind.
_LEFTOVER = re.compile(r"\.(model_epoch_\w+\.pth|ar_model_\w+\.pth|metrics\.jsonl|spec\.yaml)\.\w+\.tmp")
_EPOCH_FILE = re.compile(r"model_epoch_(\d+)(?:_step_(\d+))?\.pth")

# What a resumed run may not change, by model type. Everything else is taken from the spec, with a line that says so.
_NETWORK = ("model.model_type", "model.backbone", "model.input_type")
_OPTIMIZER = ("train.freeze", "train.optim.name", "train.optim.stage_lr_decay")
FIXED_KEYS = {
    "rgb": (*_NETWORK, *_OPTIMIZER, "model.rgb_seq_length"),
    "of": (*_NETWORK, *_OPTIMIZER, "model.of_seq_length"),
    "joint": (*_NETWORK, *_OPTIMIZER, "model.rgb_seq_length", "model.of_seq_length", "model.num_fc"),
}


class CheckpointManager:
    """The checkpoint files of one results folder, sealed where there is a key. Only rank 0 may save."""

    def __init__(self, folder: str | Path, key: str | None = None) -> None:
        self.folder, self._key = Path(folder), key
        if key is not None:
            check_can_seal()

    def save(self, checkpoint: Mapping[str, Any], names: list[str]) -> Path:
        """Write the checkpoint under the first name and give it the others. CheckpointError where it can't be written.

        The files that stood there before stay whole until the new one is.
        """
        first = self.folder / names[0]
        try:
            write_whole(first, lambda file: self._write(dict(checkpoint), file))
            for name in names[1:]:
                link_or_copy(first, self.folder / name)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            why = why_unwritable(first, error, _num_bytes(checkpoint))
            raise CheckpointError(
                f"{first}: the checkpoint can't be written: {why}; earlier checkpoints are untouched"
            ) from error
        return first

    def remove_old(self, keep: int, newest: int, best: int) -> None:
        """Remove all model_epoch_*.pth but the `keep` newest up to epoch `newest`, later ones, and the `best`'s.

        Epochs after `newest` are those of a run that was gone back in.
        """
        past = sorted(int(match[1]) for match in self._epoch_files() if not match[2] and int(match[1]) <= newest)
        for epoch in past[:-keep]:
            if epoch != best:
                (self.folder / epoch_name(epoch)).unlink(missing_ok=True)

    def remove_leftovers(self) -> None:
        """Remove what a process left that was killed while it wrote: nobody can go on from that."""
        for name in os.listdir(self.folder):
            if _LEFTOVER.fullmatch(name):
                (self.folder / name).unlink(missing_ok=True)

    def _write(self, checkpoint: dict[str, Any], file: IO[bytes]) -> None:
        if self._key is None:
            torch.save(checkpoint, file)
            return
        plain = io.BytesIO()
        torch.save(checkpoint, plain)
        file.writelines(sealed_pieces(plain.getbuffer(), self._key))

    def latest(self) -> Path | None:
        """The newest checkpoint: ar_model_latest.pth, else the highest number in the names, else None."""
        latest = self.folder / LATEST
        return latest if latest.exists() else self._highest()

    def read(self, path: Path) -> dict[str, Any]:
        """A checkpoint to resume from; an error names the file that could be used in its place."""
        try:
            return read_checkpoint(path, self._key)
        except CheckpointError as error:
            older = self._highest(besides=path)
            way_out = f"train.resume_training_checkpoint_path={older}" if older else "another train.results_dir"
            raise CheckpointError(f"{error}\nto go on without it, use {way_out}") from error

    def _highest(self, besides: Path | None = None) -> Path | None:
        numbered = [
            ((int(match[1]), int(match[2] or 10**9)), self.folder / match[0])
            for match in self._epoch_files()
            if self.folder / match[0] != besides
        ]
        return max(numbered)[1] if numbered else None

    def _epoch_files(self) -> list[re.Match[str]]:
        names = os.listdir(self.folder) if self.folder.is_dir() else []
        return [match for name in names if (match := _EPOCH_FILE.fullmatch(name))]


def epoch_name(epoch: int) -> str:
    """The file name of the checkpoint of `epoch`, counted from 0."""
    return f"model_epoch_{epoch:03d}.pth"


def read_checkpoint(path: str | Path, key: str | None = None) -> Any:
    """The dict in a checkpoint of ours. CheckpointError where it can't be read, runs code, or is something else."""
    content = read_file(path, key)
    if not is_checkpoint(content):
        raise CheckpointError(
            f"{path}: has weights but no training state of this program; give it as model.*_pretrained_model_path "
            "to start from its weights"
        )
    return content


def is_checkpoint(content: object) -> bool:
    """True for what this program saved, with its training state and its contract."""
    if not isinstance(content, dict):
        return False
    number = content.get("format")  # a tensor can't be compared, and makes no checkpoint
    return isinstance(number, int) and number == FORMAT


def rng_state(device: torch.device) -> dict[str, Any]:
    """The state of every random generator of this process, in types that weights_only loading accepts."""
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def restore_rng(state: Mapping[str, Any], device: torch.device) -> None:
    """The inverse of rng_state."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)


def contiguous(value: Any) -> Any:
    """`value` with its tensors in the plain order, so that a file does not depend on the run's memory format."""
    if isinstance(value, torch.Tensor):
        return value.contiguous()
    if isinstance(value, Mapping):
        return {name: contiguous(entry) for name, entry in value.items()}
    return [contiguous(entry) for entry in value] if isinstance(value, list) else value


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """The dotted keys whose values differ between two plain specs: {key: (old, new)}.

    What `old` has no value for came later, with a default that changes nothing.
    """
    found = {}
    for name in old:
        a, b = old.get(name), new.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found.update(differences(a, b, f"{prefix}{name}."))
        elif a != b:
            found[prefix + name] = (a, b)
    return found


def _num_bytes(checkpoint: Mapping[str, Any]) -> int:
    return sum(t.numel() * t.element_size() for t in _tensors(checkpoint) if isinstance(t, torch.Tensor))


def _tensors(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [t for v in value.values() for t in _tensors(v)]
    if isinstance(value, list | tuple):
        return [t for v in value for t in _tensors(v)]
    return [value]

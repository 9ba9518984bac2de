"""Files that torch.save wrote: what they hold, without running what they carry.

In: a path. Out: its content, or its state dict, on the CPU. CheckpointError says which file, what was found in it and
what is accepted. Knows no model.
"""

import io
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from action_recognition.errors import CheckpointError
from action_recognition.sealing import TAO_ENCRYPTED, is_sealed_file, unseal_file

ACCEPTED = "a checkpoint of this package or of TAO (.pth), or a state dict saved by torch.save"
# What wrappers put in front of every name: TAO's Lightning module, DistributedDataParallel, torch.compile.
PREFIXES = ("model.", "module.", "_orig_mod.")
# What PyTorch lets a file call that takes memory by a number alone, or spreads a tensor out: no state dict needs it.
_MAKES_MEMORY = re.compile(
    rb"c(__builtin__|builtins)\nbytearray\n|ctorch[.\w]*\n\w*Tensor\n"
    rb"|ctorch\._utils\n_rebuild_(device_tensor_from_\w+|nested_tensor|wrapper_subclass)\n"
)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.int64)


def read_file(path: str | os.PathLike[str], key: str | None = None) -> Any:
    """What a file of PyTorch holds, on the CPU. Code in it is never run; CheckpointError where it can't be read.

    A sealed file is opened with `key` or the environment's; SpecError where there is none.
    Its tensors may be backed by the file: copy them before it is overwritten in place.
    """
    path = Path(path)
    if not path.is_file():
        found = "a directory" if path.is_dir() else "no such file"
        raise CheckpointError(f"{path}: {found}; accepted: {ACCEPTED}")
    source = io.BytesIO(unseal_file(path, key)) if is_sealed_file(path) else path
    try:
        if asked := _MAKES_MEMORY.search(_pickled(source)):
            found = b".".join(asked[0].split()).decode()[1:]
            raise CheckpointError(f"{path}: asks for memory of its own making: refused ({found}). Accepted: {ACCEPTED}")
        if isinstance(source, io.BytesIO):
            source.seek(0)
        # Only the zip format can be mapped; the published I3D files are older than it.
        mappable = source is path and zipfile.is_zipfile(path)
        content = torch.load(source, map_location="cpu", weights_only=True, mmap=mappable)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise CheckpointError(f"{path}: {_why_unreadable(path, error)}") from error
    if isinstance(content, dict) and _is_encrypted(content):
        raise CheckpointError(f"{path}: {TAO_ENCRYPTED}")
    return content


def read_weights(path: str | os.PathLike[str], key: str | None = None) -> dict[str, Tensor]:
    """The state dict in a file, without the wrappers' prefixes. CheckpointError where there is none; see read_file."""
    content = read_file(path, key)
    if isinstance(content, dict) and "state_dict" in content:
        content = content["state_dict"]
    return _without_prefixes(checked_state_dict(str(path), content))


def checked_state_dict(where: str, entries: object) -> Mapping[str, Tensor]:
    """`entries` if they are names and sound tensors, else CheckpointError whose text opens with `where`."""
    if not isinstance(entries, Mapping) or not entries:
        found = "nothing" if isinstance(entries, Mapping) else f"a {type(entries).__name__}"
        raise CheckpointError(f"{where}: found {found} in place of weights; accepted: {ACCEPTED}")
    others = [str(name) for name, value in entries.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if others:
        raise CheckpointError(f"{where}: not a state dict: {some_names(others)} are no tensors; accepted: {ACCEPTED}")
    for name, tensor in entries.items():
        if fault := _fault(tensor):
            raise CheckpointError(f"{where}: {name} {fault}; accepted: dense float or int tensors, all finite")
    return entries


def some_names(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    return f"{len(names)} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"


def _pickled(source: Path | io.BytesIO) -> bytes:
    """All that is pickled in a file of PyTorch; of one older than the zip format, the whole file.

    BadZipFile where a part is not what it was, which PyTorch does not look at, and where parts are compressed: PyTorch
    never does that, and one may then be of any size.
    """
    if not zipfile.is_zipfile(source):
        return source.read_bytes() if isinstance(source, Path) else source.getvalue()
    with zipfile.ZipFile(source) as archive:
        if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
            raise zipfile.BadZipFile("compressed")
        if changed := archive.testzip():
            raise zipfile.BadZipFile(f"{changed} has another checksum")
        return b"".join(archive.read(part) for part in archive.infolist() if part.filename.endswith(".pkl"))


def _is_encrypted(content: dict[Any, Any]) -> bool:
    return bool(content.get("state_dict_encrypted")) or isinstance(content.get("state_dict"), bytes)


def _why_unreadable(path: Path, error: Exception) -> str:
    asked = re.search(r"nsupported (?:global: )?GLOBAL (\S+)", str(error))
    if asked and asked[1].startswith("eff."):  # the package of TAO's cipher
        return TAO_ENCRYPTED
    if asked:
        cure = "if you trust it, load it where it comes from and save model.state_dict() alone"
        return f"asks to run code while loading: refused ({asked[1]}). Accepted: {ACCEPTED}; {cure}"
    if path.suffix in (".tlt", ".etlt"):
        return TAO_ENCRYPTED
    if isinstance(error, OSError):
        return f"can't be read: {error.strerror}"
    # torch opens with advice to load without the restriction: not a thing to pass on.
    reason = str(error).rpartition("WeightsUnpickler error: ")[2].strip() or type(error).__name__
    return f"cut off, damaged, or not saved by PyTorch ({reason.splitlines()[0].split('. ')[0]}). Accepted: {ACCEPTED}"


def _fault(tensor: Tensor) -> str | None:
    if tensor.dtype not in DTYPES:
        return f"is of type {tensor.dtype}"
    if tensor.layout != torch.strided or tensor.is_meta:
        return f"has layout {tensor.layout} on device {tensor.device}"
    # A stride of 0 lets a file of a few bytes claim any size.
    if not 0 < tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes():
        return f"claims shape {tuple(tensor.shape)}, but the file holds {tensor.untyped_storage().nbytes()} bytes of it"
    if not tensor.isfinite().all():
        return "holds NaN or infinity"
    return None


def _without_prefixes(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A prefix goes only where every name has it: `model_rgb.`, or a layer called `model`, must come out whole."""
    stripped = {name: tensor.detach() for name, tensor in entries.items()}
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in stripped)), None):
        stripped = {name.removeprefix(prefix): tensor for name, tensor in stripped.items()}
    return stripped

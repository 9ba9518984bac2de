"""A video's frames to the optical flow between them: DIS (OpenCV), RAFT (torchvision), or files of another program.

A method is fed the frames of a video in order and answers each with the flow from the frame before to this one,
float32 (H, W, 2) in pixels, x to the right and y down; the first frame has none. nvof.py holds the hardware method.
"""

import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from action_recognition.errors import DataError, UserError
from action_recognition.preprocess.nvof import NvofFlow, nvof_problem

METHODS = ("none", "auto", "nvof", "dis", "raft")
PRESETS = ("slow", "fast")
_FLO_TAG = b"PIEH"  # Baker et al., A Database and Evaluation Methodology for Optical Flow, 2011
_RAFT_MIN_PX = 128  # its coarsest correlation level would be smaller than a pixel's neighbourhood


class FlowMethod(Protocol):
    """What every method offers."""

    def start(self) -> None:
        """The next frame is the first of a video."""

    def add(self, frame: np.ndarray) -> np.ndarray | None:
        """A frame, uint8 RGB (H, W, 3) -> the flow from the frame before, (H, W, 2); None for a first frame."""


def chosen_method(method: str) -> tuple[str, str]:
    """The method that `auto` stands for on this machine, and a line that says so; others stand for themselves.

    UserError where nvof is asked for and is not to be had.
    """
    if method not in ("auto", "nvof"):
        return method, ""
    problem = nvof_problem()
    if not problem:
        return "nvof", "flow: by the NVIDIA Optical Flow hardware" if method == "auto" else ""
    if method == "nvof":
        raise UserError(f"--flow nvof: {problem}; --flow dis needs no GPU")
    return "dis", f"flow: by DIS on the CPU ({problem})"


def flow_method(method: str, preset: str, raft_weights: str | None = None, device: int = 0) -> FlowMethod:
    """The method `nvof`, `dis` or `raft`, ready for a first video. `device` is the GPU of those that use one."""
    if method == "nvof":
        return NvofFlow(preset, device)
    return DisFlow(preset) if method == "dis" else RaftFlow(preset, raft_weights, device)


class DisFlow:
    """Dense Inverse Search on grey frames, on the CPU (Kroeger et al., Fast Optical Flow using DIS, 2016)."""

    def __init__(self, preset: str) -> None:
        import cv2

        cv2.setNumThreads(1)  # many videos at once use the cores better than many threads a video
        presets = {"slow": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM, "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST}
        self._dis = getattr(cv2, "DISOpticalFlow_create")(presets[preset])  # noqa: B009 - missing in cv2's type hints
        self._to_grey: Callable[[np.ndarray], np.ndarray] = lambda rgb: cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        self._previous: np.ndarray | None = None

    def start(self) -> None:
        """Forget the last frame."""
        self._previous = None

    def add(self, frame: np.ndarray) -> np.ndarray | None:
        """See FlowMethod. Frames below 12 pixels a side are refused by OpenCV and so by us."""
        if min(frame.shape[:2]) < 12:
            raise DataError(f"DIS flow needs frames of at least 12x12 pixels, got {frame.shape[1]}x{frame.shape[0]}")
        grey = self._to_grey(frame)
        previous, self._previous = self._previous, grey
        return None if previous is None else self._dis.calc(previous, grey, None)


class RaftFlow:
    """RAFT from torchvision (Teed and Deng, 2020): large for slow, small for fast; on the GPU where there is one."""

    def __init__(self, preset: str, weights: str | None = None, device: int = 0) -> None:
        import torch
        from torchvision.models import optical_flow

        large = preset == "slow"
        build = optical_flow.raft_large if large else optical_flow.raft_small
        published = optical_flow.Raft_Large_Weights.DEFAULT if large else optical_flow.Raft_Small_Weights.DEFAULT
        self._device = torch.device("cuda", device) if torch.cuda.is_available() else torch.device("cpu")
        model: Any = build(weights=None if weights else published, progress=False)
        if weights:
            _load_raft(model, weights, build.__name__)
        self._model = model.eval().to(self._device)
        self._previous: Any = None

    def start(self) -> None:
        """Forget the last frame."""
        self._previous = None

    def add(self, frame: np.ndarray) -> np.ndarray | None:
        """See FlowMethod. Frames are padded at the right and below to multiples of 8 and at least 128 pixels."""
        import torch
        from torch.nn.functional import pad

        height, width = frame.shape[:2]
        right, below = (max(_RAFT_MIN_PX, -(-side // 8) * 8) - side for side in (width, height))
        image = torch.tensor(frame).to(self._device).permute(2, 0, 1)[None].float() / 127.5 - 1  # N C H W, -1..1
        image = pad(image, (0, right, 0, below), mode="replicate")
        previous, self._previous = self._previous, image
        if previous is None:
            return None
        with torch.inference_mode():
            flow = self._model(previous, image)[-1][0, :, :height, :width]
        return flow.permute(1, 2, 0).float().cpu().numpy()


def _load_raft(model: Any, path: str, name: str) -> None:
    import torch

    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:
        raise UserError(f"{path}: no weights of torchvision's {name} ({str(error).splitlines()[0]})") from error


class FloFiles:
    """Flow that another program left as .flo files, one for each pair of frames, in the order of their numbers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: list[Path] = []
        self._next = -1

    def start(self) -> None:
        """List the files. DataError where there are none."""
        self._files = sorted(self._folder.glob("*.flo"), key=lambda file: (_numbers(file.name), file.name))
        self._next = -1
        if not self._files:
            raise DataError(f"{self._folder}: holds no .flo file")

    def add(self, frame: np.ndarray) -> np.ndarray | None:
        """The next file's flow, at the file's own resolution."""
        del frame
        self._next += 1
        if self._next == 0:
            return None
        if self._next > len(self._files):
            raise DataError(f"{self._folder}: {len(self._files)} .flo files, too few: N frames need N-1")
        return read_flo(self._files[self._next - 1])

    def finish(self) -> None:
        """DataError where files are left over."""
        if self._next < len(self._files):
            raise DataError(
                f"{self._folder}: {len(self._files)} .flo files for {self._next + 1} frames; N frames need N-1"
            )


def read_flo(path: Path) -> np.ndarray:
    """A Middlebury .flo file: float32 (H, W, 2) in pixels. DataError where it is damaged or something else."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from error
    if content[:4] != _FLO_TAG or len(content) < 12:
        raise DataError(f"{path}: no .flo file (it does not begin with PIEH)")
    width, height = struct.unpack("<ii", content[4:12])
    if min(width, height) < 1 or len(content) != 12 + 8 * width * height:
        raise DataError(f"{path}: a flow of {width}x{height} takes {12 + 8 * width * height} bytes, got {len(content)}")
    flow = np.frombuffer(content, "<f4", offset=12).reshape(height, width, 2)
    if not np.isfinite(flow).all():
        raise DataError(f"{path}: holds values that are not finite")
    return flow


def _numbers(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]

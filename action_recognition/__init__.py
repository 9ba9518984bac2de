"""Train, evaluate and run action recognition networks: 2D and 3D ResNets and I3D on RGB, optical flow, or both.

Sizes in shape comments: N clips, C channels, T frames, H height, W width, K classes, S windows of a video, V videos.
Importing this package loads nothing heavy; the public names below are looked up when they are first used.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "load_spec": "action_recognition.config",
    "build_model": "action_recognition.models",
    "load_checkpoint": "action_recognition.loading",
    "Recognizer": "action_recognition.deploy.recognizer",
}
__all__ = ["Recognizer", "build_model", "load_checkpoint", "load_spec"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)

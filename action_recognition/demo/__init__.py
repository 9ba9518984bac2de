"""A rendered data set: people who walk, sit, squat, fall and bend, small enough to be learnt on a CPU."""

from action_recognition.demo.dataset import DemoSpec, missing_videos, open_dataset, render_videos

__all__ = ["DemoSpec", "missing_videos", "open_dataset", "render_videos"]

"""A rendered data set: people who walk, sit, squat, fall and bend, small enough to be learnt on a CPU."""

from action_recognition.demo.dataset import ORDERS, DemoSpec, missing_videos, open_dataset, render_videos

__all__ = ["ORDERS", "DemoSpec", "missing_videos", "open_dataset", "render_videos"]

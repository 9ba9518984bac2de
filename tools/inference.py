"""Label the videos of one folder.

  python tools/inference.py inference.checkpoint=results/train/ar_model_best.pth \\
      inference.inference_dataset_dir=data/test/fall results_dir=results

The folder's children are videos: <video>/rgb (and u, v). Prints a line a video; writes predictions.csv and
predictions.jsonl with the scores to <results_dir>/inference.
"""

import sys

from action_recognition.command_line import run_tool
from action_recognition.config import Spec
from action_recognition.data.agreement import inference_problems


def perform(spec: Spec) -> None:
    """Run the task, printing as it goes."""
    from action_recognition.tasks.inference import infer

    infer(spec, lambda text: print(text, flush=True))


if __name__ == "__main__":
    sys.exit(run_tool(__file__, __doc__, "inference", [inference_problems], perform))

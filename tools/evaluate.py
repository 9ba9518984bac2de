"""Evaluate a checkpoint on a folder of labelled videos.

  python tools/evaluate.py evaluate.checkpoint=results/train/ar_model_best.pth evaluate.test_dataset_dir=data/test \\
      results_dir=results
  python tools/evaluate.py configs/rgb3d.yaml evaluate.checkpoint=... evaluate.video_eval_mode=conv

The checkpoint knows its model and its input; a SPEC is needed for weights from elsewhere only. Prints the accuracies
and the confusion matrix; writes results.json and predictions.csv to <results_dir>/evaluate.
"""

import sys

from action_recognition.command_line import run_tool
from action_recognition.config import Spec
from action_recognition.data.agreement import evaluation_problems


def perform(spec: Spec) -> None:
    """Run the task, printing as it goes."""
    from action_recognition.tasks.evaluate import evaluate

    evaluate(spec, lambda text: print(text, flush=True))


if __name__ == "__main__":
    sys.exit(run_tool(__file__, __doc__, "evaluate", [evaluation_problems], perform))

"""Train an action recognition model on a folder of labelled videos.

  python tools/train.py configs/rgb3d.yaml dataset.train_dataset_dir=data/train results_dir=results
  torchrun --nproc-per-node=4 tools/train.py configs/rgb3d.yaml

Data: <class>/<video>/rgb (frames), u and v (optical flow images). Checkpoints and logs go to <results_dir>/train;
started again with the same results_dir, a run goes on where it was.
"""

import sys

from action_recognition.command_line import run_tool
from action_recognition.config import Spec
from action_recognition.data.agreement import training_problems


def perform(spec: Spec) -> None:
    """Train, printing as it goes."""
    from action_recognition.tasks.train import train

    train(spec, lambda text: print(text, flush=True))


if __name__ == "__main__":
    sys.exit(run_tool(__file__, __doc__, "train", [training_problems], perform))

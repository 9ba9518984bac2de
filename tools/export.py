"""Export a checkpoint to ONNX: one file that says what it expects, for TensorRT, DeepStream, Triton and ONNX Runtime.

  python tools/export.py export.checkpoint=results/train/ar_model_best.pth           # ar_model_best.onnx beside it
  python tools/export.py export.checkpoint=... export.onnx_file=model.onnx export.precision=fp16 export.softmax=true
  python tools/export.py export.checkpoint=... export.onnx_file=model_int8.onnx export.precision=int8 \\
      dataset.train_dataset_dir=data/train dataset.val_dataset_dir=data/val
  AR_ENCRYPTION_KEY=... python tools/export.py export.checkpoint=... export.onnx_file=model.etlt      # encrypted

The checkpoint knows its model and its input; a SPEC is needed for weights from elsewhere only. Input and output stay
float32 in all precisions; the batch may have any size. The file is held against the network, on clips of
dataset.val_dataset_dir or evaluate.test_dataset_dir where one is given, else on rendered ones, and kept if they agree.
Needs onnxscript and onnxruntime: pip install ".[deploy]"; int8 needs ".[quant]", encryption ".[crypto]".
"""

import sys

from action_recognition.command_line import run_tool
from action_recognition.config import Spec
from action_recognition.data.agreement import export_problems


def perform(spec: Spec) -> None:
    """Run the task, printing as it goes."""
    from action_recognition.tasks.export import export

    export(spec, lambda text: print(text, flush=True))


if __name__ == "__main__":
    sys.exit(run_tool(__file__, __doc__, "export", [export_problems], perform))

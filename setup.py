"""Package metadata. What each dependency is there for stands beside it."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (ROOT / "action_recognition/__init__.py").read_text())

# Lowest versions are those that `make test-lowest` runs the tests on, so each is a version that exists.
CORE = [
    "torch>=2.10",  # the framework; before 2.10 its bf16 conv3d ran without cuDNN
    "torchvision>=0.25",  # the 2D ResNets and the ImageNet weights
    "numpy>=1.26",  # frame ids, clips on the host, metrics
    "pillow>=10.3",  # decodes and resizes frames, the way the models were trained
    "pyyaml>=6.0.1",  # specs; the first that installs on Python 3.12
    "onnx>=1.17",  # the format that models are deployed in; 1.16 has no bf16 convolution
    "tqdm>=4.66",  # progress bars
]
OPENCV = "opencv-python-headless>=4.11.0.86"
EXTRAS = {
    "video": [
        # Decodes video files, and says what is broken in them. 17 is the first that can be held to one thread a video.
        "av>=17",
        OPENCV,  # reads frames in training and writes them: up to 2 times as fast as Pillow
    ],
    "flow": [OPENCV],  # DIS optical flow on a CPU
    "deploy": [
        "onnxruntime>=1.26",  # runs exported models; 1.20 reads weights from other files in silence, 1.26 does not
        "onnxscript>=0.4",  # torch's exporter; torch 2.10 needs a module that 0.3 does not have
    ],
    "report": ["matplotlib>=3.8", "tensorboard>=2.16.2"],  # plots; curves, of which 2.16.0 brings TensorFlow
}
EXTRAS["wandb"] = ["wandb>=0.19"]  # figures of each epoch to Weights & Biases
EXTRAS["trt"] = ["tensorrt>=10.14", "cuda-python>=13"]  # builds and runs TensorRT engines on NVIDIA GPUs
EXTRAS["crypto"] = ["cryptography>=42"]  # encrypted checkpoints and exports
# Int8 exports. Not part of `all`: it brings its own, older onnx and another build of onnxruntime (900 MB in all), so
# that it is best kept in an environment of its own.
EXTRAS["quant"] = ["nvidia-modelopt[onnx]>=0.40"]
EXTRAS["dev"] = [
    "pytest>=8",  # tests
    "pytest-xdist>=3.5",  # tests on all cores
    "ruff>=0.8",  # lint and format
    "mypy>=1.13",  # types
    "types-PyYAML",
    "types-tqdm",
    "scikit-learn>=1.4",  # an independent opinion on the metrics
    "selenium>=4.20",  # drives Chromium in the tests of reports
    "pdoc>=14",  # the API reference
    "nbclient>=0.10",  # runs the notebook in its test
    "ipykernel>=6.29",  # what the notebook runs in
    "coverage>=7.10",  # the lines that no test runs; the first that follows child processes by itself
]
EXTRAS["all"] = [need for name in ("video", "flow", "deploy", "report", "crypto", "dev") for need in EXTRAS[name]]

assert VERSION is not None
setup(
    name="action-recognition",
    version=VERSION[1],
    description="Train, evaluate, run and deploy action recognition networks on RGB frames and optical flow",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["action_recognition", "action_recognition.*"]),
    package_data={"action_recognition.report": ["page.*"]},
    install_requires=CORE,
    extras_require=EXTRAS,
)

"""Label a video with a model that a Triton server runs:  python client.py VIDEO [--url localhost:8001]

VIDEO is a video file, or a folder with the frames in rgb and the flow images in u and v. Needs tritonclient[grpc] and
action_recognition, and contract.json beside this file. recognize.stream(...) in place of recognize(...) follows a
camera.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from action_recognition.clip.contract import contract_from_plain
from action_recognition.deploy.recognizer import Recognizer
from action_recognition.deploy.sources import Dropped, frames_of


def forward_on_server(url: str, model: str, input_names: list[str]) -> Callable[[list[np.ndarray]], np.ndarray]:
    """A function that sends the inputs, float32 (N, ...), and returns the scores (N, K)."""
    import tritonclient.grpc as triton

    server = triton.InferenceServerClient(url)

    def forward(inputs: list[np.ndarray]) -> np.ndarray:
        tensors = []
        for name, x in zip(input_names, inputs, strict=True):
            tensor = triton.InferInput(name, list(x.shape), "FP32")
            tensor.set_data_from_numpy(x)
            tensors.append(tensor)
        outputs = [triton.InferRequestedOutput("fc_pred")]
        scores: np.ndarray = server.infer(model, tensors, outputs=outputs).as_numpy("fc_pred")
        return scores

    return forward


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path, metavar="VIDEO")
    parser.add_argument("--url", default="localhost:8001", help="the server's gRPC address (%(default)s)")
    parser.add_argument("--contract", type=Path, default=Path(__file__).with_name("contract.json"))
    options = parser.parse_args(arguments)
    about = json.loads(options.contract.read_text(encoding="utf-8"))
    contract = contract_from_plain(about["contract"])
    forward = forward_on_server(options.url, about["model"], about["inputs"])
    recognize = Recognizer(forward, contract, is_softmax=about["output"] == "softmax")
    frames = list(frames_of(options.video, contract.modalities, Dropped()))
    videos = [np.stack([frame.images[modality] for frame in frames]) for modality in contract.modalities]
    for label, score in recognize(*videos)[:5]:
        sys.stdout.write(f"{score:.3f}  {label}\n")


if __name__ == "__main__":
    main()

"""Label a video with a model that a Triton server runs:  python client.py VIDEO [--url localhost:8001]

VIDEO is a video file, or a folder with the frames in rgb and the flow images in u and v (which models need them,
contract.json says). Needs tritonclient[grpc] and action_recognition; contract.json lies beside this file.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from action_recognition.clip.contract import contract_from_plain
from action_recognition.clip.video import Damage, read_video
from action_recognition.deploy.recognizer import Recognizer

FOLDERS = {"rgb": {"rgb": "RGB"}, "of": {"u": "L", "v": "L"}}


def frames_of(video: Path, modality: str) -> np.ndarray:
    """uint8 (T, H, W, 3) for rgb, (T, H, W, 2) for of."""
    if video.is_file():
        return np.stack(list(read_video(video, Damage())))
    planes = []
    for folder, mode in FOLDERS[modality].items():
        files = sorted((video / folder).iterdir())
        planes.append(np.stack([np.asarray(Image.open(file).convert(mode)) for file in files]))
    return planes[0] if modality == "rgb" else np.stack(planes, axis=-1)


def forward_on_server(
    url: str, model: str, input_names: list[str], output: str
) -> Callable[[list[np.ndarray]], np.ndarray]:
    """A function that sends the inputs, float32 (N, ...), and returns logits (N, K)."""
    import tritonclient.grpc as triton

    server = triton.InferenceServerClient(url)

    def forward(inputs: list[np.ndarray]) -> np.ndarray:
        tensors = []
        for name, x in zip(input_names, inputs, strict=True):
            tensor = triton.InferInput(name, list(x.shape), "FP32")
            tensor.set_data_from_numpy(x)
            tensors.append(tensor)
        scores = server.infer(model, tensors, outputs=[triton.InferRequestedOutput("fc_pred")]).as_numpy("fc_pred")
        # the recognizer takes logits; the logarithm of a probability is one
        return scores if output == "logits" else np.log(np.maximum(scores, np.finfo(np.float32).tiny))

    return forward


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path, metavar="VIDEO")
    parser.add_argument("--url", default="localhost:8001", help="the server's gRPC address (%(default)s)")
    parser.add_argument("--contract", type=Path, default=Path(__file__).with_name("contract.json"))
    options = parser.parse_args(arguments)
    about = json.loads(options.contract.read_text(encoding="utf-8"))
    contract = contract_from_plain(about["contract"])
    recognize = Recognizer(forward_on_server(options.url, about["model"], about["inputs"], about["output"]), contract)
    for label, score in recognize(*(frames_of(options.video, modality) for modality in contract.modalities))[:5]:
        sys.stdout.write(f"{score:.3f}  {label}\n")


if __name__ == "__main__":
    main()

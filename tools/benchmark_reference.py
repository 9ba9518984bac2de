"""The reference's way of doing things, written plainly, for tools/benchmark.py to measure against.

It exists to be measured against and is slow the way the reference is: nothing is kept from one sample to the next.
Nothing else may use it.
"""

import os
import random
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from action_recognition.clip.contract import Contract
from action_recognition.clip.transform import short_side_to
from action_recognition.data.augment import Augmentation


def extract_rgb(video: Path, folder: Path) -> int:
    """All frames as PNG by OpenCV's defaults. Returns their number."""
    (folder / "rgb").mkdir(parents=True)
    capture, num_frames = cv2.VideoCapture(str(video)), 0
    while True:
        is_frame, frame = capture.read()
        if not is_frame:
            return num_frames
        cv2.imwrite(str(folder / "rgb" / f"{num_frames:06d}.png"), frame)
        num_frames += 1


def extract_rgb_and_flow(video: Path, folder: Path, preset: int) -> int:
    """The frames, then in a second pass flow between the PNG files read back, then the flow as JPEG images."""
    num_frames = extract_rgb(video, folder)
    for name in ("u", "v"):
        (folder / name).mkdir()
    dis = getattr(cv2, "DISOpticalFlow_create")(preset)  # noqa: B009 - missing in cv2's type hints
    for i in range(num_frames - 1):
        first, second = (cv2.imread(str(folder / "rgb" / f"{n:06d}.png"), cv2.IMREAD_GRAYSCALE) for n in (i, i + 1))
        flow = dis.calc(first, second, None)
        radius = max(1.0, np.sqrt(flow[..., 0] ** 2 + flow[..., 1] ** 2).max())
        images = (flow / radius * 127.999 + 128).astype(np.uint8)
        for channel, name in enumerate(("u", "v")):
            cv2.imwrite(str(folder / name / f"{i:06d}.jpg"), images[..., channel])
    return num_frames


# --- from folders of images to the model's input ---


def training_batch(root: Path, contract: Contract, augmentation: Augmentation, num_clips: int) -> int:
    """Random clips: for each the folders are listed, the frames decoded and the transforms applied anew."""
    clips = []
    for i in range(num_clips):
        videos = _videos(root)
        num_frames = len(os.listdir(videos[i % len(videos)]))
        length, rate = contract.lengths["rgb"], contract.sample_rate
        start = random.randint(0, max(0, num_frames - length * rate))
        images = _opened(videos[i % len(videos)], [(start + j * rate) % num_frames for j in range(length)])
        clips.append(_normalised(_augmented(images, augmentation), contract))
    torch.stack(clips)
    return num_clips


def evaluation_windows(root: Path, contract: Contract, num_segments: int) -> int:
    """Each video's segments one after the other, each with all of its frames decoded and transformed."""
    videos = _videos(root)
    for video in videos:
        num_frames = len(os.listdir(video))
        length, rate = contract.lengths["rgb"], contract.sample_rate
        tick = (num_frames - length * rate + 1) / num_segments
        windows = []
        for i in range(num_segments):
            start = int(tick / 2 + tick * i)
            images = _opened(video, [(start + j * rate) % num_frames for j in range(length)])
            windows.append(_normalised([_fitted(image, contract) for image in images], contract))
        torch.stack(windows)
    return len(videos)


def sliding_windows(folder: Path, contract: Contract, num_windows: int) -> int:
    """The windows of a stream, each decoded, resized, normalised and stacked as if there had been none before."""
    num_frames = len(os.listdir(folder))
    for i in range(num_windows):
        ids = [(i + j * contract.sample_rate) % num_frames for j in range(contract.lengths["rgb"])]
        images = [_fitted(image, contract) for image in _opened(folder, ids)]
        np.ascontiguousarray(_normalised(images, contract)[None].numpy())
    return num_windows


def _videos(root: Path) -> list[Path]:
    classes = [root / name for name in sorted(os.listdir(root))]
    return [folder / video / "rgb" for folder in classes for video in sorted(os.listdir(folder))]


def _opened(folder: Path, ids: list[int]) -> list[Image.Image]:
    names = sorted(os.listdir(folder))
    images: list[Image.Image] = [Image.open(folder / names[i]) for i in ids]
    for image in images:
        image.load()
    return images


def _augmented(images: list[Image.Image], augmentation: Augmentation) -> list[Image.Image]:
    images = [_short_side_resized(image, augmentation.smaller_edge) for image in images]
    width, height = augmentation.size
    left, top = (random.randint(0, images[0].size[k] - augmentation.size[k]) for k in (0, 1))
    images = [image.crop((left, top, left + width, top + height)) for image in images]
    if random.random() < augmentation.flip_prob:
        return [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in images]
    return images


def _short_side_resized(image: Image.Image, smaller_edge: int) -> Image.Image:
    return image.resize(short_side_to(image.size, smaller_edge), Image.Resampling.BILINEAR)


def _fitted(image: Image.Image, contract: Contract) -> Image.Image:
    if not contract.center_crop:
        return image.resize((contract.width, contract.height), Image.Resampling.BILINEAR)
    image = _short_side_resized(image, contract.smaller_edge)
    left, top = (image.size[0] - contract.width) // 2, (image.size[1] - contract.height) // 2
    return image.crop((left, top, left + contract.width, top + contract.height))


def _normalised(images: list[Image.Image], contract: Contract) -> Tensor:
    """(C, T, H, W) float32: an array of all frames, that as a tensor in 0..1, then mean and std of each channel."""
    frames = np.array([np.array(image) for image in images])  # T H W C
    clip = torch.from_numpy(frames).permute(3, 0, 1, 2).contiguous().float().div(255)
    stream = contract.streams["rgb"]
    for channel, mean, std in zip(clip, stream.mean, stream.std, strict=True):
        channel.sub_(mean).div_(std)
    return clip


# --- training steps ---


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """SGD with torch's defaults."""
    return torch.optim.SGD(model.parameters(), 5e-4, momentum=0.9, weight_decay=5e-4)


def training_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, clips: torch.Tensor, labels: torch.Tensor
) -> float:
    """A step in fp32 on clips that lie as NCDHW; the loss is read at once."""
    device = next(model.parameters()).device
    loss = nn.functional.cross_entropy(model.train()(clips.to(device)), labels.to(device))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()

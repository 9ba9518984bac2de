"""What a training run is made of, each part from the spec: videos, network, batches, optimizer.

Nothing here trains or writes into the results folder; tasks/train.py does.
"""

import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from action_recognition.clip.contract import CHANNELS
from action_recognition.config import Spec
from action_recognition.config.backbones import KINETICS
from action_recognition.data.agreement import contract_of
from action_recognition.data.augment import augmentation_of
from action_recognition.data.cache import kept_for_evaluation, kept_for_training
from action_recognition.data.flow_record import checked_flow
from action_recognition.data.frames import open_frames
from action_recognition.data.index import Index, class_names_of, index_classes
from action_recognition.data.index_cache import with_memory
from action_recognition.data.loader import ToInput, TrainingPlan
from action_recognition.errors import SpecError
from action_recognition.models import build_model
from action_recognition.models.stages import stages
from action_recognition.models.weights import load_pretrained
from action_recognition.sealing import plain_note
from action_recognition.tasks.packing import packed
from action_recognition.tasks.setting import Say, seed_everything, trainable_precision
from action_recognition.training.compiling import compiled
from action_recognition.training.distributed import Process, from_first, gather, parallel
from action_recognition.training.loop import Run
from action_recognition.training.memory import LARGEST_BATCH, bytes_per_clip, fitting_batch_size, free_memory
from action_recognition.training.metrics import best_epoch
from action_recognition.training.optim import Precision, Schedule, default_precision, make_optimizer, memory_format
from action_recognition.training.recipe import (
    RunningMean,
    balanced_weights,
    clip_losses,
    compute_twice,
    freeze,
    mixing,
    stalled,
)


class Setup:
    """The parts of a training run, made one after the other because each needs those before it.

    `key` opens encrypted weights. Those that the spec starts from are not read for a run that goes on (`is_new` False):
    its checkpoint has all of them. SpecError, DataError or CheckpointError where the spec, the videos or the weights
    won't do.
    """

    def __init__(self, spec: Spec, process: Process, key: str | None, is_new: bool, say: Say) -> None:
        self.spec, self.process, self.key, self.say = spec, process, key, say
        self._is_new = is_new
        self.seed = seed_everything(spec.train.seed, process.rank)
        indices: list[Index] = from_first(self._list_videos() if process.is_first else None)
        self.contract = contract_of(spec, indices[0].class_names)
        self.augmentation = augmentation_of(spec.dataset.augmentation_config, self.contract)
        self.indices = self._pack_videos(indices)
        self.index = self.indices[0]
        self.val_index = self.indices[1] if len(self.indices) > 1 else None
        self.bare_model = self._build_model()
        self.precision = Precision(self._choose_precision(), process.device.type)
        self.layout = memory_format(spec.train.memory_format, self.precision, self.contract.is_3d)
        self.bare_model.to(memory_format=self.layout)
        by_stage = bool(spec.train.freeze) or spec.train.optim.stage_lr_decay < 1
        self.stages = stages(self.bare_model) if by_stage or spec.train.gradient_checkpointing else []
        self.frozen = freeze(self.stages, spec.train.freeze)
        self.plan = self._make_plan()
        self.mean: RunningMean | None = None
        self.run = self._make_run()

    @property
    def judged_model(self) -> nn.Module:
        """The network that is validated and whose weights a checkpoint holds."""
        return self.mean.model if self.mean else self.bare_model

    def example_input(self, num_clips: int = 1) -> list[torch.Tensor]:
        """Black clips, as the model takes them."""
        height, width = self.contract.height, self.contract.width
        clips = {
            modality: torch.zeros((num_clips, stream.num_frames, height, width, CHANNELS[modality]), dtype=torch.uint8)
            for modality, stream in self.contract.streams.items()
        }
        return ToInput(self.contract, self.process.device)(clips)

    def say_if_plain(self, path: str | Path | None) -> None:
        """A line where weights are not encrypted though a key was given."""
        if path and (note := plain_note(path, self.key)):
            self.say(note)

    def _list_videos(self) -> list[Index]:
        """The training and the validation videos as they lie on the disk."""
        dataset = self.spec.dataset
        names = class_names_of(dataset.label_map, str(dataset.train_dataset_dir))
        if not dataset.label_map:
            origin = "the list" if os.path.isfile(str(dataset.train_dataset_dir)) else "the sorted folder names"
            self.say(f"classes, from {origin}: {', '.join(names)}")
        modalities = contract_of(self.spec, names).modalities
        indices = [
            with_memory(partial(index_classes, root, names, modalities, dataset.on_bad_video), root, dataset)
            for root in self._roots
        ]
        return [checked_flow(index, dataset.flow_encoding, "dataset.flow_encoding") for index in indices]

    @property
    def _roots(self) -> list[str]:
        dataset = self.spec.dataset
        return [root for root in (dataset.train_dataset_dir, dataset.val_dataset_dir) if root]

    def _pack_videos(self, indices: list[Index]) -> list[Index]:
        """The same videos, out of the frame cache where they belong there, and what is worth saying of them."""
        kept = (kept_for_training(self.augmentation), kept_for_evaluation(self.contract))
        wanted = list(zip(indices, kept, strict=False))
        indices = packed(self.spec, wanted, self.process, self.say, is_training=True)
        if self.process.is_first:
            for root, index in zip(self._roots, indices, strict=True):
                for note in (*index.notes, *(f"skipped {path}: {reason}" for path, reason in index.skipped)):
                    self.say(note)
                num_frames = sum(open_frames(video).num_frames for video in index.videos)
                self.say(f"{root}: {len(index.videos)} videos, {num_frames} frames")
        return indices

    def _build_model(self) -> nn.Module:
        spec, num_classes = self.spec, len(self.contract.class_names)
        model = build_model(spec.model, num_classes)
        num_parameters = sum(p.numel() for p in model.parameters())
        network = f"{spec.model.input_type} {spec.model.backbone} for {spec.model.model_type}"
        self.say(f"model: {network}, {num_classes} classes, {num_parameters:,} parameters, on {self.process.device}")
        if self.process.is_first and self._is_new:  # the others get the weights from the first when they connect
            for report in load_pretrained(model, spec.model, num_classes, self.key):
                self.say(str(report))
            own = None if spec.model.pretrained == KINETICS else spec.model.pretrained
            for path in (own, *(getattr(spec.model, f"{m}_pretrained_model_path") for m in ("rgb", "of", "joint"))):
                self.say_if_plain(path)
        return self._synchronised(model.to(self.process.device))

    def _synchronised(self, model: nn.Module) -> nn.Module:
        if not self.spec.train.sync_bn:
            return model
        if (device := self.process.device).type != "cuda":
            raise SpecError(f"train.sync_bn: works on GPUs only, and this run is on {device.type}; set it to false")
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)  # makes the host wait for the GPU at each layer

    def _make_plan(self) -> TrainingPlan:
        dataset, process = self.spec.dataset, self.process
        clip_labels = [video.label for video in self.index.videos for _ in range(dataset.clips_per_video)]
        return TrainingPlan(
            len(clip_labels),
            dataset.batch_size or self._fitting_batch_size(),
            self.spec.train.accumulate_steps,
            self.seed,
            process.rank,
            process.num_processes,
            clip_labels if dataset.balance == "sampling" else None,
        )

    def _fitting_batch_size(self) -> int:
        """What dataset.batch_size auto means here, the same on all processes."""
        device, twice = self.process.device, self.stages if self.spec.train.gradient_checkpointing else ()
        try:
            clip_bytes = bytes_per_clip(self.bare_model, self.example_input(num_clips=2), self.precision, twice)
            free_bytes = free_memory(device, self.process.num_local)
        except torch.cuda.OutOfMemoryError:  # of two clips: one may fit
            clip_bytes = free_bytes = free_memory(device, self.process.num_local) or 0
        size = min(gather(LARGEST_BATCH if free_bytes is None else fitting_batch_size(clip_bytes, free_bytes)))
        free = "an unknown amount" if free_bytes is None else f"{free_bytes / 2**30:.1f} GiB"
        self.say(f"dataset.batch_size: {size} (auto: a clip holds {clip_bytes / 2**20:.0f} MiB, {free} is free)")
        return size

    def _make_run(self) -> Run:
        train, device, model = self.spec.train, self.process.device, self.bare_model
        self.mean = RunningMean(model, train.ema_decay) if train.ema_decay else None
        if train.gradient_checkpointing:
            compute_twice(self.stages)
        by_stage = bool(train.freeze) or train.optim.stage_lr_decay < 1
        optimizer = make_optimizer(model, train.optim, self.stages if by_stage else ())
        parallel_model = parallel(model, device)
        return Run(
            model=compiled(parallel_model) if train.compile else parallel_model,
            optimizer=optimizer,
            schedule=Schedule(optimizer, train.optim, train.num_epochs, self.plan.num_steps),
            scaler=self.precision.scaler(),
            precision=self.precision,
            to_input=ToInput(self.contract, device, self.layout),
            device=device,
            clip_grad_norm=train.clip_grad_norm,
            loss=partial(clip_losses, label_smoothing=train.label_smoothing, class_weights=self._class_weights()),
            mix=mixing(train.mixup_alpha, train.cutmix_alpha, len(self.contract.class_names)),
            frozen=self.frozen,
            stepped=self.mean.update if self.mean else lambda: None,
            gives_up=self._gives_up,
        )

    def _gives_up(self, history: list[dict[str, Any]]) -> bool:
        """train.early_stopping. With validation data, only a validated epoch can be better than the best."""
        if self.val_index and history and "val_acc" not in history[-1]:
            return False
        return stalled(history, best_epoch(history), self.spec.train.early_stopping)

    def _class_weights(self) -> torch.Tensor | None:
        if self.spec.dataset.balance != "loss":
            return None
        names = self.contract.class_names
        labels = [video.label for video in self.index.videos]
        weights = balanced_weights([labels.count(i) for i in range(len(names))])
        shown = ", ".join(f"{name} {weight:.2f}" for name, weight in zip(names, weights, strict=True))
        self.say(f"dataset.balance: a clip's loss weighs by class: {shown}")
        return torch.tensor(weights, device=self.process.device)

    def _choose_precision(self) -> str:
        device = self.process.device
        name = self.spec.train.precision or default_precision(device)
        return trainable_precision(name, device, self.bare_model, self.example_input(), self.say)

"""Where the figures of each epoch go besides metrics.jsonl: TensorBoard, Weights & Biases.

A logger has `write(row)`, called once an epoch with its figures, and `close()`. Another one is a class here and a line
in `open_loggers`.
"""

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from action_recognition.errors import UserError
from action_recognition.files import write_text


class Logger(Protocol):
    """Takes the figures of a run, epoch by epoch; `row` has "epoch" and numbers by name."""

    def write(self, row: Mapping[str, Any]) -> None: ...
    def close(self) -> None: ...


def open_loggers(folder: Path, wandb_project: str | None, settings: Mapping[str, Any]) -> list[Logger]:
    """The loggers of a run whose files are in `folder`: TensorBoard where it is installed, W&B where it has a project.

    `settings` is the spec, for W&B to show. UserError where W&B is not installed, or refuses.
    """
    loggers: list[Logger] = [TensorBoard(folder)]
    if wandb_project:
        loggers.append(WeightsAndBiases(folder, wandb_project, settings))
    return loggers


class TensorBoard:
    """Scalars by epoch in `folder`, where the tensorboard package is installed; else nothing."""

    def __init__(self, folder: Path) -> None:
        self._writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._writer = SummaryWriter(str(folder))

    def write(self, row: Mapping[str, Any]) -> None:
        """The numbers of one epoch."""
        if self._writer:
            for name, value in _numbers(row).items():
                self._writer.add_scalar(name, value, row["epoch"])
            self._writer.flush()

    def close(self) -> None:
        """Nothing more will come."""
        if self._writer:
            self._writer.close()


class WeightsAndBiases:
    """A run of a W&B project. A run that is resumed in the same folder goes on with its curves.

    Where it sends them, or that it only keeps them (WANDB_MODE=offline), is W&B's own setting, and so
    is what it notes of the machine and the terminal. It is given figures and the spec, no weights and no pictures.
    """

    def __init__(self, folder: Path, project: str, settings: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UserError('train.wandb_project: needs Weights & Biases: pip install ".[wandb]"') from error
        own_id = _run_id(folder / "wandb_run.txt")
        try:
            self._run = wandb.init(
                project=project,
                id=own_id,
                name=folder.parent.name or folder.name,
                dir=str(folder),
                config=dict(settings),
                resume="allow",
                settings=wandb.Settings(x_disable_meta=True),  # the command line, where an encryption_key may stand
            )
        except wandb.Error as error:
            raise UserError(
                f"train.wandb_project: Weights & Biases refuses ({error}): run `wandb login`, set WANDB_MODE=offline, "
                "or leave the key out"
            ) from error
        # by epoch, not by W&B's own step: that may not go back, as a resumed run does
        self._run.define_metric("*", step_metric="epoch")

    def write(self, row: Mapping[str, Any]) -> None:
        """The numbers of one epoch."""
        self._run.log(dict(row))

    def close(self) -> None:
        """Nothing more will come."""
        self._run.finish()


def _run_id(path: Path) -> str:
    """The id that a results folder keeps for its run; another folder, or the same one emptied, is another run."""
    if not path.exists():
        write_text(path, secrets.token_hex(8))
    return path.read_text().strip()


def _numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "epoch"}

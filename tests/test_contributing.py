"""The worked example of CONTRIBUTING.md, done as it stands there on a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import MakeTree

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    """The one block of a language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.M | re.S)
    return str(found)


def apply(diff: str, root: Path) -> None:
    """Replace each run of - lines, which must stand in the file once, by the + lines after it."""
    for part in re.split(r"^--- ", diff, flags=re.M)[1:]:
        name, _, body = part.partition("\n")
        path = root / name.strip()
        text = path.read_text()
        for old, new in re.findall(r"((?:^-.*\n)+)((?:^\+.*\n)+)", body, re.M):
            before, after = (re.sub(r"^[-+]", "", lines, flags=re.M) for lines in (old, new))
            assert text.count(before) == 1, f"{name}: {before!r} stands there {text.count(before)} times"
            text = text.replace(before, after)
        path.write_text(text)


@pytest.fixture(scope="module")
def tree_with_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package and the tools, with the example's file and lines."""
    root = tmp_path_factory.mktemp("contributing")
    for name in ("action_recognition", "tools"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    (name,) = re.findall(r"^`(action_recognition/models/\w+\.py)`$", TEXT, re.M)
    (root / name).write_text(block("python"))
    apply(block("diff"), root)
    return root


def run(root: Path, *command: object) -> str:
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_lines_of_the_example_fit_the_files_as_they_are(tree_with_backbone: Path) -> None:
    assert "small3d" in (tree_with_backbone / "action_recognition/config/keys.py").read_text()


@pytest.mark.slow
def test_backbone_of_the_example_trains_with_frozen_stages_and_exports(
    tree_with_backbone: Path, make_tree: MakeTree, tmp_path: Path
) -> None:
    data = make_tree(tmp_path / "data", {"a": 3, "b": 3}, num_frames=4, modalities=("rgb",))
    results = tmp_path / "results"
    said = run(
        tree_with_backbone,
        "tools/train.py",
        *("model.backbone=small3d", "model.input_type=3d", "model.model_type=rgb", "model.rgb_seq_length=4"),
        *("dataset.output_shape=[32, 32]", "dataset.augmentation_config.crop_smaller_edge=36", "dataset.workers=0"),
        *(f"dataset.train_dataset_dir={data}", "dataset.batch_size=2", "train.num_epochs=1", "train.freeze=stem"),
        f"results_dir={results}",
    )
    assert "model: 3d small3d for rgb, 2 classes, 193,602 parameters" in said
    checkpoint = results / "train/ar_model_latest.pth"
    said = run(tree_with_backbone, "tools/export.py", f"export.checkpoint={checkpoint}", "dataset.workers=0")
    assert checkpoint.with_suffix(".onnx").exists()

"""What each feature for small data does on the rendered people: many short runs, one table, docs/recipes.md.

  python tools/make_demo_data.py demo2 --no-flow --size 72 --test-per-class 40 --seed 2
  python tools/recipes.py demo2 work/recipes                    # 3 seeds of every recipe
  python tools/recipes.py demo2 work/recipes --seeds 1 --only plain "mixup 0.2"
  python tools/recipes.py --page                               # write the page anew from what has been run

Each finished run is a line in docs/recipes.jsonl, with those of tools/ut_interaction.py where --ut gives its
results.jsonl: started again, the tool goes on where it was. Three questions, each with a training set of its own; the
test videos, 40 a class, show people who are in none of them:

  few         12 videos a class of 5 classes, from scratch
  unbalanced  20, 20, 20, 4 and 4 videos of the classes, from scratch; the mean class accuracy counts
  transfer    6 videos each of fall and bend, from a model of 80 videos each of walk, sit and squat
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RECORD, PAGE, SPEC = ROOT / "docs/recipes.jsonl", ROOT / "docs/recipes.md", ROOT / "configs/demo.yaml"

FEW = {"walk": 12, "sit": 12, "squat": 12, "fall": 12, "bend": 12}
UNBALANCED = {"walk": 20, "sit": 20, "squat": 20, "fall": 4, "bend": 4}
SOURCE, TARGET = {"walk": 80, "sit": 80, "squat": 80}, {"fall": 6, "bend": 6}
COUNTS = {"few": FEW, "unbalanced": UNBALANCED, "source": SOURCE, "transfer": TARGET}

SMALL = ("model.input_height=48", "model.input_width=48", "dataset.augmentation_config.crop_smaller_edge=54")
STEPS = ("train.num_epochs=16", "train.optim.lr_steps=[12]")
COSINE = ("train.num_epochs=16", "train.optim.lr_scheduler=Cosine", "train.optim.warmup_epochs=2")
ADAMW = ("train.optim.name=AdamW", "train.optim.lr=0.001", "train.optim.weight_decay=0.05")
CENTRE = "dataset.augmentation_config.val_center_crop=true"  # views are cut from frames of 54 pixels, as in training
VIEWS = ("evaluate.video_eval_mode=conv", "evaluate.video_num_crops=3")
TUNE = (
    "train.num_epochs=16",
    "train.optim.lr=0.002",
    "train.optim.lr_steps=[12]",
    "model.rgb_pretrained_num_classes=3",
)
# name -> overrides of configs/demo.yaml; what stands in a recipe is all that sets it apart from the first of its set
RECIPES: dict[str, dict[str, tuple[str, ...]]] = {
    "few": {
        "plain": STEPS,
        "cosine, warm-up": COSINE,
        "AdamW": (*STEPS, *ADAMW),
        "AdamW, cosine, warm-up": (*COSINE, *ADAMW),
        "label smoothing 0.1": (*STEPS, "train.label_smoothing=0.1"),
        "mixup 0.2": (*STEPS, "train.mixup_alpha=0.2"),
        "CutMix 1.0": (*STEPS, "train.cutmix_alpha=1.0"),
        "colour jitter": (*STEPS, "dataset.augmentation_config.color_jitter=[0.4, 0.4, 0.4, 0.1]"),
        "running mean 0.98": (*STEPS, "train.ema_decay=0.98"),
        "early stopping 4": (*STEPS, "train.early_stopping=4", "train.validation_interval=1"),
        "gradient checkpointing": (*STEPS, "train.gradient_checkpointing=true"),
        "batch size auto": (*STEPS, "dataset.batch_size=auto"),
        "centre crop": (*STEPS, CENTRE),
        "3 clips of a video": (*STEPS, "evaluate.video_eval_mode=conv"),
        "3 clips x 3 crops": (*STEPS, CENTRE, *VIEWS),
        "AdamW, cosine, warm-up, 3 x 3": (*COSINE, *ADAMW, CENTRE, *VIEWS),
    },
    "unbalanced": {
        "plain": STEPS,
        "balanced loss": (*STEPS, "dataset.balance=loss"),
        "balanced sampling": (*STEPS, "dataset.balance=sampling"),
    },
    "transfer": {
        "from scratch": STEPS,
        "all stages": TUNE,
        "layer1 frozen": (*TUNE, "train.freeze=layer1"),
        "layer3 frozen": (*TUNE, "train.freeze=layer3"),
        "rate halved by stage": (*TUNE, "train.optim.stage_lr_decay=0.5"),
    },
}


def run(tool: str, *arguments: object, log: Path) -> None:
    """Run one of the tools with its output in a log file; leave with what it said where it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        done = subprocess.run([sys.executable, ROOT / "tools" / tool, *map(str, arguments)], stdout=file, stderr=file)
    if done.returncode:
        sys.exit(f"error: tools/{tool} ended with {done.returncode}; see {log}")


def linked(data: Path, work: Path, name: str) -> Path:
    """A training set: links to the first videos of each class."""
    root = work / "data" / name
    for class_name, count in COUNTS[name].items():
        videos = sorted((data / "train" / class_name).iterdir())[:count]
        if len(videos) < count:
            sys.exit(f"error: {data / 'train' / class_name} has {len(videos)} videos, {count} are needed")
        for video in videos:
            (root / class_name).mkdir(parents=True, exist_ok=True)
            if not (root / class_name / video.name).exists():
                (root / class_name / video.name).symlink_to(video.resolve())
    return root


def test_set(data: Path, work: Path, name: str) -> Path:
    """The test videos of the classes that a training set has."""
    root = work / "data" / f"{name}_test"
    root.mkdir(parents=True, exist_ok=True)
    for class_name in COUNTS[name]:
        if not (root / class_name).exists():
            (root / class_name).symlink_to((data / "test" / class_name).resolve())
    return root


def train(data: Path, work: Path, name: str, results: Path, seed: int, overrides: tuple[str, ...]) -> Path:
    """Train on a set. Returns the last checkpoint."""
    epochs = next(o.rpartition("=")[2] for o in overrides if o.startswith("train.num_epochs="))
    label_map = ", ".join(f"{class_name}: {i}" for i, class_name in enumerate(COUNTS[name]))
    given = [
        *SMALL,
        *(f"train.validation_interval={epochs}", f"train.checkpoint_interval={epochs}", f"train.seed={seed}"),
        *(f"dataset.train_dataset_dir={linked(data, work, name)}", f"dataset.label_map={{{label_map}}}"),
        *(f"dataset.val_dataset_dir={test_set(data, work, name)}", f"results_dir={results}"),
    ]
    mine = [o for o in overrides if not o.startswith("evaluate.")]
    run("train.py", SPEC, *given, *mine, log=results / "log.txt")
    return results / "train" / "ar_model_latest.pth"


def run_recipe(data: Path, work: Path, name: str, recipe: str, seed: int) -> dict[str, Any]:
    """Train and evaluate. Returns the run's line of the record."""
    overrides = RECIPES[name][recipe]
    results, trained = (_folder(work, name, part, seed) for part in (recipe, _trained_as(name, recipe)))
    if "model.rgb_pretrained_num_classes=3" in overrides:
        source = work / "runs" / f"source_{seed}"
        if not (source / "train/model_epoch_003.pth").exists():
            train(data, work, "source", source, seed, ("train.num_epochs=4", "train.optim.lr_steps=[3]"))
        overrides = (*overrides, f"model.rgb_pretrained_model_path={source / 'train/ar_model_latest.pth'}")
    checkpoint = train(data, work, name, trained, seed, overrides)
    evaluation = [o for o in overrides if o.startswith("evaluate.")]
    where = (f"evaluate.checkpoint={checkpoint}", f"evaluate.test_dataset_dir={test_set(data, work, name)}")
    run("evaluate.py", *where, f"results_dir={results}", *evaluation, log=results / "log.txt")
    scores = json.loads((results / "evaluate/results.json").read_text())
    epochs = len((trained / "train/metrics.jsonl").read_text().splitlines())
    return {
        "set": name, "recipe": recipe, "seed": seed, "overrides": list(RECIPES[name][recipe]), "epochs": epochs,
        "accuracy": scores["accuracy"], "mean_class_accuracy": scores["mean_class_accuracy"], "loss": scores["loss"],
    }  # fmt: skip


def _folder(work: Path, name: str, recipe: str, seed: int) -> Path:
    return work / "runs" / f"{name} {recipe} {seed}".replace(" ", "_")


def _trained_as(name: str, recipe: str) -> str:
    """The first recipe with this training: what differs in evaluate.* keys alone is trained once."""
    trainings = {r: [o for o in given if not o.startswith("evaluate.")] for r, given in RECIPES[name].items()}
    return next(r for r, given in trainings.items() if given == trainings[recipe])


def recorded() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RECORD.read_text().splitlines()] if RECORD.exists() else []


def record(line: dict[str, Any]) -> None:
    """Add a run, then write the page anew."""
    with RECORD.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    PAGE.write_text(page(recorded()), encoding="utf-8")


def page(lines: list[dict[str, Any]]) -> str:
    """docs/recipes.md."""
    tables = {name: "\n".join(rows(name, lines)) for name in RECIPES}
    return TEXT.format(ut="\n".join(ut_rows(lines)), **tables)


def rows(name: str, lines: list[dict[str, Any]]) -> Iterator[str]:
    """A table: a recipe a row, how many runs it had, their mean and range, and what sets it apart from the first."""
    yield "| recipe | runs | accuracy, % | range | against the first | loss | epochs | keys |"
    yield "|---|---|---|---|---|---|---|---|"
    first, usual = next(iter(RECIPES[name])), 0.0
    for recipe, overrides in RECIPES[name].items():
        runs = [line for line in lines if line.get("set") == name and line["recipe"] == recipe]
        if not runs:
            yield f"| {recipe} | 0 | | | | | | |"
            continue
        values = [line["mean_class_accuracy"] for line in runs]
        accuracy, loss, epochs = (_mean(runs, key) for key in ("mean_class_accuracy", "loss", "epochs"))
        if recipe == first:
            usual = accuracy
        keys = ", ".join(f"`{o}`" for o in overrides if recipe == first or o not in RECIPES[name][first])
        against = f"{accuracy - usual:+.1f}" if recipe != first else ""
        figures = f"{accuracy:.1f} | {_range(values)} | {against} | {loss:.2f}"
        yield f"| {recipe} | {len(runs)} | {figures} | {epochs:.0f} | {keys} |"


def _mean(runs: list[dict[str, Any]], key: str) -> float:
    return statistics.mean(line[key] for line in runs)


def _range(values: list[float]) -> str:
    return f"{min(values):.1f} to {max(values):.1f}" if len(values) > 1 else ""


def ut_rows(lines: list[dict[str, Any]]) -> Iterator[str]:
    """The four folds: in a cell a figure for each run that has all of them."""
    yield "| model | runs | fold 0 | 1 | 2 | 3 | all folds, % | range |\n|---|---|---|---|---|---|---|---|"
    for model in ("rgb", "of", "joint"):
        runs: dict[tuple[str, ...], dict[int, dict[str, Any]]] = {}
        for line in lines:
            if line.get("ut") == model:
                runs.setdefault(tuple(line["overrides"]), {})[line["fold"]] = line
        whole = [run for run in runs.values() if len(run) == 4]
        if whole:
            cells = [f"{', '.join(str(run[f]['right']) for run in whole)} of {whole[0][f]['videos']}" for f in range(4)]
            totals = [
                100 * sum(r["right"] for r in run.values()) / sum(r["videos"] for r in run.values()) for run in whole
            ]
            mean = statistics.mean(totals)
            yield f"| {model} | {len(whole)} | {' | '.join(cells)} | {mean:.1f} | {_range(totals)} |"


TEXT = """# Recipes for few clips

Runs that were made, not advice. Accuracy is the mean class accuracy on 40 test videos a class; "runs" says how many
runs a row has, "range" which were the lowest and the highest, "against the first" how far its mean is from that of
the first row. All have the same videos and `configs/demo.yaml`: 3D ResNet-18, 8 frames, here of 48x48 pixels, on a
CPU in fp32 (taken in place of bf16, whose gradients torch gets wrong for clips this short). Written by

```sh
python tools/make_demo_data.py demo2 --no-flow --size 72 --test-per-class 40 --seed 2
python tools/recipes.py demo2 work/recipes
```

**How sure is it?** A seed does not pin a run: another kind of CPU or number of threads rounds otherwise, and
`plain` of seed 1 came to 80.5, 81.5 and 85.0 %. That is why some rows have more runs than the three seeds. Runs of
one recipe mostly differ by 2 to 4 points (standard deviation), so of two rows that are closer than 3 points neither is
better.

## What helped, and what did not

- **Weights of other classes**: 78.8 to 98.3 % with 6 videos of each class. Training all of them was best: every
  stage that was frozen or slowed down cost some of it. The other classes are rendered people, too; of Kinetics
  there are no runs here.
- **More views of a video**, which cost no training: the weights that had 85.0, 86.0 and 86.0 % with one view had
  86.0, 89.5 and 85.5 % with three clips of each video, and 87.0, 89.0 and 89.0 % with three crops of each of these.
- **AdamW with cosine and warm-up**: 2 points above plain in six runs, and no help together with the views.
- **No difference** by cosine or AdamW alone, label smoothing, mixup, colour jitter, a running mean of the weights.
  Gradient checkpointing gives plain's runs again, in less memory.
- **Harm**: CutMix covers the one person that there is. `batch_size: auto` puts 32 of the 60 clips into a batch, as
  memory allows, and makes two steps an epoch of eight: with few clips say 8. Early stopping ended one of six runs
  before its learning rate fell, at 56 %; give it more patience than the schedule has epochs between steps.
- **Rare classes**: balancing lifted the worst run of three from 68.5 to 73 % and more; the means are too close to
  tell.

## 12 videos a class, from scratch

{few}

## Unbalanced: 20, 20, 20, 4 and 4 videos

{unbalanced}

## Fine-tuning: 6 videos of each of 2 classes, from a model of 3 other classes

{transfer}

## UT-Interaction set 1, four folds by recording, from scratch

60 videos of 6 classes; 44 or so to train on. Width, height and length of the videos alone tell about 65 %, so that a
figure near that is no sign of motion having been seen. In fp32, the fourth run of rgb in bf16. By

```sh
python tools/ut_interaction.py path/to/ut_interaction work/ut_interaction
python tools/ut_interaction.py path/to/ut_interaction work/ut_interaction --models rgb \\
    train.seed=2 train.memory_format=channels_last      # and 3
python tools/ut_interaction.py path/to/ut_interaction work/ut_interaction --models rgb train.precision=bf16
python tools/recipes.py --page --ut work/ut_interaction/results.jsonl
```

{ut}
"""


def main() -> int:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, metavar="DATA", help="what tools/make_demo_data.py made")
    parser.add_argument("work", nargs="?", type=Path, metavar="WORK", help="folder for links, runs and logs")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each recipe (3)")
    parser.add_argument("--only", nargs="+", metavar="RECIPE", help="these recipes")
    parser.add_argument("--page", action="store_true", help="run nothing, write docs/recipes.md")
    parser.add_argument("--ut", type=Path, metavar="FILE", help="results.jsonl of tools/ut_interaction.py")
    options = parser.parse_args()
    unknown = set(options.only or ()) - {recipe for recipes in RECIPES.values() for recipe in recipes}
    if unknown:
        parser.error(f"--only: no recipe is called {', '.join(sorted(unknown))}; see the rows of {PAGE.name}")
    if options.ut:
        known = recorded()
        for line in map(json.loads, options.ut.read_text().splitlines()):
            fold = {"ut": line.pop("model"), **line}
            if fold not in known:
                record(fold)
    if options.page:
        PAGE.write_text(page(recorded()), encoding="utf-8")
        return 0
    if not options.work:
        parser.error("DATA and WORK are needed")
    for seed in range(1, options.seeds + 1):
        for name, recipes in RECIPES.items():
            for recipe in recipes:
                done = any((r.get("set"), r.get("recipe"), r.get("seed")) == (name, recipe, seed) for r in recorded())
                if not done and (not options.only or recipe in options.only):
                    line = run_recipe(options.data, options.work, name, recipe, seed)
                    record(line)
                    print(f"{name}, {recipe}, seed {seed}: {line['mean_class_accuracy']:.1f} %", flush=True)
    print(f"written to {os.path.relpath(PAGE)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

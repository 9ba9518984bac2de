"""tools/benchmark.py: each subcommand gives the rows that it promises. How fast anything is, is not tested here."""

import ast
import json
import math
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("cv2", reason="needs OpenCV: pip install .[video]")
TOOLS = Path(__file__).parents[1] / "tools"
sys.path.insert(0, str(TOOLS))
import benchmark  # noqa: E402
import benchmark_report  # noqa: E402
import benchmark_scaling  # noqa: E402
import benchmark_train  # noqa: E402
from benchmark_frames import SIZE, frames_from, render_frames, write_videos  # noqa: E402
from benchmark_index import Cost  # noqa: E402
from benchmark_rows import Result, Row, rates, table  # noqa: E402

TINY = (
    "model.rgb_seq_length=4", "model.input_height=32", "model.input_width=32",
    "dataset.augmentation_config.crop_smaller_edge=40",
)  # fmt: skip


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Three images of 60 x 48."""
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (48, 60, 3), np.uint8)).save(tmp_path / f"{i}.png")
    return tmp_path


def rows_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, dict[str, object]]:
    assert benchmark.main([*arguments, "--rounds", "1", "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| what | unit | ours | reference | ratio | of the limit | wanted |"
    rows = json.loads(lines[-1])["rows"]
    for row in rows:
        assert list(row) == ["name", "unit", "ours", "reference", "ratio", "limit"]
        assert row["ours"] > 0
        assert row["reference"] > 0
        assert math.isfinite(row["ratio"])
        assert row["limit"] is None or 0 <= row["limit"] <= 1
    return {row["name"]: row for row in rows}


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("data", ["png folders", "jpg folders", "frame cache, reference on png"]),
        ("evaluate", ["conv, 3 segments of png", "conv, 3 segments of jpg"]),
        ("infer", ["sliding window, png"]),
        ("train", ["training step, 3d resnet18, 4x32x32, batch 2, fp32"]),
    ],
)
def test_a_subcommand_gives_its_rows(
    what: str, names: list[str], frames: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark_train, "cpu_has_bf16", lambda: False)
    monkeypatch.setitem(benchmark_train.MATMUL_SIDE, "cpu", 32)
    rows = rows_of(capsys, what, *TINY, "evaluate.video_num_segments=3", "--frames", str(frames))
    assert list(rows) == names


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has other rows")
def test_train_says_what_is_not_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(benchmark_train, "cpu_has_bf16", lambda: False)
    monkeypatch.setitem(benchmark_train.MATMUL_SIDE, "cpu", 32)
    assert benchmark.main(["train", *TINY, "--rounds", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "bf16: not run, since this CPU has no bf16."


def test_startup_has_the_answers_and_the_index(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    costs = [Cost(3.0, 2.5, 200.0, 4000), Cost(0.2, 0.1, 100.0, 4000)]
    monkeypatch.setattr("benchmark_startup.index_costs", lambda num_videos: costs)
    monkeypatch.setattr("benchmark_startup._cpu_seconds", lambda command: 4.0 if "import torch" in command[2] else 0.2)
    rows = rows_of(capsys, "startup")
    assert {name: row["ratio"] for name, row in rows.items()} == {
        "tools/train.py -h": 20,
        "a mistake in a spec": 20,
        "index of 240,000 videos out of its cache": 25,
        "index of 240,000 videos, memory": 2,
    }


def test_a_spec_and_overrides_say_what_is_measured(frames: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = str(TOOLS.parent / "configs/rgb2d.yaml")
    assert list(rows_of(capsys, "infer", spec, *TINY, "--frames", str(frames))) == ["sliding window, png"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data", "model.backbone=resnet19"], "model.backbone: 'resnet19' is not one of"),
        (["data", "model.model_type=of"], "model.model_type: of, and only rgb can be measured"),
    ],
)
def test_a_wrong_spec_is_an_error_of_the_command_line(words, message, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(words) == 2
    assert message in capsys.readouterr().err


# --- files of docs/ ---


def test_all_writes_the_tables_under_their_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import sys; print('| a table |') if sys.argv[1] != 'evaluate' else sys.exit('it broke')"
    monkeypatch.setattr(benchmark_report, "REPORT", tmp_path / "benchmarks.md")
    run = subprocess.run
    fake = lambda command, **how: run([sys.executable, "-c", script, *command[2:]], **how)  # noqa: E731
    monkeypatch.setattr(subprocess, "run", fake)
    assert benchmark.main(["all", "--rounds", "1"]) == 1
    text = (tmp_path / "benchmarks.md").read_text()
    assert "\n## Training data\n\n```sh\npython tools/benchmark.py data\n```\n\n| a table |\n" in text
    assert "\n## Evaluation data\n\n```sh\npython tools/benchmark.py evaluate\n```\n\nFailed: it broke\n" in text
    assert f"torch {version('torch')}, " in text


def test_scaling_writes_tables_arithmetic_and_a_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scaling = benchmark_scaling
    monkeypatch.setattr(scaling, "DOCS", tmp_path)
    keys = [(source, length, n) for source in scaling.SOURCES for length in scaling.LENGTHS for n in scaling.WORKERS]
    rates = {key: 20.0 if key[0] == "jpg" else 500.0 for key in keys}
    memory = {(source, length): 100.0 for source in scaling.SOURCES for length in scaling.LENGTHS}
    costs = Cost(30.0, 30.0, 200.0, 240_000), Cost(2.0, 2.0, 150.0, 240_000)
    sizes = {"jpg": 60_000.0, "cache": 300_000.0}
    measured = scaling.Measured(rates, memory, sizes, scaling.GPU_FLOPS / 1500, 33_000_000, *costs)
    monkeypatch.setattr(scaling, "_measure", lambda *_: measured)
    monkeypatch.setattr(scaling, "num_cores", lambda: 2)
    assert benchmark.main(["scaling"]) == 0
    text = (tmp_path / "scaling.md").read_text()
    assert "| frames a clip | 1 worker | 2 workers | 4 workers (oversubscribed) | 8 workers (oversubscribed) |" in text
    assert "1500 / 20.0 = 75 that decode JPEG, and 1500 x 1.92 MB = 2.88 GB/s read" in text
    assert "| an epoch, if data keep up | 240,000 / 12,000 = 20.0 s |" in text
    assert "240,000 x 250 x 60 kB = 3.6 TB" in text
    assert "| index, memory | 150 MB | 150 MB | 62.5 GB |" in text
    assert (tmp_path / "scaling.svg").read_text().startswith("<?xml")


def test_a_rate_of_scaling_is_of_the_training_loader(frames: Path, tmp_path: Path) -> None:
    spec = benchmark.spec_of("scaling", list(TINY))
    videos = write_videos(tmp_path / "jpg", ".jpg", 1, 8, frames)
    rate, worker_mb = benchmark_scaling._rate(spec, videos, 1, 1)
    assert rate > 0
    assert worker_mb > 1 or not Path("/proc/self/smaps_rollup").exists()


# --- rows ---


def test_rates_are_medians_without_the_first_round() -> None:
    times = iter([0, 9, 10, 11, 20, 22, 30, 34])  # seconds: 9 unmeasured, then 1, 2, 4
    assert rates({"way": lambda: 8}, 3, clock=lambda: next(times)) == {"way": 4.0}


def test_the_ratio_of_a_rate_and_of_a_cost_is_how_many_times_better_ours_is() -> None:
    assert Row("x", "clips/s", 6.0, 2.0).ratio == 3.0
    assert Row("x", "s", 2.0, 6.0, is_cost=True).ratio == 3.0


def test_what_falls_short_is_shown_as_such() -> None:
    text = table(Result([Row("x", "clips/s", 3.0, 2.0, 0.5, wanted_ratio=1.6, wanted_limit=0.4)], ["A note."]))
    assert text.splitlines()[2:] == [
        "| x | clips/s | 3 | 2 | 1.50 | 50.0% | ratio 1.6: **falls short**; 40% of the limit |",
        "",
        "A note.",
    ]


def test_more_than_the_limit_is_told_in_the_table_and_is_one_in_json() -> None:
    row = Row("x", "clips/s", 3.0, 2.0, 1.04)
    assert row.to_plain()["limit"] == 1.0
    assert table(Result([row])).splitlines()[2:] == [
        "| x | clips/s | 3 | 2 | 1.50 | 104.0% |  |",
        "",
        "More than 100 % of the limit is noise of the measurement.",
    ]


# --- frames ---


def test_rendered_frames_move_and_are_as_rich_as_films() -> None:
    import cv2

    first, second = render_frames(2)
    assert first.shape == (SIZE[1], SIZE[0], 3)
    assert np.abs(first[1:, 2:].astype(int) - second[:-1, :-2]).mean() < 4  # a pixel up, two to the left, and noise
    assert 280_000 < len(cv2.imencode(".png", first)[1]) < 330_000
    assert 55_000 < len(cv2.imencode(".jpg", first)[1]) < 65_000


def test_a_folder_with_too_few_images_is_gone_through_again(frames: Path) -> None:
    given = list(frames_from(frames, 5))
    assert [image.shape for image in given] == [(48, 60, 3)] * 5
    np.testing.assert_array_equal(given[3], given[0])


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"no png or jpg image"):
        list(frames_from(tmp_path, 1))


# --- what it measures against ---


def test_the_reference_says_what_it_is_for_and_only_the_benchmark_imports_it() -> None:
    manual = ast.get_docstring(ast.parse((TOOLS / "benchmark_reference.py").read_text())) or ""
    assert "exists to be measured against" in manual
    users = [
        path.name
        for folder in ("action_recognition", "tests", "tools")
        for path in sorted((TOOLS.parent / folder).rglob("*.py"))
        if "import benchmark_reference" in path.read_text(encoding="utf-8")
    ]
    assert users
    assert all(name.startswith("benchmark_") for name in users if name != Path(__file__).name)


@pytest.mark.parametrize(("arguments", "exit_code"), [(["-h"], 0), (["data", "model.backbone=x"], 2)])
def test_help_and_spec_errors_are_given_without_torch(arguments: list[str], exit_code: int) -> None:
    code = (
        "import sys\ntry:\n  import benchmark\n  sys.exit(benchmark.main())\nfinally:\n  print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, *arguments]
    run = subprocess.run(command, cwd=TOOLS, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout.splitlines()[-1]) == (exit_code, "False")

"""report.html in headless Chromium: it loads, buttons and keys work, names stay text, and a phone has room for it."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import MakeTree, run_evaluate, run_train, save_sigmoid_model, use_tiny_models

from action_recognition.tasks import evaluate
from action_recognition.tasks.scoring import score_videos

pytest.importorskip("matplotlib", reason="needs matplotlib: pip install .[report]")
webdriver = pytest.importorskip("selenium.webdriver", reason="needs Selenium: pip install selenium")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

pytestmark = pytest.mark.slow
MARKUP = "<img src=x onerror=document.title='run'>"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM or not DRIVER:
        pytest.skip("needs chromium and chromedriver: apt install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def reports(make_tree: MakeTree, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an evaluation's and of a training's report. Of 20 videos of each class, those of b are mistakes."""
    folder = tmp_path_factory.mktemp("browser")
    root = make_tree(folder / "data", {MARKUP: 20, "b": 20}, num_frames=3, modalities=("rgb",))
    save_sigmoid_model(folder / "model.pth", (MARKUP, "b"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_tiny_models(monkeypatch)
        run_evaluate(folder / "model.pth", root, folder, "evaluate.report=true", "evaluate.video_eval_mode=all")
        run_train(root, folder, "train.report=true", "train.num_epochs=2", f"dataset.val_dataset_dir={root}")
    return folder


@pytest.fixture
def page(browser: Any, reports: Path) -> Any:
    """The report of the evaluation, just opened in a wide window."""
    return opened(browser, reports / "evaluate" / "report.html")


def opened(browser: Any, path: Path, width: int = 1200, **media: str) -> Any:
    features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features, "media": ""})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(f"file://{path}")
    return browser


def find(page: Any, selector: str) -> list[Any]:
    return page.find_elements(By.CSS_SELECTOR, selector)


def names_listed(page: Any) -> list[str]:
    return [element.text for element in find(page, "#videos .name")]


def cell(page: Any, label: int, answer: int) -> Any:
    return find(page, f'.matrix [data-truth="{label}"][data-answer="{answer}"]')[0]


@pytest.mark.parametrize("task", ["evaluate", "train"])
@pytest.mark.parametrize("width", [1200, 390])
def test_page_loads_without_errors_and_without_asking_for_anything(
    task: str, width: int, browser: Any, reports: Path
) -> None:
    page = opened(browser, reports / task / "report.html", width)
    assert page.get_log("browser") == []
    asked = page.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name.slice(0, 5))")
    assert set(asked) <= {"data:"}
    assert page.title == {"evaluate": "Evaluation report", "train": "Training report"}[task]


@pytest.mark.parametrize("task", ["evaluate", "train"])
@pytest.mark.parametrize("width", [1200, 390, 320])
def test_page_does_not_scroll_sideways(task: str, width: int, browser: Any, reports: Path) -> None:
    page = opened(browser, reports / task / "report.html", width)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width


def test_recall_of_the_classes_is_in_sight_on_a_phone(browser: Any, reports: Path) -> None:
    page = opened(browser, reports / "evaluate" / "report.html", 390)
    head = find(page, "#classes thead th")[4]
    assert head.text == "recall"
    in_sight = 390 - 12 - 1 - 14  # without the margin of the page, the border and the padding of the section
    assert head.rect["x"] + head.rect["width"] <= in_sight


def test_page_opens_with_the_mistakes_and_shows_more_of_them_at_a_press(page: Any) -> None:
    assert find(page, "#count")[0].text == "20 videos"
    assert all(name.startswith("b/video_") for name in names_listed(page))
    Select(find(page, "#answer")[0]).select_by_visible_text("all")
    assert (find(page, "#count")[0].text, len(names_listed(page))) == ("40 videos", 24)
    page.execute_script("document.getElementById('more').click()")
    assert len(names_listed(page)) == 40
    assert not find(page, "#more")[0].is_displayed()


def test_click_on_a_cell_lists_its_videos(page: Any) -> None:
    cell(page, 0, 0).click()
    assert find(page, "#count")[0].text == "20 videos"
    assert names_listed(page) == [f"{MARKUP}/video_{i:03d}" for i in range(20)]
    assert cell(page, 0, 0).get_attribute("aria-pressed") == "true"
    assert len(find(page, "#videos svg.seen rect")) == 20


def test_click_on_a_cell_of_a_training_lists_the_videos_of_its_validation(browser: Any, reports: Path) -> None:
    page = opened(browser, reports / "train" / "report.html")
    number = find(page, "table.matrix button")[0]
    number.click()
    assert find(page, "#count")[0].text.split()[0] == number.text
    assert find(page, "#videos img, #videos .nothumb") == []


def test_page_with_scores_that_are_not_finite_works_and_shows_dashes(
    browser: Any, reports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflowed(*arguments: Any) -> Any:
        scores, problems = score_videos(*arguments)
        scores.probabilities[:2] = float("nan")
        return scores, problems

    use_tiny_models(monkeypatch)
    monkeypatch.setattr(evaluate, "score_videos", overflowed)
    run_evaluate(reports / "model.pth", reports / "data", tmp_path, "evaluate.report=true")
    page = opened(browser, tmp_path / "evaluate" / "report.html")
    assert page.get_log("browser") == []
    assert find(page, "#count")[0].text == "22 videos"
    assert names_listed(page)[:3] == [f"{MARKUP}/video_000", f"{MARKUP}/video_001", "b/video_020"]
    assert find(page, "#videos li")[0].text.splitlines()[1] == f"no valid answer -, is {MARKUP} (-)"
    cell(page, 0, 0).click()
    assert find(page, "#count")[0].text == "18 videos"


def test_enter_on_a_cell_lists_its_videos_and_goes_to_them(page: Any) -> None:
    cell(page, 1, 0).send_keys(Keys.ENTER)
    assert all(name.startswith("b/video_") for name in names_listed(page))
    assert page.switch_to.active_element.get_attribute("id") == "count"


def test_cells_are_reached_by_tab(page: Any) -> None:
    cell(page, 0, 0).send_keys(Keys.TAB)
    assert page.switch_to.active_element.get_attribute("aria-label") == f"b taken for {MARKUP}: 20"
    outline = page.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_names_with_markup_stay_text(page: Any) -> None:
    cell(page, 0, 0).click()
    assert page.title == "Evaluation report"
    assert find(page, "img[src=x]") == []
    assert find(page, ".matrix tbody th")[0].text == MARKUP


def test_press_on_a_head_sorts_the_table_and_another_turns_it_round(page: Any) -> None:
    def classes() -> list[str]:
        return [head.text for head in find(page, "#classes tbody th")]

    head = find(page, "#classes thead button")[4]  # recall: 1 of the first class, 0 of the second
    head.click()
    assert classes() == [MARKUP, "b"]
    head.click()
    assert classes() == ["b", MARKUP]
    sorted_by = [h.get_attribute("aria-sort") for h in find(page, "#classes thead th")]
    assert sorted_by == [None, None, None, None, "ascending", None, None]


def place(page: Any) -> str:
    return page.execute_script("return document.querySelector('.film img').style.transform")


def test_clips_play_can_be_paused_and_moved_frame_by_frame(browser: Any, reports: Path) -> None:
    page = opened(browser, reports / "evaluate" / "report.html")
    button = find(page, ".card button")[0]
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    for where in ("translateX(0%)", "translateX(-50%)", "translateX(0%)"):
        WebDriverWait(page, 20).until(lambda page, where=where: place(page) == where)
    assert button.text == "Pause"
    button.click()
    assert (button.text, button.get_attribute("aria-label")) == ("Play", "Play b/video_020")
    slider = find(page, ".card input")[0]
    slider.send_keys(Keys.HOME)
    time.sleep(0.5)  # three frames
    assert place(page) == "translateX(0%)"
    slider.send_keys(Keys.ARROW_RIGHT)
    assert place(page) == "translateX(-50%)"
    assert slider.get_attribute("aria-valuetext") == "frame 2 of 2"


def test_all_clips_are_paused_by_one_button(page: Any) -> None:
    find(page, "#all-clips")[0].click()
    assert {button.text for button in find(page, ".card button")} == {"Play"}
    find(page, "#all-clips")[0].click()
    assert {button.text for button in find(page, ".card button")} == {"Pause"}


def test_clips_stand_still_for_those_who_asked_for_less_motion(browser: Any, reports: Path) -> None:
    page = opened(browser, reports / "evaluate" / "report.html", prefers_reduced_motion="reduce")
    assert {button.text for button in find(page, ".card button")} == {"Play"}
    before = place(page)
    time.sleep(0.5)  # three frames, an odd number
    assert place(page) == before


def test_text_stands_out_from_its_ground_in_light_and_dark(browser: Any, reports: Path) -> None:
    """At least 4.5 : 1, as WCAG 2 asks for, of ink and of soft ink on cards and on paper."""
    names = ["ink", "soft", "bad", "right", "card", "paper"]
    script = """
      const style = getComputedStyle(document.documentElement);
      return arguments[0].map(name => style.getPropertyValue("--" + name).trim());"""
    for scheme in ("light", "dark"):
        page = opened(browser, reports / "evaluate" / "report.html", prefers_color_scheme=scheme)
        ink, soft, bad, right, card, paper = map(luminance, page.execute_script(script, names))
        assert min(contrast(text, ground) for text in (ink, soft) for ground in (card, paper)) >= 4.5
        assert min(contrast(text, card) for text in (bad, right)) >= 4.5


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(first: float, second: float) -> float:
    low, high = sorted((first, second))
    return (high + 0.05) / (low + 0.05)


def test_print_shows_no_controls_and_opens_what_is_folded(page: Any) -> None:
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    page.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert [element for element in find(page, "nav, .tools, .player, .more") if element.is_displayed()] == []
    assert all(details.get_attribute("open") for details in find(page, "details"))
    ground = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(255, 255, 255)"

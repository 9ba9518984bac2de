"""What the documents say of this project is so: links, tools, options and keys exist. And how docs_test reads them."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from action_recognition.config.keys import KEYS
from action_recognition.config.rules import IGNORED, OLD_NAMES

REPO = Path(__file__).parents[1]
sys.path.insert(0, str(REPO / "tools"))
import docs_test  # noqa: E402

DOCUMENTS = {path.relative_to(REPO).as_posix(): path.read_text("utf-8") for path in sorted(REPO.glob("*.md"))}
DOCUMENTS |= {path.relative_to(REPO).as_posix(): path.read_text("utf-8") for path in sorted(REPO.glob("docs/*.md"))}
SECTIONS = "model|dataset|train|evaluate|inference|export"


def anchors(text: str) -> set[str]:
    """The names that GitHub gives to the headings of a document."""
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def commands(text: str) -> Iterator[str]:
    """Every command with a tool in it: of sh blocks, and of `inline code`."""
    inline = re.findall(r"`([^`\n]*tools/\w+\.py[^`\n]*)`", text)
    blocks = "\n".join(re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
    yield from inline
    yield from (line.partition(" #")[0] for line in blocks.split("\n") if re.search(r"tools/\w+\.py", line))


def of_project(text: str) -> str:
    """The text without what an example's file holds: the specs of older TAOs."""
    return re.sub(r"<<'END'\n.*?\nEND\n", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_of_a_document_lead_somewhere(name: str) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", DOCUMENTS[name]):
        path, _, anchor = target.partition("#")
        if path.startswith(("http://", "https://")):
            continue
        found = ((REPO / name).parent / path).resolve() if path else REPO / name
        where = found.relative_to(REPO).as_posix()
        if not found.exists() or (anchor and anchor not in anchors(DOCUMENTS.get(where, ""))):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_tools_and_their_options_that_a_document_names_exist(name: str) -> None:
    wrong = [tool for tool in re.findall(r"tools/\w\w+\.py", DOCUMENTS[name]) if not (REPO / tool).is_file()]
    for command in commands(DOCUMENTS[name]):
        *_, tool, rest = re.split(r"(tools/\w+\.py)", command)
        source = (REPO / tool).read_text("utf-8") if (REPO / tool).is_file() else ""
        options = re.findall(r"(?<!\S)--[a-z][\w-]+", rest)
        known = source.replace('"--', '"--no-') + source
        wrong += [f"{tool} {option}" for option in options if "run_tool" not in source and f'"{option}"' not in known]
    assert wrong == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_spec_keys_that_a_document_names_exist(name: str) -> None:
    code = " ".join(re.findall(r"`[^`\n]+`|^\|[^\n]*$|^```sh\n.*?^```", of_project(DOCUMENTS[name]), re.M | re.S))
    named = set(re.findall(rf"(?<![\w./-])(?:{SECTIONS})(?:\.[a-z_]+)+(?![\w/(])", code))
    files = {f"{section}.{ending}" for section in SECTIONS.split("|") for ending in ("py", "json", "log", "csv")}
    files |= {f"model.{ending}" for ending in ("onnx", "plan", "plan.json", "pth", "etlt")}
    sections = {key.rpartition(".")[0] for key in KEYS}
    ignored = {name for name in named if name.startswith(IGNORED)}
    assert named - set(KEYS) - sections - ignored - set(OLD_NAMES) - files == set()


def test_every_key_is_listed_as_one_of_tao_or_as_a_new_one() -> None:
    table = DOCUMENTS["README.md"].partition("Keys that TAO does not have:")[2].partition("\n\n| configs/")[0]
    new = {key.strip() for row in table.split("\n") if row.startswith("| ") for key in row.split("|")[1].split(",")}
    listed = DOCUMENTS["docs/from-tao.md"].partition("These keys are TAO's")[2].split("```")[1].split("\n")[1:-1]
    of_tao = {f"{line.partition(':')[0]}.{name}" for line in listed for name in line.split()[1:]}
    assert set(KEYS) - new == (of_tao | {"results_dir", "encryption_key"}) - new
    assert of_tao <= set(KEYS)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_names_no_path_of_one_machine(name: str) -> None:
    assert re.findall(r"(?<![\w.])/(?:work|home|root|tmp)/\S*|pypi\.\w+\.\w+/simple|--index-url", DOCUMENTS[name]) == []


# --- tools/docs_test.py ---

GUIDE = """# Title

```sh
# a remark
python a.py \\
    --option
cat > x <<'END'
one \\

two
END
ls
```

```text
output
```

<!-- not run: no camera -->
```sh
python b.py 0
```
"""


def test_blocks_of_a_document_are_those_in_sh() -> None:
    run, left_out = docs_test.blocks_of("guide.md", GUIDE)
    assert run.commands == ("python a.py \\\n    --option", "cat > x <<'END'\none \\\n\ntwo\nEND", "ls")
    assert (run.line, run.not_run) == (4, None)
    assert (left_out.commands, left_out.not_run) == (("python b.py 0",), "no camera")


@pytest.mark.parametrize("comment", ["<!-- not run -->", "<!-- not run: -->", "not run: for a reason"])
def test_blocks_when_the_reason_is_not_given_as_it_should_be_says_so(comment: str) -> None:
    with pytest.raises(ValueError, match=r"guide.md:3: write <!-- not run: REASON --> above the block"):
        list(docs_test.blocks_of("guide.md", f"\n{comment}\n```sh\nls\n```\n"))


def test_blocks_when_one_is_open_to_the_end_says_where() -> None:
    with pytest.raises(ValueError, match=r"guide.md:1: the block is not closed"):
        list(docs_test.blocks_of("guide.md", "```sh\nls\n"))


def test_a_reason_holds_for_the_next_block_only() -> None:
    first, second = docs_test.blocks_of("guide.md", "<!-- not run: slow -->\n```sh\na\n```\n```sh\nb\n```\n")
    assert (first.not_run, second.not_run) == ("slow", None)


def test_shortened_when_it_trains_ends_in_the_overrides() -> None:
    command = "torchrun --nproc-per-node=4 tools/train.py a.yaml train.num_epochs=9   # on four"
    bare = "torchrun --nproc-per-node=4 tools/train.py a.yaml train.num_epochs=9"
    assert docs_test.shortened(command) == f"{bare} {docs_test.SHORT}"


@pytest.mark.parametrize("command", ["python tools/evaluate.py a=b", "python tools/train.py -h"])
def test_shortened_when_it_does_not_train_leaves_the_command_alone(command: str) -> None:
    assert docs_test.shortened(command) == command


def test_run_document_when_a_command_fails_stops_there_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "guide.md").write_text("```sh\necho one\necho two | grep three\necho four\n```\n")
    monkeypatch.setattr(docs_test, "REPO", tmp_path)
    monkeypatch.setattr(docs_test, "prepare", lambda document, folder, rendered: folder.mkdir())
    outcome = docs_test.run_document("guide.md", tmp_path, show=False)
    assert (outcome.num_run, outcome.failed) == (2, ["guide.md:2: ended with 1: echo two | grep three"])
    assert "four" not in capsys.readouterr().out

"""What readers of the page, the Markdown and the terminal are promised."""

import io
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from rich.console import Console

from precis.report import load, show, summarize, to_html, to_markdown, write

VOID = {"meta", "line", "path", "use", "rect", "img", "br"}


class Page(HTMLParser):
    """Collects what a browser would load, the ids, and the text; checks that tags close."""

    def __init__(self, source):
        super().__init__()
        self.open, self.ids, self.resources, self.words, self.tags = [], [], [], [], []
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.resources += [
            value
            for name, value in attrs
            if name in ("src", "href", "xlink:href") and not value.startswith("#")
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def source(report):
    return to_html(report)


@pytest.fixture(scope="module")
def page(source):
    return Page(source)


def test_the_page_needs_nothing_from_outside(source, page):
    assert page.resources == []
    assert "script" not in page.tags
    assert "@import" not in source
    assert set(re.findall(r"url\((.)", source)) <= {"#"}


def test_ids_are_unique_and_every_reference_within_the_page_is_met(source, page):
    shared = {name for name in page.ids if page.ids.count(name) > 1}
    assert not shared
    wanted = re.findall(r'(?:url\(|href=")#([^")]+)', source)
    assert wanted
    assert set(wanted) <= set(page.ids)


def test_the_answer_comes_before_the_table_and_that_before_what_ran(page):
    order = ["mixed_bf16 keeps", "paired gap", "Training loss", "Loss scale A line a seed"]
    order += ["What ran", "Diverged and failed"]
    places = [page.text.index(words) for words in order]
    assert places == sorted(places)


@pytest.mark.parametrize(
    "words",
    [
        "within tolerance",
        "detectably worse by 0.0041 bits/byte",
        "3 of 3 seeds, rate 29% to 100%",
        "about 5 seeds would decide",
        "fewer than 3 seeds",
        "emulated",
        "xla_allow_excess_precision=false",
        "±0.02 bits/byte (set in the sweep file)",
        "a default, 1% of the baseline's mean",
        "This sweep is not complete: of 54 trials, 2 pending.",
        "loss_scale=none",
        "kernel has 3 axes",
        'File "task.py", line 12, in loss',
    ],
)
def test_the_page_says(page, words):
    assert words in page.text.replace("\u00a0", " ")


def test_figures_take_their_colors_from_the_page(source):
    figures = re.findall(r"<svg role=.*?</svg>", source, flags=re.DOTALL)
    assert len(figures) == 8  # four a task
    for figure in figures:
        assert set(re.findall(r"(?<=[: ])#[0-9a-f]{6}\b(?!\))", figure)) == set()
        assert "var(--" in figure
    defined = set(re.findall(r"--([a-z0-9]+): ", source))
    assert set(re.findall(r"var\(--([a-z0-9]+)", source)) <= defined


def test_every_face_has_the_same_bytes_each_time(folder, tmp_path):
    program = "import sys, precis.report as r; f = sys.argv[1]; s = r.summarize(r.load(f)); "
    program += "sys.stdout.write(r.to_html(s) + r.to_markdown(s))"
    runs = [
        subprocess.run(
            [sys.executable, "-c", program, str(folder)],
            capture_output=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PATH": "", "HOME": str(tmp_path), "PYTHONUTF8": "1"},
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]


def test_names_from_the_store_are_never_markup(sample, tmp_path):
    wicked = sample.Made("<b>$x$|[red]`", "bf16", sample.BF16, harm=0.2)
    folder = sample.write_store(tmp_path / "runs", arms=(*sample.ARMS[:2], wicked))
    report = summarize(load(folder))
    source = to_html(report)
    assert "<b>$x$" not in source
    assert "&lt;b&gt;$x$|[red]" in source
    Page(source)
    table = [line for line in to_markdown(report).splitlines() if line.startswith("| ")]
    assert len({line.replace("\\|", "").count("|") for line in table[:5]}) == 1
    console = Console(file=io.StringIO(), width=80)
    show(folder, console)
    assert "<b>$x$|[red]" in console.file.getvalue()


def test_the_markdown_has_a_row_an_arm_and_the_figures_of_the_page(report, page):
    text = to_markdown(report)
    line = next(line for line in text.splitlines() if line.startswith("| `bf16`"))
    for figure in ("2.383 ±0.112", "+0.133 ±0.019", "**worse**", "0.50×", "81×"):
        assert figure in line
        assert all(part in page.text for part in figure.replace("*", "").split())
    # Once a task, and once among the policies.
    assert len(re.findall(r"^\| `mixed_f16` \|", text, flags=re.MULTILINE)) == 3


def test_the_terminal_keeps_to_eighty_columns(folder):
    console = Console(file=io.StringIO(), width=80)
    show(folder, console)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for row in ("f16 unscaled  diverges", "mixed_bf16    within tolerance"):
        assert row in text


def test_write_puts_both_files_in_place_and_nothing_else(sample, tmp_path):
    folder = sample.write_store(tmp_path / "runs", arms=sample.ARMS[:3])
    before = {path.name for path in folder.iterdir()}
    html, markdown = write(folder)
    assert html.read_text(encoding="utf-8") == to_html(summarize(load(folder)))
    assert markdown.read_text(encoding="utf-8").startswith("# quickstart\n")
    assert {path.name for path in folder.iterdir()} - before == {"report.html", "report.md"}


def test_a_sweep_that_has_only_been_planned_has_a_report(sample, tmp_path):
    waiting = dict.fromkeys(sample.SEEDS, "pending")
    arms = tuple(sample.Made(name, "f32", states=waiting) for name in ("f32", "f32+ulp", "bf16"))
    folder = sample.write_store(tmp_path / "runs", arms=arms)
    (folder / "env.json").unlink()
    source = write(folder)[0].read_text(encoding="utf-8")
    assert "No arm has a result yet." in Page(source).text
    assert "<figcaption><b>Training loss" not in source
    show(folder, Console(file=io.StringIO(), width=80))


def test_a_sweep_of_the_baseline_alone_has_a_report(sample, tmp_path):
    folder = sample.write_store(tmp_path / "runs", arms=sample.ARMS[:1], seeds=(0,))
    source = to_html(summarize(load(folder)))
    assert "f32 ends at eval_loss of 2.2000 bits/byte over 1 seed; no" in plain(source)
    assert "Training loss" in source
    assert "Final gap" not in source
    show(folder, Console(file=io.StringIO(), width=80))


def plain(source):
    return Page(source).text.replace("\u00a0", " ").replace(" ;", ";")

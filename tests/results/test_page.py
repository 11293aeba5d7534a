"""The page in a real headless Chromium: no errors, nothing fetched, filters, origins of numbers, phone and print."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from results import report
from results.frame import load, load_runs
from results.tables.html import html
from results.tables.render import Column, Score, Source, Table, TableRow
from tests.results import chromium
from tests.results.synthetic import config, record, write_grid, write_run

needs_chromium = pytest.mark.skipif(chromium.BINARY is None, reason="no chromium here; apt-get install chromium")
DENSE = {"chance": None, "model": "mask_rcnn_r50_fpn", "schedule": "quick", "initial": "pretrained"}


@pytest.fixture(scope="module")
def made(tmp_path_factory, undrawn_module):
    """A report on two grids, two data sets and three tasks."""
    root = tmp_path_factory.mktemp("runs")
    write_grid(root / "guidelines", seeds=(100, 101), metrics=("linear_fast",), epochs=3)
    for seed in (100, 101):
        records = [
            record(width, 0.8 + 0.01 * seed - 1, "linear_fast", dataset=name)
            for width in (1.0, 0.25)
            for name in ("digits", "pets")
        ]
        records += [
            record(width, 0.4 * width, metric, task=task, dataset="voc", **DENSE)
            for width in (1.0, 0.25)
            for task, metric in (("detection", "box_AP"), ("segmentation", "mIoU"))
        ]
        write_run(root / "comparison", config(seed=seed, cell="us3l", grid="comparison"), records)
    return root, report.build(root, tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    page = chromium.Page(tmp_path_factory.mktemp("profile"))
    yield page
    page.close()


@pytest.fixture
def page(browser, made):
    browser.errors.clear()
    browser.requests.clear()
    browser.open(address(made))
    return browser


def address(made):
    return made[1].paths["index.html"].resolve().as_uri()


def choose(page, name, value):
    page.run(
        f"(() => {{ const s = document.querySelector('select[name={name}]'); s.value = '{value}'; "
        "s.dispatchEvent(new Event('change')); })()"
    )


def shown(page, selector):
    """How many elements take room on the page."""
    return page.run(f'[...document.querySelectorAll("{selector}")].filter((e) => e.getClientRects().length).length')


@needs_chromium
def test_loads_without_errors_and_fetches_nothing(page, made):
    assert page.errors == []
    assert {request for request in page.requests if not request.startswith("data:")} - {"about:blank"} == {address(made)}
    assert page.run("[...document.images].every((image) => image.complete && image.naturalWidth === 40)")
    assert page.run("document.querySelectorAll('section h2').length") == 5
    assert page.run("[...document.querySelectorAll('[id]')].length") == page.run(
        "new Set([...document.querySelectorAll('[id]')].map((e) => e.id)).size"
    )  # ids are unique


@needs_chromium
def test_claims_come_first_and_name_their_runs(page, made):
    assert page.run("document.querySelector('section').id") == "claims"
    assert page.run("document.querySelectorAll('.claims > li').length") == len(made[1].verdicts) > 5
    links = "[...document.querySelectorAll('.claims details a')]"
    assert page.run(f"{links}.length > 0 && {links}.every((link) => document.querySelector(link.getAttribute('href')))")
    missing = page.run("[...document.querySelectorAll('.claims > li')].map((e) => e.textContent).join()")
    assert "--grid guidelines --profile digits" in missing  # of the claims that have no runs


@needs_chromium
def test_filter_by_grid(page):
    before = shown(page, "[data-item]")
    choose(page, "grid", "comparison")
    assert shown(page, "[data-grid=guidelines]") == 0 < shown(page, "[data-grid=comparison]")
    assert shown(page, "#runs tbody tr") == 2
    page.run("document.getElementById('reset').click()")
    assert shown(page, "[data-item]") == before and page.errors == []


@needs_chromium
@pytest.mark.parametrize(("task", "other"), [("detection", "segmentation"), ("segmentation", "classification")])
def test_filter_by_task(page, task, other):
    choose(page, "task", task)
    assert shown(page, f".item[data-task={task}]") > 0 == shown(page, f"[data-task={other}]")
    assert page.errors == []


@needs_chromium
def test_filter_by_width_leaves_that_width_only(page):
    numbers = shown(page, "#table-guidelines-digits-linear_fast button.n")
    narrow = shown(page, "#table-guidelines-digits-linear_fast [data-w='0.25'] button.n")
    choose(page, "width", "0.25")
    assert 0 < shown(page, "#table-guidelines-digits-linear_fast button.n") == narrow < numbers
    assert shown(page, "[data-w='0.25']") > 0 == shown(page, "[data-w='1']")
    header = "#table-guidelines-digits-linear_fast thead tr:last-child th"
    assert page.run(f"[...document.querySelectorAll('{header}')].filter((e) => !e.hidden).pop().textContent") == "0.25×"
    choose(page, "width", "0.75")  # no detection there
    assert shown(page, ".item[data-task=detection][data-widths]") == 0
    choose(page, "width", "")
    assert shown(page, "#table-guidelines-digits-linear_fast button.n") == numbers and page.errors == []


@needs_chromium
def test_a_choice_that_has_nothing_says_so_and_is_kept_in_the_address(page, made):
    choose(page, "grid", "comparison")
    choose(page, "width", "0.5")
    assert page.run("location.hash") == "#?grid=comparison&width=0.5"
    assert shown(page, "#tables .empty") == 1
    page.open(address(made) + "#?grid=guidelines&width=1&task=nonsense")
    assert page.run("document.querySelector('select[name=grid]').value") == "guidelines"
    assert shown(page, "[data-grid=comparison]") == 0 and page.errors == []


@needs_chromium
def test_a_number_opens_where_it_comes_from(page, made):
    scores, runs = load(made[0]), load_runs(made[0])
    row = (
        "[...document.querySelectorAll('#table-guidelines-digits-linear_fast tbody tr')].find((r) => "
        "r.textContent.includes('BYOL + InfoNCE'))"
    )
    page.run(f"{row}.querySelector('td[data-w=\"0.5\"] button').click()")
    assert page.run("document.getElementById('origin').open")
    lines = page.run("[...document.querySelectorAll('#origin li')].map((line) => line.textContent)")
    own = scores[scores["cell"].eq("mse-infonce-momentum") & scores["width"].eq(0.5)].merge(runs[["run", "path"]], on="run")
    own = own.sort_values("seed")
    assert lines == [f"seed {run.seed}: {100 * run.value:.2f} from {run.place}, commit not recorded" for run in own.itertuples()]
    target = page.run("document.querySelector('#origin li a').getAttribute('href')")
    assert own["place"].iloc[0] in page.run(f"document.querySelector('{target}').textContent")


@needs_chromium
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_fits_the_screen(browser, made, tmp_path, width, height):
    browser.open(address(made), width, height)
    assert browser.run("document.documentElement.scrollWidth") == width
    picture = np.asarray(Image.open(browser.screenshot(tmp_path / "page.png")).convert("L"))
    assert picture.shape == (height, width) and 0.005 < (picture < 128).mean() < 0.5
    assert browser.run("parseFloat(getComputedStyle(document.body).fontSize)") >= 15


@needs_chromium
def test_prints(page):
    pdf = page.pdf()
    assert pdf.startswith(b"%PDF") and 3 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) < 60


class Tags(HTMLParser):
    """Open tags, and whether they are closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.texts, self.numbers = [], [], []

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)
        if tag == "button" and ("class", "n") in attributes:
            self.numbers.append(dict(attributes))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_a_table_escapes_what_it_shows():
    sources = (Source('a"b', 1, 0.49), Source("c", 2, 0.51))
    score = Score(0.5, 0.01, 2, best=True, at_chance=True, low=0.49, high=0.51, sources=sources)
    rows = (TableRow("", ("<script>", "see https://example.org/a?b=1&c=2, x"), (score,)), TableRow("", ("x", "y"), (None,)))
    columns = (Column("<A>"), Column("B", "right"))
    table = Table("odd", "<b>Odd</b>", "5 & 6", columns, "Score", ("1.0×",), rows, 2, ({"width": 1.0},))
    parsed = Tags()
    parsed.feed(html(table))
    assert parsed.open == [] and "<script>" in "".join(parsed.texts) and "<script>" not in html(table)
    number = parsed.numbers[0]
    assert number["data-runs"] == 'a"b c' and number["data-values"] == "1:0.4900 2:0.5100"
    assert number["data-interval"] == "[49.0, 51.0]"
    assert '<a href="https://example.org/a?b=1&amp;c=2">' in html(table)


def test_the_page_is_one_well_formed_file_without_the_machine_it_was_made_on(made):
    root, result = made
    text = Path(result.paths["index.html"]).read_text(encoding="utf-8")
    parsed = Tags()
    parsed.feed(text)
    assert parsed.open == []
    assert str(root) not in text and 'src="http' not in text and '<link rel="stylesheet' not in text and "@import" not in text
    assert str(root) not in result.paths["frame.csv"].read_text() + result.paths["runs.csv"].read_text()

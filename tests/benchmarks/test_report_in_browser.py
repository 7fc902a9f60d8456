"""Reports in a browser: headless Chromium, which `make test-all` installs."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.bench_report import BenchReport, bench_report
from report_rows import rows

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: make test-all installs it")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PHONE, DESKTOP = 390, 1280

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: make test-all installs it"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """A page of rows of every benchmark and of a run."""
    folder = tmp_path_factory.mktemp("report")
    path, run = folder / "rows.jsonl", folder / "a-run"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows()))
    run.mkdir()
    lines = [
        {"kind": kind, "step": step, "epoch": step, "loss": 2 / step, "top1": 0.1 * step, "accuracy": 0.1 * step}
        | {"lr": 0.1, "images_per_second": 900.0, "train_seconds": 60.0 * step, "startup_seconds": 5.0}
        for step in range(1, 8)
        for kind in ("train", "eval")
    ]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (run / "config.json").write_text(json.dumps({"a" * 200: "b" * 400}))
    bench_report(BenchReport(inputs=(path, run), out=folder / "report.html"))
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def opened(browser, report):
    """Opens the report at a width and in a colour scheme, and keeps what the browser said and asked for."""
    pages = []

    def open_report(width: int = DESKTOP, scheme: str = "light"):
        page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
        pages.append(page)
        page.said, page.asked = [], []
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(report.as_uri())
        return page

    yield open_report
    for page in pages:
        page.close()


def test_it_loads_without_errors_and_asks_for_nothing_else(opened, report):
    page = opened()
    assert page.said == []
    assert {url for url in page.asked if not url.startswith("data:")} == {report.as_uri()}


def test_every_figure_is_seen_once(opened):
    for width in (PHONE, DESKTOP):
        page = opened(width)
        figures = page.locator("figure")
        assert figures.count() >= 12
        for figure in figures.all():
            shown = [svg.bounding_box() for svg in figure.locator("svg").all() if svg.is_visible()]
            assert len(shown) == 1
            assert shown[0]["height"] > 30
            assert 0.85 * min(width, 500) <= shown[0]["width"] <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_does_not_scroll_sideways(opened, scheme):
    page = opened(PHONE, scheme)
    page.evaluate("document.querySelectorAll('details').forEach((details) => (details.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE
    outside = page.evaluate("""() => [...document.querySelectorAll("h1,h2,p,li,dd,.card,figure,.scroll,summary")]
        .filter((element) => element.getBoundingClientRect().right > innerWidth).map((element) => element.outerHTML)""")
    assert outside == []


def test_letters_of_figures_are_large_enough_on_a_phone(opened):
    sizes = opened(PHONE).evaluate("""() => [...document.querySelectorAll(".narrow svg text")].map((text) =>
        parseFloat(getComputedStyle(text).fontSize) * text.ownerSVGElement.getScreenCTM().a)""")
    assert len(sizes) > 100
    assert min(sizes) > 10


def test_dark_and_light_differ_and_both_can_be_read(opened):
    def contrast(page) -> list[float]:
        """The brightness of ground and letters, and of the darkest and the brightest letters of figures."""
        return page.evaluate("""() => {
            const gray = (color) => color.match(/[0-9.]+/g).slice(0, 3).reduce((sum, part) => sum + +part, 0) / 765;
            const body = getComputedStyle(document.body);
            const texts = [...document.querySelectorAll("figure .wide text")];
            const drawn = texts.map((text) => gray(getComputedStyle(text).fill));
            return [gray(body.backgroundColor), gray(body.color), Math.min(...drawn), Math.max(...drawn)];
        }""")

    ground, letters, _, brightest = contrast(opened(scheme="light"))
    assert ground > 0.95
    assert letters < 0.2
    assert brightest < 0.5
    ground, letters, darkest, _ = contrast(opened(scheme="dark"))
    assert ground < 0.15
    assert letters > 0.8
    assert darkest > 0.5


def column(table, number: int) -> list[str]:
    return [row.locator("td").nth(number).inner_text() for row in table.locator("tbody tr").all()]


def test_tables_sort_by_a_click(opened):
    page = opened()
    table = page.locator("section", has_text="Loaders: photos.beton").locator("table").first
    heading = table.locator("th", has_text="images/s").first
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert column(table, 1) == ["6,200", "5,861", "1,700", "1,650"]
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert column(table, 1) == ["1,650", "1,700", "5,861", "6,200"]
    table.locator("th button", has_text="loader").click()
    assert column(table, 0) == ["a loader with quite a long name", "ffcv", "limit", "native"]
    assert heading.get_attribute("aria-sort") is None


def test_empty_cells_come_last_in_both_directions(opened):
    table = opened().locator("section", has_text="Settings of a step").locator("table").first
    button = table.locator("th button", has_text="images/s")
    for _ in range(2):
        button.click()
        assert column(table, 4) == ["1,000", ""]


def test_headings_sort_by_the_keyboard(opened):
    page = opened()
    table = page.locator("section", has_text="Whole images").locator("table").first
    table.locator("th button").first.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert column(table, 0) == ["pillow", "fastvit"]

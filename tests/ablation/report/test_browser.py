"""TensorBoard and the report of one hand-made sweep as a person sees them: in a Chromium without a window."""

import io
import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lit_blip2.ablation.report.page import write_report

pytestmark = pytest.mark.slow
webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium: pip install -r requirements.txt")

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--window-size=1700,1100"),
]
WAIT_SECONDS = 50
CONTROL, WITHOUT_ITC, FAILED = "itc=on,itm=on,seed=0", "itc=off,itm=on,seed=0", "itc=on,itm=off,seed=0"

# TensorBoard's page is a tree of shadow roots, which CSS selectors do not enter.
WALK = """
function find(selector, root = document) {
  return [...root.querySelectorAll('*')].flatMap(node => [
    ...(node.matches(selector) ? [node] : []), ...(node.shadowRoot ? find(selector, node.shadowRoot) : [])]);
}
function text(node) {
  if (node.nodeType == Node.TEXT_NODE) return node.textContent;
  if (['STYLE', 'TEMPLATE'].includes(node.tagName)) return '';
  if (node.nodeType == Node.ELEMENT_NODE && getComputedStyle(node).display == 'none') return '';
  const inside = node.tagName == 'SLOT' ? node.assignedNodes() : (node.shadowRoot || node).childNodes;
  return [...inside].map(text).join(' ').split(/\\s+/).join(' ').trim();
}
"""


class Page:
    """What a browser shows: elements by CSS selectors that see through shadow roots, and their texts on one line."""

    def __init__(self, driver: Any):
        self.driver = driver

    def open(self, address: str) -> None:
        """Anew, without what was chosen on the page before."""
        self.driver.get("about:blank")
        self.logged("browser"), self.logged("performance")
        self.driver.get(address)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(WALK + script, *arguments)

    def texts(self, selector: str) -> list[str]:
        return self.run("return find(arguments[0]).map(text)", selector)

    def shows(self, selector: str, *wanted: str) -> None:
        """Wait until these are the texts of the elements."""
        until(lambda: self.texts(selector), lambda seen: seen == list(wanted), f"{selector} with {wanted}")

    def click(self, selector: str, label: str) -> None:
        look = "return find(arguments[0]).find(each => text(each) == arguments[1])"
        until(lambda: self.run(look, selector, label), bool, f"{selector} with {label!r}").click()

    def logged(self, kind: str) -> list[dict[str, Any]]:
        """What was logged since this was last asked: "browser", the console, or "performance", all events."""
        return self.driver.get_log(kind)


def until(look: Callable[[], Any], good: Callable[[Any], bool], wanted: str) -> Any:
    """What `look` returns as soon as it is `good`."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not good(seen := look()):
        assert time.monotonic() < deadline, f"no {wanted} after {WAIT_SECONDS} s, but {seen}"
        time.sleep(0.1)
    return seen


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[Page]:
    if not (CHROMIUM and DRIVER):
        pytest.skip("no chromium or no chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(DRIVER)) as driver:
        yield Page(driver)


@pytest.fixture(scope="module")
def sweep(page, new_board, tmp_path_factory) -> Path:
    return new_board(tmp_path_factory.mktemp("board") / "sweep").three_cells()


@pytest.fixture(scope="module")
def tensorboard(sweep, tmp_path_factory) -> Iterator[str]:
    """The address of a server that has read every run."""
    log = tmp_path_factory.mktemp("tensorboard") / "log.txt"
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(sweep / "tensorboard"), "--port", "0"]
    with log.open("w") as stream:
        server = subprocess.Popen([*command, "--host", "127.0.0.1"], stdout=stream, stderr=subprocess.STDOUT)
    try:
        address = until(lambda: re.search(r"http://127.0.0.1:\d+", log.read_text()), bool, "address in its log")[0]
        until(lambda: get(f"{address}/data/plugin/scalars/tags"), all_read, "every curve and final figure")
        yield address
    finally:
        server.terminate()
        server.wait()


def all_read(tags: dict[str, dict]) -> bool:
    return {run: len(of_run) for run, of_run in tags.items()} == {CONTROL: 6, WITHOUT_ITC: 4, FAILED: 4}


def get(address: str) -> Any:
    with urllib.request.urlopen(address) as answer:
        return json.load(answer)


def test_the_table_of_hparams_has_a_row_for_every_cell(page, tensorboard):
    page.open(f"{tensorboard}/#hparams")
    page.shows(
        "tf-hparams-table-view",
        "Trial ID Show Metrics itc itm seed state final/vqa/accuracy final/retrieval/itc_txt_r1"
        f" {WITHOUT_ITC} off on 0 done 0.50000"
        f" {FAILED} on off 0 failed"
        f" {CONTROL} on on 0 done 0.62500 0.87500",
    )
    page.click("paper-checkbox", "Failure")
    page.click("paper-checkbox", "off")  # the first of them, of itc
    page.shows(
        "tf-hparams-table-view",
        "Trial ID Show Metrics itc itm seed state final/vqa/accuracy final/retrieval/itc_txt_r1"
        f" {CONTROL} on on 0 done 0.62500 0.87500",
    )
    assert not [each["message"] for each in page.logged("browser") if "cannot process" in each["message"]]


def test_parallel_coordinates_draw_a_line_for_every_finished_cell(page, tensorboard):
    page.open(f"{tensorboard}/#hparams")
    page.click("paper-tab", "PARALLEL COORDINATES VIEW")
    titles = ["itc", "itm", "seed", "state", "final/vqa/accuracy", "final/retrieval/itc_txt_r1"]
    page.shows("text.axis-title", *titles)
    until(lambda: lines(page), lambda found: len(found) == 1, "line of the one cell that has both metrics")
    page.click("paper-checkbox", "final/retrieval/itc_txt_r1")
    page.shows("text.axis-title", *titles[:-1])
    until(lambda: lines(page), lambda found: len(set(found)) == 2, "lines of the two finished cells")


def lines(page: Page) -> list[str]:
    return page.run("return find('.foreground path').map(path => path.getAttribute('d'))")


def test_custom_scalars_overlay_the_cells_in_one_chart_per_metric(page, tensorboard):
    page.open(f"{tensorboard}/#custom_scalars")
    page.shows(".matches-text", "Matches (3)", "Matches (2)")
    page.shows("tf-card-heading", "vqa/accuracy", "retrieval/itc_txt_r1")
    page.shows(".heading", "objectives 2")
    of_vqa, of_retrieval = page.run(
        "return find('tf-custom-scalar-multi-line-chart-card').map("
        "card => find('.match-list-entry', card.shadowRoot).map(entry => [entry.textContent, entry.style.color]))"
    )
    assert names(of_vqa) == {f"stage2/vqa/accuracy ({cell})" for cell in (CONTROL, WITHOUT_ITC, FAILED)}
    assert names(of_retrieval) == {f"stage1/retrieval/itc_txt_r1 ({cell})" for cell in (CONTROL, FAILED)}
    for chart, entries in zip(page.run("return find('vz-line-chart2')"), (of_vqa, of_retrieval)):
        wanted = {tuple(map(int, re.findall(r"\d+", colour))) for _, colour in entries}
        assert len(wanted) == len(entries)
        until(lambda chart=chart: colours(chart), wanted.issubset, f"curves in {wanted}")


def names(entries: list[list[str]]) -> set[str]:
    return {re.sub(r"\s+|◼", " ", name).strip() for name, _ in entries}


def colours(element: Any) -> set[tuple[int, int, int]]:
    picture = Image.open(io.BytesIO(element.screenshot_as_png)).convert("RGB")
    return {colour for _, colour in picture.getcolors(picture.width * picture.height)}


@pytest.fixture(scope="module")
def written(sweep) -> Path:
    write_report(sweep)
    return sweep / "report.html"


@pytest.fixture
def report(page, written) -> str:
    """The address of the report, which is open."""
    page.open(written.as_uri())
    return written.as_uri()


def test_the_report_shows_its_plots_and_asks_for_nothing_beside_itself(page, report):
    light = plots(page, "light", but=set())
    assert len(plots(page, "dark", but=light)) == len(light) == 6
    assert [each["message"] for each in page.logged("browser")] == []
    events = [json.loads(each["message"])["message"] for each in page.logged("performance")]
    asked = {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith("data:image/png;base64,")} == {report}


def plots(page: Page, scheme: str, but: set[str]) -> set[str]:
    """The sources of all pictures on paper of this scheme, once each is drawn and is not one of the others."""
    chosen = [{"name": "prefers-color-scheme", "value": scheme}]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": chosen})
    look = "return [...document.images].map(each => [each.currentSrc, each.complete && each.naturalWidth])"
    drawn = until(
        lambda: page.run(look),
        lambda found: all(width > 0 and source not in but for source, width in found),
        f"{scheme} plots",
    )
    return {source for source, _ in drawn}


def test_the_report_shows_the_figures_of_its_cells(page, report):
    overview, vqa, retrieval, costs, _ = page.run(
        "return [...document.querySelectorAll('table')].map("
        "table => [...table.tBodies[0].rows].map(row => [...row.cells].map(cell => cell.innerText)))"
    )
    control, without_itc, without_itm = "itc=on,itm=on (control)", "itc=off,itm=on", "itc=on,itm=off"
    assert overview == [
        [control, "0.625", "0.875"],
        [without_itc, "0.500", "n/a"],
        [without_itm, "failed", "failed"],
    ]
    assert [row[:6] for row in vqa] == [
        [control, "0.625", "-", "1", "-", "-"],
        [without_itc, "0.500", "-", "1", "1", "-0.125"],
        [without_itm, "failed", "-", "0 of 1 (failed)", "0", "-"],
    ]
    assert [row[1] for row in retrieval] == ["0.875", "n/a", "failed"]
    assert [row[:3] for row in costs] == [
        [CONTROL, "done", "20.0 s"],
        [WITHOUT_ITC, "done", "20.0 s"],
        [FAILED, "failed", "10.0 s (1 of 2 steps)"],
    ]


def test_the_report_fits_on_a_phone(page, report):
    phone = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    assert page.run("return [innerWidth, document.documentElement.scrollWidth]") == [400, 400]
    page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

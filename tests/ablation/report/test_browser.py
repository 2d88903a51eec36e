"""The report of a hand-made sweep as a person sees it: in a Chromium without a window."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

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


class Page:
    """What a browser shows, and what it logs."""

    def __init__(self, driver: Any):
        self.driver = driver

    def open(self, address: str) -> None:
        """Anew, without what was chosen on the page before."""
        self.driver.get("about:blank")
        self.logged("browser"), self.logged("performance")
        self.driver.get(address)

    def run(self, script: str) -> Any:
        return self.driver.execute_script(script)

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
def sweep(page, new_tensorboard_sweep, tmp_path_factory) -> Path:
    return new_tensorboard_sweep(tmp_path_factory.mktemp("report") / "sweep").three_cells()


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
    assert len(plots(page, "dark", but=light)) == len(light) == 7
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
        [control, "1", "0.625", "0.875"],
        [without_itc, "1", "0.500", "n/a"],
        [without_itm, "0 of 1", "failed", "failed"],
    ]
    assert [row[:5] for row in vqa] == [
        [control, "0.625", "-", "1", "-"],
        [without_itc, "0.500", "-", "1", "-0.125"],
        [without_itm, "failed", "-", "0 of 1 (failed)", "-"],
    ]
    assert [row[1] for row in retrieval] == ["0.875", "n/a", "failed"]
    assert [row[:3] for row in costs] == [
        [CONTROL, "done", "20.0 s"],
        [WITHOUT_ITC, "done", "20.0 s"],
        [FAILED, "failed", "10.0 s (1 of 2 steps)"],
    ]


def test_nothing_is_cut_off_on_a_narrow_desk(page, report):
    screen = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    look = "return [...document.querySelectorAll('html, .wide, picture')].map(e => e.scrollWidth - e.clientWidth)"
    assert set(page.run(look)) <= {0}
    page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_report_fits_on_a_phone(page, report):
    phone = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    assert page.run("return [innerWidth, document.documentElement.scrollWidth]") == [400, 400]
    page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

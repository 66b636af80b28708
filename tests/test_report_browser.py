"""The report in headless Chromium, opened from the disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ecgforge.report import examples, page
from test_report import a_prepared_set, study_inputs

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
DRIVER = shutil.which("chromedriver")
MM = 96 / 25.4  # CSS pixels

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="no chromium with chromedriver on the PATH"
    ),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(executable_path=DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("study")
    prepared = {
        "ptbxl": a_prepared_set(folder / "ptbxl"),
        "chapman": a_prepared_set(folder / "chapman", test=3, train=20),
    }
    page.write(study_inputs(folder, prepared), folder / "report.html")
    return Path(folder / "report.html").as_uri()


@pytest.fixture
def opened(browser, address):
    browser.get(address)
    return browser


def resize(browser, width: int, height: int = 900) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
    )


def test_the_headline_is_visible_and_the_console_is_silent(opened):
    banner = opened.find_element("css selector", ".banner strong")
    assert banner.is_displayed()
    assert banner.text == "SIMULATED RECORDS"
    assert opened.get_log("browser") == []


def test_nothing_is_loaded_from_other_addresses(opened):
    assert (
        opened.execute_script(
            "return performance.getEntriesByType('resource').map(entry => entry.name).filter(name "
            "=> !name.startsWith('data:'))"
        )
        == []
    )


def test_every_table_has_rows_and_every_image_is_shown(opened):
    assert opened.execute_script(
        "return [...document.querySelectorAll('table')].every(table => "
        "table.tBodies[0].rows.length > 0)"
    )
    sizes = opened.execute_async_script("""
        const area = image => image.decode().then(() => image.naturalWidth * image.naturalHeight);
        Promise.all([...document.images].map(area)).then(arguments[0]);
    """)
    assert min(sizes) > 10_000
    assert opened.execute_script(
        "return [...document.images].every(image => image.alt.length > 20)"
    )


def test_ecgs_have_their_true_size(opened):
    width = opened.execute_script(
        "const trace = document.querySelector('svg.ecg path[data-lead=II]'); return "
        "trace.getBBox().width * trace.getScreenCTM().a"
    )
    assert width == pytest.approx((examples.STRIP - 0.01) * 25 * MM, rel=0.001)
    assert opened.execute_script(
        "return [...document.querySelectorAll('svg.ecg')].every(svg => "
        "svg.getAttribute('aria-label').length > 10)"
    )


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_does_not_overflow(opened, width):
    resize(opened, width)
    opened.execute_script(
        "document.querySelectorAll('details').forEach(details => details.open = true)"
    )
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    resize(opened, 1280)


def test_a_telephone_shows_the_answer_and_its_figure_in_full_size(opened):
    resize(opened, 390)
    answer = opened.find_element("css selector", "main p.answer")
    assert answer.is_displayed()
    assert answer.text.startswith("PTB-XL (simulated): no.")
    shown, own = opened.execute_script(
        "const image = document.querySelector('main .answered figure img'); "
        "return [image.getBoundingClientRect().width, image.naturalWidth]"
    )
    resize(opened, 1280)
    assert shown >= own - 1


def test_a_telephone_shows_each_recall_without_scrolling(opened):
    resize(opened, 390)
    hidden = opened.execute_script(
        "return [...document.querySelectorAll('#recall ~ * td.heat')].filter(cell => "
        "cell.getBoundingClientRect().right > 390 || !cell.offsetWidth).length"
    )
    shown = opened.execute_script("return document.querySelectorAll('#recall ~ * td.heat').length")
    assert shown
    assert not hidden


def test_a_wide_window_shows_each_answer_next_to_its_figure(opened):
    resize(opened, 1280)
    sentence, image = opened.execute_script(
        "const part = document.querySelector('main .answered'); "
        "return ['.answer', 'figure'].map(name => part.querySelector(name).getBoundingClientRect())"
    )
    assert sentence["right"] <= image["left"]
    assert sentence["top"] < image["bottom"]


def test_tables_sort_by_value_within_a_dataset(opened):
    column = """
        const rows = [...document.querySelector('table.sortable').tBodies[0].rows].slice(1);
        return rows.map(row => row.cells[3].textContent.trim().slice(0, 4));
    """
    button = opened.find_elements("css selector", "table.sortable thead")[0].find_elements(
        "css selector", "button"
    )[3]
    button.click()
    rising = opened.execute_script(column)
    button.click()
    falling = opened.execute_script(column)
    assert rising != falling
    numbers = [float(text) for text in rising if text != "–"]
    assert numbers == sorted(numbers)
    assert len(numbers) == 2
    assert [text for text in falling if text != "–"] == [
        f"{number:.2f}" for number in reversed(numbers)
    ]


def test_one_dataset_can_be_shown_alone(opened):
    choice = opened.find_element("css selector", "#switch select")
    choice.find_element("css selector", "option[value=chapman]").click()
    visible = opened.execute_script("""
        const all = [...document.querySelectorAll('[data-dataset]')];
        const parts = all.filter(part => part.offsetParent);
        return [...new Set(parts.map(part => part.dataset.dataset))];
    """)
    assert visible == ["chapman"]


def test_a_run_named_under_a_figure_is_found_in_the_list(opened):
    opened.find_element("css selector", "#confusions").location_once_scrolled_into_view  # noqa: B018
    link = opened.find_element("css selector", "figcaption a.run")
    link.click()
    row = opened.find_element("id", link.get_attribute("href").split("#")[1])
    assert row.is_displayed()


def test_the_page_reads_without_scripts(browser, address):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(address)
        assert "Macro-F1: mean over 2 seeds" in browser.find_element("tag name", "main").text
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})

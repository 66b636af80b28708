"""MLflow's own UI in headless Chromium: the charts that compare settings, as `ecgforge ui` says
where they are.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ecgforge.tracking import runs, store
from test_report_browser import browser, pytestmark, resize  # noqa: F401  # the fixture, and where there is no browser

F1 = {"TrRTeR": (0.8, 0.9), "TrSTeR": (0.4, 0.5), "TrRSTeR": (0.7, 0.9)}  # of two seeds
# loss of training, and accuracy of telling its records
OF_GENERATORS = {"diffwave": (0.31, 0.97), "time_vqvae": (0.22, 0.88)}
WAIT = 120  # s, on a busy machine


@pytest.fixture(scope="module")
def charts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The addresses that `ecgforge ui` prints, with the server behind them up."""
    patch = pytest.MonkeyPatch()
    project = tmp_path_factory.mktemp("project")
    patch.chdir(project)
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for setting, values in F1.items():
        for seed, value in enumerate(values):
            track(setting, seed, value)
    track("TrRTeR", 0, 0.1, augmented=True)
    track("TrRTeR", 0, 0.2, sweep="backbones")
    for generator, (loss, accuracy) in OF_GENERATORS.items():
        for kind, metrics in (
            ("generator", {"loss/validation": loss}),
            ("quality", {"quality/c2st_accuracy": accuracy}),
        ):
            key = runs.RunKey(kind, "ptbxl", 0, True, generator=generator)
            with runs.tracked(key, fingerprint=f"{kind} {generator}", params={}, inputs=[]) as run:
                run.summary(metrics)
    with ui(project) as printed:
        yield printed
    patch.undo()


@contextmanager
def ui(project: Path) -> Iterator[dict[str, str]]:
    """What `ecgforge ui` prints, with the server behind it up or soon so."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "ecgforge", "ui", "--port", port]
    server = subprocess.Popen(
        command,
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert server.stdout
    try:
        yield dict(
            server.stdout.readline().strip().split(": ", 1) for _ in (*runs.CHARTS, "Models")
        )
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def track(
    setting: str, seed: int, value: float, sweep: str | None = None, augmented: bool = False
) -> None:
    key = runs.RunKey(
        "classifier",
        "ptbxl",
        seed,
        True,
        setting=setting,
        backbone="resnet1d",
        sweep=sweep,
        augmented=augmented,
    )
    with runs.tracked(key, fingerprint=key.name, params={"seed": seed}, inputs=[]) as run:
        run.summary({"test/f1_macro": value})


def until(browser, condition):  # noqa: F811
    from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(
        browser, WAIT, ignored_exceptions=(StaleElementReferenceException, WebDriverException)
    ).until(condition)


def shown(browser, selector: str, text: str):  # noqa: F811
    return until(
        browser,
        lambda one: next(
            (
                found
                for found in one.find_elements("css selector", selector)
                if found.text.strip() == text
            ),
            None,
        ),
    )


def _loaded(browser, metric: str) -> None:  # noqa: F811
    """Load the view until it has its charts and its buttons, as a first visitor sees it.

    At times, MLflow's page stops half-way. It also stores the charts of an experiment in the
    browser, so a view that loaded slowly, or the view of another test, could stay.
    """
    from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
    from selenium.webdriver.support.ui import WebDriverWait

    redrawn = (StaleElementReferenceException,)

    def complete(one) -> bool:
        texts = {found.text.strip() for found in one.find_elements("css selector", "h4, button")}
        return {metric, "Group by"} <= texts

    for _ in range(3):
        browser.execute_script("localStorage.clear(); sessionStorage.clear()")
        browser.refresh()
        try:
            WebDriverWait(browser, WAIT / 3, ignored_exceptions=redrawn).until(complete)
            return
        except TimeoutException:
            continue
    raise AssertionError(f"the view has no chart of {metric}, or no button to group its runs")


def compared(browser, address: str, tag: str, metric: str = "test/f1_macro") -> str:  # noqa: F811
    """Open a chart view that has a chart of `metric`, group its runs by a tag, and return the
    page's text.
    """
    resize(browser, 1600, 1600)  # MLflow draws the charts that are in sight
    until(browser, lambda one: one.get(address) or True)
    browser.execute_script("localStorage.clear()")  # MLflow remembers how another view was grouped
    _loaded(browser, metric)
    shown(browser, "button", "Group by").click()
    shown(browser, "[role^=menuitem]", tag).click()
    return until(
        browser,
        lambda one: (
            text if "Group: " in (text := one.find_element("css selector", "body").text) else None
        ),
    )


@pytest.mark.slow
def test_settings_are_compared_in_three_clicks(browser, charts):  # noqa: F811
    assert list(charts) == [*runs.CHARTS, "Models"]
    page = compared(browser, charts["Settings"], "setting")
    assert {name for name in F1 if f"Group: {name}" in page} == set(F1)
    assert "6 matching runs" in page  # neither the augmented one nor that of a sweep
    chart = page[page.index("test/f1_macro") :]
    values = [re.search(rf"\b{mean}\b", chart) for mean in ("0.85", "0.45", "0.80")]
    assert all(values), chart
    assert "Model registry" in page, "the part of the UI for training"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("chart", "metric", "place"),
    [("Generators", "loss/validation", 0), ("Quality", "quality/c2st_accuracy", 1)],
)
def test_generators_are_compared_in_three_clicks(browser, charts, chart, metric, place):  # noqa: F811
    page = compared(browser, charts[chart], "generator", metric)
    assert {name for name in OF_GENERATORS if f"Group: {name}" in page} == set(OF_GENERATORS)
    assert "2 matching runs" in page, "of this kind alone"
    shown_values = page[page.index(metric) :]
    assert all(
        re.search(rf"\b{values[place]}\b", shown_values) for values in OF_GENERATORS.values()
    ), shown_values


@pytest.mark.slow
def test_a_run_shows_its_page_of_records(browser, charts):  # noqa: F811
    origin, experiment = re.match(r"(.*)/#/experiments/(\d+)", charts["Settings"]).groups()
    key = runs.RunKey("answers", "chapman", 3, True)
    with runs.tracked(key, fingerprint="with files", params={}, inputs=[]) as run:
        run.files({"test/rhythms.csv": "rhythm,recall\n", "records.html": "<h1>Two records</h1>"})
    page = f"{origin}/#/experiments/{experiment}/runs/{run.id}/artifacts"
    until(browser, lambda one: one.get(f"{page}/records.html") or True)
    frame = until(browser, lambda one: one.find_element("css selector", "iframe"))
    assert "rhythms.csv" not in browser.page_source, "folders are folded"
    browser.switch_to.frame(frame)
    shown(browser, "h1", "Two records")
    browser.switch_to.default_content()


@pytest.mark.slow
def test_a_run_of_the_report_opens_in_the_part_of_the_ui_for_training(browser, charts):  # noqa: F811
    origin, experiment = re.match(r"(.*)/#/experiments/(\d+)", charts["Settings"]).groups()
    run = store.client().search_runs([experiment], "tags.kind = 'quality'")[0]
    page = store.run_page(experiment, run.info.run_id)
    page = page.replace(f"http://127.0.0.1:{store.UI_PORT}", origin)
    until(browser, lambda one: one.get(page) or True)
    shown(browser, "h2", run.info.run_name)
    shown(browser, "a", "Model registry")


def test_an_open_ui_and_a_training_do_not_stop_each_other(charts: dict[str, str]) -> None:
    origin = charts["Settings"].partition("/#")[0]
    experiment = re.search(r"experiments/(\d+)", charts["Settings"])[1]
    request = json.dumps({"experiment_ids": [experiment], "max_results": 100}).encode()
    done, answers = threading.Event(), []

    def look() -> None:
        while not done.is_set() or not answers:
            asked = urllib.request.Request(
                f"{origin}/ajax-api/2.0/mlflow/runs/search",
                request,
                {"Content-Type": "application/json"},
            )
            # until the server is up
            with (
                suppress(urllib.error.URLError),
                urllib.request.urlopen(asked, timeout=WAIT) as answer,
            ):
                answers.append(json.load(answer))

    looking = threading.Thread(target=look)
    looking.start()
    key = runs.RunKey(
        "classifier",
        "ptbxl",
        9,
        True,
        setting="TrSTeS",
        backbone="resnet1d",
        sweep="not among the settings",
    )
    with runs.tracked(key, fingerprint="seen while it trains", params={}, inputs=[]) as run:
        step = 0
        while len(answers) < 5:
            run.log({"loss": 1 / (step + 1)}, step)
            run.flush()
            step += 1
    done.set()
    looking.join()
    assert len(run.client.get_metric_history(run.id, "loss")) == step
    seen = [
        one["info"]["status"]
        for answer in answers
        for one in answer["runs"]
        if one["info"]["run_id"] == run.id
    ]
    assert "RUNNING" in seen
    assert run.client.get_run(run.id).info.status == "FINISHED"

"""The tab in a real TensorBoard and a real browser: what is drawn, clicked, kept and downloaded."""

from __future__ import annotations

import shutil
import time

import pytest
from browser import TensorBoard
from conftest import DEAD_CHANNEL, DEAD_LAYER, DEAD_SINCE, LAYERS, Training

from bnscope.cli import main

ODD = LAYERS[3]
# Figures of a view, and marks that each must have drawn.
FIGURES = {
    "overview": ("trends", "layers"),
    "layers": ("layers",),
    "layer": ("bands", "channels", "channel", "histograms"),
    "compare": ("compare",),
    "model": (),
}
MARKS = "return [...document.querySelectorAll('.figure')].map((figure) => ({\
 lines: figure.querySelectorAll('path.js-line').length,\
 areas: figure.querySelectorAll('path.js-fill').length,\
 cells: figure.querySelectorAll('.hm image').length}))"


def click(browser, selector, text=None):
    browser.run(
        "const found = [...document.querySelectorAll(arguments[0])];"
        "found.find((e) => arguments[1] === null || e.textContent === arguments[1]).click()",
        selector,
        text,
    )


@pytest.mark.parametrize(
    ("loader", "dark"), [("server", False), ("server", True), ("slow_loader", False)]
)
def test_every_view_draws_its_figures(browser, request, loader, dark):
    browser.open(request.getfixturevalue(loader).url, dark=dark)
    for view, figures in FIGURES.items():
        browser.timed_view(view)
        marks = browser.run(MARKS)
        assert len(marks) == len(figures), view
        for figure, drawn in zip(figures, marks, strict=True):
            if figure in {"layers", "channels"}:
                assert drawn["cells"] == 1, (view, figure, drawn)
            else:
                assert drawn["lines"] >= 4, (view, figure, drawn)
            if figure in {"bands", "compare"}:
                assert drawn["areas"] >= 6, (view, figure, drawn)
    background = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(48, 48, 48)" if dark else "rgb(255, 255, 255)")


def test_the_first_view_says_where_and_since_when(browser, server):
    browser.open(server.url)
    headline = browser.run("return document.querySelector('.headline').innerText")
    assert f"{DEAD_LAYER} since step {DEAD_SINCE}" in headline
    row = browser.run("return document.querySelector('tbody tr').innerText")
    assert "BN304" in row
    assert "warning" in row
    assert f"in channel {DEAD_CHANNEL} of 6" in row


def test_an_alert_opens_its_layer_and_its_channel(browser, server):
    browser.open(server.url)
    click(browser, "tbody .links .link", str(DEAD_CHANNEL))
    browser.drawn("layer")
    assert browser.run("return document.querySelector('input[type=number]').value") == str(
        DEAD_CHANNEL
    )
    titles = browser.run(
        "return [...document.querySelectorAll('.gtitle')].map((e) => e.textContent)"
    )
    assert f"{DEAD_LAYER}: channel {DEAD_CHANNEL}" in titles
    assert f"{DEAD_LAYER}: channels at step 60" in titles


def test_a_layer_is_described(browser, server):
    browser.open(f"{server.url}/#bnscope&p.bnscope.view=layer", "layer")
    facts = browser.run("return document.querySelector('main .note').textContent")
    assert facts == (
        f'6 channels · momentum 0.9 · epsilon 0.001 · fed by Conv2D "{DEAD_LAYER}_conv" · '
        f"folds into {DEAD_LAYER}_conv"
    )


def test_a_click_on_the_map_opens_the_layer(browser, server):
    from selenium.webdriver import ActionChains

    browser.open(server.url)
    browser.timed_view("layers")
    target = browser.driver.find_element("css selector", ".figure .nsewdrag")
    height = target.size["height"]
    move = ActionChains(browser.driver).move_to_element_with_offset(
        target, 0, height * 3 // 8
    )
    move.pause(0.3).click().perform()  # the last of four rows
    browser.drawn("layer")
    assert browser.run("return document.querySelector('.gtitle').textContent") == ODD


def test_hovering_shows_the_full_path_of_a_layer(browser, server):
    from selenium.webdriver import ActionChains

    browser.open(server.url)
    browser.timed_view("layers")
    target = browser.driver.find_element("css selector", ".figure .nsewdrag")
    ActionChains(browser.driver).move_to_element_with_offset(target, 0, -30).perform()
    text = browser.wait_for("document.querySelector('.hoverlayer .hovertext')?.textContent")
    assert "block/one_bn" in text


def test_names_with_markup_are_shown_as_they_are(browser, server):
    browser.open(server.url)
    browser.timed_view("model")
    assert ODD in browser.text
    assert browser.run("return document.querySelectorAll('main b, main img').length") == 0
    browser.timed_view("overview")
    assert '"<img src=x onerror=alert(1)>" cancels' in browser.text
    assert "odd & näme #2 <i>" in browser.text


def test_dark_mode_is_followed_without_a_reload(browser, server):
    browser.open(server.url)
    with browser.outside() as driver:
        driver.execute_script("document.body.classList.add('dark-mode')")
    browser.wait_for(
        "document.querySelector('.main-svg').style.background === 'rgb(48, 48, 48)'"
    )
    with browser.outside() as driver:
        driver.execute_script("document.body.classList.remove('dark-mode')")
    browser.wait_for(
        "document.querySelector('.main-svg').style.background === 'rgb(255, 255, 255)'"
    )


def test_the_address_keeps_the_view_and_can_be_shared(browser, server):
    browser.open(server.url)
    browser.timed_view("layers")
    browser.run(
        "const select = document.querySelector('.controls select');"
        "select.value = 'gamma'; select.dispatchEvent(new Event('change'))"
    )
    browser.drawn("layers")
    address = browser.address
    assert "p.bnscope.statistic=gamma" in address
    browser.open(address, "layers")
    title = browser.run("return document.querySelector('.gtitle').textContent")
    assert title == "Gamma, median of channels"
    with browser.outside() as driver:
        driver.refresh()
    browser.drawn("layers")
    assert browser.run("return document.querySelector('.gtitle').textContent") == title
    assert browser.address == address


def test_the_browsers_back_button_goes_to_the_view_before(browser, server):
    browser.open(server.url)
    browser.timed_view("model")
    browser.timed_view("layers")
    browser.driver.back()
    browser.drawn("model")
    browser.driver.back()
    browser.drawn("overview")


def test_another_tab_and_back_keeps_the_view(browser, server):
    browser.open(server.url)
    browser.timed_view("model")
    with browser.outside() as driver:
        for name in ("SCALARS", "BN SCOPE"):
            tabs = driver.find_elements("css selector", "[role=tab]")
            next(tab for tab in tabs if name in tab.text.upper()).click()
            time.sleep(1)
    browser.drawn("model")
    assert "p.bnscope.view=model" in browser.address


def test_runs_that_are_not_selected_in_other_tabs_are_left_out(browser, server):
    browser.open(
        f"{server.url}/#bnscope&runSelectionState=eyJmaXJzdC9ibnNjb3BlIjpmYWxzZX0%3D"
    )
    assert "1 of 2 runs selected" in browser.text
    assert browser.run("return document.querySelector('header select').length") == 1
    browser.open(f"{server.url}/?runFilter=^FIRST#bnscope")  # as TensorBoard understands it
    assert (
        browser.run("return document.querySelector('header select').value")
        == "first/bnscope"
    )
    assert browser.run("return document.querySelector('header select').length") == 1
    boxes = "return [...document.querySelectorAll('.boxes input')].map((e) => e.disabled)"
    assert browser.run(boxes) == [False, True]


def test_runs_are_selected_here_too(browser, server):
    browser.open(server.url)
    click(browser, ".runs summary")
    click(browser, ".boxes label", "first")
    browser.wait_for(
        "document.querySelector('.runs summary').textContent.startsWith('1 of 2')"
    )
    assert "runSelectionState" in browser.address
    click(browser, ".boxes label", "odd & näme #2 <i>")
    browser.wait_for(
        "document.querySelector('.empty')?.innerText.includes('No run is selected')"
    )
    with browser.outside() as driver:
        driver.refresh()
    browser.enter()
    browser.wait_for(
        "document.querySelector('.empty')?.innerText.includes('No run is selected')"
    )
    click(browser, ".boxes label", "first")
    browser.drawn("overview")


def test_everything_is_reached_with_the_keyboard(browser, server):
    from selenium.webdriver import ActionChains, Keys

    browser.open(server.url)
    browser.run("document.querySelector('[data-view=overview]').focus()")
    seen = set()
    for _ in range(25):
        ActionChains(browser.driver).send_keys(Keys.TAB).perform()
        seen.add(browser.run("return document.activeElement.textContent.slice(0, 40)"))
    assert {"Layers", "Layer", "Compare", "Model", DEAD_LAYER, "PNG", "CSV"} <= seen
    browser.run("document.querySelector('[data-view=model]').focus()")
    ActionChains(browser.driver).send_keys(Keys.ENTER).perform()
    browser.drawn("model")
    assert browser.run("return document.activeElement.dataset.view") == "model"


def test_the_focus_stays_where_it_was(browser, server):
    from selenium.webdriver import ActionChains, Keys

    focused = "return document.activeElement?.dataset.focus"
    browser.open(f"{server.url}/#bnscope&p.bnscope.view=layers", "layers")
    for view, selector, key in (
        ("layers", ".controls select", "Statistic"),
        ("layer", ".controls button:last-child", "Next"),
    ):
        browser.timed_view(view)
        title = browser.run("return document.querySelector('.gtitle').textContent")
        browser.run("document.querySelector(arguments[0]).focus()", selector)
        pressed = Keys.ENTER if key == "Next" else Keys.ARROW_DOWN
        ActionChains(browser.driver).send_keys(pressed).perform()
        browser.wait_for(
            "document.querySelector('.gtitle')?.textContent !== arguments[0] &&"
            "document.querySelector('.gtitle') !== null",
            title,
        )
        assert browser.run(focused) == key
    click(browser, ".runs summary")
    browser.run("document.querySelector('.boxes input').focus()")
    ActionChains(browser.driver).send_keys(Keys.SPACE).perform()
    browser.wait_for(
        "document.querySelector('.runs summary').textContent.startsWith('1 of 2')"
    )
    assert browser.run(focused) == "run first/bnscope"


def test_what_failed_once_is_asked_for_again(browser, server):
    browser.driver.execute_cdp_cmd("Network.enable", {})
    browser.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*/themes"]})
    try:
        browser.driver.get(f"{server.url}/#bnscope")
        browser.enter()
        browser.wait_for("document.querySelector('.figure .note button') !== null")
    finally:
        browser.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
    browser.faults()  # that request
    click(browser, ".figure .note button")
    click(browser, ".figure:last-of-type .note button")
    browser.drawn("overview")


def test_a_figure_that_was_hidden_has_the_colours_of_the_page(browser, server):
    browser.open(server.url)
    ink = "getComputedStyle(document.querySelector('.gtitle')).fill"
    before = browser.run(f"return {ink}")
    browser.run("document.querySelector('.figure').hidden = true")
    with browser.outside() as driver:
        driver.execute_script("document.body.classList.add('dark-mode')")
    browser.wait_for("document.body.classList.contains('dark')")
    browser.run("document.querySelector('.figure').hidden = false")
    browser.wait_for(f"{ink} !== arguments[0]", before)
    with browser.outside() as driver:
        driver.execute_script("document.body.classList.remove('dark-mode')")


def test_what_fails_late_leaves_the_view_that_is_shown_by_then(browser, server):
    browser.open(server.url)
    browser.run(
        """
        const ask = window.fetch;
        window.fetch = (url) => {
          if (!String(url).includes('/model?')) return ask(url);
          return new Promise((_, failed) => (window.failed = failed));
        };
        """
    )
    click(browser, "[data-view=model]")
    browser.wait_for("typeof window.failed === 'function'")
    browser.timed_view("layers")
    browser.run("window.failed(new Error()); window.failed = null")
    browser.run("return new Promise((done) => setTimeout(done, 100))")
    assert browser.run("return document.querySelector('.failure')") is None
    assert browser.run(MARKS)[0]["cells"] == 1
    click(browser, "[data-view=model]")
    browser.wait_for("typeof window.failed === 'function'")
    browser.run("window.failed(new Error())")
    browser.wait_for("document.querySelector('.failure')")
    assert "TensorBoard does not answer." in browser.text


def test_a_view_that_is_none_is_the_overview(browser, server):
    browser.open(f"{server.url}/#bnscope&p.bnscope.view=constructor", "overview")


def test_a_figure_is_saved_as_a_picture_and_as_a_table(browser, server):
    browser.open(server.url)
    browser.timed_view("layers")
    for button in browser.driver.find_elements("css selector", ".buttons button"):
        button.click()  # as a person: a script may save one file only
    end = time.monotonic() + 20
    while len(saved := finished(browser)) < 2:
        assert time.monotonic() < end, list(browser.downloads.iterdir())
        time.sleep(0.1)
    by_kind = {path.suffix: path for path in saved}
    assert by_kind[".png"].read_bytes().startswith(b"\x89PNG")
    lines = by_kind[".csv"].read_text(encoding="utf-8").splitlines()
    assert lines[0] == "row,step,moving_variance"
    assert len(lines) == 1 + 4 * 60
    assert lines[-1].startswith(f"{ODD},60,")
    for path in saved:
        path.unlink()


def finished(browser):
    return [path for path in browser.downloads.iterdir() if path.suffix in {".png", ".csv"}]


def test_the_channel_and_the_step_are_chosen(browser, server):
    browser.open(f"{server.url}/#bnscope&p.bnscope.view=layer", "layer")
    browser.wait_for("document.querySelector('input[type=range]').offsetParent")
    browser.run(
        "const input = document.querySelector('input[type=number]');"
        "input.value = 5; input.dispatchEvent(new Event('change'));"
        "const slider = document.querySelector('input[type=range]');"
        "slider.value = 0; slider.dispatchEvent(new Event('change'))"
    )
    for title in ("channel 5", "channels at step 10"):
        browser.wait_for(
            "[...document.querySelectorAll('.gtitle')]"
            ".some((e) => e.textContent.endsWith(arguments[0]))",
            f": {title}",
        )
    assert "p.bnscope.channel=5" in browser.address
    assert "p.bnscope.step=10" in browser.address


@pytest.mark.parametrize("fast", ["true", "false"])
def test_events_that_are_being_written_arrive_and_a_deleted_run_goes(
    browser, tmp_path, fast
):
    training = Training(tmp_path / "live").go_on(20)
    Training(tmp_path / "other", 5).go_on(20).close()
    with TensorBoard(tmp_path, "--load_fast", fast) as server:
        browser.open(server.url)
        browser.wait_for("document.querySelectorAll('header option').length === 2")
        browser.run(
            "const select = document.querySelector('header select');"
            "select.value = 'live/bnscope'; select.dispatchEvent(new Event('change'))"
        )
        browser.timed_view("layers")
        training.go_on(20)
        reload_until(
            browser,
            "document.querySelector('.plot').data[0].x.bdata?.length > 0 &&"
            "document.querySelector('.plot')._fullData[0].x.at(-1) === 40",
        )
        assert "layers" in browser.address  # the view is kept
        training.close()
        shutil.rmtree(tmp_path / "live")
        reload_until(browser, "document.querySelectorAll('header option').length === 1")
        browser.drawn("layers")
        browser.driver.get("about:blank")
        unselected = "eyJvdGhlci9ibnNjb3BlIjpmYWxzZX0="  # {"other/bnscope":false}
        browser.driver.get(f"{server.url}/#bnscope&runSelectionState={unselected}")
        browser.enter()
        browser.wait_for("document.querySelector('.runs summary') !== null")
        click(browser, ".runs summary")
        click(browser, ".boxes label", "other")
        browser.drawn("overview")
        shutil.rmtree(tmp_path / "other")


def reload_until(browser, condition):
    """Presses TensorBoard's own reload button until the tab shows something."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with browser.outside() as driver:
            driver.find_element(
                "css selector", "[aria-label*='eload'], .reload-button"
            ).click()
        try:
            return browser.wait_for(condition, seconds=2)
        except AssertionError:
            continue
    return browser.wait_for(condition, seconds=1)


@pytest.mark.parametrize("look", ["light", "dark"])
def test_a_report_is_drawn_without_a_network(browser, logs, tmp_path, look):
    output = tmp_path / "report.html"
    assert main(["report", str(logs), "-o", str(output)]) == 0
    driver = browser.driver
    features = [{"name": "prefers-color-scheme", "value": look}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    try:
        driver.get(output.as_uri())
        count = browser.run("return document.querySelectorAll('.plot').length")
        for index in range(count):
            browser.run(
                "document.querySelectorAll('.plot')[arguments[0]].scrollIntoView()", index
            )
            browser.wait_for(
                "document.querySelectorAll('.plot')[arguments[0]]"
                ".querySelector('path.js-line, .hm image')",
                index,
            )
        background = browser.run("return getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(48, 48, 48)" if look == "dark" else "rgb(255, 255, 255)")
        assert count == 1 + 2 * 4 + 2 * 4
        ink = "return getComputedStyle(document.querySelector('.gtitle')).fill"
        shown = browser.run(ink)
        browser.run("window.dispatchEvent(new Event('beforeprint'))")
        assert (
            browser.run(ink) == "rgb(33, 33, 33)"
        )  # Chromium prints the rest so by itself
        browser.run("window.dispatchEvent(new Event('afterprint'))")
        assert browser.run(ink) == shown
        assert (shown == "rgb(33, 33, 33)") == (look == "light")
    finally:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_log_directory_without_events_has_no_tab_and_an_address_of_it_says_so(
    browser, tmp_path
):
    with TensorBoard(tmp_path) as server:
        browser.driver.get(f"{server.url}/#bnscope")
        browser.enter()
        browser.wait_for(
            "document.body.innerText.includes('No events of Batch Normalization yet')"
        )
        with browser.outside() as driver:
            page = driver.find_element("tag name", "body").text.upper().split("\n")
        assert page[-2:] == [
            "INACTIVE",
            "BN SCOPE",
        ]  # in the menu of those that have no tab


def test_a_run_that_is_unreadable_is_told_beside_the_others(browser, tmp_path):
    from bnscope.events import schema

    for number in range(9):
        Training(tmp_path / f"good{number}").go_on(10).close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "VERSION", 99)
        Training(tmp_path / "a later one", 3).go_on(20).close()
    with TensorBoard(tmp_path) as server:
        browser.open(f"{server.url}/#bnscope&p.bnscope.run=good8%2Fbnscope")
        assert "2 more of 10 runs are not shown." in browser.text
        rows = browser.run(
            "return [...document.querySelectorAll('td')].map((e) => e.innerText)"
        )
        assert "good8" in rows
        assert "good6" not in rows
        assert "The events have version 99" in browser.text
        assert "Update bnscope." in browser.text
        assert len(browser.run(MARKS)) == 2
        browser.timed_view("compare")
        assert "a later one: The events have version 99" in browser.text
        assert browser.run("return document.querySelectorAll('.figure').length") == 1
        click(browser, ".runs summary")
        for number in range(9):
            click(browser, ".boxes label", f"good{number}")
        browser.wait_for("document.querySelectorAll('.figure').length === 0")
        assert "a later one: The events have version 99" in browser.text
        assert "One run is shown" not in browser.text
        browser.driver.get("about:blank")  # what is still asked for ends before the server
        refused = browser.faults()
        assert refused
        assert all("/model?run=a+later+one" in fault for fault in refused)

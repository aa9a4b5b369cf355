"""A real TensorBoard on a free loopback port, and a real Chromium that looks at it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[2]
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
)
# Of TensorBoard's own page, whatever it shows.
_KNOWN_WARNINGS = ("Multiple instances of Three.js", "software WebGL", "GL Driver Message")
# A function: when every figure of the view is there and drawn, in ms since the frame was opened.
WHEN_DRAWN = """
(findFrame, view, done) => {
  const drawn = (figure) =>
    !figure.classList.contains('waiting') &&
    figure.querySelector('.main-svg .trace, .main-svg .hm, .main-svg .annotation');
  const ready = (frame) => {
    const shown = frame.querySelector('[data-view][aria-current]')?.dataset.view;
    const figures = [...frame.querySelectorAll('main .figure')];
    const page = frame.querySelector('main .page')?.dataset.page;
    return page === view && shown === view && figures.every(drawn) &&
      (figures.length || frame.querySelector('main td'));
  };
  (function look() {
    const frame = findFrame();
    if (frame && ready(frame)) done(frame.defaultView.performance.now());
    else setTimeout(look, 5);
  })();
}
"""


def missing() -> list[str]:
    """What these tests need and this machine does not have."""
    found = []
    for program, package in (("chromium", "chromium"), ("chromedriver", "chromium-driver")):
        if shutil.which(program) is None:
            found.append(f"{program} (Debian: apt install {package})")
    for module in ("selenium", "tensorboard", "plotly"):
        try:
            __import__(module)
        except ImportError:
            found.append(f"{module} (pip install -e '.[dev]')")
    return found


def executable() -> str:
    """Where Chromium is."""
    return shutil.which("chromium") or ""


class TensorBoard:
    """TensorBoard as a user starts it.

    Args:
        logdir: what it shows.
        arguments: more of its arguments.
    """

    def __init__(self, logdir: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir)]
        command += ["--host", "127.0.0.1", "--port", "0", "--reload_interval", "1"]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed in `stop`
        self._process = subprocess.Popen(
            [*command, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=self._output,
            env={**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        self.pid = self._process.pid
        try:
            self.url = self._wait()
            if any(logdir.rglob("*.bnscope")):
                self._wait_for_tab()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.stop()

    def log(self) -> str:
        """What it printed so far."""
        self._output.seek(0)
        return self._output.read()

    def stop(self) -> None:
        """Ends it."""
        self._process.terminate()
        self._process.wait(20)
        self._output.close()

    def _wait(self) -> str:
        end = time.monotonic() + 90
        while time.monotonic() < end and self._process.poll() is None:
            found = re.search(r"at (http://127\.0\.0\.1:\d+)/", self.log())
            if found:
                return found.group(1)
            time.sleep(0.05)
        raise RuntimeError(f"TensorBoard did not start:\n{self.log()}")

    def _wait_for_tab(self) -> None:
        """Waits until it has read so much that there is a tab; its page asks only once."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            listing = f"{self.url}/data/plugins_listing"
            with urllib.request.urlopen(listing) as answer:  # noqa: S310  our own server's
                if json.load(answer).get("bnscope", {}).get("enabled"):
                    return
            time.sleep(0.1)
        raise RuntimeError(f"TensorBoard has no tab BN Scope:\n{self.log()}")


class Browser:
    """Chromium, looking at the tab.

    Args:
        size: of the window, in pixels.
    """

    def __init__(self, size: tuple[int, int] = (1400, 1000)) -> None:
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = executable()
        self._downloads = tempfile.TemporaryDirectory()
        self.downloads = Path(self._downloads.name)
        for flag in (*FLAGS, f"--window-size={size[0]},{size[1]}"):
            options.add_argument(flag)
        options.add_experimental_option(
            "prefs", {"download.default_directory": self._downloads.name}
        )
        logging = {"browser": "ALL", "performance": "ALL"}
        options.set_capability("goog:loggingPrefs", logging)
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        self.driver = webdriver.Chrome(options=options, service=service)
        self.driver.set_script_timeout(60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.driver.quit()
        self._downloads.cleanup()

    def open(self, url: str, view: str = "overview", *, dark: bool = False) -> float:
        """Opens the tab; seconds from when its frame is opened to when it is drawn.

        Args:
            url: TensorBoard's address, or one with a hash of the tab's.
            view: the view that is to be shown.
            dark: whether TensorBoard is to be dark.
        """
        self.driver.get("about:blank")
        if "#" not in url:
            url = f"{url}/{'?darkMode=true' if dark else ''}#bnscope"
        self.driver.get(url)
        return self.drawn(view)

    def drawn(self, view: str) -> float:
        """Waits until a view is drawn; seconds since the frame was opened."""
        self.enter()
        script = f"({WHEN_DRAWN})(() => document, ...arguments)"
        return float(self.driver.execute_async_script(script, view)) / 1000

    def timed_view(self, view: str) -> float:
        """Clicks on a view; seconds until it is drawn."""
        self.enter()
        script = """
        const button = document.querySelector(`[data-view="${arguments[0]}"]`);
        button.click();
        return performance.now();
        """
        begin = float(self.driver.execute_script(script, view)) / 1000
        return self.drawn(view) - begin

    def enter(self) -> None:
        """Looks into the tab's frame."""
        from selenium.common.exceptions import StaleElementReferenceException

        self.driver.switch_to.default_content()
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with contextlib.suppress(StaleElementReferenceException):
                for frame in self.driver.find_elements("tag name", "iframe"):
                    if frame.is_displayed():
                        self.driver.switch_to.frame(frame)
                        return
            time.sleep(0.02)
        raise RuntimeError("TensorBoard shows no frame: is the tab there?")

    def run(self, script: str, *arguments: Any) -> Any:
        """Runs a script in the frame."""
        return self.driver.execute_script(script, *arguments)

    @contextlib.contextmanager
    def outside(self) -> Iterator[Any]:
        """Looks at TensorBoard's own page for a while."""
        self.driver.switch_to.default_content()
        try:
            yield self.driver
        finally:
            self.enter()

    @property
    def text(self) -> str:
        """What the tab says."""
        return str(self.run("return document.body.innerText"))

    @property
    def address(self) -> str:
        """The address of TensorBoard's page."""
        with self.outside() as driver:
            return str(driver.current_url)

    def wait_for(self, condition: str, *arguments: Any, seconds: float = 20) -> Any:
        """Waits until an expression of the frame is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := self.run(f"return {condition}", *arguments):
                return found
            time.sleep(0.05)
        raise AssertionError(f"never true: {condition}; the tab says: {self.text[:2000]}")

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """Takes a picture of the page, made high enough for all of the tab."""
        height = int(self.run("return document.documentElement.scrollHeight"))
        with self.outside() as driver:
            size = driver.get_window_size()
            frame = driver.find_element("css selector", "iframe").rect
            above = frame["y"] + driver.execute_script("return outerHeight - innerHeight")
            if whole:
                driver.set_window_size(size["width"], min(height + above, 4000))
            time.sleep(1)  # plotly redraws at the new size
            driver.save_screenshot(str(path))
            driver.set_window_size(size["width"], size["height"])

    def faults(self) -> list[str]:
        """Errors on the console, requests that failed, and requests to any other host."""
        found = [
            f"{entry['level']}: {entry['message']}"
            for entry in self.driver.get_log("browser")
            if not any(known in entry["message"] for known in _KNOWN_WARNINGS)
        ]
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            found += _network_faults(message["method"], message["params"])
        return found


def _network_faults(method: str, params: dict[str, Any]) -> Iterator[str]:
    if method == "Network.requestWillBeSent":
        url = urlsplit(params["request"]["url"])
        if url.scheme.startswith(("http", "ws")) and url.hostname != "127.0.0.1":
            yield f"asked another host: {params['request']['url']}"
    elif method == "Network.responseReceived":
        response = params["response"]
        if response["status"] >= 400:
            yield f"status {response['status']}: {response['url']}"
    elif method == "Network.loadingFailed" and not params.get("canceled"):
        yield f"request failed: {params.get('errorText')} {params.get('blockedReason', '')}"


if __name__ == "__main__":
    if absent := missing():
        sys.exit("The browser tests cannot run; missing: " + "; ".join(absent))

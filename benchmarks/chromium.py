"""Chromium as its users have it.

ChromeDriver has the page debugged from its first script on, and while it is, Chromium takes about
twice as long to compile a large script. Here the page is only asked, from outside, whether it is
drawn, through the DevTools protocol: https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import itertools
import json
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any, Self

import websocket
from browser import FLAGS, WHEN_DRAWN, executable  # type: ignore[import-not-found]

_SECONDS_TO_START = 30
_FRAME = "[...document.querySelectorAll('iframe')].find((each) => each.clientWidth)"


class Chromium:
    """Chromium with a fresh profile, looking at the tab."""

    def __init__(self) -> None:
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        more = ("--window-size=1400,1000", "--remote-debugging-port=0", "about:blank")
        self._process = subprocess.Popen(
            [executable(), *FLAGS, f"--user-data-dir={self._profile.name}", *more],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self._page = websocket.create_connection(
                self._find_page(), timeout=60, suppress_origin=True
            )
        except BaseException:
            self.stop()
            raise
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends it."""
        self._process.kill()  # it has nothing to save
        self._process.wait()
        self._profile.cleanup()

    def open(self, url: str) -> float:
        """Opens the tab; seconds from when its frame is opened to when it is drawn."""
        self._call("Page.navigate", url="about:blank")
        self._call("Page.navigate", url=f"{url}/#bnscope")
        return self._drawn("overview")

    def timed_view(self, view: str) -> float:
        """Clicks on a view; seconds until it is drawn."""
        begin = self._run(
            f"""(() => {{
              const {{contentDocument: page, contentWindow: window}} = {_FRAME};
              page.querySelector('[data-view={view}]').click();
              return window.performance.now();
            }})()"""
        )
        return self._drawn(view) - float(begin) / 1000

    def _drawn(self, view: str) -> float:
        find = f"() => {_FRAME}?.contentDocument"
        script = f"new Promise((done) => ({WHEN_DRAWN})({find}, {view!r}, done))"
        return float(self._run(script)) / 1000

    def _find_page(self) -> str:
        """The address at which the page is asked."""
        end = time.monotonic() + _SECONDS_TO_START
        while time.monotonic() < end:
            for each in self._targets():
                if each["type"] == "page":
                    return str(each["webSocketDebuggerUrl"])
            time.sleep(0.05)
        raise RuntimeError("Chromium did not start.")

    def _targets(self) -> list[dict[str, Any]]:
        """What can be asked, once Chromium has said at which port."""
        told = Path(self._profile.name) / "DevToolsActivePort"
        if not (told.is_file() and (lines := told.read_text("ascii").split())):
            return []
        listing = f"http://127.0.0.1:{lines[0]}/json"
        with urllib.request.urlopen(listing, timeout=5) as answer:
            found: list[dict[str, Any]] = json.load(answer)
        return found

    def _run(self, script: str) -> Any:
        """What an expression of the outer page becomes."""
        ends = {"awaitPromise": True, "returnByValue": True}
        answer = self._call("Runtime.evaluate", expression=script, **ends)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"The page cannot be asked: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        self._page.send(json.dumps(message))
        while (answer := json.loads(self._page.recv())).get("id") != number:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

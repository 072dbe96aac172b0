"""A headless Chromium, told what to do over the WebDriver protocol.

It talks to nothing but this computer and keeps nothing on disk after the test.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import gevent

from tests.pauses import sample
from tests.servers import free_port

__all__ = ["Browser", "browser", "is_installed"]

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Whatever the page might ask for elsewhere fails.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--hide-scrollbars",
)
#: Seconds that one command may take, and the start of the driver.
PATIENCE = 60.0


def is_installed() -> bool:
    """Whether there is a browser and its driver."""
    return bool(shutil.which("chromium") and shutil.which("chromedriver"))


class Browser:
    """One window of the browser."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._session = ""

    def start(self, profile: str) -> None:
        """Open a window, with an empty profile."""
        options = {
            "binary": shutil.which("chromium"),
            "args": [*FLAGS, f"--user-data-dir={profile}"],
        }
        wanted = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        found = self._call("/session", capabilities={"alwaysMatch": wanted})
        self._session = f"/session/{found['sessionId']}"

    def _call(self, path: str, **body: Any) -> Any:
        data = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = Request(self._address + path, data, headers)
        try:
            with urlopen(request, timeout=PATIENCE) as answer:
                return json.load(answer)["value"]
        except HTTPError as error:
            with error:
                raise AssertionError(json.load(error)["value"]["message"]) from None

    def open(self, url: str) -> None:
        """Go to a page."""
        self._call(f"{self._session}/url", url=url)

    def run(self, script: str) -> Any:
        """What the body of a function returns in the page."""
        return self._call(f"{self._session}/execute/sync", script=script, args=[])

    def wait_for(self, script: str) -> None:
        """Return when *script* returns what is true."""
        with gevent.Timeout(PATIENCE, AssertionError(f"never true: {script}")):
            while not self.run(script):
                gevent.idle()

    def tell(self, command: str, **parameters: Any) -> Any:
        """Send a command of the developer tools."""
        path = f"{self._session}/goog/cdp/execute"
        return self._call(path, cmd=command, params=parameters)

    def resize(self, width: int, height: int) -> None:
        """Show the page as a screen of this size does."""
        self.tell(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def set_dark(self, is_dark: bool) -> None:
        """Prefer dark or light colours."""
        value = "dark" if is_dark else "light"
        feature = {"name": "prefers-color-scheme", "value": value}
        self.tell("Emulation.setEmulatedMedia", features=[feature])

    def complaints(self) -> list[str]:
        """What the browser wrote to its console."""
        logs = self._call(f"{self._session}/se/log", type="browser")
        return [each["message"] for each in logs]

    def picture(self) -> bytes:
        """The page as PNG."""
        return base64.b64decode(self.tell("Page.captureScreenshot")["data"])


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser for a block."""
    port = free_port()
    with tempfile.TemporaryDirectory() as profile:
        process = subprocess.Popen(
            ["chromedriver", f"--port={port}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        driver = Browser(f"http://127.0.0.1:{port}")
        try:
            _wait_until_ready(f"http://127.0.0.1:{port}/status")
            driver.start(profile)
            try:
                yield driver
            finally:
                _quit(driver)
        finally:
            process.terminate()
            process.wait()


def _quit(driver: Browser) -> None:
    request = Request(driver._address + driver._session, method="DELETE")
    with urlopen(request, timeout=PATIENCE):
        pass


def _wait_until_ready(url: str) -> None:
    with gevent.Timeout(PATIENCE, AssertionError("the driver does not start")):
        while True:
            try:
                with urlopen(url, timeout=PATIENCE):
                    return
            except OSError:
                sample(0.05)

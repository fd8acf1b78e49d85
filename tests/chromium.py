"""Chromium without a window, driven over a pipe by its DevTools protocol: what a page does in a real browser."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
)  # fmt: skip
BLANK = "about:blank"
PATIENCE = 120  # seconds


def find_chromium() -> str | None:
    """One that starts; some systems have a script of its name that only tells how to install it."""
    for path in filter(None, map(shutil.which, NAMES)):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            if not subprocess.run([path, "--version"], capture_output=True, timeout=PATIENCE).returncode:
                return path
    return None


CHROMIUM = find_chromium()


class Page:
    """One tab. Commands and events: https://chromedevtools.github.io/devtools-protocol/"""

    def __init__(self, to_browser, from_browser):
        self._to, self._from = to_browser, from_browser
        self._number, self._session = 0, None
        self.events: list[dict] = []
        targets = self.send("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.send("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: object) -> dict:
        """Say one command, and wait for its answer; events in between are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._to.write(json.dumps(message).encode() + b"\0")
        self._to.flush()
        while (answer := self._read()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def open(self, path: Path, *, width: int = 1200, height: int = 900, scheme: str = "light") -> None:
        """Load a file, wait until it is there, and forget earlier events."""
        self.events.clear()
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.send("Page.navigate", url=path.resolve().as_uri())
        end = time.monotonic() + PATIENCE
        while not self.named("Page.loadEventFired") or self.evaluate("document.readyState") != "complete":
            self.evaluate("0")  # events come with answers
            assert time.monotonic() < end, f"{path} is not loaded after {PATIENCE} s"
            time.sleep(0.05)

    def evaluate(self, script: str) -> object:
        """The value of an expression; the page's own policy does not bind the protocol."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def picture(self) -> bytes:
        """What is seen, as PNG."""
        return base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"])

    def named(self, *methods: str) -> list[dict]:
        """What events of these names told since the page was opened."""
        return [event["params"] for event in self.events if event.get("method") in methods]

    def _read(self) -> dict:
        content = bytearray()
        while (byte := self._from.read(1)) != b"\0":
            assert byte, "the browser ended"
            content += byte
        return json.loads(content)


@contextlib.contextmanager
def open_browser(folder: Path) -> Iterator[Page]:
    """Chromium with a new profile in `folder`. It reads commands from file descriptor 3, and answers on 4."""
    its_input, our_output = os.pipe()
    our_input, its_output = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (its_input, its_output)]  # out of the way of 3 and 4
    process = subprocess.Popen(
        [
            "bash",
            "-c",
            f'exec "$@" 3<&{high[0]} 4>&{high[1]}',
            "bash",
            CHROMIUM,
            *FLAGS,
            f"--user-data-dir={folder}",
            BLANK,
        ],
        pass_fds=high,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for end in (its_input, its_output, *high):
        os.close(end)
    with os.fdopen(our_output, "wb") as to_browser, os.fdopen(our_input, "rb") as from_browser:
        try:
            yield Page(to_browser, from_browser)
        finally:
            process.terminate()
            process.wait(PATIENCE)

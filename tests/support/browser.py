"""A real browser for tests: headless Chromium, spoken to through a pipe, with no driver between.

The protocol is Chromium's own (DevTools): JSON messages that end in a zero byte, written to the
file descriptor 3 of the browser and read from 4.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
SECONDS = 90.0
"""For any answer: a loaded machine starts a browser slowly."""


def find_chromium() -> str | None:
    """The browser of this machine; None if it has none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Page:
    """One page of a browser."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive = send, receive
        self._buffer, self._number, self._session = b"", 0, ""
        self.complaints: list[str] = []
        """Whatever the page wrote to its console as a warning or an error, and what it threw."""
        self.requests: list[str] = []
        """Addresses that the page asked for, but for data: addresses."""

    def open(self, address: str) -> None:
        """Show ``address`` and wait until it is loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=address)
        here = f"location.href === {json.dumps(address)}"
        self.wait_for(f"document.readyState === 'complete' && {here}")

    def resize(self, width: int, height: int) -> None:
        """The size of the window, in CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=False)  # fmt: skip

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Return as soon as a JavaScript expression is true."""
        deadline = time.monotonic() + SECONDS
        while not self.run(expression):
            assert time.monotonic() < deadline, f"never true: {expression}"
            time.sleep(0.05)

    def click(self, selector: str) -> None:
        """Press the left button of the mouse in the middle of an element."""
        place = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center', behavior: 'instant'});"
            "const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1],
                      button="left", clickCount=1)  # fmt: skip

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol, and its answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read(method)
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result
            self._notice(answer)

    def _notice(self, event: dict[str, Any]) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.complaints.append(str(params["args"]))
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            self.requests += [] if url.startswith("data:") else [url]

    def _read(self, waiting_for: str) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._receive], [], [], SECONDS)
            assert ready, f"{waiting_for}: no answer from the browser in {SECONDS:.0f} s"
            part = os.read(self._receive, 1 << 16)
            assert part, f"{waiting_for}: the browser has ended"
            self._buffer += part
        message, self._buffer = self._buffer.split(b"\0", 1)
        found: dict[str, Any] = json.loads(message)
        return found


@contextmanager
def open_page(path: Path, profile: Path) -> Iterator[Page]:
    """A file of this machine in a headless Chromium, which is ended afterwards.

    Args:
        profile: an empty folder for the browser's own files.
    """
    program = find_chromium()
    assert program is not None
    to_read, send = os.pipe()
    receive, to_write = os.pipe()
    # The shell puts the pipe's ends where the protocol wants them: 3 and 4.
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars "
        f"--no-first-run --remote-debugging-pipe --user-data-dir={profile}"
    )
    browser = subprocess.Popen(
        ["bash", "-c", f'exec "$0" {flags} about:blank 3<&{to_read} 4>&{to_write}', program],
        pass_fds=(to_read, to_write),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_read)
    os.close(to_write)
    try:
        page = Page(send, receive)
        page.open(path.resolve().as_uri())
        yield page
    finally:
        browser.terminate()
        browser.wait(SECONDS)
        os.close(send)
        os.close(receive)

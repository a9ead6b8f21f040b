"""A headless Chromium, driven over its debugging pipe: a page is opened, asked and looked at, without a driver."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE_S = 60.0  # for one answer; a browser that hangs fails the test instead of stopping it


def find() -> str | None:
    """The path of a Chromium; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One tab. Answers are matched by number; messages that nobody asked for are kept in `events`."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read, self._left, self._number = write, read, b"", 0
        self.session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self.session is not None:
            message["sessionId"] = self.session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            assert select.select([self._read], [], [], PATIENCE_S)[0], "Chromium does not answer"
            part = os.read(self._read, 1 << 16)
            assert part, "Chromium has ended"
            self._left += part
        message, _, self._left = self._left.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def open(self, path: Path) -> None:
        """A file, until it is loaded."""
        self.events.clear()
        self.ask("Page.navigate", url=path.as_uri())
        while not self.of("Page.loadEventFired"):
            self.events.append(self._next())

    def of(self, method: str) -> list[dict[str, Any]]:
        """Parameters of the events of one kind."""
        return [e["params"] for e in self.events if e.get("method") == method]

    def value(self, expression: str) -> Any:
        """Of a JavaScript expression on the page."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str, text: str = "") -> None:
        """A key of the keyboard."""
        codes = {"Tab": 9, "Enter": 13}
        fields = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key], "text": text}
        self.ask("Input.dispatchKeyEvent", type="keyDown", **fields)
        self.ask("Input.dispatchKeyEvent", type="keyUp", key=key, code=key)

    def messages(self) -> list[str]:
        """All that the browser complains of: console, exceptions, refused loads."""
        console = [str(e["args"]) for e in self.of("Runtime.consoleAPICalled")]
        thrown = [str(e["exceptionDetails"]) for e in self.of("Runtime.exceptionThrown")]
        return [*console, *thrown, *(e["entry"]["text"] for e in self.of("Log.entryAdded"))]


@contextmanager
def opened(path: str, profile: Path) -> Iterator[Browser]:
    """A browser with a profile of its own; it ends with the block."""
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()

    def wire() -> None:
        """Chromium reads from 3 and writes to 4; neither is one of the pipes' own numbers after this."""
        ends = fcntl.fcntl(to_read, fcntl.F_DUPFD, 10), fcntl.fcntl(from_write, fcntl.F_DUPFD, 10)
        os.dup2(ends[0], 3)
        os.dup2(ends[1], 4)

    options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage")
    process = subprocess.Popen(
        [path, *options, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"],
        preexec_fn=wire,
        close_fds=False,  # 3 and 4 are to be kept; what Python opens is closed anyway
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_read)
    os.close(from_write)
    try:
        yield Browser(to_write, from_read)
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
        os.close(to_write)
        os.close(from_read)

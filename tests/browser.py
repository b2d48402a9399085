"""A headless Chromium, driven through its DevTools protocol, and a TensorBoard to look at.

https://chromedevtools.github.io/devtools-protocol
"""

import asyncio
import base64
import json
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

from tornado.websocket import websocket_connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

#: All text of the page, through the shadow roots that TensorBoard's parts are in, of what is displayed.
TEXT = """
(() => {
  const words = [];
  const walk = (node) => {
    if (node.nodeType === Node.TEXT_NODE) { if (node.data.trim()) words.push(node.data.trim()); return; }
    if (node.nodeType === Node.ELEMENT_NODE) {
      if (['STYLE', 'SCRIPT', 'TEMPLATE', 'DOM-MODULE'].includes(node.tagName)) return;
      if (getComputedStyle(node).display === 'none') return;
      if (node.shadowRoot) walk(node.shadowRoot);
    }
    node.childNodes.forEach(walk);
  };
  walk(document.body);
  return words.join('\\n');
})()
"""

#: Elements that match a CSS selector, wherever they are: ``find(selector)``.
FIND = """
const find = (selector, root = document) => {
  const found = [...root.querySelectorAll(selector)];
  root.querySelectorAll('*').forEach((e) => { if (e.shadowRoot) found.push(...find(selector, e.shadowRoot)); });
  return found;
};
"""


@contextmanager
def tensorboard(logdir):
    """The address of a TensorBoard of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--port", str(port)]
    process = subprocess.Popen([*command, "--host", "127.0.0.1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            with suppress(OSError), urlopen(f"{address}/data/environment", timeout=5):
                break
            time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def page(folder, width=1500, height=1100):
    """A blank :class:`Page`; the browser keeps its profile in ``folder``."""
    assert CHROMIUM is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0"]
    options += [f"--user-data-dir={folder / 'profile'}", f"--window-size={width},{height}", "about:blank"]
    process = subprocess.Popen([CHROMIUM, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        match = None
        while match is None:
            line = process.stderr.readline()
            assert line, "Chromium ended before it listened"
            match = re.search(r"DevTools listening on ws://([\w.:]+)/", line)
        with urlopen(f"http://{match[1]}/json", timeout=60) as answer:
            (target,) = (t for t in json.load(answer) if t["type"] == "page")
        with asyncio.Runner() as runner:
            yield Page(runner, runner.run(_connect(target["webSocketDebuggerUrl"])))
    finally:
        process.kill()
        process.wait(20)


async def _connect(address):
    return await websocket_connect(address, max_message_size=2**28)


class Page:
    """A page of the browser."""

    def __init__(self, runner, connection):
        self._runner, self._connection, self._number = runner, connection, 0

    def send(self, method, **parameters):
        """The result of a command of the protocol."""
        self._number += 1
        return self._runner.run(self._send(self._number, method, parameters))

    async def _send(self, number, method, parameters):
        await self._connection.write_message(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = await asyncio.wait_for(self._connection.read_message(), 120)
            assert message is not None, "the page was closed"
            answer = json.loads(message)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def evaluate(self, script):
        """The value of a JavaScript expression."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def find(self, expression):
        """The value of an expression in which ``find(selector)`` gives elements."""
        return self.evaluate(f"(() => {{ {FIND} return {expression}; }})()")

    def open(self, address):
        """Open an address."""
        self.send("Page.navigate", url="about:blank")
        self.send("Page.navigate", url=address)

    @property
    def text(self):
        """All that can be read on the page."""
        return self.evaluate(TEXT)

    def wait_for(self, condition, seconds=120):
        """Wait until ``condition()`` is true.

        Raises:
            TimeoutError: with the text of the page.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with suppress(AssertionError):  # a page that is only being built
                if condition():
                    return
            time.sleep(0.5)
        raise TimeoutError(f"not on the page: {condition}\n{self.text}")

    def screenshot(self, path: Path):
        """Save what is seen as PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

"""Chromium windows with the chat of examples/, moved by lines on stdin: `join N NAME`, `say N TEXT`,
`see N TEXT`. Each window is a browser of its own. Answers `ok`, or ends with what is seen instead.

usage: browsers.py COUNT PAGE
"""

import asyncio
import json
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

import websockets

PATIENCE = 20.0
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", "--disable-dev-shm-usage", "--remote-debugging-port=0"]


class Window:
    """One browser, and what its page shows."""

    def __init__(self, page):
        self.profile = tempfile.TemporaryDirectory(prefix="wsteady-browser-", ignore_cleanup_errors=True)
        self.process = subprocess.Popen(
            ["chromium", *FLAGS, f"--user-data-dir={self.profile.name}", page],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.asked = 0

    async def reach(self):
        """Finds the port that the browser chose, and its page."""
        port_file = pathlib.Path(self.profile.name, "DevToolsActivePort")
        port = await until(lambda: port_file.exists() and port_file.read_text().split("\n")[0])
        page = await until(lambda: self.page(port))
        self.wire = await websockets.connect(page["webSocketDebuggerUrl"], max_size=None)

    @staticmethod
    def page(port):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
            return next((one for one in json.load(answer) if one["type"] == "page"), None)

    async def run(self, script):
        """What a line of JavaScript says in the page."""
        self.asked += 1
        call = {"id": self.asked, "method": "Runtime.evaluate",
                "params": {"expression": script, "returnByValue": True}}
        await self.wire.send(json.dumps(call))
        while True:
            answer = json.loads(await self.wire.recv())
            if answer.get("id") == self.asked:
                return answer["result"]["result"].get("value")

    async def fill(self, field, text):
        """Types into a field and presses Enter."""
        await until(lambda: self.run(f"document.getElementById({json.dumps(field)})?.disabled === false"))
        await self.run(f"document.getElementById({json.dumps(field)}).value = {json.dumps(text)};"
                       "document.getElementById('form').requestSubmit()")

    async def see(self, text):
        """Waits for a line on the page."""
        lines = "document.getElementById('lines').innerText"
        try:
            await until(lambda: self.run(f"{lines}.split('\\n').includes({json.dumps(text)})"))
        except TimeoutError:
            sys.exit(f"no {text!r} in {await self.run(lines)!r}")

    def close(self):
        self.process.kill()
        self.process.wait()
        self.profile.cleanup()


async def until(look):
    """Looks until it sees something."""
    end = asyncio.get_running_loop().time() + PATIENCE
    while asyncio.get_running_loop().time() < end:
        seen = look()
        if asyncio.iscoroutine(seen):
            seen = await seen
        if seen:
            return seen
        await asyncio.sleep(0.05)
    raise TimeoutError


async def main(count, page):
    windows = [Window(page) for _ in range(count)]
    try:
        for window in windows:
            await window.reach()
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            verb, number, text = line.rstrip("\n").split(" ", 2)
            window = windows[int(number)]
            if verb == "see":
                await window.see(text)
            else:
                await window.fill({"join": "name", "say": "text"}[verb], text)
            print("ok", flush=True)
    finally:
        for window in windows:
            window.close()


asyncio.run(main(int(sys.argv[1]), sys.argv[2]))

"""A Chromium window moved by lines on stdin, each answered by one line of JSON.

    open URL                  goes there and waits until the page is loaded
    run SCRIPT                the value of an expression, a promise's result included
    press KEY                 Tab, Shift+Tab, Enter, Space, Escape, or a character
    size WIDTH HEIGHT         of the view, in CSS pixels; below 500 wide, that of a telephone
    scheme light|dark         what the person prefers
    shot FILE                 a picture of the view; `shot FILE all` of the whole page
    lenient                   the policies of pages opened from now on don't count: for tools put into them
    load FILE                 runs a script
    seen                      console errors, exceptions and the URLs of all requests since the last `open`

usage: window.py
"""

import asyncio
import base64
import json
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

import websockets

PATIENCE = 20.0
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
         "--disable-background-networking", "--disable-dev-shm-usage", "--remote-debugging-port=0"]
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, "Space": 32}


class Window:
    """One browser with one page."""

    def __init__(self):
        self.profile = tempfile.TemporaryDirectory(prefix="wsteady-window-", ignore_cleanup_errors=True)
        self.process = subprocess.Popen(
            ["chromium", *FLAGS, f"--user-data-dir={self.profile.name}", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.asked = 0
        self.waiting = {}
        self.errors, self.requests = [], []
        self.loaded = asyncio.Event()

    async def reach(self):
        """Finds the port that the browser chose, and its page."""
        port_file = pathlib.Path(self.profile.name, "DevToolsActivePort")
        end = asyncio.get_running_loop().time() + PATIENCE
        while True:
            try:
                port = port_file.read_text().split("\n")[0]
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
                    page = next(one for one in json.load(answer) if one["type"] == "page")
                break
            except (OSError, StopIteration):
                if asyncio.get_running_loop().time() > end:
                    raise
                await asyncio.sleep(0.05)
        self.wire = await websockets.connect(page["webSocketDebuggerUrl"], max_size=None)
        self.reader = asyncio.create_task(self.read())
        for domain in ["Page", "Runtime", "Network", "Log"]:
            await self.call(f"{domain}.enable")

    async def read(self):
        async for text in self.wire:
            message = json.loads(text)
            if "id" in message:
                self.waiting.pop(message["id"]).set_result(message)
            else:
                self.note(message["method"], message["params"])

    def note(self, method, params):
        if method == "Page.loadEventFired":
            self.loaded.set()
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(params["exceptionDetails"].get("exception", {}).get("description", "exception"))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.errors.append(str([one.get("value") for one in params["args"]]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"]["text"])

    async def call(self, method, **params):
        self.asked += 1
        answer = asyncio.get_running_loop().create_future()
        self.waiting[self.asked] = answer
        await self.wire.send(json.dumps({"id": self.asked, "method": method, "params": params}))
        message = await asyncio.wait_for(answer, PATIENCE)
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']}")
        return message["result"]

    async def open(self, url):
        self.errors, self.requests = [], []
        self.loaded.clear()
        await self.call("Page.navigate", url=url)
        await asyncio.wait_for(self.loaded.wait(), PATIENCE)

    async def run(self, script):
        result = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(str(result["exceptionDetails"]))
        return result["result"].get("value")

    async def press(self, key):
        shift = key.startswith("Shift+")
        key = key.removeprefix("Shift+")
        text = {"Enter": "\r", "Space": " "}.get(key, key if len(key) == 1 else "")
        name = " " if key == "Space" else key
        # Other characters have codes of the keyboard's: text alone types them.
        code = KEYS.get(key, ord(key.upper()) if key.isalnum() and len(key) == 1 else 0)
        event = {"key": name, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        await self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **event)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    async def size(self, width, height):
        await self.call("Emulation.setDeviceMetricsOverride", width=int(width), height=int(height),
                        deviceScaleFactor=1, mobile=int(width) < 500)

    async def scheme(self, scheme):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.call("Emulation.setEmulatedMedia", features=features)

    async def shot(self, file, part="view"):
        picture = await self.call("Page.captureScreenshot", captureBeyondViewport=part == "all")
        pathlib.Path(file).write_bytes(base64.b64decode(picture["data"]))

    async def lenient(self):
        await self.call("Page.setBypassCSP", enabled=True)

    async def load(self, file):
        await self.run(pathlib.Path(file).read_text() + "\n;true")

    async def seen(self):
        return {"errors": self.errors, "requests": self.requests}

    def close(self):
        self.process.kill()
        self.process.wait()
        self.profile.cleanup()


async def main():
    window = Window()
    try:
        await window.reach()
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            verb, _, rest = line.rstrip("\n").partition(" ")
            words = [rest] if verb in ("open", "run", "press") else rest.split()
            try:
                answer = {"value": await getattr(window, verb)(*words)}
            except (RuntimeError, TimeoutError) as error:
                answer = {"error": str(error) or type(error).__name__}
            print(json.dumps(answer), flush=True)
    finally:
        window.close()


if __name__ == "__main__":
    asyncio.run(main())

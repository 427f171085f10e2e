"""Thousands of clients on the Python library `websockets`, which echo until they are closed.

Each sends a message every `--every` seconds and wants its echo. Prints `open` when all are connected,
and when all have been closed one line of JSON: how many were closed with which code, how many with
each second since the first close, how many messages were sent and echoed, how many echoes were wrong.
"""

import argparse
import asyncio
import collections
import json
import random
import sys
import time

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed


class Tally:
    def __init__(self):
        self.codes, self.moments = collections.Counter(), []
        self.sent = self.echoed = self.wrong = 0


async def client(url, number, every, tally, opened):
    ws = await connect(
        f"{url}{number}", compression=None, proxy=None, ping_interval=None, open_timeout=60,
    )
    opened()
    sending = asyncio.create_task(speak(ws, number, every, tally))
    wanted = 0
    try:
        while True:
            # The server puts its own words before the echo.
            text = (await ws.recv()).split(" ", 2)[2]
            tally.wrong += text != f"{number} {wanted}"
            wanted += 1
            tally.echoed += 1
    except ConnectionClosed as end:
        tally.codes[end.rcvd.code if end.rcvd else 1006] += 1
        tally.moments.append(time.monotonic())
    sending.cancel()


async def speak(ws, number, every, tally):
    await asyncio.sleep(random.random() * every)
    count = 0
    try:
        while True:
            await ws.send(f"{number} {count}")
            tally.sent += 1
            count += 1
            await asyncio.sleep(every)
    except ConnectionClosed:
        pass


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--every", type=float, default=2, help="seconds between messages")
    options = parser.parse_args()
    tally, left, all_open = Tally(), options.count, asyncio.Event()
    gate = asyncio.Semaphore(200)

    def opened():
        nonlocal left
        left -= 1
        gate.release()
        if left == 0:
            all_open.set()

    # One that can't connect ends them all.
    async with asyncio.TaskGroup() as clients:
        for number in range(options.count):
            await gate.acquire()
            clients.create_task(client(options.url, number, options.every, tally, opened))
        await all_open.wait()
        print("open", flush=True)
    first = min(tally.moments)
    seconds = collections.Counter(int(moment - first) for moment in tally.moments)
    print(json.dumps({
        "codes": tally.codes, "seconds": [seconds[n] for n in range(max(seconds) + 1)],
        "sent": tally.sent, "echoed": tally.echoed, "wrong": tally.wrong,
    }))


sys.exit(asyncio.run(main()))

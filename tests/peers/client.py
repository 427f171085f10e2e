"""A client on the Python library `websockets`: sends numbered messages, wants each one's echo.

`client.mjs` and `browser.html` do the same on Node's `ws` and in Chromium. The test kills servers
while it runs. Prints `half` when half of the echoes are in, and at the end one line of JSON:
  {"missing": [n, ...], "wrong": n, "repeats": n, "closed": code or null, "sub", "ext", "servers": [...]}
"""

import argparse
import asyncio
import json
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed


def body(number):
    """Message `number`: sizes from 0 to some 4 KiB, text that is not all ASCII."""
    return f"{number} " + "aé€𝄞"[number % 4] * (number * 37 % 1400)


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--every", type=float, default=20, help="ms between messages")
    parser.add_argument("--deflate", action="store_true")
    parser.add_argument("--subprotocol", default="")
    options = parser.parse_args()
    subprotocols = options.subprotocol.split(",") if options.subprotocol else None
    async with connect(
        options.url, subprotocols=subprotocols,
        compression="deflate" if options.deflate else None, max_size=None, proxy=None,
    ) as ws:
        seen, servers, result = set(), [], {"wrong": 0, "repeats": 0, "closed": None}
        sending = asyncio.create_task(send(ws, options))
        try:
            while len(seen) < options.count:
                before = len(seen)
                take(await asyncio.wait_for(ws.recv(), 40), seen, servers, result)
                # Once: an echo may come twice across a failover.
                if before < options.count // 2 == len(seen):
                    print("half", flush=True)
        except TimeoutError:
            pass
        except ConnectionClosed as end:
            result["closed"] = end.rcvd.code if end.rcvd else 1006
        sending.cancel()
        result.update(
            missing=[number for number in range(options.count) if number not in seen],
            servers=servers, sub=ws.subprotocol,
            ext=ws.response.headers.get("Sec-WebSocket-Extensions"),
        )
        print(json.dumps(result))


async def send(ws, options):
    for number in range(options.count):
        text = body(number)
        await ws.send(text if number % 2 else text.encode())
        await asyncio.sleep(options.every / 1000)


def take(message, seen, servers, result):
    text = message if isinstance(message, str) else message.decode()
    conn, _, rest = text.split(" ", 2)
    number = int(rest.split(" ", 1)[0])
    if conn not in servers:
        servers.append(conn)
    # Type and bytes must be those that were sent.
    if rest != body(number) or isinstance(message, str) != bool(number % 2):
        result["wrong"] += 1
    result["repeats"] += number in seen
    seen.add(number)


sys.exit(asyncio.run(main()))

"""A client on the Python library `websockets` that says what it is told: each line of its input is sent
as one text message. It prints one line of JSON for each thing that it sees:
  {"open": extensions or null}   {"got": text}   {"closed": code, "reason": text}
The end of its input closes the connection.
"""

import argparse
import asyncio
import json
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed


def tell(**what):
    print(json.dumps(what), flush=True)


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--deflate", action="store_true")
    options = parser.parse_args()
    compression = "deflate" if options.deflate else None
    async with connect(options.url, compression=compression, proxy=None) as ws:
        tell(open=ws.response.headers.get("Sec-WebSocket-Extensions"))
        hearing = asyncio.create_task(hear(ws))
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            try:
                await ws.send(line.rstrip("\n"))
            except ConnectionClosed:
                break
        await ws.close()
        await hearing


async def hear(ws):
    try:
        async for message in ws:
            tell(got=message)
    except ConnectionClosed:
        pass
    tell(closed=ws.close_code, reason=ws.close_reason)


asyncio.run(main())

"""A backend on the Python library `nats-py`: it remembers what wsteady publishes, and does what each
line of its input says, a JSON object. For each it prints one line of JSON.
  {"stream": name, "subjects": [...]}      makes a stream                     -> {"ok": true}
  {"listen": subject}                      subscribes                         -> {"ok": true}
  {"heard": count}                         waits for so many messages         -> {"heard": [message, ...]}
  {"request": subject, "hex": payload, "headers": {}}                         -> {"status": ..., "body": ...}
  {"publish": subject, "texts": [...]}     one message each, in order         -> {"ok": true}
  {"read": name}                           all that a stream has              -> {"read": [message, ...]}
A message is {"subject", "headers", "hex"}.
"""

import argparse
import asyncio
import json
import sys

import nats
from nats.errors import NoRespondersError, TimeoutError
from nats.js.api import StreamConfig

WAIT = 20


def shown(message):
    return {
        "subject": message.subject,
        "headers": dict(message.headers or {}),
        "hex": message.data.hex(),
    }


async def quiet(_error):
    pass


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    options = parser.parse_args()
    # A server that is killed comes back at the same address.
    backend = await nats.connect(
        options.url, max_reconnect_attempts=-1, reconnect_time_wait=0.05, error_cb=quiet
    )
    js = backend.jetstream()
    heard = []
    more = asyncio.Condition()

    async def hear(message):
        async with more:
            heard.append(shown(message))
            more.notify_all()

    async def read(name):
        left = (await js.stream_info(name)).state.messages
        messages = []
        puller = await js.pull_subscribe("", stream=name, durable="reader")
        while len(messages) < left:
            for message in await puller.fetch(min(100, left - len(messages)), timeout=WAIT):
                messages.append(shown(message))
                await message.ack()
        return messages

    async def carry_out(order):
        if "stream" in order:
            config = StreamConfig(name=order["stream"], subjects=order["subjects"])
            await js.add_stream(config)
        elif "listen" in order:
            await backend.subscribe(order["listen"], cb=hear)
            await backend.flush()
        elif "heard" in order:
            async with more:
                enough = more.wait_for(lambda: len(heard) >= order["heard"])
                await asyncio.wait_for(enough, WAIT)
            return {"heard": heard}
        elif "request" in order:
            try:
                answer = await backend.request(
                    order["request"],
                    bytes.fromhex(order["hex"]),
                    timeout=WAIT,
                    headers=order.get("headers"),
                )
            except NoRespondersError:
                return {"status": None, "body": ""}
            return {"status": answer.headers["Status"], "body": answer.data.decode()}
        elif "publish" in order:
            for text in order["texts"]:
                await backend.publish(order["publish"], text.encode())
            await backend.flush()
        elif "read" in order:
            for _ in range(WAIT):
                try:
                    return {"read": await read(order["read"])}
                except (NoRespondersError, TimeoutError):
                    # It was killed a moment ago.
                    await asyncio.sleep(1)
        return {"ok": True}

    loop = asyncio.get_running_loop()
    print(json.dumps({"ok": True}), flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(await carry_out(json.loads(line))), flush=True)
    await backend.close()


asyncio.run(main())

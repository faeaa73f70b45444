"""Runs a function on a proplet, many times at once, and prints what came back: ``python examples/client.py``."""

import asyncio
from pathlib import Path

from swashplate.client import Client

ADD = Path(__file__).with_name("add.wasm")


async def main() -> None:
    async with Client() as manager:
        tasks = await asyncio.gather(*(manager.run(ADD, [n, 40], invoke="add") for n in range(5)))
        for task in tasks:
            print(task.inputs, "->", task.results, "on", task.proplet_id)


asyncio.run(main())

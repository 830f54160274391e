"""Who may be with the engine."""

import asyncio

from app.engine.gate import Gate
from tests.app.engine.fakes import run


def test_a_suspect_goes_last_and_alone_until_it_is_trusted():
    gate = Gate()
    story: list[str] = []

    async def visit(name: str, *, alone: bool, trusted: bool = False) -> None:
        async with gate.inside(alone=alone) as share:
            story.append(f"{name} in")
            await asyncio.sleep(1)
            if trusted:
                share()
                await asyncio.sleep(1)
            story.append(f"{name} out")

    async def work() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(visit("a", alone=False))
            tasks.create_task(visit("b", alone=False))
            tasks.create_task(visit("suspect", alone=True, trusted=True))
            await asyncio.sleep(1.5)
            tasks.create_task(visit("c", alone=False))

    run(work())
    assert story == [
        "a in",
        "b in",
        "a out",
        "b out",
        "suspect in",
        "c in",
        "suspect out",
        "c out",
    ]

"""The least that a stream can cost in Python: one frame, written to every socket by asyncio.

    FAN_OUT_BEGINS=FILE python -m benchmarks.peers.raw_sse

No routes, no checks, no store, no resumption, and a viewer that stalls is buffered without end.
"""

from __future__ import annotations

import asyncio
import json

from api.connections import raise_file_limit
from benchmarks.fanning.ticks import async_ticks
from benchmarks.peers.plain_sse import entry

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


async def serve() -> None:
    raise_file_limit()
    writers: set[asyncio.StreamWriter] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD)
        writers.add(writer)
        await reader.read()  # until the viewer goes
        writers.discard(writer)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=2048)
    print(f"running on http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    async for number, line in async_ticks():
        frame = f"id: {number}\r\ndata: {json.dumps(entry(number, line))}\r\n\r\n".encode()
        for writer in writers:
            writer.write(frame)


if __name__ == "__main__":
    asyncio.run(serve())

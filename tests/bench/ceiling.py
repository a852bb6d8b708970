"""The ceiling: a no-op aiohttp handler in one process, which reads the body and answers as many bytes as Encrypt."""

from __future__ import annotations

import asyncio
import sys

import uvloop
from aiohttp import web

ANSWER = (
    b'{"CiphertextBlob":"' + b"A" * 144 + b'","KeyId":"' + b"a" * 75 + b'","EncryptionAlgorithm":"SYMMETRIC_DEFAULT"}'
)


async def handle(request: web.Request) -> web.Response:
    """Read, answer."""
    await request.read()
    return web.Response(body=ANSWER, content_type="application/x-amz-json-1.1")


async def main(port: int) -> None:
    """Serve until killed."""
    application = web.Application()
    application.router.add_post("/", handle)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))

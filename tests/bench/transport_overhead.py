"""What one HTTP request costs the server's process, here and in a plain `aiohttp.web.Server`, both doing nothing.

    python tests/bench/transport_overhead.py [requests] [connections]

Prints µs of CPU per request (user and system) of the server, from getrusage; the load comes from another
process, so the figure does not depend on how busy the generator is. Runs interleave, medians are shown.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import resource
import socket
import statistics
import sys
from multiprocessing.connection import Connection as Pipe

import uvloop
from aiohttp import web

from kmsd.wire.http.server import Listener, Request, Response, bind_tcp, new_request_id, serve
from tests.bench.audit_cost import questions

BODY = b'{"KeyId":"1234abcd-12ab-34cd-56ef-1234567890ab","Plaintext":"' + b"A" * 44 + b'"}'
HEAD = (
    "POST / HTTP/1.1\r\nHost: 127.0.0.1:8480\r\nAccept-Encoding: identity\r\nX-Amz-Target: TrentService.Encrypt\r\n"
    "Content-Type: application/x-amz-json-1.1\r\nUser-Agent: Boto3/1.40 md/Botocore#1.40 ua/2.1 os/linux#6.1\r\n"
    "X-Amz-Date: 20261122T120000Z\r\nAuthorization: AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE123456/20261122/us-east-1/"
    f"kms/aws4_request, SignedHeaders=content-type;host;x-amz-date;x-amz-target, Signature={'0' * 64}\r\n"
    "amz-sdk-invocation-id: 01234567-0123-0123-0123-0123456789ab\r\namz-sdk-request: attempt=1\r\n"
    f"Content-Length: {len(BODY)}\r\n"
)
JSON = "application/x-amz-json-1.1"


def cpu() -> float:
    """Seconds of processor time that this process has used."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def noop(request: Request) -> Response:
    """Answer what came, as the front end would."""
    return Response(200, (("Content-Type", JSON), ("x-amzn-RequestId", new_request_id())), request.received.body)


async def plain(request: web.BaseRequest) -> web.StreamResponse:
    """The same on aiohttp's low-level server."""
    body = await request.read()
    return web.Response(body=body, headers={"Content-Type": JSON, "x-amzn-RequestId": new_request_id()})


async def run(kind: str, pipe: Pipe) -> None:
    """Serve until told to stop; tell the processor time used."""
    sock = bind_tcp("127.0.0.1", 0)
    port = sock.getsockname()[1]
    if kind == "kmsd":
        await serve(noop, [Listener(sock)])
    else:
        await asyncio.get_running_loop().create_server(web.Server(plain, access_log=None), sock=sock)
    pipe.send(port)
    async for _ in questions(pipe):
        pipe.send(cpu())


def server(kind: str, pipe: Pipe) -> None:
    """The server's process."""
    uvloop.run(run(kind, pipe))


async def load(port: int, requests: int, connections: int, *, keep: bool) -> None:
    """Send requests, one at a time on each connection; with `keep` off, one connection for each."""
    request = (HEAD + ("" if keep else "Connection: close\r\n") + "\r\n").encode() + BODY

    async def client(count: int) -> None:
        while count:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for _ in range(count if keep else 1):
                writer.write(request)
                await reader.readuntil(BODY)
                count -= 1
            writer.close()

    await asyncio.gather(*(client(requests // connections) for _ in range(connections)))


def measure(kind: str, requests: int, connections: int, *, keep: bool) -> float:
    """µs of server CPU for each request."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=server, args=(kind, theirs), daemon=True)
    process.start()
    port = ours.recv()
    uvloop.run(load(port, 500, connections, keep=keep))
    ours.send("cpu")
    before = ours.recv()
    uvloop.run(load(port, requests, connections, keep=keep))
    ours.send("cpu")
    after = ours.recv()
    ours.send("stop")
    process.join()
    return (after - before) / requests * 1e6


def main() -> None:
    """Print the table."""
    requests = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    for connections, keep in ((64, True), (1, True), (8, False)):
        count = requests if keep else requests // 5
        samples: dict[str, list[float]] = {"aiohttp": [], "kmsd": []}
        for _ in range(5):
            for kind, found in samples.items():
                found.append(measure(kind, count, connections, keep=keep))
        medians = {kind: statistics.median(found) for kind, found in samples.items()}
        what = "kept alive" if keep else "one connection each"
        print(
            f"{connections:3} connections, {what}: aiohttp {medians['aiohttp']:.1f} µs, kmsd {medians['kmsd']:.1f} µs, "
            f"ratio {medians['aiohttp'] / medians['kmsd']:.2f}"
        )


if __name__ == "__main__":
    socket.setdefaulttimeout(10)
    main()

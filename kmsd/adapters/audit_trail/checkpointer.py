"""Background signing of checkpoints of one chain.

A checkpoint is due after a number of lines or seconds, at rotation, and when the trail closes. The token signs it while
records are still being written; then it becomes a line itself. While the token is away the trail says so once, and the
next successful checkpoint covers everything before it.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from datetime import datetime
from hashlib import sha256

import msgspec
import structlog

from kmsd.adapters.audit_trail.format import Checkpoint, Head, control_line, instant
from kmsd.ports import AuditUnavailable, TokenError

RETRY_SECONDS = 5.0
LAST_SECONDS = 5.0
"""Seconds that a closing trail waits for its last signature."""

log = structlog.get_logger()


class Signer(msgspec.Struct, frozen=True):
    """Audit key in the token."""

    public_key: bytes
    """DER SubjectPublicKeyInfo."""
    token_serial: str
    sign: Callable[[bytes], Awaitable[bytes]]
    """Returns the DER ECDSA signature of a SHA-256 digest. Raises `TokenError`."""


class Interval(msgspec.Struct, frozen=True):
    """Lines or seconds after which a checkpoint is due."""

    lines: int = 1000
    seconds: float = 60.0


Append = Callable[[bytes], Awaitable[Head]]
Copy = Callable[[bytes], Awaitable[None]]


class Checkpointer:
    """Checkpoints of one writer. All methods run on one event loop."""

    def __init__(
        self,
        writer: str,
        head: Head,
        *,
        interval: Interval,
        now: Callable[[], datetime],
        append: Append,
        copy: Copy,
        signer: Signer | None,
        node_id: str = "",
    ) -> None:
        self.signer = signer
        self._writer, self._node_id = writer, node_id
        self._interval = interval
        self._now = now
        self._append = append
        self._copy = copy
        self._loop = asyncio.get_running_loop()
        self._head = head
        self._covered = head.sequence
        """Last line that a checkpoint covers. At first the last line of the previous process: its lines are covered
        together with the first of this one."""
        self._wanted = head.sequence
        """Last line that a checkpoint must cover. Checkpoint lines themselves do not require one."""
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._delayed = False
        self._closing = False

    @property
    def unsigned(self) -> int:
        """Number of lines that a checkpoint must still cover."""
        return max(0, self._wanted - self._covered)

    def written(self, head: Head, *, own: bool) -> None:
        """Note that lines up to `head` are durable. `own`: they were a checkpoint or an `unsigned` line."""
        self._head = head
        if own:
            return
        self._wanted = head.sequence
        if self._closing or self._delayed:
            return
        if head.sequence - self._covered >= self._interval.lines:
            self.sign_soon()
        elif self._timer is None:
            self._timer = self._loop.call_later(self._interval.seconds, self.sign_soon)

    def sign_soon(self) -> None:
        """Start signing in the background, unless that is running or nothing is unsigned."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is None and self._wanted > self._covered and self.signer is not None:
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            await self._sign()
        except (TokenError, AuditUnavailable) as exc:
            await self._put_off(exc)
        except Exception as exc:
            log.exception("audit_checkpoint_failed", writer=self._writer)
            await self._put_off(exc)
        finally:
            self._task = None
        if not self._closing and self._head.sequence - self._covered >= self._interval.lines and not self._delayed:
            self.sign_soon()

    async def _sign(self) -> None:
        signer, head, at = self.signer, self._head, instant(self._now())
        if signer is None:
            raise TokenError("there is no audit key yet: run `kmsd init`")
        digest = head.digest.decode()
        message = Checkpoint.message(self._writer, head.sequence, digest, at)
        signature = base64.b64encode(await signer.sign(sha256(message).digest())).decode()
        checkpoint = Checkpoint(self._writer, head.sequence, digest, at, signature, self._node_id)
        await self._append(checkpoint.line())
        self._covered = head.sequence
        if self._delayed:
            self._delayed = False
            log.info("audit_checkpoints_resumed", writer=self._writer)
        # An operator who keeps this line elsewhere can prove the length of the trail (`kmsd audit verify --anchor`).
        log.info("audit checkpoint", **checkpoint.members())
        await self._copy(checkpoint.line())

    async def _put_off(self, exc: Exception) -> None:
        """Record once in the trail that lines stay unsigned, and retry after `RETRY_SECONDS`."""
        if not self._closing:
            self._timer = self._loop.call_later(RETRY_SECONDS, self.sign_soon)
        if self._delayed:
            return
        self._delayed = True
        log.warning("audit_checkpoint_delayed", writer=self._writer, detail=str(exc))
        reason = type(exc).__name__
        try:
            await self._append(
                control_line("unsigned", self._now(), writer=self._writer, after=self._covered, reason=reason)
            )
        except AuditUnavailable as unavailable:
            log.warning("audit_trail_unavailable", writer=self._writer, detail=str(unavailable))

    async def finish(self) -> None:
        """Sign everything that is durable now, before return. Delayed if the token does not sign."""
        for _ in range(2):  # a running signature may not cover the last lines
            self.sign_soon()
            if self._task is not None:
                await asyncio.wait([self._task])

    async def close(self) -> None:
        """Write the last checkpoint, if the token signs it within `LAST_SECONDS`."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            async with asyncio.timeout(LAST_SECONDS):
                if self._task is not None:
                    await self._task
                if self._wanted > self._covered and self.signer is not None:
                    await self._run()
        except TimeoutError:
            log.warning("audit_trail_closed_unsigned", writer=self._writer)

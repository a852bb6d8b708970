"""The daemon within the test process: real token, real database, real socket, and a clock that the test sets."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from kmsd.adapters.pkcs11.ceremony import NewDomainKey
from kmsd.app import Components, arn_scope_of, open_components
from kmsd.cli.commands.join import make_first_node
from kmsd.cloudwatch_logs.data_keys import SERVICE_KEY
from kmsd.config import settings as configuration
from kmsd.config.sections import Config
from kmsd.custody import provisioning
from kmsd.custody.credentials import CredentialStore as KnownCredentials
from kmsd.daemon.issuers import web_identities_of
from kmsd.daemon.worker import rates_of
from kmsd.database import database_of, open_store
from kmsd.domain.domain_key import DomainKey, DomainKeyState
from kmsd.domain.material import TokenName
from kmsd.jobs.scheduler import Scheduler
from kmsd.linux import boot_clock
from kmsd.wire.endpoint import Endpoint
from kmsd.wire.http.listeners import bind_tcp
from kmsd.wire.http.server import Listener, serve
from kmsd.wire.readiness import Readiness
from kmsd.wire.refused_requests import RefusedRequestLog
from kmsd.wire.sigv4.claim import signing_key
from tests.support.audit_trail import trail_records
from tests.support.clients import Credentials, client, signing_clock
from tests.support.daemon import CUSTODY, further_section, import_section, write_config
from tests.support.token_domain_keys import make_domain_keys
from tests.support.tokens import SOFTHSM, nss, softhsm

T = TypeVar("T")


@dataclass
class ManualClock:
    """The time of day, and as much more as the test has added."""

    offset: timedelta = timedelta(0)
    jumped: timedelta = timedelta(0)
    """How much of that the clock was set, and no time has passed."""

    def now(self) -> datetime:
        """As `kmsd.ports.Clock`."""
        return datetime.now(UTC) + self.offset

    def uptime(self) -> float:
        """As `kmsd.linux.boot_clock.uptime`: goes with `advance`, and not with `set`."""
        return boot_clock.uptime() + (self.offset - self.jumped).total_seconds()

    def set(self, **delta: float) -> None:
        """Set the clock by so much, while no time passes: `days=40`. Clients' clocks go with it."""
        self.jumped += timedelta(**delta)
        self.advance(**delta)

    def advance(self, **delta: float) -> None:
        """Let time pass: `days=7`. Clients' clocks go with it."""
        self.offset += timedelta(**delta)
        signing_clock.offset = self.offset


@dataclass
class Opened:
    """What is there while the daemon runs."""

    components: Components
    scheduler: Scheduler
    loop: asyncio.AbstractEventLoop
    endpoint: str


@dataclass
class Harness:
    """A daemon in a thread of this process; `restart` as often as a test likes."""

    config: Config
    clock: ManualClock = field(default_factory=ManualClock)
    _opened: Opened | None = None
    _error: BaseException | None = None
    _admin: Credentials | None = None
    _leave: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _users: int = 0

    @property
    def opened(self) -> Opened:
        """Raises AssertionError if the daemon does not run."""
        if self._opened is None:
            raise AssertionError("the harness is closed") from self._error
        return self._opened

    @property
    def components(self) -> Components:
        """Store, token, audit trail, pipeline."""
        return self.opened.components

    @property
    def scheduler(self) -> Scheduler:
        """The jobs."""
        return self.opened.scheduler

    @property
    def endpoint(self) -> str:
        """Its URL; another one after each start."""
        return self.opened.endpoint

    @property
    def admin(self) -> Credentials:
        """Who may do everything in the default account."""
        if self._admin is None:
            policy = json.loads(provisioning.ADMINISTRATOR_POLICY)
            self._admin = self.user(policy, name="admin")
        return self._admin

    def start(self) -> None:
        """Open the rooms and serve."""
        ready = threading.Event()
        self._leave.clear()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live(ready)))
        self._thread.start()
        ready.wait(60)
        if self._opened is None:
            self._thread.join()
        _ = self.opened

    def stop(self) -> None:
        """Close everything; what is stored stays."""
        self._leave.set()
        if self._thread is not None:
            self._thread.join(60)
        self._opened = None

    def restart(self) -> None:
        """As when the daemon is stopped and started again."""
        self.stop()
        self.start()

    def run(self, act: Coroutine[Any, Any, T], seconds: float = 60) -> T:
        """Run a coroutine on the daemon's loop."""
        return asyncio.run_coroutine_threadsafe(act, self.opened.loop).result(seconds)

    def client(self, service: str = "kms", credentials: Credentials | None = None, **options: Any) -> Any:
        """A boto3 client, of the administrator if nobody else is named."""
        return client(self.endpoint, credentials or self.admin, service, **options)

    def user(
        self, policy: dict[str, Any] | None = None, *, name: str = "", account: str = "", **tags: str
    ) -> Credentials:
        """A new user with an access key, and tags."""
        self._users += 1
        name = name or f"user{self._users}"
        policies = {} if policy is None else {"policy": json.dumps(policy)}
        return self.run(_make_user(self.components, name, account or self.config.account, policies, tags))

    def tick(self) -> None:
        """Let the jobs do what is due now."""
        self.run(self.scheduler.tick())

    def records(self) -> list[dict[str, Any]]:
        """The audit trail so far."""
        return trail_records(self.config.audit_dir)

    async def _live(self, ready: threading.Event) -> None:
        try:
            await _provision(self.config)
            async with open_components(self.config, "harness", self.clock, self.clock.uptime) as components:
                arns = components.pipeline.dependencies.arns
                refusals = RefusedRequestLog(components.sink, arns)
                credentials = KnownCredentials(components.token, arns, signing_key)
                front = Endpoint(
                    components.pipeline,
                    credentials,
                    Readiness({}),
                    refusals,
                    wall=self.clock,
                    rates=rates_of(self.config),
                    web_identities=web_identities_of(self.config),
                )
                listener = bind_tcp("127.0.0.1", 0)
                server = await serve(front.handle, [Listener(listener)], cohorts=components.pipeline.cohorts)
                stock = self.config.import_.stock
                scheduler = Scheduler(
                    components.store,
                    components.tokens,
                    self.clock,
                    components.record_job,
                    "harness",
                    stock,
                    components.retention,
                    components.watch,
                )
                endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
                self._opened = Opened(components, scheduler, asyncio.get_running_loop(), endpoint)
                ready.set()
                await asyncio.to_thread(self._leave.wait)
                await server.stop(5)
                await refusals.close()
        except BaseException as exc:
            self._error = exc
            ready.set()
            raise


async def _make_user(
    components: Components, name: str, account: str, policies: dict[str, str], tags: dict[str, str]
) -> Credentials:
    now = components.pipeline.clock.now()
    user = provisioning.new_user(arn_scope_of(components.config), account, name, policies, now, tags=tags)
    await provisioning.create_user(components.store, user, now)
    made = await provisioning.create_access_key(components.store, components.token, user, now)
    return Credentials(made.access_key_id, made.secret, user.arn)


async def _provision(config: Config) -> None:
    """As `kmsd init`: the daemon's own keys, made while the token has no sentinel yet."""
    async with open_components(config, "harness") as components:
        await provisioning.create_service_keys(components.store, components.token, datetime.now(UTC), [SERVICE_KEY])


async def _add_domain_keys(config: Config, made: Sequence[NewDomainKey]) -> None:
    """As `kmsd domain-key create`: the first is the current one."""
    states = (DomainKeyState.CURRENT, *[DomainKeyState.NEXT] * (len(made) - 1))
    now = datetime.now(UTC)
    async with open_store(config) as store, store.write() as transaction:
        for new, state in zip(made, states, strict=True):
            row = DomainKey(new.domain_key_id, TokenName.MAIN, state, new.binding_key, now, now)
            await transaction.insert_domain_key(row)


async def _require_bound(components: Components) -> None:
    """Raise `TamperedMaterial` if a row of wrapped material is not as the daemon has written it."""
    reader = await components.store.read()
    counts = await reader.wrapped_counts()
    for row in await reader.domain_keys():
        if row.domain_key_id in counts and not row.is_missing:
            for material in await reader.wrapped_under(row.domain_key_id, b"", counts[row.domain_key_id]):
                await components.token.custody.require_bound(material)


@contextmanager
def harness(
    folder: Path,
    *,
    extra: str = "",
    without: Sequence[str] = (),
    import_token: bool = False,
    nss_serves: Sequence[str] = (),
    module: Path = SOFTHSM,
    custody: str = CUSTODY,
) -> Iterator[Harness]:
    """A daemon over a fresh token, until the end of the block. The token lacks the mechanisms `without`.

    With NSS as its import token, if asked, or as a further token for the key specs `nss_serves`. `module` may stand
    before SoftHSM. With the custody `wrapped` there are two domain keys.
    """
    with ExitStack() as stack:
        place = stack.enter_context(softhsm(folder / "token", without=without, module=module))
        if import_token:
            helper = stack.enter_context(nss(folder / "import-token"))
            extra = f"{extra}\n{import_section(folder, helper)}"
        if nss_serves:
            helper = stack.enter_context(nss(folder / "nss"))
            extra = f"{extra}\n{further_section(folder, helper, 'nss', nss_serves)}"
        config = configuration.load(write_config(folder, place, 1, extra=extra, custody=custody))
        config.audit_dir.mkdir(parents=True)
        asyncio.run(database_of(config).create())
        asyncio.run(make_first_node(config))
        if custody == "wrapped":
            asyncio.run(_add_domain_keys(config, make_domain_keys(place, 2)))
        found = Harness(config)
        found.start()
        try:
            yield found
            # On everything that any test has made: `list_objects` reads all attributes back.
            problems = [item for item in found.run(found.components.token.list_objects()) if item.problem]
            assert not problems, problems
            found.run(_require_bound(found.components))
        finally:
            signing_clock.offset = timedelta(0)
            found.stop()

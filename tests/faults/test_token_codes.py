"""Every return code from every token call that the daemon makes: the right error, and the next call works."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from botocore.exceptions import ClientError

from kmsd.adapters.pkcs11.return_codes import CLASS_OF_CODE, Ckr, ErrorClass, name_of
from kmsd.custody.provisioning import AUDIT
from kmsd.domain.key_spec import SigningAlgorithm
from kmsd.pipeline import as_service_error
from tests.support import shim as shims
from tests.support.harness import Harness, harness
from tests.support.key_import import external_key, parameters, refusals_at_once
from tests.support.return_codes import EVERY
from tests.support.shim import Function, Shim
from tests.support.tokens import SOFTHSM

WHOLE = "KMSD_TEST_EVERY_CODE" in os.environ
"""All codes, all calls, all ways to fail: a quarter of an hour."""
OF_EACH_FATE = (
    *(Ckr.DATA_INVALID, Ckr.ENCRYPTED_DATA_INVALID, Ckr.GENERAL_ERROR, Ckr.BUFFER_TOO_SMALL, Ckr.KEY_HANDLE_INVALID),
    *(Ckr.KEY_FUNCTION_NOT_PERMITTED, Ckr.SESSION_HANDLE_INVALID, Ckr.OPERATION_ACTIVE, Ckr.DEVICE_REMOVED),
    *(Ckr.USER_NOT_LOGGED_IN, Ckr.CRYPTOKI_NOT_INITIALIZED, Ckr.PIN_EXPIRED, Ckr.MECHANISM_INVALID, Ckr.SESSION_COUNT),
    *(Ckr.DEVICE_MEMORY, 0x80000421),
)
SOME = (Ckr.GENERAL_ERROR, Ckr.SESSION_HANDLE_INVALID, Ckr.DEVICE_REMOVED, Ckr.USER_NOT_LOGGED_IN)
WAYS = ("worked", "unworked", "lasting")
"""The call fails once after it has worked, once without having worked, or as long as the request takes."""
RETRYABLE = {"KeyUnavailableException", "DependencyTimeoutException", "KMSInternalException"}
"""All of them HTTP 500: SDKs try again by themselves."""
OF_THE_BLOB = (Function.UNWRAP_KEY, Function.WRAP_KEY, Function.SIGN_INIT, Function.SIGN)
HEAL_SECONDS = float(os.environ.get("KMSD_TEST_HEAL_SECONDS", "30"))

log = logging.getLogger(__name__)


@dataclass
class Site:
    """A harness behind the shim, and what its scenarios work with."""

    harness: Harness
    shim: Shim
    kms: Any = None
    key_id: str = ""
    blob: bytes = b""
    audit_key: bytes = b""
    imported: dict[str, Any] = field(default_factory=dict)
    failed_imports: int = 0

    def prepare(self) -> None:
        """Also after a restart."""
        self.kms = self.harness.client()
        if not self.key_id:
            self.key_id = self.kms.create_key()["KeyMetadata"]["KeyId"]
            self.blob = self.kms.encrypt(KeyId=self.key_id, Plaintext=b"text")["CiphertextBlob"]
        reader = self.harness.run(self.harness.components.store.read())
        self.audit_key = self.harness.run(reader.service_keys())[AUDIT].object_id

    @property
    def token(self) -> Any:
        """The adapter."""
        return self.harness.components.token

    def asked(self, act: Callable[..., Any], **members: Any) -> str:
        """The name of the error that a client gets; empty if none. All but named refusals are HTTP 500."""
        try:
            act(**members)
        except ClientError as error:
            code = str(error.response["Error"]["Code"])
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            assert (status == 500) == (code in RETRYABLE), (code, status)
            return code
        return ""

    def tried(self, act: Coroutine[Any, Any, Any]) -> str:
        """The same of what no client asks for by itself."""
        try:
            self.harness.run(act)
        except Exception as error:  # noqa: BLE001 (what it is, is the question)
            return as_service_error(error).code
        return ""

    def cold(self) -> None:
        """Forget handle, derived keys and sessions, so that the call finds nothing prepared."""

        async def forget() -> None:
            self.token.invalidate(self.blob[18:34])
            with suppress(Exception):
                self.token._link.require().connection.discard_free_sessions()

        self.harness.run(forget())

    # --- what is done while a call fails --------------------------------------------------------------

    def encrypt(self) -> str:
        return self.asked(self.kms.encrypt, KeyId=self.key_id, Plaintext=b"text")

    def encrypt_cold(self) -> str:
        self.cold()
        return self.encrypt()

    def decrypt(self) -> str:
        return self.asked(self.kms.decrypt, CiphertextBlob=self.blob)

    def decrypt_cold(self) -> str:
        self.cold()
        return self.decrypt()

    def data_key(self) -> str:
        return self.asked(self.kms.generate_data_key, KeyId=self.key_id, KeySpec="AES_256")

    def random(self) -> str:
        return self.asked(self.kms.generate_random, NumberOfBytes=32)

    def create(self) -> str:
        return self.asked(self.kms.create_key)

    def import_material(self) -> str:
        with refusals_at_once():
            code = self.asked(self.kms.import_key_material, **self.imported)
        self.failed_imports += bool(code)
        return code

    def freshen(self) -> None:
        """Another import token in time: after 20 failures its wrapping key is destroyed."""
        if not self.imported or self.failed_imports > 10:
            self.failed_imports = 0
            self.imported = parameters(self.kms, external_key(self.kms)).members(bytes(range(32)))

    def delete_material(self) -> str:
        return self.asked(self.kms.delete_imported_key_material, KeyId=self.imported["KeyId"])

    def import_and_delete(self) -> str:
        return self.import_material() or self.delete_material()

    def sign(self) -> str:
        return self.tried(self.token.sign(self.audit_key, SigningAlgorithm.ECDSA_SHA_256, bytes(32), is_digest=True))

    def check(self) -> str:
        return self.tried(self.token.check())

    def listing(self) -> str:
        return self.tried(self.token.list_objects())


SCENARIOS: dict[str, Callable[[Site], str]] = {
    "Encrypt": Site.encrypt,
    "Encrypt, cold": Site.encrypt_cold,
    "Decrypt": Site.decrypt,
    "Decrypt, cold": Site.decrypt_cold,
    "GenerateDataKey": Site.data_key,
    "GenerateRandom": Site.random,
    "CreateKey": Site.create,
    "ImportKeyMaterial": Site.import_and_delete,
    "checkpoint": Site.sign,
    "readyz": Site.check,
    "reconcile": Site.listing,
}


OF_WRAPPED = tuple(SCENARIOS) if WHOLE else ("Encrypt, cold", "Decrypt, cold", "CreateKey", "ImportKeyMaterial")
"""Those in which wrapped material is made or unwrapped."""
CASES = [*(("object", name) for name in SCENARIOS), *(("wrapped", name) for name in OF_WRAPPED)]


@pytest.fixture(scope="module", name="site")
def _site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if shims.compiler() is None or not SOFTHSM.exists():
        pytest.skip("the shim needs a C compiler and SoftHSM2")
    folder = tmp_path_factory.mktemp("codes")
    shim = Shim(shims.build(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KMSD_SHIM_MODULE", str(SOFTHSM))
        extra = "[limits]\nkeys_per_account = 1000000\n"
        with harness(folder, module=shim.path, extra=extra, custody=request.param) as found:
            site = Site(found, shim)
            site.prepare()
            yield site


def cells(name: str) -> list[tuple[int, str]]:
    """The codes, and the ways to fail with them."""
    slow = name == "ImportKeyMaterial"
    if WHOLE:
        return [(rv, way) for way in WAYS for rv in (OF_EACH_FATE if slow and way != "worked" else EVERY)]
    if slow:
        return [(rv, "worked") for rv in SOME]
    return [*((rv, "worked") for rv in OF_EACH_FATE), *((rv, "lasting") for rv in SOME)]


def functions_of(site: Site, act: Callable[[Site], str]) -> list[Function]:
    """What the scenario calls when all is well."""
    site.freshen()
    act(site)
    site.shim.reset()
    assert act(site) == ""
    return [function for function in Function if site.shim.calls(function)]


def allowed(function: Function, rv: int, way: str, name: str) -> set[str]:
    """The answers that tell the truth."""
    fate = CLASS_OF_CODE.get(rv, ErrorClass.OTHER)
    data = name != "ImportKeyMaterial" and function in (Function.ENCRYPT_INIT, Function.ENCRYPT, Function.DECRYPT_INIT)
    bad = "InvalidImportTokenException" if name == "ImportKeyMaterial" else "InvalidCiphertextException"
    if way != "lasting" and fate in (ErrorClass.SESSION, ErrorClass.HANDLE) and data:
        return {""}
    if function is Function.DECRYPT and fate is ErrorClass.DATA:
        return {bad}
    answers = {"", *RETRYABLE}
    if function is Function.DECRYPT and fate is ErrorClass.SUSPECT:
        answers.add(bad)
    if fate is ErrorClass.MECHANISM:
        answers.add("UnsupportedOperationException")
    if name == "ImportKeyMaterial" and function in OF_THE_BLOB:
        # What of these means a bad blob, tokens do not agree upon (kmsd/adapters/pkcs11/key_import.py).
        answers |= {"InvalidCiphertextException", "IncorrectKeyMaterialException"}
    if name == "ImportKeyMaterial" and fate is ErrorClass.HANDLE and way == "lasting":
        answers.add("InvalidImportTokenException")  # its wrapping key is gone, for all that the token says
    return answers


def again(site: Site, act: Callable[[Site], str], *, fate: ErrorClass = ErrorClass.OTHER) -> float:
    """Seconds until the scenario works again. Raises AssertionError.

    Only retryable errors may come meanwhile, and, of a fault that says so, that something is not supported.
    """
    begun = time.monotonic()
    while code := act(site):
        assert code in RETRYABLE or (code == "UnsupportedOperationException" and fate is ErrorClass.MECHANISM), code
        assert time.monotonic() - begun < HEAL_SECONDS, f"still {code} after {HEAL_SECONDS} s"
        time.sleep(0.005)
    return time.monotonic() - begun


def still_busy(site: Site) -> str:
    """What of the adapter is not at rest; empty when all is. A look after the token may take a moment to end."""
    end = time.monotonic() + HEAL_SECONDS
    while True:
        counters = site.token.counters
        left = {name: getattr(counters, name) for name in ("abandoned", "sessions_in_use", "waiting")}
        if not any(left.values()):
            return ""
        if time.monotonic() > end:
            return str(left)
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("site", "name"), CASES, indirect=["site"], scope="module")
def test_every_code_from_every_call(site: Site, name: str) -> None:
    """Nothing is blamed on the data that is not theirs, no session stays stuck, nothing crashes, and all goes on."""
    act, answers, wrong = SCENARIOS[name], Counter[str](), []
    reached, longest = 0, 0.0
    for function in functions_of(site, act):
        for rv, way in cells(name):
            site.freshen()
            site.shim.reset()
            site.shim.fail(function, rv, times=0 if way == "lasting" else 1, unworked=way == "unworked")
            code = act(site)
            reached += site.shim.calls(function) > 0
            site.shim.reset()
            answers[code or "success"] += 1
            where = f"{function.name} {name_of(rv)} ({way})"
            if code not in allowed(function, rv, way, name):
                wrong.append(f"{where}: {code or 'success'}")
            try:
                longest = max(longest, again(site, act))
            except AssertionError as error:
                wrong.append(f"{where}: then {error}")
                site.harness.restart()
                site.prepare()
            if left := still_busy(site):
                wrong.append(f"{where}: {left}")
            if wrong and where in wrong[-1]:
                log.warning("%s", wrong[-1])
    # Seen with --log-cli-level=INFO.
    log.info("%s: %d cells, of which the fault was met in %d; well again after %.3f s at the latest; %s",
             name, answers.total(), reached, longest, dict(answers))  # fmt: skip
    assert not wrong, "\n".join(wrong)


async def _trip(site: Site) -> None:
    link = site.token._link
    link.open_circuit(link.require(), "a test says so")


def heal(site: Site, function: Function | None = None, rv: int = 0, *, unworked: bool = False) -> float:
    """End the login, with one fault on the way back; seconds until a call works. Raises AssertionError."""
    site.shim.reset()
    if function is not None:
        site.shim.fail(function, rv, times=1, unworked=unworked)
    site.harness.run(_trip(site))
    return again(site, Site.encrypt, fate=CLASS_OF_CODE.get(rv, ErrorClass.OTHER))


@pytest.mark.slow
@pytest.mark.skipif(not (WHOLE or "KMSD_TEST_SLOW" in os.environ), reason="takes long; set KMSD_TEST_SLOW")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("site", ["object", "wrapped"] if WHOLE else ["object"], indirect=True, scope="module")
def test_every_code_while_the_token_comes_back(site: Site) -> None:
    """It is tried again until it works; but a PIN that was refused is offered no second time."""
    heal(site)
    on_the_way = [function for function in Function if site.shim.calls(function)]
    refused, longest, count = [], 0.0, 0
    for function in on_the_way:
        for rv in EVERY if WHOLE else SOME:
            for way in ("worked", "unworked") if WHOLE else ("worked",):
                count += 1
                # Logged in already, after C_Initialize: nobody knows by whom, so it is taken for another PIN.
                if function is Function.LOGIN and (
                    CLASS_OF_CODE.get(rv) is ErrorClass.PIN or rv == Ckr.USER_ALREADY_LOGGED_IN
                ):
                    with pytest.raises(AssertionError, match=r"still (KeyUnavailable|DependencyTimeout)Exception"):
                        heal(site, function, rv, unworked=way == "unworked")
                    assert site.shim.calls(Function.LOGIN) == 1
                    refused.append(name_of(rv))
                    site.harness.restart()
                    site.prepare()
                    continue
                longest = max(longest, heal(site, function, rv, unworked=way == "unworked"))
    assert site.token.counters.abandoned == 0
    log.info("%d cells: %s; back after %.3f s at the latest; the PIN was refused by %s",
             count, [function.name for function in on_the_way], longest, refused)  # fmt: skip

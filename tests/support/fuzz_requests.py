"""Requests that a confused or hostile client might send: by the API's own model, then bent. Repeatable by a seed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
import string
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import botocore.session

from kmsd import services
from kmsd.services import OPERATIONS
from tests.support.clients import REGION, Credentials

MODELS = {name: botocore.session.get_session().get_service_model(name) for name in ("kms", "logs", "sts")}
RARE = {
    "CreateKey": 0.04,
    "GetParametersForImport": 0.004,
    "RotateKeyOnDemand": 0.02,
    "CreateLogGroup": 0.1,
    "CreateLogStream": 0.1,
    "StartQuery": 0.05,
    "FilterLogEvents": 0.2,
    "GetLogEvents": 0.3,
    "ScheduleKeyDeletion": 0.1,
    "PutKeyPolicy": 0.2,
    "CreateGrant": 0.3,
}
"""How much less often than others: what costs the token long, or makes the test's world grow."""
ODD_TEXTS = (
    *("", " ", "\x00", "\u202e", "\ufeff", "é" * 300, "a" * 3000, "..", "../../etc/passwd", "%00", "{", "[", "null"),
    *("arn:aws:kms:us-east-1:000000000000:key/", "arn:::::", "alias/", "alias/aws/x", "*", "\U0001f511" * 40),
    *("$.a = 1", "{ $.x = *a* }", "[a, b, ...]", "%(a+)+$%", "fields @message | sort @timestamp"),
)
ODD_NUMBERS = (-1, 0, 1, 2**31, 2**63, -(2**63), 2**64, 10**30, 1.5, -0.0, 1e308, 1e-320)


@dataclass
class Pool:
    """What answers have brought, by the kind of member that takes it; the newest are kept."""

    things: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, kind: str, thing: Any) -> None:
        """Remember, and forget the oldest."""
        known = self.things.setdefault(kind, [])
        known.append(thing)
        if len(known) > 200:
            del known[:100]

    def learn(self, answer: Any) -> None:
        """From the JSON of an answer: ids, blobs, markers, tokens."""
        if isinstance(answer, dict):
            for name, value in answer.items():
                if isinstance(value, str) and name.lower() in _LEARNT:
                    self.add(_LEARNT[name.lower()], value)
                elif isinstance(value, dict | list):
                    self.learn(value)
        elif isinstance(answer, list):
            for one in answer[:5]:
                self.learn(one)


_LEARNT = {
    **dict.fromkeys(("keyid", "arn", "targetkeyid"), "key"),
    **{name: name for name in ("ciphertextblob", "granttoken", "grantid", "importtoken", "queryid", "aliasname")},
    **dict.fromkeys(("nextmarker", "nexttoken", "nextforwardtoken", "nextbackwardtoken"), "marker"),
}
_TAKEN = {
    **dict.fromkeys(("keyid", "sourcekeyid", "destinationkeyid", "targetkeyid", "kmskeyid"), "key"),
    **{name: name for name in ("ciphertextblob", "grantid", "importtoken", "queryid", "aliasname")},
    **dict.fromkeys(("granttoken", "granttokens"), "granttoken"),
    **dict.fromkeys(("marker", "nexttoken"), "marker"),
    **dict.fromkeys(("loggroupname", "loggroupidentifier", "loggroupnames"), "group"),
    **dict.fromkeys(("logstreamname", "logstreamnames"), "stream"),
    **dict.fromkeys(("granteeprincipal", "retiringprincipal"), "principal"),
    "policy": "policy",
    "filterpattern": "pattern",
    "querystring": "query",
}


class Generator:
    """Makes one request after the other."""

    def __init__(self, seed: int, host: str, credentials: Credentials, pool: Pool) -> None:
        self.chance = random.Random(seed)  # noqa: S311 (a repeatable choice of inputs)
        self.host, self.credentials, self.pool = host, credentials, pool
        self._keys: dict[tuple[str, str], bytes] = {}
        self._operations = [operation for operation in OPERATIONS if operation.service is not services.STS]
        self._weights = [RARE.get(operation.name, 1.0) for operation in self._operations]

    def next(self) -> tuple[bytes, bool]:
        """The bytes, and whether they are one whole HTTP request whose connection may be used on."""
        kind = self.chance.random()
        if kind < 0.02:
            return self._broken_http(), False
        if kind < 0.05:
            return self._form(), True
        operation = self.chance.choices(self._operations, self._weights)[0]
        body = self._body(operation.service.scope, operation.name)
        target = operation.target if self.chance.random() < 0.98 else self._bend(operation.target)
        return self._signed(operation.service.scope, target, body), True

    # --- bodies -------------------------------------------------------------------------------------

    def _body(self, service: str, name: str) -> bytes:
        shape = MODELS[service].operation_model(name).input_shape
        members = {} if shape is None else self._structure(shape, 0)
        text = json.dumps(members, ensure_ascii=self.chance.random() < 0.5).encode("utf-8", "surrogatepass")
        kind = self.chance.random()
        if kind < 0.90:
            return text
        return self.chance.choice(
            (
                lambda: text[: self.chance.randrange(len(text) + 1)],
                lambda: self._bent(text),
                lambda: text[:-1] + b"," + text[1:] if len(text) > 2 else b"{{}}",  # members twice
                lambda: b"[" * self.chance.choice((10, 1000, 100_000)),
                lambda: b'{"KeyId":' * 2000 + b"1" + b"}" * 2000,
                lambda: b'{"EncryptionContext":{"a":"\\ud800"},"KeyId":"x"}',
                lambda: b"\xef\xbb\xbf" + text,
                lambda: text.decode("utf-8", "replace").encode("utf-16"),
                lambda: b"",
                lambda: b"null",
                lambda: b'{"KeyId":NaN,"Limit":1e999}',
                lambda: b"{" + b",".join(b'"k%d":0' % n for n in range(5000)) + b"}",
            )
        )()

    def _bent(self, text: bytes) -> bytes:
        data = bytearray(text or b"{}")
        for _ in range(self.chance.randint(1, 4)):
            data[self.chance.randrange(len(data))] = self.chance.randrange(256)
        return bytes(data)

    def _bend(self, text: str) -> str:
        at = self.chance.randrange(len(text) + 1)
        return text[:at] + self.chance.choice(("x", ".", "", "é", '"')) + text[at + self.chance.randint(0, 2) :]

    def _structure(self, shape: Any, depth: int) -> dict[str, Any]:
        made = {}
        for name, member in shape.members.items():
            wanted = 0.97 if name in shape.required_members else 0.25
            if name == "DryRun":
                wanted = 0.02
            if self.chance.random() < wanted:
                made[name] = self._value(name, member, depth + 1)
        if self.chance.random() < 0.02:
            made[self.chance.choice(("Unknown", "keyid", "__type", ""))] = self._wrong()
        return made

    def _value(self, name: str, shape: Any, depth: int) -> Any:
        if self.chance.random() < 0.04:
            return self._wrong()
        known = self.pool.things.get(_TAKEN.get(name.lower(), ""))
        if known and shape.type_name in ("string", "blob") and self.chance.random() < 0.9:
            thing = self.chance.choice(known)
            return thing if self.chance.random() < 0.97 else self._bend(thing)
        makers: dict[str, Callable[[], Any]] = {
            "structure": lambda: self._structure(shape, depth),
            "list": lambda: [self._value(name, shape.member, depth) for _ in range(self._count())],
            "map": lambda: {self._text(shape.key): self._text(shape.value) for _ in range(self._count())},
            "string": lambda: self._text(shape),
            "blob": lambda: base64.b64encode(self.chance.randbytes(self.chance.choice((1, 16, 500, 4096)))).decode(),
            "boolean": lambda: self.chance.random() < 0.5,
            "timestamp": lambda: time.time() + self.chance.choice((-1e6, 60, 1e6, 1e12)),
        }
        return makers.get(shape.type_name, lambda: self._number(name))()

    def _count(self) -> int:
        return self.chance.choices((0, 1, 2, 5, 60, 1000), (2, 10, 4, 2, 0.2, 0.05))[0]

    def _number(self, name: str) -> Any:
        if name.lower() in ("timestamp", "starttime", "endtime"):
            now = time.time() * (1 if name.endswith("Time") and self.chance.random() < 0.3 else 1000)
            return int(now) + self.chance.randint(-10_000, 10_000)
        return self.chance.choice(ODD_NUMBERS) if self.chance.random() < 0.2 else self.chance.randint(1, 40)

    def _text(self, shape: Any) -> str:
        values = getattr(shape, "enum", None)
        if values and self.chance.random() < 0.95:
            return str(self.chance.choice(values))
        if self.chance.random() < 0.15:
            return self.chance.choice(ODD_TEXTS)
        return "".join(self.chance.choices(string.ascii_letters + string.digits + "/_-", k=self.chance.randint(1, 30)))

    def _wrong(self) -> Any:
        return self.chance.choice((None, True, [], {}, [[]], {"a": {"b": [1]}}, *ODD_NUMBERS, *ODD_TEXTS))

    # --- signatures and HTTP ------------------------------------------------------------------------

    def _form(self) -> bytes:
        fields = {
            "Action": self.chance.choice(("GetCallerIdentity", "GetSessionToken", "AssumeRole", "Nothing", "")),
            "Version": self.chance.choice(("2011-06-15", "2011-06-15", "1")),
            "RoleArn": self.chance.choice(("arn:aws:iam::000000000000:role/x", *ODD_TEXTS)),
            "RoleSessionName": self.chance.choice(("session", *ODD_TEXTS)),
            "DurationSeconds": self.chance.choice(("900", "-1", "9" * 40, "x")),
        }
        kept = {name: value for name, value in fields.items() if self.chance.random() < 0.9}
        body = urlencode(kept, errors="surrogatepass").encode()
        if self.chance.random() < 0.1:
            body = self._bent(body)
        return self._signed("sts", "", body)

    def _signed(self, service: str, target: str, body: bytes) -> bytes:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        kind = "application/x-www-form-urlencoded; charset=utf-8" if service == "sts" else "application/x-amz-json-1.1"
        headers = {"content-type": kind, "host": self.host, "x-amz-date": stamp}
        if target:
            headers["x-amz-target"] = target
        names = ";".join(headers)
        canonical = "\n".join(("POST", "/", "", *(f"{name}:{value}" for name, value in headers.items()), "", names))
        canonical += "\n" + hashlib.sha256(body).hexdigest()
        scope = f"{stamp[:8]}/{REGION}/{service}/aws4_request"
        digest = hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
        signature = hmac.new(self._key(stamp[:8], service), text.encode(), "sha256").hexdigest()
        authorization = (
            f"AWS4-HMAC-SHA256 Credential={self.credentials.access_key_id}/{scope}, "
            f"SignedHeaders={names}, Signature={signature}"
        )
        if self.chance.random() < 0.08:
            authorization = self._forged(authorization)
        lines = [*(f"{name}: {value}" for name, value in headers.items()), f"authorization: {authorization}"]
        if self.chance.random() < 0.01:
            lines.append(self.chance.choice(lines))
        head = "POST / HTTP/1.1\r\n" + "\r\n".join(lines) + f"\r\ncontent-length: {len(body)}\r\n\r\n"
        return head.encode("utf-8", "surrogatepass") + body

    def _key(self, day: str, service: str) -> bytes:
        found = self._keys.get((day, service))
        if found is None:
            found = f"AWS4{self.credentials.secret}".encode()
            for part in (day, REGION, service, "aws4_request"):
                found = hmac.new(found, part.encode(), "sha256").digest()
            self._keys[day, service] = found
        return found

    def _forged(self, text: str) -> str:
        return self.chance.choice(
            (
                lambda: text[:-1] + self.chance.choice("0123456789abcdefg"),
                lambda: text.replace("AKIA", "ASIA"),
                lambda: text.replace(REGION, "eu-west-1"),
                lambda: text.replace("content-type;", ""),
                lambda: text[: self.chance.randrange(len(text))],
                lambda: self._bend(text),
                lambda: "Basic QWxhZGRpbjpvcGVu",
                lambda: text + "," * self.chance.choice((1, 3000)),
            )
        )()

    def _broken_http(self) -> bytes:
        request = self._signed("kms", "TrentService.ListKeys", b"{}")
        head, _, body = request.partition(b"\r\n\r\n")
        return self.chance.choice(
            (
                lambda: head + b"\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
                lambda: head.replace(b"content-length: 2", b"content-length: 2\r\ncontent-length: 3") + b"\r\n\r\n{}",
                lambda: head.replace(b"content-length: 2", b"content-length: 99999999999999999999") + b"\r\n\r\n{}",
                lambda: head.replace(b"content-length: 2", b"content-length: +2") + b"\r\n\r\n{}",
                lambda: head.replace(b"content-length", b"content-length ") + b"\r\n\r\n{}",
                lambda: head.replace(b"HTTP/1.1", b"HTTP/9.9") + b"\r\n\r\n" + body,
                lambda: head.replace(b"POST / ", b"P\x00ST /\xff ") + b"\r\n\r\n" + body,
                lambda: head + b"\r\nx: " + b"y" * 9000 + b"\r\n\r\n" + body,
                lambda: head + b"\r\nx: y" * 200 + b"\r\n\r\n" + body,
                lambda: request * 3 + request[: self.chance.randrange(len(request))],
                lambda: self._bent(request),
                lambda: self.chance.randbytes(200),
                lambda: b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\nGET /healthz?x HTTP/1.1\r\n\r\n",
            )
        )()

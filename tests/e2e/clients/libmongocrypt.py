"""MongoDB's field level encryption without a server: libmongocrypt makes the requests, this script carries them.

A driver does the same (pymongo, `_EncryptionIO.kms_request`). The key vault is a list here, not a collection.
"""

from __future__ import annotations

import os
import socket
import ssl
from typing import Any
from urllib.parse import urlsplit

import bson
from pymongocrypt.options import MongoCryptOptions
from pymongocrypt.synchronous.explicit_encrypter import ExplicitEncrypter
from pymongocrypt.synchronous.state_machine import MongoCryptCallback

PLACE = urlsplit(os.environ["AWS_ENDPOINT_URL"])
AUTHORITY = ssl.create_default_context(cafile=os.environ["AWS_CA_BUNDLE"])
VAULT: list[bytes] = []


class Driver(MongoCryptCallback):
    """What a driver does for libmongocrypt."""

    def kms_request(self, kms_context: Any) -> None:
        """Send the bytes of a request over TLS, and feed the answer."""
        host, _, port = kms_context.endpoint.partition(":")
        with (
            socket.create_connection((host, int(port)), timeout=20) as plain,
            AUTHORITY.wrap_socket(plain, server_hostname=host) as connection,
        ):
            connection.sendall(kms_context.message)
            while kms_context.bytes_needed > 0:
                kms_context.feed(connection.recv(kms_context.bytes_needed))

    def fetch_keys(self, filter: Any) -> list[bytes]:  # noqa: A002, ARG002 (the library's name; there is one key)
        """All data keys."""
        return list(VAULT)

    def insert_data_key(self, key: Any) -> Any:
        """Keep a data key, and return its id."""
        VAULT.append(bytes(key))
        return bson.decode(bytes(key))["_id"]

    def bson_encode(self, doc: Any) -> bytes:
        """A document as BSON."""
        return bson.encode(doc)

    def collection_info(self, database: Any, filter: Any) -> Any:  # noqa: A002 (as above)
        """Automatic encryption alone asks for it."""
        raise NotImplementedError

    def mark_command(self, database: Any, cmd: Any) -> Any:
        """As above."""
        raise NotImplementedError

    def close(self) -> None:
        """There is nothing to close."""


def encrypter() -> ExplicitEncrypter:
    """A client that has no data key in its cache."""
    access = {"accessKeyId": os.environ["AWS_ACCESS_KEY_ID"], "secretAccessKey": os.environ["AWS_SECRET_ACCESS_KEY"]}
    return ExplicitEncrypter(Driver(), MongoCryptOptions({"aws": access}))


writer, reader = encrypter(), encrypter()
master_key = {"region": os.environ["AWS_DEFAULT_REGION"], "key": os.environ["KEY"], "endpoint": PLACE.netloc}
data_key = writer.create_data_key("aws", master_key=master_key)
sealed = writer.encrypt(
    bson.encode({"v": "attack at dawn"}), "AEAD_AES_256_CBC_HMAC_SHA_512-Random", key_id=bytes(data_key)
)
print(bson.decode(bytes(reader.decrypt(sealed)))["v"])  # noqa: T201 (its result)

"""Every path to a key: who may make an authenticated caller, and who may have the token use one (`kmsd.pipeline`)."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import kmsd
from kmsd.operations.declaration import WriteCall
from kmsd.ports import Token, WrappedCustody
from kmsd.services import OPERATIONS

PACKAGE = Path(kmsd.__file__).parent
HARMLESS = {
    "counters",
    "needs_new_process",
    "check",
    "close",
    "invalidate",
    "info",
    "capabilities",
    "import_capabilities",
    "key_offers",
    "random",
    "public_key",
    "list_objects",
    "attributes",
    "custody",
    "prove",
    "unwrappable",
    "require_bound",
}
"""What of the token neither uses, makes nor destroys key material."""
USES = {name for port in (Token, WrappedCustody) for name in vars(port) if not name.startswith("_")} - HARMLESS
MODULES = {
    "token_objects",
    "key_material",
    "imported_material",
    "data_key_pairs",
    "encryption",
    "rsa_encryption",
    "signatures",
    "key_agreement",
    "key_encapsulation",
}
OTHERS = {"data_key.cipher", "self._numbers", "self", "reader", "parser", "public", "request", "builder"} | MODULES
"""Expressions that have such a method and are no token: `cryptography`, system calls, modules of this table."""
SEALER = re.compile(r"\bsealer$|\bServiceSealer\b|\bservice_sealer\b")
"""`ServiceSealer`, which has the token encrypt; it is in the table."""
PATHS = {
    # Data keys and ciphertexts of clients, by the pipeline or for a log group; then what the daemon seals for itself.
    "custody/encryption.py": {"tokens.of(material).encrypt", "tokens.of(material).decrypt"},
    "custody/rsa_encryption.py": {"token.decrypt_rsa"},
    "custody/signatures.py": {"token.sign"},
    "custody/macs.py": {"tokens.of(material).mac"},
    "custody/key_agreement.py": {"tokens.of(material).agree"},
    "custody/key_encapsulation.py": {"tokens.of(material).encapsulate", "tokens.of(material).decapsulate"},
    "custody/service_sealer.py": {"self.token.encrypt", "self.token.decrypt"},
    # How key material comes about, comes in, and goes.
    "custody/shared_service_keys.py": {"token.custody.generate"},
    "custody/import_parameters.py": {"token.generate_wrapping_key", "token.custody.generate"},
    "custody/incoming_material.py": {
        *("self.token.unwrap_key", "self.token.import_key", "self.token.destroy"),
        *("tokens.main.transport_key", "tokens[wrapping_key.token].rewrap_for"),
        "self.token.custody.import_material",
    },
    "custody/key_material.py": {
        *("token.generate_key", "token.generate_key_pair", "token.generate_mac_key"),
        "token.custody.generate",
    },
    "jobs/rewrap.py": {"tokens[old.token].custody.rewrap"},
    "jobs/reconcile.py": {"token.destroy"},
    "custody/provisioning.py": {"token.generate_key", "token.generate_key_pair"},
    "custody/token_objects.py": {"token.destroy"},
    # The audit key, which signs checkpoints, backups, and the proof that a backup belongs to the token.
    "app.py": {"token.sign"},
    "backup/create.py": {"signer.sign"},
    # The operator, who destroys a domain key. Key ceremonies and proofs are in the adapter.
    "cli/commands/domain_keys.py": {"token.destroy"},
    "cli/commands/key_documents.py": {"signer.sign"},
    "backup/token_match.py": {"token.sign"},
}
"""By file: what it asks of a token. The adapters, which implement it, are left out."""


def trees() -> Iterator[tuple[str, ast.Module]]:
    """Every file of the package by its name, parsed."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield str(path.relative_to(PACKAGE)), ast.parse(path.read_text())


def test_only_a_verified_signature_makes_an_authenticated_caller() -> None:
    """Of a request, or of a web token. The class is named elsewhere, and called, copied or handed on there alone."""
    name = "AuthenticatedCaller"
    makers = {
        file
        for file, tree in trees()
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and any(name in ast.dump(part) for part in (call.func, *call.args, *(one.value for one in call.keywords)))
    }
    assert makers == {"wire/sigv4/claim.py", "wire/web_identity/verification.py"}


def test_who_has_the_token_use_a_key() -> None:
    """Just the files of the table. Another one is a decision, to be noted here and in the pipeline's table."""
    found: dict[str, set[str]] = {}
    for file, tree in trees():
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Attribute) and node.attr in USES):
                continue
            holder = ast.unparse(node.value)
            if holder not in OTHERS and not SEALER.search(holder):
                found.setdefault(file, set()).add(ast.unparse(node))
    assert {file: asked for file, asked in found.items() if not file.startswith(("adapters/", "ports/"))} == PATHS


def test_the_table_is_of_the_port() -> None:
    """A method that the token gets is one that uses keys, until it is said to be harmless."""
    assert {*vars(Token), *vars(WrappedCustody)} > HARMLESS
    assert {"encrypt", "decrypt", "sign", "unwrap_key", "destroy"} < USES


def test_only_operations_that_write_reach_a_transaction() -> None:
    """The type of a handler's call says so: `Call` has no transaction."""
    wrong = set()
    for operation in OPERATIONS:
        for act in filter(None, (operation.handle, operation.prepare)):
            parameters = list(inspect.signature(act, eval_str=True).parameters.values())
            if parameters[1].annotation is WriteCall and not operation.writes:
                wrong.add(operation.name)
    assert wrong == set()

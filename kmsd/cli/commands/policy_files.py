"""Policies that a command reads from files, and warnings about them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Mapping

from kmsd.authz import actions
from kmsd.authz.new_policy import parse_new
from kmsd.cli.named_files import InputFile
from kmsd.domain.policy import PolicyKind
from kmsd.errors import MalformedPolicyDocumentException
from kmsd.exit_codes import InputRefused


def add_policy(command: argparse.ArgumentParser, text: str, *, required: bool = False) -> None:
    """Add the option that names an identity policy."""
    command.add_argument(
        "--policy", type=InputFile, required=required, metavar="FILE", help=f"{text}; `-` reads standard input"
    )


def add_trust(command: argparse.ArgumentParser) -> None:
    """Add the option that names a trust policy."""
    command.add_argument(
        "--trust",
        type=InputFile,
        required=True,
        metavar="FILE",
        help="trust policy: who may assume the role; `-` reads standard input",
    )


def read_policy(file: InputFile, kind: PolicyKind = PolicyKind.IDENTITY, claims: Collection[str] = ()) -> str:
    """Return a policy from a file, by default an identity policy. Misspelt actions are reported on standard error.

    `claims`: condition keys that a trust policy may have besides (`kmsd.app.issuer_claims`).

    Raises `NotFound`, or `InputRefused`, naming the place, if the text is not a policy.
    """
    text = file.read_text()
    try:
        policy = parse_new(text, kind=kind, claims=claims)
    except MalformedPolicyDocumentException as exc:
        raise InputRefused(f"{file}: {exc.message}") from exc
    for place, complaint in actions.complaints(policy):
        print(f"kmsd: warning: {file}: {place}: {complaint}", file=sys.stderr)
    return text


def read_policies(file: InputFile | None) -> Mapping[str, str]:
    """Return the identity policies of a user or role: one, named after its file, or none. Raises as `read_policy`."""
    return {} if file is None else {file.stem: read_policy(file)}

"""Findings of `kmsd restore` before it puts anything in place: their report, and what the operator must accept."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import msgspec

from kmsd.backup.further_tokens import AbsentToken
from kmsd.backup.manifest import Manifest
from kmsd.backup.token_match import TokenComparison
from kmsd.backup.trail_comparison import Relation, Revocation, TrailComparison
from kmsd.config.sections import Config
from kmsd.domain.domain_key import DomainKey
from kmsd.domain.material import TokenName
from kmsd.exit_codes import InputRefused
from kmsd.ports import TokenObject

MAX_SHOWN = 50
ROLLED_BACK = (
    "What was done after the backup is undone, and no trail here tells what it was: access keys, grants and policies\n"
    "that were taken away since are valid again{keys}. Put the newer trail into {directory} if there is one,\n"
    "or accept it"
)
REVIVED_KEYS = ", and keys that were deleted since live again with the token that comes with it"


class Refused(InputRefused):
    """Nothing was changed; the text says why, and what to do."""


class Findings(msgspec.Struct, frozen=True):
    """Findings that the operator must know before the restore goes on."""

    manifest: Manifest
    compared: tuple[TokenComparison, ...]
    """The main token comes first."""
    absent: tuple[AbsentToken, ...]
    """Further tokens that could not be compared."""
    trails: TrailComparison
    revoked: tuple[Revocation, ...]
    unseen_nodes: tuple[str, ...]
    """Ids of nodes that had published checkpoints, and whose trail was not given."""

    @property
    def missing(self) -> list[TokenObject]:
        """Return the missing objects of all tokens that were compared."""
        return [row for one in self.compared for row in one.missing]

    @property
    def domain_keys(self) -> list[DomainKey]:
        """Return the missing domain keys of all tokens that were compared."""
        return [domain_key for one in self.compared for domain_key, _ in one.domain_keys]


def recorded(findings: Findings) -> dict[str, object]:
    """Return the elements of the restore's audit record."""
    return {
        "missing": len(findings.missing),
        "missingDomainKeys": [domain_key.domain_key_id.hex() for domain_key in findings.domain_keys],
        "missingObjects": [row.object_id.hex() for row in findings.missing[:MAX_SHOWN]],
        "absentTokens": [str(one.token) for one in findings.absent],
        "unknown": sum(len(one.unknown) for one in findings.compared),
        "undone": len(findings.revoked),
    }


def report(findings: Findings, intents: int) -> None:
    """Print the findings; `intents` is the number of keys that were being made when the backup was."""
    for compared in findings.compared:
        _report_token(compared)
    for absent in findings.absent:
        _report_absent(absent)
    if intents:
        print(f"note {intents} keys were being made when the backup was: they are not in it")
    if destroying := sum(one.destroying for one in findings.compared):
        print(f"note {destroying} objects were being destroyed: the daemon carries that out")
    _list("LIVE", [f"comes back: {item}" for item in findings.revoked])


def _report_token(compared: TokenComparison) -> None:
    token = "the token" if compared.token == TokenName.MAIN else f"the token {compared.token}"
    print(f"ok   {token} is the one of this backup")
    _list("FAIL", [f"{item.kind} {item.object_id.hex()} in {token}: {item.problem}" for item in compared.unfit])
    _list("MISS", [f"{row.owner} {row.object_id.hex()} is not in {token}" for row in compared.missing])
    _list(
        "MISS",
        [
            f"domain key {domain_key.domain_key_id.hex()} is not in {token}: {count} key materials cannot be opened"
            for domain_key, count in compared.domain_keys
        ],
    )
    unknown = [f"{item.kind} {item.object_id.hex()} in {token} is not in the database" for item in compared.unknown]
    _list("note", [f"{text}: newer than the backup, or another daemon's; it is left alone" for text in unknown])


def _report_absent(absent: AbsentToken) -> None:
    text = f"the token {absent.token} was not compared: {absent.reason}"
    if absent.is_needed:
        holds = f"{absent.objects} objects, {absent.domain_keys} domain keys; {absent.keys} keys depend on it"
        print(f"MISS {text}. It should hold {holds}")
    else:
        print(f"note {text}. No key of this backup depends on it")


def _list(verdict: str, texts: Sequence[str]) -> None:
    for text in texts[:MAX_SHOWN]:
        print(f"{verdict} {text}")
    if len(texts) > MAX_SHOWN:
        print(f"{verdict} and {len(texts) - MAX_SHOWN} more")


def require_accepted(config: Config, options: argparse.Namespace, findings: Findings) -> None:
    """Raise `Refused` for findings that were not accepted; a check prints them."""
    main = findings.compared[0]
    if main.unfit and options.with_token:
        raise Refused("the token in this backup holds objects that the daemon did not make so (FAIL, above)")
    wanted = [] if options.accept_missing else _what_is_missing(findings)
    if findings.revoked and not options.accept_revived:
        wanted.append(
            f"{len(findings.revoked)} acts that took something away would be undone (LIVE, above). "
            "Do them again afterwards, and accept it with --accept-revived"
        )
    if not findings.trails.goes_further and not options.accept_rollback:
        keys = REVIVED_KEYS if options.with_token else ""
        wanted.append(ROLLED_BACK.format(directory=config.audit_dir, keys=keys) + " with --accept-rollback")
    if findings.unseen_nodes and not options.accept_rollback:
        wanted.append(
            f"What was taken away on other nodes is not known: the trails of {', '.join(findings.unseen_nodes)} are "
            "not here. Name copies of their folders with --trail, or accept it with --accept-rollback"
        )
    if findings.trails.relation is Relation.OTHER and not (options.replace or options.check):
        wanted.append(f"{config.audit_dir} holds another trail: --replace moves it aside")
    if wanted and not options.check:
        raise Refused("\n".join(wanted))
    for text in wanted:
        print(f"note {text}")


def _what_is_missing(findings: Findings) -> list[str]:
    """Return what the operator must accept of objects and tokens that are missing."""
    wanted = []
    if missing := len(findings.missing) + len(findings.domain_keys):
        wanted.append(
            f"{missing} objects are missing (MISS, above): their keys would be Unavailable. "
            "Restore the token first, or accept it with --accept-missing"
        )
    wanted += [
        f"the token {one.token} was not compared (MISS, above): its {one.keys} keys cannot be used until it is back. "
        "Connect it and name it in kmsd.toml, or accept it with --accept-missing"
        for one in findings.absent
        if one.is_needed
    ]
    return wanted

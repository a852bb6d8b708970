"""Interfaces between the core and its adapters: token, store, audit sink, clock.

The docstrings of each port state its promises; tests/contract checks every adapter against them. Errors of ports are
not errors of the API: `kmsd.pipeline` translates them.
"""

from kmsd.ports.audit import AuditSink, AuditUnavailable
from kmsd.ports.clock import Clock, TrustedClock
from kmsd.ports.store import Reader, Store, Transaction
from kmsd.ports.store_records import (
    DueKind,
    Node,
    NodeCheckpoint,
    ServiceKey,
    SessionMac,
    StoreConflict,
    StoreError,
    StoreMissing,
    StoreTimeout,
    StoreUnavailable,
    StoreUnfit,
    TextRefused,
    TokenObject,
)
from kmsd.ports.token import Token
from kmsd.ports.token_records import (
    Capabilities,
    CustodyNotEnforced,
    ImportCapabilities,
    ImportedKey,
    InvalidLength,
    KeyOffer,
    MaterialMismatch,
    MechanismMissing,
    ModuleUnusable,
    NoSuchObject,
    NotAuthentic,
    ObjectReport,
    PinRefused,
    TamperedMaterial,
    TokenBusy,
    TokenError,
    TokenInfo,
    TokenTimeout,
    TokenUnavailable,
    UnsuitableMaterial,
    UnwrapFailed,
    Wrapped,
)
from kmsd.ports.tokens import Tokens
from kmsd.ports.wrapped_custody import WrappedCustody

__all__ = [
    "AuditSink",
    "AuditUnavailable",
    "Capabilities",
    "Clock",
    "CustodyNotEnforced",
    "DueKind",
    "ImportCapabilities",
    "ImportedKey",
    "InvalidLength",
    "KeyOffer",
    "MaterialMismatch",
    "MechanismMissing",
    "ModuleUnusable",
    "NoSuchObject",
    "Node",
    "NodeCheckpoint",
    "NotAuthentic",
    "ObjectReport",
    "PinRefused",
    "Reader",
    "ServiceKey",
    "SessionMac",
    "Store",
    "StoreConflict",
    "StoreError",
    "StoreMissing",
    "StoreTimeout",
    "StoreUnavailable",
    "StoreUnfit",
    "TamperedMaterial",
    "TextRefused",
    "Token",
    "TokenBusy",
    "TokenError",
    "TokenInfo",
    "TokenObject",
    "TokenTimeout",
    "TokenUnavailable",
    "Tokens",
    "Transaction",
    "TrustedClock",
    "UnsuitableMaterial",
    "UnwrapFailed",
    "Wrapped",
    "WrappedCustody",
]

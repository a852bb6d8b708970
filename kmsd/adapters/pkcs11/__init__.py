"""Token port on PKCS#11 modules: `Pkcs11Token.open(TokenSettings(...))`."""

from kmsd.adapters.pkcs11.settings import TokenSettings
from kmsd.adapters.pkcs11.token import Pkcs11Token
from kmsd.ports.counters import CallCounter, TokenCounters

__all__ = ["CallCounter", "Pkcs11Token", "TokenCounters", "TokenSettings"]

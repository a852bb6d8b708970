"""Token port on PKCS#11 modules: `Pkcs11Token.open(TokenSettings(...))`."""

from kmsd.adapters.pkcs11.counters import CallCounter, TokenCounters
from kmsd.adapters.pkcs11.settings import TokenSettings
from kmsd.adapters.pkcs11.token import Pkcs11Token

__all__ = ["CallCounter", "Pkcs11Token", "TokenCounters", "TokenSettings"]

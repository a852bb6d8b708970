"""AWS KMS over a PKCS#11 token."""

__version__ = "0.1.0"
"""Version of the release; pyproject.toml reads it here."""

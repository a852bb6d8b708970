"""Encrypted events in files: one folder per log group, append-only segments in it, an index for each."""

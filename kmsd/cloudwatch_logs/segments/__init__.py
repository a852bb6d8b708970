"""Sealed events in files: one folder for each log group, append-only segments in it, an index beside each."""

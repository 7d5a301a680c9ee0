"""What lies under which name in a run directory?"""

from __future__ import annotations

LEDGER, MANIFEST, TABLE, JOB = "ledger.db", "manifest.parquet", "results.parquet", "job.json"
"""The account, the manifest as it was read, the results, what the run was told."""

COUNTED = ("images", "drafts", "corrupt")
"""Folders of which every file belongs to a row."""

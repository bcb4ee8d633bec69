"""Programs that stand in for others in tests of shell scripts."""

from __future__ import annotations

from pathlib import Path


def executable(path: Path, script: str) -> None:
    """Write a program of bash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{script}\n")
    path.chmod(0o755)

"""The documented settings are the real ones."""

from __future__ import annotations

from tests.launch import REPO_ROOT
from tests.settings_doc import SETTINGS, render, rows


def test_the_page_of_settings_is_up_to_date() -> None:
    assert SETTINGS.read_text(encoding="utf-8") == render(), "write it again: python -m tests.settings_doc"


def test_the_readme_shows_settings_as_they_are() -> None:
    lines = (REPO_ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    real = {tuple(line.split(" | ")[:2] + line.split(" | ")[3:]) for line in rows()}
    shown = {tuple(line.split(" | ")) for line in lines if line.startswith("| `") and line.count(" | ") == 2}
    assert shown
    assert shown <= real

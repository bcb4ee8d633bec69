"""The file config.yaml of a run directory, and the settings of a job that goes on.

A job that goes on keeps its settings, except those that the command line gives again. So a setting that the user
forgets to repeat does not change the job. The changes are shown, so that the user sees them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bagpipe_hpc.bounded_json import read_bounded
from bagpipe_hpc.checkpoint.checkpoint import Checkpoint
from bagpipe_hpc.checkpoint.file_names import BEST, LATEST
from bagpipe_hpc.checkpoint.verify import newest_good
from bagpipe_hpc.config import Config, Settings, SettingsSource, changed_settings, read_settings, settings_in
from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.runtime.run_directory import write_at_once
from bagpipe_hpc.strict_yaml import MAX_BYTES, decode_yaml, parse_yaml

AUTO = "auto"
FILE = "config.yaml"

# The line has no colon, so if its first character is damaged, the file is not valid YAML.
_HEADER = "# sha256 {} of all lines below; delete this line if you edit them by hand"
_HEADER_LINE = re.compile(_HEADER.format("([0-9a-f]{64})"))


def write_run_settings(run_path: Path, config: Config) -> None:
    """Write config.yaml: its checksum, then all settings, also those that have their default.

    Raises:
        BagpipeError: the file cannot be written.
    """
    text = config.to_yaml().encode()
    header = _HEADER.format(hashlib.sha256(text).hexdigest()).encode() + b"\n"
    write_at_once(run_path / FILE, header + text)


def read_run_settings(run_path: Path) -> Settings | None:
    """Return the settings of the start before, or None if there was none.

    If the first line of the file is not a comment, the user has edited it, so there is no checksum to check.

    Raises:
        ConfigError: the file contradicts its checksum, or is not valid YAML.
    """
    path = run_path / FILE
    if not path.exists():
        return None
    content = read_bounded(path, max_bytes=MAX_BYTES, error=ConfigError, mend="restore it, or choose another --run-dir")
    text = decode_yaml(content, path, "configuration")
    if not text.strip():
        raise ConfigError(f"{path} is empty: it was damaged; restore it, or delete it and give all settings again")
    first, _, rest = text.partition("\n")
    name = f"configuration {path}"
    if first.startswith("#"):
        _require_checksum(path, first, rest)
        text = f"\n{rest}"  # the empty line keeps the line numbers in messages right
    else:
        name += ", edited by hand"
    return settings_in(parse_yaml(text, name), name)


def _require_checksum(path: Path, header: str, text: str) -> None:
    cure = (
        "if you edited it, delete its first line, and it is used without a check; if not, it is damaged: delete the "
        "file and give all settings again"
    )
    found = _HEADER_LINE.fullmatch(header)
    if found is None:
        raise ConfigError(f"{path} begins with a comment that is not its checksum; {cure}")
    if hashlib.sha256(text.encode()).hexdigest() != found[1]:
        raise ConfigError(f"{path} contradicts the checksum in its first line; {cure}")


def settings_of_job(
    source: SettingsSource, overrides: Sequence[str], run_path: Path, resume: str | None
) -> tuple[Config, list[str]]:
    """Return all settings of a job that may go on from a checkpoint.

    Args:
        source: The settings that the command line or a program gives.
        overrides: Further settings, as `section.key=value`. They replace those of source.
        run_path: The run directory.
        resume: Where the other settings come from. "auto", "latest", "best": the run directory. A path: this
            checkpoint. None: the defaults.
    Returns:
        The settings, and lines for the user that say where they come from.
    Raises:
        ConfigError: settings are wrong. The message names all of them.
        CheckpointError: there is no such checkpoint, or its manifest is damaged.
    """
    given = read_settings(source)
    base = _settings_before(given.overridden(overrides), run_path, resume)
    if base is None:
        return given.overridden(overrides).validated(), []
    config = given.over(base).overridden(overrides).validated()
    require_named_factory(base, given.overridden(overrides))
    return config, _shown_changes(base, config)


def is_word(resume: str) -> bool:
    """Return whether the text is a word for a checkpoint of the job's own directory, and not a path.

    The words are "auto", "latest" and "best".
    """
    return resume == AUTO or (resume in (LATEST, BEST) and not Path(resume).exists())


def settings_of_checkpoint(checkpoint: Checkpoint) -> Settings:
    """Return the settings of the job that has written a checkpoint."""
    return Settings(checkpoint.manifest.config, f"settings in the manifest of {checkpoint.path}")


def require_named_factory(base: Settings, given: Settings) -> None:
    """Check that the user names the code of the user's own model, and not only a file.

    Args:
        base: The settings of a file.
        given: The settings that the user gives now.
    Raises:
        ConfigError: base has a model.factory, and given has none.
    """
    factory = _factory_in(base)
    if factory is not None and "factory" not in _section(given, "model"):
        raise ConfigError(
            f"{base.source}: model.factory = {factory!r} names code to run, but code that only a file of a run "
            f"directory or a checkpoint names is never run: if you trust this code, give --set model.factory={factory}"
        )


def _factory_in(settings: Settings) -> Any:
    return _section(settings, "model").get("factory")


def _section(settings: Settings, name: str) -> dict[str, Any]:
    section = settings.values.get(name)
    return section if isinstance(section, dict) else {}


def _settings_before(given: Settings, run_path: Path, resume: str | None) -> Settings | None:
    if resume is None:
        return None
    if not is_word(resume):
        before = settings_of_checkpoint(Checkpoint.open(Path(resume)))
        # This job has a run directory of its own, so it does not write where the other run wrote its checkpoints.
        section = {name: value for name, value in _section(before, "checkpoint").items() if name != "directory"}
        return replace(before, values={**before.values, "checkpoint": section})
    before_here = read_run_settings(run_path)
    if before_here is not None:
        return before_here
    root = Path(_section(given, "checkpoint").get("directory") or run_path / "checkpoints")
    checkpoint, _ = newest_good(root, Checkpoint.open)
    return settings_of_checkpoint(checkpoint) if checkpoint is not None else None


def _shown_changes(base: Settings, config: Config) -> list[str]:
    changes = changed_settings(base.validated(), config)
    if not changes:
        return [f"{base.source}: used without changes"]
    lines = [f"{base.source}: used, with these changes by the command line:"]
    return [*lines, *(f"  {name}: {shown_value(before)} -> {shown_value(after)}" for name, before, after in changes)]


def shown_value(value: Any) -> str:
    """Return a setting as messages show it."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

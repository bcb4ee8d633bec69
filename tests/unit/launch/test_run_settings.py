"""config.yaml is held against its checksum, and a job that goes on has the settings it had."""

from __future__ import annotations

from pathlib import Path

import pytest

from bagpipe_hpc.config import Config, load_config
from bagpipe_hpc.errors import BagpipeError, ConfigError
from bagpipe_hpc.launch.run_settings import FILE, read_run_settings, settings_of_job, write_run_settings
from tests.unit.checkpoint.job import Job

BEFORE = load_config(None, ["training.epochs=20", "training.seed=7", "tables.t.pooling=mean"])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory that a job left behind."""
    write_run_settings(tmp_path, BEFORE)
    return tmp_path


def test_settings_are_taken_over(run: Path) -> None:
    config, lines = settings_of_job(None, [], run, "auto")
    assert config == BEFORE
    assert lines == [f"configuration {run}/config.yaml: used without changes"]


def test_what_the_command_line_changes_is_listed(run: Path) -> None:
    (run / "job.yaml").write_text("training: {epochs: 20, batch_size: 64}\n")
    config, lines = settings_of_job(run / "job.yaml", ["training.epochs=30", "tensorboard=true"], run, "auto")
    assert (config.training.epochs, config.training.seed, config.training.batch_size) == (30, 7, 64)
    assert lines == [
        f"configuration {run}/config.yaml: used, with these changes by the command line:",
        "  training.batch_size: 256 -> 64",
        "  training.epochs: 20 -> 30",
        "  tensorboard: false -> true",
    ]


def test_parts_of_tables_change_one_by_one(run: Path) -> None:
    config, _ = settings_of_job(None, ["tables.u.pooling=mean"], run, "auto")
    assert set(config.tables) == {"t", "u"}


def test_a_configuration_of_a_program_changes_what_it_was_given(run: Path) -> None:
    config, _ = settings_of_job(load_config(None, ["training.epochs=9"]), [], run, "auto")
    assert (config.training.epochs, config.training.seed) == (9, 7)


def test_a_fresh_start_takes_nothing_over(run: Path) -> None:
    assert settings_of_job(None, [], run, None) == (Config(), [])
    assert settings_of_job(None, [], run / "new", "auto") == (Config(), [])


def test_a_file_edited_by_hand_is_taken_without_its_first_line(run: Path) -> None:
    path = run / FILE
    path.write_text(path.read_text().replace("epochs: 20", "epochs: 21"))
    with pytest.raises(ConfigError, match=r"config.yaml contradicts the checksum in its first line; if you edited it"):
        read_run_settings(run)
    path.write_text(path.read_text().partition("\n")[2])
    config, lines = settings_of_job(None, [], run, "auto")
    assert config.training.epochs == 21
    assert lines == [f"configuration {path}, edited by hand: used without changes"]
    path.write_text("# mine\n" + path.read_text())
    with pytest.raises(ConfigError, match="begins with a comment that is not its checksum; if you edited it, delete"):
        read_run_settings(run)
    path.write_text("training: {epoch: 3}\n")
    with pytest.raises(ConfigError, match=r"config.yaml, edited by hand: line 1: unknown setting 'training.epoch'"):
        settings_of_job(None, [], run, "auto")


def test_every_flipped_bit_is_found(run: Path) -> None:
    content = (run / FILE).read_bytes()
    for index in range(len(content)):
        flipped = bytearray(content)
        flipped[index] ^= 1 << index % 8
        (run / FILE).write_bytes(flipped)
        with pytest.raises(ConfigError, match=FILE):
            read_run_settings(run)
    for bit in range(8):
        (run / FILE).write_bytes(bytes([content[0] ^ 1 << bit]) + content[1:])
        with pytest.raises(ConfigError, match=FILE):
            read_run_settings(run)


def test_a_file_cut_off_anywhere_is_found(run: Path) -> None:
    content = (run / FILE).read_bytes()
    for length in (0, 1, 50, 120, len(content) // 2, len(content) - 1):
        (run / FILE).write_bytes(content[:length])
        with pytest.raises(ConfigError, match=FILE):
            read_run_settings(run)


def test_without_the_file_the_newest_checkpoint_has_the_settings(tmp_path: Path) -> None:
    job = Job(tmp_path / "checkpoints", settings=BEFORE.model_dump(mode="json"))
    job.train()
    path = job.save()
    config, lines = settings_of_job(None, ["training.epochs=21"], tmp_path, "auto")
    assert (config.training.seed, config.training.epochs) == (7, 21)
    assert lines[0] == (f"settings in the manifest of {path}: used, with these changes by the command line:")


def test_a_checkpoint_of_another_run_has_its_settings_but_not_its_place(tmp_path: Path) -> None:
    settings = load_config(None, ["training.seed=7", f"checkpoint.directory={tmp_path}/elsewhere"])
    job = Job(tmp_path / "elsewhere", settings=settings.model_dump(mode="json"))
    job.train()
    config, _ = settings_of_job(None, [], tmp_path / "run", str(job.save()))
    assert (config.training.seed, config.checkpoint.directory) == (7, None)


def test_code_that_a_file_names_is_not_run(tmp_path: Path) -> None:
    write_run_settings(tmp_path, load_config(None, ["model.factory=their_model:build"]))
    with pytest.raises(
        ConfigError, match=r"code that only a file .* names is never run: .* --set model.factory=their_model:build"
    ):
        settings_of_job(None, [], tmp_path, "auto")
    named = settings_of_job(None, ["model.factory=their_model:build"], tmp_path, "auto")[0]
    assert named.model.factory == "their_model:build"
    (tmp_path / "job.yaml").write_text("model: {factory: 'my_model:build'}\n")
    assert settings_of_job(tmp_path / "job.yaml", [], tmp_path, "auto")[0].model.factory == "my_model:build"


def test_a_file_system_that_is_full(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").mkdir()
    with pytest.raises(BagpipeError, match=r"config.yaml cannot be written: Is a directory"):
        write_run_settings(tmp_path, BEFORE)

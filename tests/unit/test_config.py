"""Settings: defaults, files, overrides, and what is said when they are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from bagpipe_hpc.config import Config, load_config, setting_names
from bagpipe_hpc.errors import ConfigError


def load(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, [])


def test_the_defaults_are_valid() -> None:
    assert load_config(None, []) == Config()


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "training: {}"])
def test_an_empty_file_means_the_defaults(tmp_path: Path, text: str) -> None:
    assert load(tmp_path, text) == Config()


def test_a_configuration_survives_yaml(tmp_path: Path) -> None:
    config = load_config(None, ["mode=synchronous", "model.bottom_mlp=[3]", "training.learning_rate=1e-1"])
    assert load(tmp_path, config.to_yaml()) == config
    assert config.model.bottom_mlp == (3,)


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config().training.epochs = 2  # type: ignore[misc]


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("training: {epochs: 2, seed: 5}\n")
    config = load_config(path, ["training.epochs=3", "transport=direct", "training.epochs=4", "cache.rows=null"])
    assert (config.training.epochs, config.training.seed, config.transport) == (4, 5, "direct")
    assert config.cache.rows is None


def test_synchronous_mode_looks_nowhere() -> None:
    assert (Config().window, Config().prefetch_depth) == (64, 4)
    synchronous = load_config(None, ["mode=synchronous"])
    assert (synchronous.window, synchronous.prefetch_depth) == (0, 0)


def test_setting_names_are_dotted_and_all_there() -> None:
    names = setting_names()
    assert {"mode", "transport", "lookahead.window", "cache.rows", "model.top_mlp", "evaluation.enabled"} <= set(names)
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("moode=cached", ["'moode'", "did you mean mode?", "mode, transport"]),
        ("training.learning_rte=1", ["'training.learning_rte'", "did you mean training.learning_rate?"]),
        ("lookahead.windows=1", ["did you mean lookahead.window?", "lookahead.window, lookahead.prefetch_depth"]),
        ("cache.zzzzzz=1", ["unknown setting 'cache.zzzzzz'", "valid here: cache.rows"]),
        ("nosuch.section=1", ["unknown setting 'nosuch'", "valid here: mode, transport, lookahead, "]),
        ("trainings.epochs=1", ["unknown setting 'trainings'", "did you mean training?"]),
        ("training.epochs=many", ["training.epochs = 'many'", "integer"]),
        ("training.epochs=1.5", ["training.epochs = 1.5"]),
        ("training.epochs=0", ["training.epochs = 0", "greater than or equal to 1"]),
        ("training.learning_rate=0", ["training.learning_rate = 0", "greater than 0"]),
        ("training.learning_rate=.inf", ["training.learning_rate = inf", "finite"]),
        ("training.learning_rate=.nan", ["training.learning_rate = nan"]),
        ("row_optimizer.name=lamb", ["row_optimizer.name = 'lamb'", "'sgd', 'momentum', 'adagrad', "]),
        ("row_optimizer.betas=[0.9, 1]", ["row_optimizer.betas.1 = 1", "less than 1"]),
        ("dense_optimizer.argument={}", ["did you mean dense_optimizer.arguments?"]),
        ("schedule.decay=linear", ["schedule", "decay linear needs decay_iterations; set it, or take constant"]),
        ("training.seed=-1", ["training.seed = -1"]),
        ("training.seed=9223372036854775808", ["training.seed", "less than"]),
        ("training.batch_size=", ["training.batch_size = None"]),
        ("model.embedding_dim=5000", ["model.embedding_dim = 5000", "4096"]),
        ("model.name=dlmr", ["model.name = 'dlmr'", "'dlrm', 'wide_deep', 'deepfm', "]),
        ("model.cnn_height=4", ["model.cnn_height = 4: must be odd", "take 5"]),
        ("model.cnn_channels=[]", ["model.cnn_channels = []", "at least 1 item"]),
        ("model.cross_rank=0", ["model.cross_rank = 0"]),
        ("mode=fast", ["mode = 'fast'", "'cached' or 'synchronous'"]),
        ("transport=[staged]", ["transport = ['staged']"]),
        ("training=7", ["training = 7: is a section; valid in it: training.batch_size, training.epochs"]),
        ("training.epochs=2020-13-45", ["--set 'training.epochs=2020-13-45'", "not valid YAML", "month must be"]),
        ("training.epochs=" + "[" * 10_000, ["nested too deeply"]),
    ],
)
def test_wrong_settings_are_explained(override: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(None, [override])
    assert [word for word in words if word not in str(error.value)] == [], error.value


def test_every_wrong_setting_is_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"training\.batch_size = -1.*training\.epochs = 0"):
        load_config(None, ["training.batch_size=-1", "training.epochs=0"])


def test_prefetch_no_deeper_than_the_window() -> None:
    with pytest.raises(ConfigError, match=r"prefetch_depth is 5, lookahead\.window is 4: .* lower the first"):
        load_config(None, ["lookahead.window=4", "lookahead.prefetch_depth=5"])
    assert load_config(None, ["lookahead.window=4"]).prefetch_depth == 4


@pytest.mark.parametrize("override", ["training.epochs", "=3", "training.epochs={", ""])
def test_malformed_overrides(override: str) -> None:
    with pytest.raises(ConfigError, match=r"--set "):
        load_config(None, [override])


def test_a_setting_has_no_parts() -> None:
    with pytest.raises(ConfigError, match="'mode' is a single setting"):
        load_config(None, ["mode=cached", "mode.fast=1"])


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "hello", "7"])
def test_a_file_must_be_a_mapping(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"job\.yaml must be a mapping of settings, not a (list|str|int)"):
        load(tmp_path, text)


def test_malformed_yaml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"job\.yaml is not valid YAML: .*line 1.*; mend it$") as error:
        load(tmp_path, "training: {epochs: [")
    assert "\n" not in str(error.value)


def test_yaml_nested_too_deeply(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"job\.yaml is not valid YAML for settings: nested too deeply"):
        load(tmp_path, "[" * 10_000)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(b"\xff\xfe\x00\x80training")
    with pytest.raises(ConfigError, match=r"job\.yaml is not valid YAML"):
        load_config(path, [])


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    with pytest.raises(ConfigError, match=r"not valid YAML: could not determine a constructor"):
        load(tmp_path, f"mode: !!python/object/apply:os.system ['touch {witness}']\n")
    with pytest.raises(ConfigError, match=r"the value is not valid YAML"):
        load_config(None, [f"mode=!!python/object/apply:os.system ['touch {witness}']"])
    assert not witness.exists()


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml cannot be read: No such file or directory; check the path"):
        load_config(tmp_path / "nowhere.yaml", [])
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_config(tmp_path, [])


@pytest.mark.parametrize("text", ["1: 2\n", "null: {}\n", "training: {3: 4}\n"])
def test_names_that_are_no_text(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        load(tmp_path, text)

"""Settings: defaults, files, overrides, and what is said when they are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from bagpipe_hpc.config import Config, Settings, changed_settings, load_config, read_settings, setting_names
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
        ("tables.u.admit_by=x", ["'tables.u.admit_by' (a rule of dynamic tables that only the schema file of the"]),
        ("tables.u.default_rows=1", ["'tables.u.default_rows' (a rule of dynamic tables that only the schema file"]),
        ("tables.u.admit_afer=1", ["did you mean tables.u.admit_after?"]),
        ("training.epochs=many", ["training.epochs = 'many'", "integer"]),
        ("training.epochs=1.5", ["training.epochs = 1.5"]),
        ("training.epochs=0", ["training.epochs = 0", "must be at least 1"]),
        ("training.learning_rate=0", ["training.learning_rate = 0", "must be above 0"]),
        ("training.learning_rate=.inf", ["training.learning_rate = inf", "finite"]),
        ("training.learning_rate=.nan", ["training.learning_rate = nan"]),
        ("row_optimizer.name=lamb", ["row_optimizer.name = 'lamb'", "'sgd', 'momentum', 'adagrad', "]),
        ("row_optimizer.betas=[0.9, 1]", ["row_optimizer.betas.1 = 1", "must be below 1"]),
        ("dense_optimizer.argument={}", ["did you mean dense_optimizer.arguments?"]),
        ("schedule.decay=linear", ["schedule", "decay linear needs decay_iterations; set it, or set decay"]),
        ("training.seed=-1", ["training.seed = -1"]),
        ("training.seed=9223372036854775808", ["training.seed", "must be below"]),
        ("training.batch_size=", ["training.batch_size = None"]),
        ("training.batch_size=100000000000000000000", ["training.batch_size = 1000000", "67108864"]),
        ("training.epochs=yes", ["training.epochs = True", "must not be true or false"]),
        ("training.learning_rate=on", ["training.learning_rate = True", "must not be true or false"]),
        ("model.top_mlp=[8, no]", ["model.top_mlp = [8, False]", "must not be true or false"]),
        ("dense_optimizer.arguments.momentum=.nan", ["dense_optimizer.arguments", "numbers must be finite, not nan"]),
        ("model.arguments.a=[{b: .inf}]", ["model.arguments", "numbers must be finite, not inf"]),
        ("model.arguments.a=18446744073709551616", ["model.arguments", "integers must fit into 64 bits"]),
        ("cache.rows=2147483648", ["cache.rows = 2147483648", "2147483648"]),
        ("model.embedding_dim=5000", ["model.embedding_dim = 5000", "4096"]),
        ("model.name=dlmr", ["model.name = 'dlmr'", "'dlrm', 'wide_deep', 'deepfm', "]),
        ("model.factory=my_model", ["model.factory = 'my_model'", "module:function, as in my_model:build"]),
        ("model.arguments={hidden: 3}", ["arguments are for a model of your own; set model.factory"]),
        ("model.cnn_height=4", ["model.cnn_height = 4: must be odd", "take 5"]),
        ("model.cnn_channels=[]", ["model.cnn_channels = []", "must hold at least 1, but holds 0"]),
        ("model.cross_rank=0", ["model.cross_rank = 0"]),
        ("mode=fast", ["mode = 'fast'", "'cached' or 'synchronous'"]),
        ("transport=[staged]", ["transport = ['staged']"]),
        ("training=7", ["training = 7: is a section, not a value; valid in it: training.batch_size, training.epochs"]),
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
    with pytest.raises(ConfigError, match=r"prefetch_depth is 5, lookahead\.window is 4: .* lower prefetch_depth"):
        load_config(None, ["lookahead.window=4", "lookahead.prefetch_depth=5"])
    assert load_config(None, ["lookahead.window=4"]).prefetch_depth == 4


def test_settings_of_a_program() -> None:
    settings = {"training": {"epochs": 3}, "mode": "synchronous"}
    config = load_config(settings, ["training.epochs=4"])
    assert (config.training.epochs, config.mode, settings["training"]) == (4, "synchronous", {"epochs": 3})
    assert load_config(config, []) == config
    with pytest.raises(ConfigError, match=r"settings: training\.epochs = 0"):
        load_config({"training": {"epochs": 0}}, [])


def test_rows_of_an_own_model_are_embeddings_and_nothing_else() -> None:
    for name in ("fgcnn", "deepfm"):
        model = load_config(None, [f"model.name={name}", "model.factory=my_model:build"]).model
        assert model.row_dim == model.embedding_columns == model.embedding_dim
        assert model.title == "my_model:build"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ([], r"training\.order is time, training\.time_window is null: set time_window if, and only if, order is time"),
        (
            ["training.order=stored", "training.time_window=5"],
            r"order is stored, training\.time_window is 5: set time_w",
        ),
        (["training.time_window=0"], r"training\.time_window = 0: must be at least 1"),
        (
            ["training.time_window=5", "training.shuffle_block=9"],
            "shuffle_block is 9: .* remove one of the two settings",
        ),
        (["training.time_window=5", "training.epochs=2"], r"training\.epochs is 2: a second pass .* set epochs to 1"),
        (["training.time_window=5", "evaluation.every=9"], r"evaluation\.every is 9: .* remove evaluation\.every"),
        (["training.time_window=5", "checkpoint.keep_best=true"], "keep_best is true: .* remove keep_best"),
    ],
)
def test_time_order(settings: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(None, ["training.order=time", *settings])


def test_early_stopping_needs_results_in_time() -> None:
    patience = "evaluation.early_stopping_patience=3"
    with pytest.raises(
        ConfigError,
        match=r"settings: evaluation: early_stopping_patience counts .* during training: set evaluation\.every, too",
    ):
        load_config(None, [patience])
    with pytest.raises(ConfigError, match=r"evaluation\.every is 63, lookahead\.window is 64: .* raise every"):
        load_config(None, [patience, "evaluation.every=63"])
    load_config(None, [patience, "evaluation.every=64"])
    load_config(None, [patience, "evaluation.every=1", "mode=synchronous"])
    load_config(None, ["evaluation.every=1"])


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
    with pytest.raises(ConfigError, match=r"job\.yaml is not valid YAML: .*line 1.*; correct it$") as error:
        load(tmp_path, "training: {epochs: [")
    assert "\n" not in str(error.value)


def test_yaml_nested_too_deeply(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"job\.yaml, line 1: nested too deeply, more than 32 levels"):
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
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: is missing; check the path of the configuration"):
        load_config(tmp_path / "nowhere.yaml", [])
    with pytest.raises(ConfigError, match="is a directory, not a file; check the path"):
        load_config(tmp_path, [])


def test_every_fault_of_a_file_has_its_line(tmp_path: Path) -> None:
    text = "training:\n  epochs: yes\n  batch_size: 100000000000000000000\nmoode: cached\n"
    with pytest.raises(ConfigError, match=r"^configuration .*job\.yaml: ") as error:
        load(tmp_path, text)
    for words in (
        "line 2: training.epochs = True",
        "line 3: training.batch_size = 1",
        "line 4: unknown setting 'moode'",
    ):
        assert words in str(error.value)
    with pytest.raises(ConfigError, match=r"; training\.epochs = 0: .*; line 4: unknown"):
        load_config(tmp_path / "job.yaml", ["training.epochs=0"])


def test_texts_can_be_written() -> None:
    for settings in ({"dense_optimizer": {"name": "\udcff"}}, {"dense_optimizer": {"arguments": {"\ud800": 1}}}):
        with pytest.raises(ConfigError, match="must be valid Unicode text, without unpaired surrogates"):
            load_config(settings, [])


def test_all_numbers_have_bounds() -> None:
    """Whatever the setting: a number of 32 digits is none."""
    for name in setting_names():
        with pytest.raises(ConfigError):
            load_config(None, [f"{name}={10**31}"])


def test_settings_over_others() -> None:
    base = Settings({"training": {"epochs": 3, "seed": 4}, "model": {"arguments": {"a": 1}}, "mode": "cached"})
    changes = Settings({"training": {"epochs": 5}, "model": {"arguments": {"b": 2}}, "tables": {"t": {}}})
    assert changes.over(base).values == {
        "training": {"epochs": 5, "seed": 4},
        "model": {"arguments": {"b": 2}},
        "mode": "cached",
        "tables": {"t": {}},
    }
    assert base.values["training"]["epochs"] == 3
    given = read_settings(load_config(None, ["training.epochs=5"]))
    assert given.over(Settings({"training": {"epochs": 3, "seed": 4}})).validated().training.seed == 4


def test_changes_are_named() -> None:
    before = load_config(None, ["tables.t.pooling=mean"])
    after = load_config(None, ["training.epochs=2", "model.top_mlp=[3]"])
    assert changed_settings(before, before) == []
    assert changed_settings(before, after) == [
        ("model.top_mlp", [128, 64], [3]),
        ("tables.t.pooling", "mean", None),
        ("training.epochs", 1, 2),
    ]


@pytest.mark.parametrize("text", ["1: 2\n", "null: {}\n", "training: {3: 4}\n"])
def test_names_that_are_no_text(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (["training.blocks=6"], "training.blocks is 6; give a power of two, such as 4 or 8"),
        (["training.blocks=8", "training.batch_size=7"], "lower training.blocks, or raise training.batch_size"),
        (["training.blocks=8"], "set training.threads, too"),
        (["training.blocks=8", "training.threads=1", "training.wire_dtype=float16"], "use float32, or leave"),
        (["training.blocks=8", "training.threads=1", "dense.backend=nccl"], "set dense.backend to mpi or leave it out"),
    ],
)
def test_blocks_for_which_bits_would_depend_on_the_trainers(settings: list[str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load_config(None, settings)

import pytest

from moejax.command_line.config_files import config_arguments, config_names, find_config, with_config_files
from moejax.command_line.program_flags import Flag
from moejax.core.errors import SpecError

FLAGS = [Flag("config", "config_file"), Flag("workdir", "string")]


@pytest.mark.parametrize("name", ["toy/one", "toy/one.py", "configs/toy/one", "configs/toy/one.py"])
def test_packaged_configs_by_any_of_their_names(toy, name):
    assert find_config(name) == toy / "configs" / "toy" / "one.py"


def test_the_current_folder_comes_first(toy, tmp_path, capsys):
    mine = tmp_path / "here" / "toy" / "one.py"
    mine.parent.mkdir()
    mine.write_text("")
    assert find_config("toy/one").resolve() == mine
    assert with_config_files(["--config", "toy/one:a=1"], FLAGS) == ["--config", "toy/one.py:a=1"]
    assert capsys.readouterr().err == f"config: {mine}\n"  # not the packaged one, and it is said


def test_a_path_that_is_there_stays_as_it_was_given(toy, tmp_path, capsys):
    (tmp_path / "here" / "own.py").write_text("")
    assert with_config_files(["--config=own.py:x", "--config.a=toy/one"], FLAGS) == [
        "--config=own.py:x",
        "--config.a=toy/one",
    ]
    assert capsys.readouterr().err == ""


def test_only_configs_are_looked_up(toy):
    path = toy / "configs" / "toy" / "one.py"
    line = ["-config", "toy/one", "--workdir", "toy/one", "--config.train.from=toy/one", "--", "--config", "toy/one"]
    assert with_config_files(line, FLAGS) == [line[0], str(path), *line[2:]]


def test_a_misspelt_config_is_refused_with_the_nearest(toy):
    with pytest.raises(SpecError, match="Did you mean 'toy/one'"):
        with_config_files(["--config", "configs/toy/on.py:smoke"], FLAGS)


def test_mains_are_no_configs(toy):
    with pytest.raises(SpecError, match="no file here"):
        find_config("experiments/train")


def test_arguments_behind_the_colon(toy, root):
    assert config_arguments(toy / "configs" / "toy" / "one.py") == ["model=", "seed=", "smoke"]


def test_every_real_config_has_a_name_and_arguments(root):
    known = config_names()
    assert known.keys() >= {"vit/patchwork", "dit/garments", "compress/run", "theory/top_1"}
    assert [name for name, path in known.items() if "smoke" not in config_arguments(path)] == []

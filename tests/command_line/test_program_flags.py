import pytest

from moejax.command_line.program_flags import flags_of
from moejax.command_line.programs import programs

TEXT = """
import helper
from absl import app, flags
from ml_collections import config_flags

NAMES = ("a", "b")
_ONE = flags.DEFINE_enum("one", "a", [*NAMES, "c"], "Which "
                         "one.")
_TWO = flags.DEFINE_list("two", ["x", "y"], help="Two.")
_FOUR = flags.DEFINE_string("four", str(RESULTS / "deep" / "four.json"), "Four.", required=True)
_FIVE = flags.DEFINE_boolean("five", False, "Five.")
_SIX = config_flags.DEFINE_config_dict("six", six(), "Six.")
_SEVEN = flags.DEFINE_float("seven", compute(), "Seven.")

if __name__ == "__main__":
    flags.mark_flags_as_required(["one", "two"])
    app.run(main)
"""
HELPER = 'from absl import flags\n_EIGHT = flags.DEFINE_multi_string("eight", None, "Eight.")\n'


@pytest.fixture
def found(tmp_path):
    (tmp_path / "helper.py").write_text(HELPER)
    (tmp_path / "main.py").write_text(TEXT)
    return {flag.name: flag for flag in flags_of(tmp_path / "main.py")}


def test_flags_are_read_in_their_order_and_neighbours_follow(found):
    assert list(found) == ["one", "two", "four", "five", "six", "seven", "eight"]


def test_what_a_flag_is(found):
    one = found["one"]
    assert (one.kind, one.default, one.values, one.help) == ("enum", "a", ("a", "b", "c"), "Which one.")
    assert found["two"].default == "x,y" and found["two"].help == "Two."
    assert found["four"].default == "results/deep/four.json"
    assert found["seven"].default == ""  # nobody learns from `compute()`
    assert {name for name, flag in found.items() if flag.required} == {"one", "two", "four"}


def test_how_a_flag_is_typed(found):
    assert [found[name].usage for name in ("one", "five", "six", "eight")] == [
        "--one NAME",
        "--[no]five",
        "--six.KEY=VALUE",
        "--eight TEXT",
    ]
    assert {name for name, flag in found.items() if not flag.takes_value} == {"five", "six"}


def test_no_flag_of_a_real_main_is_overlooked():
    for program in programs().values():
        assert len(flags_of(program.path)) >= program.path.read_text().count(".DEFINE_"), program.name
        assert all(flag.help for flag in flags_of(program.path)), program.name

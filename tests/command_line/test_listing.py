import os
import shutil

import pytest

from moejax.command_line import listing
from moejax.command_line.listing import KINDS, OTHERS, entries
from moejax.command_line.main import main
from moejax.command_line.sources import first_sentence
from moejax.core.spec import methods
from moejax.dispatch.strategies import STRATEGIES


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "dispatch"])
def test_a_list_has_the_methods_that_a_config_may_name(kind):
    assert {entry.name for entry in entries(kind)} == methods(KINDS[kind].folder.replace("/", ".")).keys()


def test_the_list_of_strategies():
    assert {entry.name for entry in entries("dispatch")} == set(STRATEGIES)


@pytest.mark.parametrize("kind", [*KINDS, *OTHERS])
def test_every_entry_is_one_line_that_says_something(kind):
    found = entries(kind)
    assert found
    assert [e for e in found if len(e.sentence) < 10 or "\n" in e.sentence + e.source] == []
    if kind in ("routers", "gates", "experts", "exchange", "compressors", "samplers", "processes", "studies"):
        assert [e.name for e in found if not e.source] == []


def test_lines_of_routers(capsys):
    assert main(["list", "routers"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        "  soft           Soft MoE: slots are averages of tokens, outputs are averages of slots.  [Puigcerver et al. 2024,"
        in lines[6]
    )
    assert lines[-1].endswith("loads all experts equally.  [ours]")


def test_without_a_kind_it_says_what_there_is(capsys):
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    assert [line.split()[0] for line in text.splitlines()[2:]] == [*KINDS, *OTHERS]
    assert f"  gates          {len(methods('routing.gates')):>3}  model.moe.router.gate.name\n" in text


def test_two_kinds_have_headings(capsys):
    assert main(["list", "gates", "tasks"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("gates:\n") and "\ntasks:\n  classification" in text


def test_a_misspelt_kind_prints_no_list(capsys):
    assert main(["list", "gates", "routrs"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "'routrs' cannot be listed. Did you mean 'routers'?" in err


def test_lines_are_cut_to_a_terminal_alone(capsys, monkeypatch):
    entry = listing.Entry("name", "word " * 20)
    listing.print_lines([entry])
    assert len(capsys.readouterr().out.rstrip("\n")) > 100
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((30, 20)))
    listing.print_lines([entry])
    assert capsys.readouterr().out == "  name  word word word word...\n"


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("One. Two.", "One."),
        ("After Nguyen et al. 2024. More", "After Nguyen et al. 2024."),
        ("Takes 0.5 of it.\nNext one.", "Takes 0.5 of it."),
        ("No end\n\nAnother.", "No end"),
    ],
)
def test_the_first_sentence(text, first):
    assert first_sentence(text) == first

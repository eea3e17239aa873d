"""Completion of `moejax` in shells: their scripts ask `moejax completion --answer BREAKS WORDS...` for every press of Tab.

The answer is read from the folders each time, so that a new main, flag or config is completed without a new script. Where it is
empty, the shell offers files.
"""

from collections.abc import Sequence
from pathlib import Path

from moejax.command_line.config_files import config_arguments, config_names, find_config
from moejax.command_line.listing import KINDS, OTHERS
from moejax.command_line.program_flags import Flag, flags_of
from moejax.command_line.programs import OWN, program, programs
from moejax.core.errors import SpecError, did_you_mean

SHELLS = ("bash", "zsh", "fish")
ANSWER = "--answer"


def show(words: Sequence[str]) -> None:
    """Prints the script of a shell. Raises SpecError for another one."""
    if len(words) != 1 or words[0] not in SHELLS:
        given = words[0] if words else ""
        raise SpecError(f"moejax completion takes one shell, not {' '.join(words)!r}.{did_you_mean(given, SHELLS)}")
    print((Path(__file__).parent / "completions" / f"moejax.{words[0]}").read_text("utf-8"), end="")


def answer(words: Sequence[str]) -> None:
    """Prints what may stand in place of the last of `words`, one on a line.

    words: the characters at which the shell begins a new word, then the command line up to the cursor, as it was split there.
    """
    breaks, *typed = words
    *before, current = rejoined(typed, breaks)
    found = candidates(before[1:], current)
    # The shell replaces what follows the last break, so that it must get no more.
    start = max((current.rfind(b) for b in "=:" if b in breaks), default=-1) + 1
    print("\n".join(sorted(word[start:] for word in found if word.startswith(current))))


def rejoined(typed: Sequence[str], breaks: str) -> list[str]:
    """Words as they were typed: bash gives '--config', '=', 'vit/x', ':', 'smoke' for one. Source: ours."""
    done: list[str] = []
    glued = False
    for word in typed:
        is_break = bool(word) and set(word) <= set("=:") & set(breaks)
        if done and (is_break or glued):
            done[-1] += word
        else:
            done.append(word)
        glued = is_break
    return done


def candidates(before: Sequence[str], current: str) -> list[str]:
    """All words that fit after `before`, the words behind `moejax`; those that do not begin as `current` may be among them."""
    if not before:
        return [*programs(), *OWN, "--help", "--version", "--debug"]
    command = before[0]
    if command == "list":
        return [*KINDS, *OTHERS]
    if command == "completion":
        return list(SHELLS)
    if command == "help":
        return [*programs(), *OWN]
    found = program(command)
    if found is None:
        return []
    flags = {f"--{flag.name}": flag for flag in flags_of(found.path)}
    name, equals, value = current.partition("=")
    if equals and name.startswith("-"):
        return [f"{name}={word}" for word in values(flags[name], value)] if name in flags else []
    if before[-1] in flags and flags[before[-1]].takes_value:
        return values(flags[before[-1]], current)
    if not current.startswith("-"):
        return []
    switched = [f"--no{flag.name}" for flag in flags.values() if flag.kind in ("boolean", "bool")]
    return [*flags, *switched, "--help", "--debug"]


def values(flag: Flag, current: str) -> list[str]:
    """What may follow a flag: names of an enum, or configs; nothing for files, which the shell knows."""
    if flag.kind != "config_file":
        return list(flag.values)
    name, colon, argument = current.partition(":")
    if not colon:
        here = [path for path in Path().glob(f"{current}*") if path.is_dir() or path.suffix == ".py"]
        return [*config_names(), *(f"{path}/" if path.is_dir() else str(path) for path in here)]
    try:
        known = config_arguments(find_config(name))
    except SpecError:
        return []
    given, comma, _ = argument.rpartition(",")
    said = {word.partition("=")[0] for word in given.split(",")}
    return [f"{name}:{given}{comma}{word}" for word in known if word.rstrip("=") not in said]

"""The entry point of `moejax COMMAND`: a main of experiments/, or one of list, completion and help.

A main runs in this process as if it had been started by its path; what it takes and returns is its own. This module imports
the standard library and `core.errors` alone, so that help, lists and completion are there at once.
"""

import runpy
import sys
import textwrap
from collections.abc import Sequence

import moejax
from moejax.command_line import completion, endings, listing
from moejax.command_line.config_files import with_config_files
from moejax.command_line.program_flags import Flag, flags_of
from moejax.command_line.programs import FIRST, OWN, Program, program, programs
from moejax.core.errors import SpecError, did_you_mean

HELP = ("--help", "-help", "-h")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line `arguments`, by default the process's own, and returns its exit code (see `endings`)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    end = words.index("--") if "--" in words else len(words)
    debug = "--debug" in words[:end]
    words = [word for word in words[:end] if word != "--debug"] + words[end:]
    return endings.exit_code(lambda: run(words), debug=debug)


def run(words: list[str]) -> None:
    """The command that `words` name. Raises SpecError for one that does not exist."""
    command, rest = (words[0], words[1:]) if words else ("--help", [])
    before = rest[: rest.index("--")] if "--" in rest else rest
    if command == "--version":
        print(f"moejax {moejax.__version__}")
    elif command in HELP or (command == "help" and not rest):
        print_help()
    elif command == "help":
        print_usage(rest[0])
    elif command == "completion" and rest[:1] == [completion.ANSWER]:  # what is typed there may be --help
        completion.answer(rest[1:])
    elif any(word in before for word in HELP):
        print_usage(command)
    elif command == "list":
        listing.show(rest)
    elif command == "completion":
        completion.show(rest)
    else:
        start(_known(command), rest)


def start(found: Program, arguments: Sequence[str]) -> None:
    """Runs a main in this process, as `python FILE ARGUMENTS...` would."""
    sys.argv = [str(found.path), *with_config_files(arguments, flags_of(found.path))]
    sys.path.insert(0, str(found.path.parent))
    runpy.run_path(str(found.path), run_name="__main__")


def _known(command: str) -> Program:
    found = program(command)
    if found is None:
        what = "no flag of moejax itself; flags follow the command" if command.startswith("-") else "no command"
        raise SpecError(f"{command!r} is {what}.{did_you_mean(command, [*programs(), *OWN])}")
    return found


def print_help() -> None:
    """All commands, and how they end."""
    found = programs()
    print("usage: moejax COMMAND [ARGUMENTS...]\n\nMixtures of experts in JAX: train, look, compress, plan.\n")
    first = [listing.Entry(name, p.help) for name, p in found.items() if name in FIRST]
    others = [listing.Entry(name, p.help) for name, p in found.items() if name not in FIRST]
    listing.print_lines([*first, *(listing.Entry(name, text) for name, text in OWN.items())])
    print("\nBenchmarks and studies:\n")
    listing.print_lines(others)
    print(
        "\nmoejax COMMAND --help says what a command takes. --debug, anywhere, shows the trace of an error; --version."
    )
    print(f"\nExit codes:\n\n{textwrap.indent((endings.__doc__ or '').partition(chr(10) * 2)[2], '  ')}")


def print_usage(command: str) -> None:
    """What one command takes."""
    if command in OWN:
        kinds = {"list": "KIND...", "completion": "|".join(completion.SHELLS), "help": "COMMAND"}
        print(f"usage: moejax {command} {kinds[command]}\n\n{OWN[command]}\n")
        if command == "list":
            listing.show([])
        return
    found = _known(command)
    flags = flags_of(found.path)
    needed = "".join(f" {flag.usage}" for flag in flags if flag.required)
    print(f"usage: moejax {found.name}{needed} [FLAGS...]\n\n{found.text}\n\nFlags:\n")
    column = min(max((len(flag.usage) for flag in flags), default=0), 30)
    for flag in flags:
        print(f"  {flag.usage:{column}}  {_said(flag)}")
    if any(flag.kind == "config_file" for flag in flags):
        print("\nA config is a file, or the name of one that comes with moejax (`moejax list configs`); behind it, --config.KEY=VALUE"
              "\nchanges a value.")  # fmt: skip
    print(f"\nmoejax {found.name} --helpfull lists the flags of the libraries, too.")


def _said(flag: Flag) -> str:
    text = flag.help
    if flag.values:
        text += f" One of {', '.join(flag.values)}."
    if flag.required:
        return f"{text} (needed)"
    return f"{text} (default: {flag.default})" if flag.default else text

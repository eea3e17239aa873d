"""`moejax list`: what can be named in a config or on the command line, one line each, read from the folders by `ast`."""

import dataclasses
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import moejax
from moejax.command_line.config_files import config_names
from moejax.command_line.programs import programs
from moejax.command_line.sources import assigns, first_sentence, parsed, source
from moejax.core.errors import SpecError, did_you_mean


@dataclasses.dataclass(frozen=True)
class Kind:
    """Methods of one folder of the package. mark: what a file of a method defines. named: where a config names it."""

    folder: str
    named: str
    mark: str = "EXAMPLES"


KINDS = {
    "routers": Kind("routing", "model.moe.router.name"),
    "gates": Kind("routing/gates", "model.moe.router.gate.name"),
    "experts": Kind("experts", "model.moe.experts.name"),
    "dispatch": Kind("dispatch", "model.moe.dispatch", mark="PLANS"),
    "exchange": Kind("exchange", "model.moe.exchange.name"),
    "models": Kind("models", "model.name"),
    "tasks": Kind("tasks", "task.name"),
    "datasets": Kind("data", "data.name; any image set of TFDS goes by its name, too"),
    "augmentations": Kind("data/augment", "data.augment.NAME"),
    "processes": Kind("diffusion/processes", "task.process.name"),
    "samplers": Kind("diffusion/samplers", "moejax sample --sampler"),
    "compressors": Kind("compress", "moejax compress --config compress/run:method=NAME"),
    "leaves": Kind("linear", "the weights that compressors and expert banks make"),
    "studies": Kind("theory/studies", "moejax theory --config theory/NAME"),
}
OTHERS = {"configs": "--config NAME[:arguments]", "commands": "moejax NAME"}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of a list."""

    name: str
    sentence: str
    source: str = ""


def entries(kind: str) -> list[Entry]:
    """What there is of a kind. Raises SpecError with the nearest kind for one that does not exist. Source: ours."""
    if kind == "configs":
        return [_entry(name, path, with_source=False) for name, path in config_names().items()]
    if kind == "commands":
        return [Entry(p.name, p.help) for p in programs().values()]
    if kind not in KINDS:
        raise SpecError(f"{kind!r} cannot be listed.{did_you_mean(kind, [*KINDS, *OTHERS])}")
    folder = Path(moejax.__file__).parent / KINDS[kind].folder
    files = [path for path in sorted(folder.glob("*.py")) if assigns(parsed(path), KINDS[kind].mark)]
    return [_entry(path.stem, path) for path in files]


def _entry(name: str, path: Path, *, with_source: bool = True) -> Entry:
    tree = parsed(path)
    docstring = tree.body[0].value.value  # type: ignore[attr-defined]
    return Entry(name, first_sentence(docstring), source(tree) if with_source else "")


def show(kinds: Sequence[str]) -> None:
    """Prints the lists of `kinds`; without any, what can be listed."""
    if not kinds:
        told = {name: kind.named for name, kind in KINDS.items()} | OTHERS
        print("moejax list KIND...   where KIND is, and where what it lists is named:\n")
        print_lines([Entry(name, f"{len(entries(name)):>3}  {where}") for name, where in told.items()])
        return
    found = {kind: entries(kind) for kind in kinds}  # a misspelt kind prints nothing else
    for kind, listed in found.items():
        if len(found) > 1:
            print(f"{kind}:")
        print_lines(listed)


def print_lines(listed: Sequence[Entry]) -> None:
    """One line each: name, sentence, source in brackets; cut to the width of a terminal, whole where it goes elsewhere."""
    column = max((len(entry.name) for entry in listed), default=0)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for entry in listed:
        line = f"  {entry.name:{column}}  {entry.sentence}" + (f"  [{entry.source}]" if entry.source else "")
        print(line if width is None or len(line) <= width else line[: width - 3].rstrip() + "...")

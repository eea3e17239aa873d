"""Command lines that cannot be read end with one line, not with a traceback: `app.run(main, flags_parser=parse)`."""

import re
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from absl import flags

from moejax.core.errors import SpecError


def parse(argv: list[str]) -> list[str]:
    """Parses the flags, config overrides and config arguments included; ends the program with code 2 on an error, which
    something that belongs to no flag is, too: what a blank cut off would be lost without a word.
    """
    rest = parse_with_names(argv)
    if stray := rest[1:]:
        text = "belongs to no flag: write --FLAG=VALUE, and the arguments of a config without blanks"
        print(f"error: {stray[0]!r} {text}.", file=sys.stderr)
        sys.exit(2)
    return rest


def parse_with_names(argv: list[str]) -> list[str]:
    """`parse` for mains that take names without a flag, too."""
    try:
        rest = flags.FLAGS(argv)
        for name in flags.FLAGS:
            value: Any = flags.FLAGS[name].value
            if type(value).__module__.startswith("ml_collections"):
                value.keys()  # a config that could not be loaded raises its error at its first use alone
        return rest
    except (flags.Error, SpecError, KeyError, AttributeError, TypeError, ValueError, OSError) as error:
        print(f"error: {explain(error, argv)}", file=sys.stderr)
        sys.exit(2)


def explain(error: BaseException, argv: Sequence[str] = ()) -> str:
    """The SpecError that caused `error` where there is one; a misspelt --config.key, as it is typed in argv, with the nearest one."""
    links: list[BaseException] = [error]
    while (link := links[-1].__cause__ or links[-1].__context__) is not None:
        links.append(link)
    for link in links:
        if isinstance(link, SpecError):
            # The config library raises an error of the same class, with the whole traceback as its text.
            return str(link).rpartition("SpecError: ")[2].strip()
    # The config library raises its KeyError and its AttributeError with another exception as the only argument.
    inner = error
    while isinstance(error, (KeyError, AttributeError)) and inner.args and isinstance(inner.args[0], BaseException):
        inner = inner.args[0]
    text = " ".join(str(inner.args[0] if inner.args else inner).split())
    if "earlier failure to load" in text:
        return f"--config: no config could be loaded: {text.rpartition(']:')[2].strip() or text}"
    if isinstance(error, (KeyError, AttributeError)) and _inside_config(error):
        return _unknown_key(text, argv)
    return text


def _unknown_key(text: str, argv: Sequence[str]) -> str:
    """text: the config library's own words, the key in quotes and perhaps the one that was meant."""
    key, *meant = re.findall(r"[\"']([^\"']+)[\"']", text) or [text]
    typed = [argument.partition("=")[0] for argument in argv if argument.startswith("-")]
    flag = next((name for name in typed if key in name.split(".")[1:]), "--config.KEY")
    return f"{flag}: the config has no key {key!r}." + (f" Did you mean {meant[0]!r}?" if meant else "")


def _inside_config(error: BaseException) -> bool:
    return any("ml_collections" in frame.filename for frame in traceback.extract_tb(error.__traceback__))

import sys

import pytest

import moejax
from moejax.command_line import programs

MAIN = '''"""Says {name}, whatever happens. More of it.

  python experiments/{name}.py --count 3 --config configs/toy/one.py:smoke

Exit code 0.
"""

import sys

import neighbour as flags

_COUNT = flags.DEFINE_integer("count", 1, "How often.")
_CONFIG = flags.DEFINE_config_file("config", None, "A config.")

if __name__ == "__main__":
    print(flags.SAID, sys.argv)
'''
NEIGHBOUR = '''"""No main."""

SAID = "said"
DEFINE_integer = DEFINE_config_file = lambda *_: None
'''
CONFIG = '''"""A config. With more."""


def get_config(arg=""):
    return parse(arg, model="dense", seed=0, smoke=False)
'''


@pytest.fixture(params=["installed", "repository"])
def toy(request, tmp_path, monkeypatch):
    """A moejax of two commands and a config, as a wheel has them and as a clone has them; the folder above both."""
    package = tmp_path / "lib" / "moejax"
    folder = package / "programs" if request.param == "installed" else tmp_path / "lib"
    for name in ("train", "place_experts"):
        _write(folder / "experiments" / f"{name}.py", MAIN.format(name=name))
    _write(folder / "experiments" / "neighbour.py", NEIGHBOUR)
    _write(folder / "configs" / "toy" / "one.py", CONFIG)
    monkeypatch.setattr(moejax, "__file__", str(package / "__init__.py"))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    programs.root.cache_clear()
    yield folder
    programs.root.cache_clear()
    sys.modules.pop("neighbour", None)


def _write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)

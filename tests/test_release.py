"""What a release must agree on: one version, and an import that costs nothing."""

import re
import subprocess
import sys
import tomllib

import moejax
from tests.child_programs import environment


def test_importing_moejax_imports_no_other_package():
    code = "import sys; before = set(sys.modules); import moejax; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['moejax']"


def test_the_version_is_said_once_and_repeated_truly(root):
    project = tomllib.loads((root / "pyproject.toml").read_text())
    assert "version" not in project["project"] and project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "moejax/__init__.py"
    (cited,) = re.findall(r"^version: (.+)$", (root / "CITATION.cff").read_text(), flags=re.M)
    assert cited == moejax.__version__
    assert (
        f"ersion {cited}," in (root / "CHANGELOG.md").read_text()
        or f"## [{cited}]" in (root / "CHANGELOG.md").read_text()
    )

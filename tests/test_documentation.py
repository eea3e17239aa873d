"""The pages of docs/: the map is that of the code, links lead somewhere, and commands run as they are printed.

Commands are typed in the order of their page, in an empty folder that shares nothing but the repository's own folders. What
cannot be typed here is listed in `NOT_TYPED` with the reason; a command that is neither run nor listed fails the test.
"""

import importlib.util
import os
import re
import subprocess
import sys

import pytest

from tests.child_programs import ROOT, environment

PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("docs/*.md"), *ROOT.glob("docs/howto/*.md")])

# Beginning of a command -> why it is not typed.
NOT_TYPED = {
    "make ": "targets are checked by name; they install or take minutes",
    "pip install": "the network; extras are checked by name",
    "gcloud ": "no cluster here",
    "sbatch ": "no cluster here",
    "moejax plan --config vit/vmoe_paper": "minutes of a compiler; tests/experiments/test_plan.py plans a small model",
    "moejax train --config vit/finetune:data=image_folder": "needs the reader's pictures; tests/data/test_image_folder.py",
    "moejax train --config vit/patchwork:model=vmoe,seed=1": "minutes; the smoke variant is typed on other pages",
    "moejax evaluate --workdir runs/vmoe": "of the run above",
    "moejax report runs/vmoe": "of the run above",
    "moejax theory --config theory/exact_softmax": "minutes; tests/experiments/test_theory.py runs its smoke variant",
    "python experiments/fault_campaign.py": "minutes; tests/train has a small campaign",
    "--config.": "a flag alone, not a command",
    "export JAX_PLATFORMS=cpu": "two processes; tests/train/test_processes.py",
}


def commands(page):
    """The lines of the page's shell blocks, continued ones joined; a loop is one command."""
    text = (ROOT / page).read_text("utf-8")
    for block in re.findall(r"^```bash\n(.*?)^```", text, flags=re.S | re.M):
        joined = re.sub(r"\\\n\s*", "", block).strip()
        if re.search(r"^(for|export) ", joined, flags=re.M) or joined.startswith("gcloud"):
            yield joined
        else:
            yield from (line.partition("   #")[0].strip() for line in joined.splitlines() if line.strip())


def typed_here(command):
    return not any(command.startswith(beginning) for beginning in NOT_TYPED)


def test_the_map_is_that_of_the_code():
    spec = importlib.util.spec_from_file_location("write_reference", ROOT / "docs/write_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs/map.md").read_text("utf-8") == module.map_page(), "out of date: make docs"
    assert "`top_k`" in module.methods_page() and "tests/routing/test_top_k.py" in module.methods_page()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    folder = (ROOT / page).parent
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (ROOT / page).read_text("utf-8"))
    ours = "https://github.com/moejax/moejax/blob/main/"
    trees = "https://github.com/moejax/moejax/tree/main/"
    missing = []
    for link in links:
        if link.startswith((ours, trees)):
            path = ROOT / link.removeprefix(ours).removeprefix(trees)
        elif "://" in link or link.startswith("reference/") or link.startswith("../reference/"):
            continue  # elsewhere, or made when the site is built, which checks it
        else:
            path = folder / link
        if not path.exists():
            missing.append(link)
    assert missing == []


def test_what_is_not_typed_is_checked_by_name():
    makefile, project = (ROOT / "Makefile").read_text(), (ROOT / "pyproject.toml").read_text()
    for page in PAGES:
        for command in commands(page):
            if target := re.match(r"make ([\w-]+)$", command):
                assert re.search(rf"^{target[1]}:", makefile, flags=re.M), command
            for extra in re.findall(r"moejax\[([\w-]+)\]", command):
                assert re.search(rf"^{extra} = \[", project, flags=re.M), command
    listed = [
        beginning for beginning in NOT_TYPED if not any(c.startswith(beginning) for p in PAGES for c in commands(p))
    ]
    assert listed == []


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if any(map(typed_here, commands(page)))])
def test_commands_run_as_printed(page, tmp_path):
    for name in ("experiments", "configs", "docs", "tests", "moejax", "kernels"):
        (tmp_path / name).symlink_to(ROOT / name)
    env = environment(PATH=os.pathsep.join([str(tmp_path / "bin"), os.environ["PATH"]]))
    (tmp_path / "bin").mkdir()
    for name, program in (("moejax", "-m moejax.command_line"), ("python", "")):
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {program} "$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    for command in filter(typed_here, commands(page)):
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"

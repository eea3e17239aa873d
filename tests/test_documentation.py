"""README.md and the pages of docs/: the map is that of the code, links lead somewhere, and commands run as they are printed.

Commands are typed in the order of their page, in an empty folder that shares nothing but the repository's own folders. What
takes minutes or an hour is typed in a smaller variant of its config (`SHORTER`); with MOEJAX_AS_PRINTED=1 every command is
typed to the letter. What cannot be typed here is listed in `NOT_TYPED` with the reason; a
command that is neither run nor listed fails the test.
"""

import importlib.util
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.child_programs import ROOT, environment

PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("docs/*.md"), *ROOT.glob("docs/howto/*.md")])
PAGES = ["README.md", *PAGES]
AS_PRINTED = os.environ.get("MOEJAX_AS_PRINTED") == "1"

# What is printed -> what is typed.
SHORTER = {
    "vit/patchwork.py:model": "vit/patchwork.py:smoke,model",
    "vit/patchwork:model": "vit/patchwork:smoke,model",
    "--config.model.moe.group_size=128": "--config.model.moe.group_size=16",
    "vit/finetune.py:data": "vit/finetune.py:smoke,data",
    "vit/finetune:data": "vit/finetune:smoke,data",
    "vit/garments.py ": "vit/garments.py:smoke ",
    "dit/garments.py:model": "dit/garments.py:smoke,model",
    "--guidance 1,2,3": "--guidance 1,2,3 --steps 2",
    "--output usage/dit": "--output usage/dit --steps 2 --pictures 50 --samples 50 --times 2 --draws 20",
    "compress/run.py:method=svd_llm,budget=0.5,heal=200": "compress/run.py:smoke,method=svd_llm,budget=0.5,heal=2",
    "compress/run.py --checkpoint": "compress/run.py:smoke --checkpoint",
    "theory/over_specified_softmax.py": "theory/over_specified_softmax.py:smoke",
    "theory/exact_softmax": "theory/exact_softmax:smoke",
}

# Beginning of a command -> why it is not typed.
NOT_TYPED = {
    "make ": "targets are checked by name; they install or take minutes",
    "pip install": "the network; extras are checked by name",
    "uv run": "the network",
    "gcloud ": "no cluster here",
    "sbatch ": "no cluster here",
    "moejax plan --config vit/vmoe_paper": "the compiler for TPUs is an extra; tests/experiments/test_plan.py",
    "python experiments/plan.py --config configs/vit/vmoe_paper": "the same",
    "python experiments/fault_campaign.py": "an hour; tests/experiments/test_fault_campaign.py runs a small one",
    "--config.": "a flag alone, not a command",
    "export JAX_PLATFORMS=cpu": "two processes on one port; tests/train/test_processes.py",
}


def commands(page):
    """The lines of the page's shell blocks, continued ones joined; a loop is one command."""
    text = (ROOT / page).read_text("utf-8")
    for block in re.findall(r"^ *```bash\n(.*?)^ *```", text, flags=re.S | re.M):
        joined = re.sub(r"\\\n\s*", "", block).strip()
        if re.search(r"^ *(for|export) ", joined, flags=re.M) or joined.startswith("gcloud"):
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


def named_configs(text):
    """What stands behind --config in a text, without the runs that an argument names; none with words to be replaced."""
    found = re.findall(r"--config[ =]((?:configs/)?[a-z]+/\w+(?:\.py)?(?::[^\s`\"')]*)?)", text.replace("\\\n", ""))
    return {re.sub(r"source=[^,]*,?", "", name) for name in found if not re.search(r"[A-Z]{4}", name)}


NAME_CONFIGS = [
    *(page for page in PAGES if page != "docs/fault_campaign.md"),  # that one names wrong ones, on purpose
    *(
        path.relative_to(ROOT).as_posix()
        for room in ("configs", "experiments")
        for path in ROOT.glob(f"{room}/**/*.py")
    ),
]


@pytest.mark.parametrize("path", NAME_CONFIGS)
def test_named_configs_exist_and_take_their_arguments(path):
    for name in named_configs((ROOT / path).read_text("utf-8")):
        file, _, argument = name.partition(":")
        file = ROOT / (file if file.endswith(".py") else f"configs/{file}.py")
        spec = importlib.util.spec_from_file_location(f"named_{file.stem}", file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.get_config(argument.rstrip(","))


def test_what_is_shortened_is_printed_somewhere():
    printed = " ".join(command for page in PAGES for command in commands(page))
    assert [text for text in SHORTER if text not in printed] == []


def type_(command):
    if AS_PRINTED:
        return command
    for printed, typed in SHORTER.items():
        command = command.replace(printed, typed)
    return command


@pytest.fixture
def folder(tmp_path):
    """The repository's folders, the commands `moejax` and `python`, and a reader's own data: pictures of five classes of colours,
    and tokens.
    """
    for name in ("experiments", "configs", "docs", "tests", "moejax", "kernels"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "bin").mkdir()
    for name, program in (("moejax", "-m moejax.command_line"), ("python", "")):
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {program} "$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    draw = np.random.default_rng(0)
    for label in range(5):
        (tmp_path / f"pictures/class{label}").mkdir(parents=True)
        for number in range(40):
            pixels = np.uint8(50 * label + draw.integers(0, 40, (32, 32, 3)))
            Image.fromarray(pixels).save(tmp_path / f"pictures/class{label}/{number}.png")
    (tmp_path / "tokens").mkdir()
    for split, count in (("train", 6000), ("validation", 600), ("test", 600)):
        np.save(tmp_path / f"tokens/{split}.npy", draw.integers(0, 64, count, np.uint16))
    np.save(tmp_path / "tokens/token_bytes.npy", np.full(64, 3))
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if any(map(typed_here, commands(page)))])
def test_commands_run_as_printed(page, folder):
    env = environment(PATH=os.pathsep.join([str(folder / "bin"), os.environ["PATH"]]))
    for command in map(type_, filter(typed_here, commands(page))):
        print(command, flush=True)
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=None if AS_PRINTED else 600,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"

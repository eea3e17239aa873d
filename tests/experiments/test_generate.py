"""Writing on by the command line, from a recorded checkpoint, and every wrong way to ask for it."""

import json
import shutil

import pytest
from safetensors.numpy import load_file

from tests.command_lines import typed

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(root):
    return root / "tests" / "interop" / "recorded" / "olmoe"


def test_greedy_tokens_are_the_recorded_ones(root, folder):
    said = load_file(folder / "said.safetensors")["greedy"][0]
    prompt = "54,40,32,17,19,2,4,1,11,52,41,58"  # the first of the recorded prompts
    done = typed(root, "generate.py", "--checkpoint", folder, "--tokens", prompt, "--steps", 10)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == ",".join(map(str, said[:10]))


def test_text_by_a_tokenizer_and_a_text_that_ends(root, folder, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    words = {f"w{i}": i for i in range(64)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    model = tmp_path / "model"
    shutil.copytree(folder, model)
    tokenizer.save(str(model / "tokenizer.json"))
    arguments = ("generate.py", "--checkpoint", model, "--prompt", "w54 w40 w32", "--steps", 6)
    whole = typed(root, *arguments).stdout.split()
    assert whole[:3] == ["w54", "w40", "w32"]
    assert len(whole) == 9
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"eos_token_id": [words[whole[4]]]}))
    ended = typed(root, *arguments).stdout.split()
    assert ended == whole[: whole.index(whole[4], 3) + 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give one of --prompt and --tokens"),
        (("--tokens", "1,x"), "--tokens 1,x: not all are numbers"),
        (("--tokens", "64"), "token 64 is not in the vocabulary (0 to 63)"),
        (("--prompt", "hello"), "--prompt needs tokenizer.json"),
        (("--tokens", "1", "--steps", "64"), "this model takes max_length=64"),
        (("--tokens", "1", "--temperature", "-1"), "temperature=-1.0 must be 0"),
        (("--tokens", "1", "--top_k", "3"), "temperature=0 draws nothing"),
        (("--tokens", "1", "--checkpoint", "nowhere"), "--checkpoint nowhere is no folder"),
    ],
)
def test_wrong_requests_end_with_one_line(root, folder, arguments, message):
    done = typed(root, "generate.py", "--checkpoint", folder, *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line

"""Commands that cannot be run: each must end with one line that names what is wrong, soon, and leave nothing behind."""

import dataclasses
import pathlib
import shutil
from collections.abc import Sequence

from moejax.train.faults.forks import Fork

PATCHWORK = "configs/vit/patchwork.py:smoke"
VMOE = f"{PATCHWORK},model=vmoe"
DIT = "configs/dit/garments.py:smoke"


@dataclasses.dataclass(frozen=True)
class BadInput:
    """script: of experiments/. arguments: with {workdir} for a new folder. says: part of the line that must be printed."""

    script: str
    arguments: tuple[str, ...]
    says: str


def _train(says: str, *more: str, config: str = VMOE) -> BadInput:
    return BadInput("train.py", (f"--config={config}", "--workdir={workdir}", "--quiet", *more), says)


def _override(key: str, value: str, says: str, config: str = VMOE) -> BadInput:
    return _train(says, f"--config.{key}={value}", config=config)


INPUTS: tuple[BadInput, ...] = (
    _override("optimizer.learning_rat", "1", "learning_rate"),
    _train("'model'", config=f"{PATCHWORK},modle=vmoe"),
    _train("belongs to no flag", "model=vmoe", config=f"{PATCHWORK},"),
    _override("optimizer.name", "adan", "adamw"),
    _override("model.num_classes", "7", "29 classes"),
    _override("train.steps", "0", "train.steps=0"),
    _override("train.steps", "-5", "train.steps=-5"),
    _override("train.steps", "many", "many"),
    _override("train.keep_last", "0", "keep_last=0"),
    _override("train.ema_decay", "1.5", "ema_decay=1.5"),
    _override("train.accumulate_steps", "3", "accumulate_steps"),
    _override("train.accumulate_steps", "0", "accumulate_steps=0"),
    _override("train.on_nonfinite", "skipp", "skip"),
    _override("train.max_skipped", "-1", "max_skipped=-1"),
    _override("train.test_with", "bset", "best"),
    _override("train.checkpoint_every", "-2", "checkpoint_every=-2"),
    _override("train.init_from", "runs/nowhere", "runs/nowhere"),
    _override("train.mesh.expert", "3", "mesh"),
    _override("train.mesh.data", "0", "mesh"),
    _override("train.processes.start", "sometimes", "never"),
    _override("train.processes.heartbeat", "0", "heartbeat"),
    _override("train.processes.start", "always", "start"),
    _override("optimizer.learning_rate", "-0.1", "learning_rate=-0.1"),
    _override("optimizer.learning_rate", "fast", "fast"),
    _override("optimizer.schedule", "cosin", "cosine"),
    _override("optimizer.warmup_steps", "500", "warmup_steps=500"),
    _override("optimizer.b2", "1.0", "b2=1.0"),
    _override("optimizer.weight_decay", "-1.0", "weight_decay"),
    _override("optimizer.clip_norm", "0.0", "clip_norm"),
    _override("model.name", "vti", "vit"),
    _override("model.patch_size", "7", "patch_size"),
    _override("model.num_heads", "5", "num_heads"),
    _override("model.image_size", "64", "image_size"),
    _override("model.depth", "0", "depth"),
    _override("model.moe_layers", "last9", "moe_layers"),
    _override("model.moe.router.name", "topk", "top_k"),
    _override("model.moe.router.num_selected_experts", "99", "num_selected_experts"),
    _override("model.moe.router.capacity_factor", "-1.0", "capacity_factor"),
    _override("model.moe.experts.name", "mpl", "mlp"),
    _override("model.moe.group_size", "7", "group_size"),
    _override("task.name", "classify", "classification"),
    _override("task.label_smoothing", "1.5", "label_smoothing"),
    _override("data.name", "patchwrok", "patchwork"),
    _override("data.batch_size", "0", "batch_size"),
    _override("data.batch_size", "100000", "batch_size"),
    _train("'warp'", config=f"{PATCHWORK},model=warp"),
    _train("gate", config=f"{PATCHWORK},model=dense,gate=cosine"),
    _train("twice", config=f"{PATCHWORK},seed=1,seed=2"),
    _train("nowhere.py", config="configs/nowhere.py"),
    _train("workdir", "--verify"),
    BadInput("train.py", (f"--config={VMOE}",), "workdir"),
    BadInput("train.py", ("--workdir={workdir}",), "config"),
    BadInput("train.py", (f"--config={VMOE}", "--workdir={workdir}", "--stpes=4"), "stpes"),
    BadInput("train.py", (f"--config={VMOE}", "--workdir={workdir}", "--preemption_exit_code=999"), "999"),
    _override("task.time_weighting", "loud", "time_weighting", config=DIT),
    BadInput("train.py", (f"--config={VMOE}", "--workdir={workdir}", "--grace_seconds=-1"), "grace_seconds"),
    BadInput("evaluate.py", ("--workdir={workdir}",), "{workdir}"),
    BadInput("report.py", ("--workdir={workdir}",), "does not exist"),
    BadInput("sample.py", ("--checkpoint={workdir}", "--output={workdir}"), "{workdir}"),
    BadInput("summary.py", (f"--config={VMOE},experts=none",), "experts"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """command: as typed. line: what was printed. cpu_seconds: of the process, without the imports that a fork is spared."""

    command: str
    code: int | None
    line: str
    lines: int
    cpu_seconds: float
    says_why: bool
    left: tuple[str, ...]

    @property
    def good(self) -> bool:
        """One line that says what is wrong, an exit code for errors, nothing written."""
        return self.code in (1, 2) and self.lines == 1 and self.says_why and not self.left


def answer(given: BadInput, experiments: pathlib.Path, scratch: pathlib.Path) -> Answer:
    """Runs one in the repository's folder, so that configs are found; nothing of it may be there afterwards."""
    scratch.mkdir(parents=True)
    workdir = scratch / "run"
    arguments = [part.format(workdir=workdir) for part in given.arguments]
    line = [str(experiments / given.script), *arguments]
    output, errors = scratch.parent / "bad_input.out", scratch.parent / "bad_input.err"
    process = Fork(line, folder=experiments.parent, output=output, errors=errors)
    if not process.ended(120):
        process.kill()
    said = [text for text in errors.read_text().splitlines() if text.strip()]
    left = tuple(sorted(path.name for path in scratch.rglob("*")))
    shutil.rmtree(scratch)
    return Answer(
        command=" ".join([given.script, *given.arguments]),
        code=process.code,
        line=said[-1] if said else "",
        lines=len(said),
        cpu_seconds=round(process.cpu_seconds, 2),
        says_why=bool(said) and given.says.format(workdir=workdir) in said[-1] and said[-1].startswith("error: "),
        left=left,
    )


def answers(experiments: pathlib.Path, scratch: pathlib.Path, count: int) -> Sequence[Answer]:
    """The first `count` of INPUTS."""
    return [answer(given, experiments, scratch / f"bad_{number:03d}") for number, given in enumerate(INPUTS[:count])]

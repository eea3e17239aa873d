"""The page of a fault campaign, from its JSON alone."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

LIMIT = 5.0  # seconds of processor time for a wrong command


def is_clean(found: Mapping[str, Any]) -> bool:
    """Whether nothing was lost, missed or left behind."""
    killed, damaged, typed = found["killed"], found["damaged"], found["typed"]
    return (
        killed["resumed"] == killed["kills"]
        and not killed["damaged_checkpoints"]
        and not killed["runs_that_differ"]
        and damaged["detected"] == damaged["damages"]
        and damaged["same_bits"] == damaged["runs"]
        and typed["good"] == typed["inputs"]
        and typed["slowest"] < LIMIT
    )


def line(name: str, part: Mapping[str, Any]) -> str:
    """One part in one line."""
    if name == "killed":
        moments = ", ".join(f"{count} {moment}" for moment, count in part["moments"].items())
        return (
            f"{part['kills']} kills ({moments}): {part['resumed']} resumed from the last complete checkpoint, "
            f"{part['damaged_checkpoints']} damaged checkpoints; {part['runs_finished']} runs to the end, "
            f"{len(part['runs_that_differ'])} with other bits"
        )
    if name == "damaged":
        return (
            f"{part['damages']} damages: {part['detected']} detected and passed over; {part['runs']} runs on damaged folders, "
            f"{part['same_bits']} with the same bits"
        )
    return f"{part['inputs']} wrong commands: {part['good']} answered by one line, nothing left; slowest {part['slowest']} s"


def page(found: Mapping[str, Any]) -> str:
    """Markdown."""
    where = found["killed"]["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    commit = f", commit {where['git']['commit'][:12]}" if where["git"] else ""
    verdict = (
        "Everything was as it should be." if is_clean(found) else "**Not everything was as it should be: see below.**"
    )
    lines = [
        "# Fault campaign",
        "",
        f"{verdict} Made by `experiments/fault_campaign.py` on {where['date'][:10]}{commit} ({where['device']}, {versions}).",
        "",
        *(f"- {line(name, found[name])}." for name in ("killed", "damaged", "typed")),
        "",
        "The command, to be repeated anywhere (another `--seed` gives other moments):",
        "",
        "```bash",
        "python experiments/fault_campaign.py --workdir=/tmp/faults",
        "```",
    ]
    return "\n".join([*lines, *_killed(found["killed"]), *_damaged(found["damaged"]), *_typed(found["typed"])]) + "\n"


def _killed(part: Mapping[str, Any]) -> list[str]:
    rows = part["rows"]
    table = [
        f"| {moment} | {count} | {_mean([row['cpu_seconds'] for row in rows if row['moment'] == moment])} |"
        for moment, count in part["moments"].items()
    ]
    newest = Counter(row["newest"] for row in rows)
    spread = ", ".join(f"{step}: {count}" for step, count in sorted(newest.items()))
    return [
        "",
        "## Kills",
        "",
        "A V-MoE of one block (`configs/vit/patchwork.py:smoke,model=vmoe`) trains 24 steps, with a row of metrics every step and a checkpoint",
        f"every second one. SIGKILL comes after a {part['clock']} that is uniform over all that the process still has to do, its start included;",
        "the same command then goes on, is killed again, and so on until it comes to its end. Then every leaf of the last checkpoint",
        "(parameters, optimiser, average, router state, key) and every row of metrics are compared with those of a run that was left",
        f"alone, bit by bit. That takes {part['undisturbed_seconds']:.1f} seconds of {part['clock']}; the killed processes took",
        f"{part['mean_cpu_seconds']} seconds of processor time each.",
        "",
        "| killed while | kills | mean CPU seconds |",
        "|---|---:|---:|",
        *table,
        "",
        "*starting*: jax starts, data are read, the checkpoint is found. *saving*: the temporary folder of a checkpoint was there.",
        f"Rows of metrics cut in two: {part['half_rows']}. Most steps that had to be done again: {part['most_steps_lost']}.",
        f"Kills by the newest complete checkpoint (step: kills): {spread}.",
        "The processes are forks of one that has imported everything; each starts jax by itself.",
        *(f"- differs: {name}" for name in part["runs_that_differ"]),
    ]


def _damaged(part: Mapping[str, Any]) -> list[str]:
    rows = part["rows"]
    table = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        some = [row for row in rows if row["kind"] == kind]
        files = len({row["file"] for row in some})
        detected, intact = (sum(row[key] for row in some) for key in ("detected", "intact"))
        table.append(f"| {kind} | {len(some)} | {files} | {detected} | {intact} |")
    return [
        "",
        "## Damaged checkpoints",
        "",
        "Copies of a run's last three checkpoints. A bit is flipped anywhere in any file of the newest, or a file is cut at a random",
        "length, removed, or exchanged with its like in the checkpoint before (which damages both). Then the folder is opened as a run",
        "opens it.",
        "",
        "| damage | cases | different files | detected | the one before was read, with the very bits |",
        "|---|---:|---:|---:|---:|",
        *table,
        "",
        f"Training went on from {part['runs']} damaged folders, one of each kind, and ended with the same bits in {part['same_bits']}.",
    ]


def _typed(part: Mapping[str, Any]) -> list[str]:
    table = [
        f"| `{row['command'].replace('|', chr(92) + '|')}` | {row['code']} | {row['cpu_seconds']} | "
        f"{row['line'].replace('|', chr(92) + '|')}{'' if row['good'] else ' **(not as it should be)**'} |"
        for row in part["rows"]
    ]
    return [
        "",
        "## Wrong commands",
        "",
        f"{part['inputs']} commands of `experiments/`; {part['good']} were answered by one line on stderr, an exit code of 1 or 2 and",
        f"nothing written. Seconds are of the processor, with the {part['import_seconds']} of Python's imports; the limit is {LIMIT:g}.",
        "",
        "| command | code | CPU s | answer |",
        "|---|---:|---:|---|",
        *table,
    ]


def _mean(values: list[float]) -> str:
    return f"{sum(values) / len(values):.1f}" if values else "–"

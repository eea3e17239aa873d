"""A whole campaign: wrong commands, damaged checkpoints, kills; what was found is written down as it is found."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from moejax.train.disk import write_whole
from moejax.train.environment import surroundings
from moejax.train.faults import bad_inputs, corruptions, kills, report
from moejax.train.faults.forks import call

# The smallest mixture of experts that experiments/train.py trains, saved as often as it can be.
STEPS = 24
PARTS = ("typed", "damaged", "killed")
RUN = {
    "train.steps": STEPS, "train.checkpoint_every": 2, "train.log_every": 1, "train.eval_every": 0, "train.keep_last": 3,
    "model.depth": 1,
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Campaign:
    """experiments: the folder of the mains. workdir: for the runs, new. results: JSON file.

    kills, damages, inputs: how many. import_seconds: of the processor, that forks are spared.
    """

    experiments: pathlib.Path
    workdir: pathlib.Path
    results: pathlib.Path
    kills: int
    damages: int
    inputs: int
    seed: int
    import_seconds: float

    def run(self, parts: Sequence[str]) -> dict[str, Any]:
        """These of PARTS; the others are those of the results file, if it is there, and kills are added to the kills in it (give
        another seed). Prints a line for each and writes the file after every one, and after every kill. Raises RuntimeError where a run fails of itself, DiskError.
        """
        found: dict[str, Any] = json.loads(self.results.read_text()) if self.results.exists() else {}
        made = {key: value for key, value in call(surroundings).items() if key not in ("folder", "host")}  # published

        def note(name: str, part: dict[str, Any]) -> None:
            found[name] = {"seed": self.seed, "environment": made, **part}
            write_whole(self.results, json.dumps(found, indent=1) + "\n")

        if "typed" in parts:
            note("typed", self._typed())
            print(report.line("typed", found["typed"]), flush=True)
        if "damaged" in parts or "killed" in parts:
            kills.undisturbed(self.command, self.workdir / "cold")  # compiles for all
            _, cpu_seconds = kills.undisturbed(self.command, self.workdir / "undisturbed")
        if "damaged" in parts:
            note("damaged", self._damaged())
            print(report.line("damaged", found["damaged"]), flush=True)
        if "killed" in parts:
            self._killed(cpu_seconds, found.get("killed"), lambda part: note("killed", part))
            print(report.line("killed", found["killed"]), flush=True)
        return found

    def command(self, folder: pathlib.Path) -> Sequence[str]:
        """The training command of a folder."""
        config = self.experiments.parent / "configs" / "vit" / "patchwork.py"
        settings = [f"--config.{name}={value}" for name, value in RUN.items()]
        line = [str(self.experiments / "train.py"), f"--config={config}:smoke,model=vmoe", "--quiet"]
        return [*line, *settings, f"--workdir={folder}"]

    def _killed(
        self, cpu_seconds: float, before: Mapping[str, Any] | None, note: Callable[[dict[str, Any]], None]
    ) -> None:
        whole, before = self.workdir / "undisturbed", before or {}
        found = [kills.Kill(**row) for row in before.get("rows", [])]
        finished, differing = before.get("runs_finished", 0), list(before.get("runs_that_differ", []))
        seeds = [*before.get("seeds", []), self.seed]
        if (what := kills.same(self.workdir / "cold", whole)) is not None:
            differing.append(f"undisturbed: {what}")
        events = kills.kills(
            self.command, self.workdir, count=self.kills, steps=STEPS, cpu_seconds=cpu_seconds, seed=self.seed, first=finished
        )  # fmt: skip
        for event in events:
            if isinstance(event, kills.Kill):
                found.append(event)
            else:
                finished += 1
                if (what := kills.same(whole, event)) is not None:
                    differing.append(f"{event.name}: {what}")
                print(f"  {len(found)} kills; {event.name} is through: {what or 'the same bits'}", flush=True)
            rows = [dataclasses.asdict(kill) for kill in found]
            more = {
                "seeds": seeds,
                "clock": "processor time",
                "undisturbed_seconds": round(cpu_seconds, 1),
                "rows": rows,
            }
            note(kills.summary(found, finished, differing) | more)

    def _damaged(self) -> dict[str, Any]:
        whole, scratch = self.workdir / "undisturbed", self.workdir / "damages"
        scratch.mkdir()
        rows = call(corruptions.damages, str(whole / "checkpoints"), str(scratch), self.damages, self.seed)
        good = [row for row in rows if row["detected"] and row["intact"]]
        ends = []
        for kind in corruptions.KINDS:
            folder = corruptions.damaged_copy(whole, scratch / kind.replace(" ", "_"), kind, self.seed)
            kills.undisturbed(self.command, folder)
            ends.append(kills.same(whole, folder))
        same = sum(what is None for what in ends)
        return {"damages": len(rows), "detected": len(good), "runs": len(ends), "same_bits": same, "rows": rows}

    def _typed(self) -> dict[str, Any]:
        answers = bad_inputs.answers(self.experiments, self.workdir / "typed", self.inputs)
        rows = [dataclasses.asdict(found) | {"good": found.good} for found in answers]
        for row in rows:
            row["cpu_seconds"] = round(row["cpu_seconds"] + self.import_seconds, 2)
            row["command"] = row["command"].replace("{workdir}", "RUN")
            row["line"] = row["line"].replace(f"{self.workdir}/typed/", "")
        slowest = max(row["cpu_seconds"] for row in rows)
        imports = round(self.import_seconds, 2)
        return {
            "import_seconds": imports,
            "inputs": len(rows),
            "good": sum(row["good"] for row in rows),
            "slowest": slowest,
            "rows": rows,
        }

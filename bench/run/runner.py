"""A run: all stages of the cells of a suite, one record for each cell, and the table.

Everything stands in one folder: ``trainings/`` and ``cells/`` by name and hash, ``run.json``
(the resolved configuration), ``records.jsonl``, ``table.md`` and ``table.csv``.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.checkpoints import Checkpoint
from bench.data.pictures import Images
from bench.data.points import Points
from bench.files import lock_folder, sweep, write_json, write_text
from bench.machine import Machine, git_commit, versions
from bench.plan.cells import Cell, Training
from bench.plan.plan import DATA, Plan, data_facts, load_split
from bench.plan.sampling import solver
from bench.quality.extractors import choose_extractor
from bench.quality.fidelity import reference_hash
from bench.quality.registry import AUTO, EXTRACTORS, Extractor
from bench.records.make import cell_facts, make_record, title_of
from bench.records.record import Record, merge, read_records, write_records
from bench.run import stages, states
from bench.run.buildable import check_buildable
from bench.run.kinds import kind_of
from bench.run.settled import GUIDED, HELD_OUT_IMAGES, DrawnAt, settle
from bench.tables import table as tables
from sddpm.rng import image_seeds

RUN, RECORDS, TABLE_MD, TABLE_CSV = "run.json", "records.jsonl", "table.md", "table.csv"
TRAINING_FAILED = "its training failed"


@dataclass(frozen=True)
class RunResult:
    """Results of a finished run: its records, its table, its sample grids."""

    root: Path
    records: list[Record]
    """Records of this run's cells, in their order."""
    table: Any
    """The data frame behind ``table.md``."""
    grids: dict[str, Path]
    """Cell -> its sample grid."""

    @property
    def failed(self) -> list[Record]:
        return [record for record in self.records if record.status == "failed"]


class Runner:
    """Carries a plan out on a machine.

    Args:
        say: receives one line at a time about what happens.
        progress: show bars on standard error.
        on_failure: receives the exception of a cell that failed.
    """

    def __init__(
        self,
        plan: Plan,
        machine: Machine,
        *,
        say: Callable[[str], None] = lambda line: None,
        progress: bool = True,
        on_failure: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        self.plan, self.machine = plan, machine
        self.say = say if machine.first else lambda line: None
        self.progress, self.on_failure = progress, on_failure
        self._failed_trainings: dict[str, str] = {}
        self._records: list[Record] = []

    def run(self, spread: Callable[[Runner], Iterator[Record]] | None = None) -> RunResult:
        """Make the missing results, one record for each cell; a failed cell does not stop the
        others.

        Args:
            spread: makes the records, in any order, instead of this process: on other processes
                or machines (:mod:`bench.run.workers`).

        Raises:
            OSError: the disk is full, or the folder cannot be written.
            ValueError: another run is at work in the folder.
        """
        plan = self.plan
        plan.root.mkdir(parents=True, exist_ok=True)
        with lock_folder(plan.root, self.machine.first):
            if (plan.root / RECORDS).is_file():
                self._records = read_records(plan.root / RECORDS)
            if self.machine.first:
                self._note_thresholds()
            self.machine.barrier()  # all have read before the first one writes
            self._write_configuration()
            before, made = self._records, dict[str, Record]()
            for record in spread(self) if spread else map(self._cell, plan.cells):
                if self.machine.first:
                    made[record.config_hash] = record
                    # In the plan's order, whichever is made first.
                    new = [made[cell.hash] for cell in plan.cells if cell.hash in made]
                    self._records = merge(before, new)
                    write_records(plan.root / RECORDS, self._records)
                    self._write_table()
            if spread and self.machine.first:
                sweep(plan.root)  # of workers that were lost
        return self._result()

    @cached_property
    def extractor(self) -> Extractor:
        """The one extractor of this run: with ``auto``, the one the folder was scored with."""
        if (only := kind_of(self.plan.data.shape).extractor) is not None:
            return only
        choice, weights = self.plan.options.extractor, self.plan.options.extractor_weights
        used = {record.extractor for record in self._records if record.metrics}
        if choice == AUTO and len(used) == 1:
            for known in EXTRACTORS.values():
                if known.key in used and known.pinned and weights is None:
                    self.say(f"extractor {known.key}: what {self.plan.root} was scored with")
                    return known
        chosen = choose_extractor(choice, weights)
        self.say(f"extractor {chosen.key}: {chosen.reason}")
        return chosen

    @cached_property
    def _train_images(self) -> Images | Points:
        return load_split(self.plan, "train")

    @cached_property
    def _references(self) -> Images | Points:
        return load_split(self.plan, self.plan.suite.reference_split, self.plan.preset.references)

    @cached_property
    def _made_by(self) -> dict[str, Any]:
        """Facts of a record that are the same for every cell of this run."""
        return {
            "suite": self.plan.suite.name,
            "preset": self.plan.options.preset,
            "budget": None if self.plan.options.budget == 1 else self.plan.options.budget,
            "command": self.plan.options.command,
            "device": self.machine.name,
            "cores": self.machine.cores,
            "versions": versions(),
            "git_commit": git_commit(),
        }

    def _cell(self, cell: Cell) -> Record:
        self.say(f"[{self.plan.cells.index(cell) + 1}/{len(self.plan.cells)}] {cell.label}")
        known = self.known(cell)
        if known is not None:
            self.say("  done before")
            return known
        return self.make(cell)

    def make(self, cell: Cell) -> Record:
        """The record of ``cell``, after its missing stages have run."""
        try:
            return self._measure(cell)
        except Exception as error:
            return self.failure(cell, self.reason(error))

    def reason(self, error: Exception) -> str:
        """Reason for the failure of a stage, as one line. A full disk is raised again, since it
        stops the run."""
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise error
        self.on_failure(error)
        text = " ".join(str(error).split()) or type(error).__name__
        expected = isinstance(error, ValueError | OSError)
        return text if expected else f"{type(error).__name__}: {text}"

    def failure(self, cell: Cell, reason: str) -> Record:
        """The record of a cell that could not be made."""
        self.say(f"  failed: {reason}")
        facts = cell_facts(cell, self._made_by)
        return Record(**facts, status="failed", reason=reason, extractor=self.extractor.key)

    def known(self, cell: Cell) -> Record | None:
        """The record of an earlier run, if it is of this cell and all its files are valid. None
        also if a file is damaged; :meth:`make` then reports it for this cell."""
        made = [r for r in self._records if r.config_hash == cell.hash and r.status == "ok"]
        if not made:
            return None
        extractor = self.extractor.key  # without it no cell can be scored
        try:
            return self._standing(cell, [r for r in made if r.extractor == extractor])
        except Exception:
            return None

    def _standing(self, cell: Cell, made: list[Record]) -> Record | None:
        """The first of ``made``, records of ``cell``, that the files bear out."""
        folder, preset = self.plan.cell_folder(cell), self.plan.preset
        at = states.wanted_at(self.plan, cell)
        stand = (
            states.is_trained(self.plan.training_folder(cell.training))
            and states.is_sampled(folder, at)
            and states.is_metered(folder, preset.energy_images, at)
        )
        for record in made if stand else []:
            if (
                (at is None or _recorded_at(record) in (None, at))
                and record.energy_table == self.plan.options.energy_table
                and record.energy_images == preset.energy_images
                and (scores := self._scores(folder)) is not None
                and record.reference_hash in (None, scores["reference_hash"])
            ):
                return record
        return None

    def _note_thresholds(self) -> None:
        """Store the guided thresholds of existing samples beside them, because older versions kept
        these in the records only."""
        of = {record.config_hash: record for record in self._records if record.status == "ok"}
        for cell in self.plan.cells:
            record = of.get(cell.hash)
            if record and record.threshold == GUIDED and record.thresholds is not None:
                try:
                    states.note_thresholds(self.plan.cell_folder(cell), record.thresholds)
                except ValueError:
                    continue  # damaged, which is told when the cell's turn comes

    def _measure(self, cell: Cell) -> Record:
        plan, preset, folder = self.plan, self.plan.preset, self.plan.cell_folder(cell)
        self.train(cell.training)
        checkpoint = Checkpoint.read(plan.checkpoint(cell.training))
        loaded: list[Any] = []

        def system() -> Any:
            if not loaded:
                loaded.append(checkpoint.load(self.machine, cell.config))
            return loaded[0]

        steps = cell.config.get("time_steps")
        sampling = settle(
            cell.sampling, system, checkpoint, self._held_out, self.say, time_steps=steps
        )
        samples = stages.sample(
            system,
            folder,
            self.machine,
            shape=cell.training.data.shape,
            count=cell.samples,
            seed=cell.seed,
            sampling=sampling,
            batch=preset.sample_batch,
            progress=self.progress,
        )
        if not self.machine.first:
            # One process measures and records; the others only train and sample.
            return Record(**cell_facts(cell, self._made_by))
        energy = stages.meter_energy(
            system,
            folder,
            self.machine,
            images=preset.energy_images,
            seed=cell.seed,
            sampling=sampling,
        )
        seeds = image_seeds(cell.seed, 0, cell.samples)
        scores = self._scores(folder) or stages.score_samples(
            folder,
            self._asked(),
            self._references,
            self.extractor,
            self.machine,
            lambda held_out: system().figures(held_out, seeds),
        )
        return make_record(
            cell_facts(cell, self._made_by),
            train_seconds=checkpoint.train_seconds,
            samples=samples,
            energy=energy,
            scores=scores,
            energy_table=plan.options.energy_table,
            thresholds=sampling.get("threshold") if sampling else None,
            guided_gain=sampling["gain"] if sampling and _gain_is_guided(cell) else None,
        )

    def _held_out(self) -> Any:
        """Images that no training used, for measurements between training and sampling."""
        return load_split(self.plan, "test", HELD_OUT_IMAGES)

    def train(self, training: Training) -> None:
        """Train ``training``, its parents first."""
        folder = self.plan.training_folder(training)
        if training.hash in self._failed_trainings:
            raise ValueError(f"{TRAINING_FAILED}: {self._failed_trainings[training.hash]}")
        if not states.is_trained(folder):
            try:
                check_buildable(training)  # before its parents are trained for nothing
            except ValueError as error:
                self._failed_trainings[training.hash] = str(error)
                raise
        parent = None
        if training.parent is not None:
            self.train(training.parent)
            parent = self.plan.checkpoint(training.parent)
        try:
            stages.train(
                training,
                folder,
                lambda: self._train_images,
                self.machine,
                parent=parent,
                progress=self.progress,
                checkpoint_seconds=self.plan.options.checkpoint_seconds,
            )
        except Exception as error:
            self._failed_trainings[training.hash] = str(error)
            raise

    def _scores(self, folder: Path) -> dict[str, Any] | None:
        """Scores that are there, if against the references this run asks for."""
        asked = self._asked()
        return states.known_scores(folder, self.extractor.key, asked, self._reference_hash)

    @cached_property
    def _reference_hash(self) -> str | None:
        """Hash of the references that this run asks for. None if they would have to be fetched, or
        are gone: earlier scores are then assumed to be against them."""
        if self.plan.fetches:
            return None
        try:
            return reference_hash(self._references, self.extractor)
        except FileNotFoundError:
            return None

    def _asked(self) -> dict[str, Any]:
        return {"references": self.plan.preset.references, "split": self.plan.suite.reference_split}

    def _write_configuration(self) -> None:
        if self.machine.first:
            plan = self.plan
            write_json(plan.root / RUN, plan.facts())
            write_json(plan.root / DATA, data_facts(plan))

    def _shown(self) -> list[Record]:
        """Records of this folder that its table shows: this suite's, by this extractor."""
        return [
            record
            for record in tables.select(self._records, self.extractor.key)
            if (record.suite, record.preset) == (self.plan.suite.name, self.plan.options.preset)
        ]

    def _table(self) -> Any:
        shown = self._shown()
        have = {record.config_hash for record in shown}
        missing = [_row_of(cell) for cell in self.plan.cells if cell.hash not in have]
        return tables.frame(shown, missing)

    def _write_table(self) -> None:
        table, root = self._table(), self.plan.root
        write_text(root / TABLE_MD, tables.to_markdown(table, self._shown()))
        write_text(root / TABLE_CSV, tables.to_csv(table))

    def _result(self) -> RunResult:
        hashes = {cell.hash for cell in self.plan.cells}
        picture = kind_of(self.plan.data.shape).picture
        grids = {
            cell.label: self.plan.cell_folder(cell) / picture
            for cell in self.plan.cells
            if (self.plan.cell_folder(cell) / picture).is_file()
        }
        records = [record for record in self._shown() if record.config_hash in hashes]
        return RunResult(self.plan.root, records, self._table(), grids)


def _gain_is_guided(cell: Cell) -> bool:
    return (cell.sampling or {}).get("gain") == GUIDED


def _recorded_at(record: Record) -> DrawnAt:
    """The settings that ``record``, of a guided cell, was drawn at; None where it does not say."""
    if record.gain is None:
        return record.thresholds
    gain = record.guided_gain if record.gain == GUIDED else record.gain
    return {"thresholds": record.thresholds, "gain": gain}


def _row_of(cell: Cell) -> dict[str, Any]:
    """The row of a cell that has no record."""
    sampling = cell.sampling or {}
    asked = {name: sampling.get(name) for name in ("sampler", "eta", "threshold", "gain", "engine")}
    asked["sampler_steps"] = sampling.get("steps")
    return {
        "dataset": cell.training.data.label,
        "system": cell.system,
        "title": title_of(cell),
        "time_steps": cell.time_steps,
        **asked,
        "solver": solver(asked),
        "seed": cell.seed,
        "status": "missing",
    }

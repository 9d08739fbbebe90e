"""Several datasets in one stream, in exact proportions, as resumable as one.

    weights ─▶ a period of turns ─▶ position of the mix ─▶ (source, position in its own stream)

A source's stream is its epochs one after another, each in its own order. Which source's turn it is,
and how often it had one before, is read off a table of one period, so that any step is computed
without those before it.
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any, Literal, Self, get_args

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from penstock.errors import OrderError, StateError
from penstock.feed.convert import Form
from penstock.feed.cuda import received
from penstock.feed.dataset import Dataset
from penstock.feed.feeder import Caller, Feeder
from penstock.feed.feeding import Step, fed
from penstock.feed.metrics import Metrics
from penstock.feed.order import Order
from penstock.feed.turns import Turns, turns_of
from penstock.feed.variable import contiguous
from penstock.feed.world import World, current_world, dataloader_worker

Stop = Literal["first_exhausted", "all_exhausted"]


def interleave(
    datasets: Sequence[Dataset],
    *,
    weights: Sequence[float] | None = None,
    stop: Stop | int = "first_exhausted",
) -> Mixture:
    """Mix datasets sample by sample.

    Parameters
    ----------
    datasets: each with its own columns, filter, shuffle and map; without a batch size. They have
        the same columns.
    weights: shares of samples; by default equal. Kept exactly: after any number of samples, none
        has had as much as one turn more or less than its share.
    stop: when an epoch ends: before the first source would repeat (`first_exhausted`), when every
        one has been through (`all_exhausted`), or after so many steps.

    Raises
    ------
    OrderError: columns differ, or weights are not positive.
    """
    if not datasets:
        raise OrderError("interleave at least one dataset")
    if not (isinstance(stop, int) and stop > 0) and stop not in get_args(Stop):
        raise OrderError(f"stop is {', '.join(get_args(Stop))} or a number of steps, not {stop!r}")
    for dataset in datasets:
        if not isinstance(dataset, Dataset):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise OrderError(f"interleave mixes datasets, not {dataset!r}")
        if dataset.has_batches:
            raise OrderError(
                f"{dataset.name} has a batch size; give it to what interleave returns instead"
            )
        if not len(dataset):
            raise OrderError(
                f"{dataset.name} {dataset.split} is empty; leave it out of the mixture"
            )
    return Mixture(tuple(datasets), turns_of(len(datasets), weights), stop)


@dataclass(frozen=True)
class _Part:
    """One source's samples of one rank's part of some steps, as `fed` wants them."""

    mixture: Mixture
    source: int
    world: World
    steps: range
    offset: int
    """Of the source's stream at the epoch's beginning."""

    @property
    def each(self) -> int:
        share = self.mixture.turns.shares[self.source] / len(self.mixture.turns.source)
        return max(1, math.ceil(self.mixture.batch_size // self.world.size * share))

    def part(self, steps: range) -> tuple[NDArray[np.int64], list[int]]:
        numbers, counts = list[NDArray[np.int64]](), list[int]()
        turns, batch = self.mixture.turns, self.mixture.batch_size
        each = batch // self.world.size
        for step in steps:
            start = step * batch + self.world.rank * each
            first, last = (turns.had(self.source, at) for at in (start, start + each))
            numbers.append(np.arange(first, last) + self.offset)
            counts.append(last - first)
        return self._samples(np.concatenate(numbers)), counts

    def _samples(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sample numbers at places of the source's stream of epochs."""
        rows = self.mixture.lengths[self.source]
        epoch = places // rows
        samples = np.empty(len(places), np.int64)
        for number in np.unique(epoch).tolist():
            here = epoch == number
            samples[here] = self.mixture.order(self.source, number).rows_of(places[here] % rows)
        return samples


class Mixture:
    """Datasets mixed; iterating it feeds batches, as a Dataset does."""

    def __init__(
        self,
        datasets: tuple[Dataset, ...],
        turns: Turns,
        stop: Stop | int,
    ) -> None:
        self.turns, self.batch_size = turns, 0
        self._datasets, self._stop = datasets, stop
        self._form, self._given_world, self._replicas = Form(), None, 1
        self._epoch, self._step, self._resumed = 0, 0, False
        self._offsets = [0] * len(datasets)
        self._fed = turns
        """The weights of the epoch that is under way, or was last."""
        self._anchor = (0, list(self._offsets))
        """An epoch, and where each source's stream was when it began, with those weights."""
        self._worker: tuple[int, int] | None = None
        self._orders: dict[tuple[int, int], Order] = {}
        self._metrics = Metrics()
        schemas = [dataset.schema for dataset in datasets]
        for dataset, schema in zip(datasets, schemas, strict=True):
            if schema.names != schemas[0].names or schema.types != schemas[0].types:
                raise OrderError(
                    f"{dataset.name} has columns {_shown(schema)}, and {datasets[0].name} has "
                    f"{_shown(schemas[0])}; choose the same with select_columns"
                )

    def batch(self, rows: int) -> Mixture:
        """So many samples a step over all ranks; each rank gets its equal part of them."""
        if rows < 1:
            raise OrderError(f"a batch must have at least 1 row, got {rows}")
        return self._with(batch_size=rows)

    def to(
        self, form: str, *, device: Any = None, dtype: str | None = None, pin_memory: bool = False
    ) -> Mixture:
        """Batches in a form, as `Dataset.to`."""
        checked = Form.checked(form, device, dtype, pin_memory)
        parts = tuple(dataset.in_form(checked) for dataset in self._datasets)
        return self._with(_form=checked, _datasets=parts)

    def shard(self, rank: int, world_size: int) -> Mixture:
        """This process's place among those that train together, as `Dataset.shard`."""
        return self._with(_given_world=World(rank, world_size))

    def replicate(self, ranks: int) -> Mixture:
        """Groups of so many neighbouring ranks get the same batches."""
        return self._with(_replicas=ranks)

    def set_weights(self, weights: Sequence[float]) -> None:
        """Other shares, from the next epoch on.

        Raises
        ------
        OrderError: an epoch is under way.
        """
        if self._step and self._step == self._steps:
            self._end()  # whoever counts batches never asks for the end behind the last one
        if self._step:
            raise OrderError(f"weights change between epochs; this one is at step {self._step}")
        self.turns = turns_of(len(self._datasets), weights)

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next pass has; each source goes on behind what epochs before it took.

        Those since the weights last changed had the weights of then; an epoch before that is as if
        all had had today's.
        """
        if epoch < 0:
            raise OrderError(f"an epoch is numbered from 0, got {epoch}")
        anchored, offsets = self._anchor
        if epoch >= anchored:
            samples = self._steps_of(self._fed) * self.batch_size
            each = [self._fed.had(n, samples) for n in range(len(offsets))]
            offsets = [at + (epoch - anchored) * n for at, n in zip(offsets, each, strict=True)]
        else:
            samples = self._steps * self.batch_size
            offsets = [epoch * self.turns.had(n, samples) for n in range(len(offsets))]
        self._begin_at(epoch, offsets)

    def _begin_at(self, epoch: int, offsets: Sequence[int]) -> None:
        """Be at an epoch's beginning, with the weights of now."""
        self._epoch, self._step, self._resumed = epoch, 0, False
        self._offsets = list(offsets)
        self._fed, self._anchor = self.turns, (epoch, list(offsets))

    @cached_property
    def lengths(self) -> list[int]:
        """Samples of each source."""
        return [len(dataset) for dataset in self._datasets]

    @property
    def schema(self) -> pa.Schema:
        """The columns of a batch, before any `map`."""
        return self._datasets[0].schema

    def __len__(self) -> int:
        """Batches of an epoch."""
        return self._steps

    def order(self, source: int, epoch: int) -> Order:
        """A source's order of one of its epochs."""
        if (source, epoch) not in self._orders:
            # Positions are taken one by one: how they fall into steps is the mix's affair.
            order = self._datasets[source].batch(1).order(epoch)
            self._orders[source, epoch] = order
            for old in [key for key in self._orders if key[0] == source and key[1] < epoch - 1]:
                del self._orders[old]
        return self._orders[source, epoch]

    def __iter__(self) -> Iterator[Any]:
        """The batches of one epoch, or the rest of it after `load_state_dict`."""
        world, worker = self._world, dataloader_worker()
        if not self._resumed and worker.size == 1 and self._step and self._step == self._steps:
            self._end()  # whoever counts batches never asks for the end behind the last one
        if self._fed is not self.turns:
            self._begin_at(self._epoch, self._offsets)
        first = self._step if self._resumed else 0
        is_own = self._resumed and self._worker == worker.place
        first = worker.first_step(first, -first, is_own=is_own)
        self._resumed = False
        self._worker = None if worker.size == 1 else (worker.rank, worker.size)
        steps = range(first, self._steps, worker.size)
        feeder = Feeder(partial(self._made, steps, world, self._form.placed()), 2)
        batches = iter(feeder)
        try:
            while True:
                asked = time.monotonic()
                made = next(batches, None)
                self._metrics.add(starved_seconds=time.monotonic() - asked)
                if made is None:
                    break
                step, batch, samples = made
                self._metrics.add(samples=samples, batches=1)
                self._step = step + 1
                yield received(batch)
        finally:
            feeder.close()
        self._end()

    def _end(self) -> None:
        """The epoch is over: each source's stream goes on from where it is."""
        samples = self._steps * self.batch_size
        each = [self.turns.had(source, samples) for source in range(len(self._datasets))]
        offsets = [at + more for at, more in zip(self._offsets, each, strict=True)]
        self._begin_at(self._epoch + 1, offsets)

    def state_dict(self) -> dict[str, Any]:
        """Where iteration is, the same on every rank; valid on any number of ranks."""
        return {
            **asdict(_MixState(self._must_match(), self._epoch, self._step, list(self._offsets))),
            "shares": list(self.turns.shares),
            "worker": self._worker,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where a state was taken, with the weights of that time.

        Raises
        ------
        StateError: it belongs to another mixture.
        """
        value = dict(state)
        try:
            shares = tuple(int(share) for share in value.pop("shares"))
            worker = value.pop("worker")
            resumed = _MixState(**value)
        except (TypeError, KeyError) as error:
            raise StateError(f"not a state of interleaved datasets: {error}") from error
        here = self._must_match()
        if len(resumed.of) != len(here):
            raise StateError(
                f"the state was taken of {len(resumed.of) - 1} interleaved datasets, and these are "
                f"{len(here) - 1}; to continue the same run, interleave the same ones"
            )
        if resumed.of != here:
            names = [f"batch size {self.batch_size} or stop={self._stop!r}"]
            names += [f"{dataset.identity}" for dataset in self._datasets]
            pairs = zip(resumed.of, here, names, strict=True)
            other = [name for before, now, name in pairs if before != now]
            raise StateError(
                f"the state was taken of another mixture: it has not {'; not '.join(other)}; to "
                "continue the same run, interleave the same datasets with the same settings"
            )
        self.turns = Turns(shares)
        self._begin_at(resumed.epoch, resumed.offsets)
        self._step, self._resumed = resumed.step, True
        self._worker = None if worker is None else (worker[0], worker[1])

    def metrics(self) -> dict[str, float]:
        """Samples, batches and seconds starved of the mixture."""
        return self._metrics.read()

    def close(self) -> None:
        """Give files and threads of all sources back."""
        for dataset in self._datasets:
            dataset.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__

    def __repr__(self) -> str:
        period = len(self.turns.source)
        lines = [
            f"  {share / period:7.2%}  {dataset.name} {dataset.split} ({rows:,} samples)"
            for dataset, share, rows in zip(
                self._datasets, self.turns.shares, self.lengths, strict=True
            )
        ]
        return "Mixture\n" + "\n".join(lines)

    @property
    def raw_world(self) -> World:
        """This process among all, before ranks that share are taken for one."""
        return self.given_world or current_world()

    @property
    def rank_batch(self) -> int:
        """Samples a batch of one rank."""
        return self.batch_size // self._world.size

    @property
    def epoch(self) -> int:
        """The epoch that is under way, or comes next."""
        return self._epoch

    @property
    def is_resumed(self) -> bool:
        """Whether a state was loaded, and no batch given out since."""
        return self._resumed

    @property
    def given_world(self) -> World | None:
        """What `shard` said."""
        return self._given_world

    @property
    def _world(self) -> World:
        return self.raw_world.replicated(self._replicas)

    @property
    def _steps(self) -> int:
        return self._steps_of(self.turns)

    def _steps_of(self, turns: Turns) -> int:
        """Steps of an epoch with these weights."""
        if not self.batch_size:
            raise OrderError("say how many rows a batch has: .batch(8192)")
        if isinstance(self._stop, int):
            return self._stop
        ends = [turns.positions_to(n, rows + 1) - 1 for n, rows in enumerate(self.lengths)]
        if self._stop == "first_exhausted":
            return min(ends) // self.batch_size
        all_ends = [turns.positions_to(n, rows) for n, rows in enumerate(self.lengths)]
        return -(-max(all_ends) // self.batch_size)

    def _made(
        self, steps: range, world: World, form: Form, caller: Caller
    ) -> Iterator[tuple[int, Any, int]]:
        """Finished batches; in the feeder's thread."""
        if self.batch_size % world.size:
            raise OrderError(
                f"a batch of {self.batch_size} rows does not divide among {world.size} ranks; take "
                f"a multiple of {world.size}"
            )
        streams = [
            self._stream(_Part(self, n, world, steps, self._offsets[n]), caller)
            for n in range(len(self._datasets))
        ]
        each = self.batch_size // world.size
        try:
            for parts in zip(*streams, strict=True):
                start = parts[0].number * self.batch_size + world.rank * each
                period = len(self.turns.source)
                whose = self.turns.source[np.arange(start, start + each) % period]
                columns = _merged([part.columns for part in parts], whose)
                schema = self._datasets[0].schema
                yield parts[0].number, form.of(columns, schema), each
        finally:
            for stream in streams:
                stream.close()  # pyright: ignore[reportAttributeAccessIssue]

    def _stream(self, part: _Part, caller: Caller) -> Iterator[Step]:
        """One source's columns of each step, after its own map."""
        dataset = self._datasets[part.source]
        engine = dataset.engine()
        # The mixture's epochs are not the source's: what differs between epochs stays the same.
        samples = engine.samples.begin(0)
        chunks = fed(part, samples, engine.store, None, caller, with_rows=True)
        try:
            for chunk in chunks:
                for step in chunk:
                    yield Step(step.number, dataset.mapped(step, self._epoch), None)
        finally:
            chunks.close()  # pyright: ignore[reportAttributeAccessIssue]

    def _must_match(self) -> list[str]:
        whole = f"batch {self.batch_size}, stop {self._stop}"
        parts = [whole, *(dataset.identity for dataset in self._datasets)]
        # 32 bits each: a state of 40 datasets stays under 1 kB.
        return [xxhash.xxh32_hexdigest(part.encode()) for part in parts]

    def _with(self, **changes: Any) -> Mixture:
        kind = type(self)
        if changes.get("_form", self._form).name == "torch":
            # What a DataLoader takes for an iterable is a subclass of torch's class.
            kind = importlib.import_module("penstock.feed.torch_dataset").TorchMixture
        changed = object.__new__(kind)
        epoch, offsets = self._anchor
        fresh = {
            "_metrics": Metrics(),
            "_offsets": list(self._offsets),
            "_anchor": (epoch, list(offsets)),
        }
        changed.__dict__.update(self.__dict__ | fresh | changes)
        return changed


@dataclass(frozen=True, slots=True)
class _MixState:
    of: list[str]
    """Of what has to be the same to continue, hashes: the mixture's settings, then each source."""
    epoch: int
    step: int
    offsets: list[int]
    """How far each source's stream was when the epoch began."""


def _merged(parts: list[dict[str, Any]], whose: NDArray[np.int64]) -> dict[str, Any]:
    """Columns of several sources, each sample in its place."""
    places = np.argsort(whose, kind="stable")
    back = np.empty(len(whose), np.int64)
    back[places] = np.arange(len(whose))
    merged: dict[str, Any] = {}
    for name in parts[0]:
        pieces = [part[name] for part in parts]
        if isinstance(pieces[0], pa.Array):
            whole = pa.concat_arrays([contiguous(piece) for piece in pieces])
            merged[name] = whole.take(pa.array(back))
        else:
            merged[name] = np.concatenate(pieces)[back]
    return merged


def _shown(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)

"""Dataset: what to read and how, as a value to chain; iterating it feeds batches."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.errors import OrderError
from penstock.feed.convert import Form
from penstock.feed.cuda import received
from penstock.feed.describe import Explanation, explained, html_of, text_of
from penstock.feed.engine import Engine
from penstock.feed.feeder import Caller, Feeder
from penstock.feed.feeding import Step, Stretch
from penstock.feed.filtering import Expression, checked
from penstock.feed.images import ImageOptions
from penstock.feed.metrics import Metrics, serve_prometheus
from penstock.feed.opened import Opened
from penstock.feed.order import Full, Order, Windowed
from penstock.feed.packed import PackOptions
from penstock.feed.progress import ProgressLine
from penstock.feed.settings import Settings
from penstock.feed.shuffling import ShuffleQuality, shuffle_quality
from penstock.feed.stages import Stage, in_order
from penstock.feed.state import State
from penstock.feed.variable import row_bytes
from penstock.feed.windows import WindowOptions
from penstock.feed.world import World, current_world, dataloader_worker
from penstock.shards import Manifest

FULL_SHUFFLE_BYTES = 1 << 30
"""`shuffle(mode="auto")` permutes all rows of a dataset up to this size, and windows above it."""
_CHUNKS_AHEAD = 2


class Dataset:
    """One split of a dataset.

    Its methods return a changed copy. Iterating needs a batch size:

        for batch in load_dataset("retail/demand").shuffle(seed=1).batch(8192).to("torch"):
            step(batch["features"], batch["label"])

    Each pass over it is an epoch, with an order of its own; `state_dict` says where it is.
    """

    def __init__(self, opened: Opened, settings: Settings | None = None) -> None:
        self._opened = opened
        self._settings = settings or Settings(tuple(opened.source.columns.names))
        self._epoch, self._step, self._resumed = 0, 0, False
        self._worker: tuple[int, int, int] | None = None
        self._engine: Engine | None = None
        self._metrics = Metrics()

    # What is in it.

    @property
    def name(self) -> str:
        """`domain/name`, or the URI of what was opened where it lies."""
        return self._opened.name

    @property
    def fingerprint(self) -> str:
        """Names what is in it: inputs' versions, spec and code; or the files as they are."""
        return self._opened.fingerprint

    @property
    def split(self) -> str:
        """The split's name."""
        return self._opened.split

    @property
    def manifest(self) -> Manifest:
        """Shards, splits, statistics and inputs of a published dataset."""
        return self._opened.manifest

    @property
    def schema(self) -> pa.Schema:
        """The columns of a batch, before any `map`."""
        if self._settings.makes_samples or self._settings.images is not None:
            return self.engine().schema
        return pa.schema([self._opened.source.columns.field(n) for n in self._settings.columns])

    @property
    def features(self) -> list[str]:
        """Names of the columns inside `features`, in order."""
        return list(self._opened.features)

    @property
    def stats(self) -> Mapping[str, Any]:
        """Statistics of the features, taken on the train split alone, in the order of `features`.

        `mean`, `std`, `min`, `max` (floats; None where a feature has no value), `count`, `nulls`.
        """
        return self._opened.statistics

    @property
    def identity(self) -> str:
        """What decides which samples come in which order, in short."""
        settings = self._settings
        shuffle, limit = settings.shuffle, settings.limit
        return f"{self.fingerprint} {self.split} {settings.samples} {shuffle!r} {limit}"

    @property
    def has_batches(self) -> bool:
        """Whether a batch size was given."""
        return self._settings.batch is not None

    def __len__(self) -> int:
        """Samples before a batch size is given, then batches of an epoch."""
        if self._settings.batch is None:
            return self._samples
        return self._steps(self.order(self._epoch), self._world)

    def __getitem__(self, index: int | slice | Sequence[int] | NDArray[np.int64]) -> Any:
        """Samples by their stored number, as a batch in the chosen form; an int gives one of one.

        After `limit`, numbers are below it.

        Raises
        ------
        IndexError: a number lies outside the split.
        OrderError: a batch size was given, so that numbers could be taken for those of batches.
        """
        if self._settings.batch is not None:
            raise OrderError(
                f"{self.name}: take rows by number before .batch(); for a DataLoader around "
                'batches, call .to("torch")'
            )
        total = self._samples
        if isinstance(index, slice):
            numbers = np.arange(total)[index]
        else:
            given = np.atleast_1d(np.asarray(index))
            if not given.size:
                given = given.astype(np.int64)
            if given.dtype == np.bool_ and len(given) == total:
                given = np.flatnonzero(given)
            if given.dtype.kind not in "iu" or given.ndim != 1:
                raise OrderError(
                    f"{self.name}: take rows by whole numbers, a slice, or {total:,} booleans, not "
                    f"{given.dtype} of shape {given.shape}; columns are chosen by select_columns"
                )
            numbers = given.astype(np.int64)
            if given.dtype.kind == "u" and (given > np.uint64(2**63 - 1)).any():
                raise IndexError(f"{self.name} {self.split} has {total:,} rows")
            numbers = np.where(numbers < 0, numbers + total, numbers)
        if numbers.size and not (numbers.min() >= 0 and numbers.max() < total):
            raise IndexError(f"{self.name} {self.split} has {total:,} rows")
        engine = self.engine()
        step = Step(0, engine.rows(numbers), numbers)
        return received(self._finished(step, self._epoch, self._settings.form.placed()))

    # Which samples.

    def select_columns(self, columns: Sequence[str]) -> Dataset:
        """Only these columns."""
        known = self._opened.source.columns.names
        if missing := [name for name in columns if name not in known]:
            raise OrderError(
                f"{self.name}: no column {', '.join(missing)}; there are {', '.join(known)}"
            )
        pack, images = self._settings.pack, self._settings.images
        if pack is not None and tuple(columns) != (pack.column,):
            raise OrderError(f"{self.name}: packed sequences have {pack.column} alone")
        is_shown = images is not None and images.column in columns
        return self._with(columns=tuple(columns), images=images if is_shown else None)

    def filter(self, expression: Expression) -> Dataset:
        """Only rows for which an expression is true.

        A pyarrow expression (`pyarrow.compute.field("label") > 3`) is held against the ranges of
        each block first, so that blocks without such rows aren't read; a polars one is evaluated
        on every block. Packed features go by their own names. A second filter narrows the first.
        """
        wanted, before = checked(expression), self._settings.filter
        if before is not None:
            if type(before) is not type(wanted):
                raise OrderError("give all filters of a dataset as pyarrow, or all as polars")
            wanted = before & wanted  # pyright: ignore[reportOperatorIssue]
        self._refuse_second_shape("filter", self._settings.windows, self._settings.pack)
        return self._with(filter=wanted)

    def windows(self, length: int, *, stride: int = 1, by: str | None = None) -> Dataset:
        """Stretches of `length` stored rows as samples: columns of (samples, length, ...).

        Parameters
        ----------
        stride: rows from one window's first row to the next one's.
        by: a column (a series, an episode) that no window crosses; its rows lie together, in order.
        """
        self._refuse_second_shape(
            "windows", self._settings.filter, self._settings.pack, self._settings.images
        )
        return self._with(windows=WindowOptions(length, stride, by))

    def pack(
        self, seq_len: int, *, column: str | None = None, pad: int = 0, segments: bool = False
    ) -> Dataset:
        """Sequences of `seq_len` tokens as samples: a column of (samples, seq_len).

        The lists of a block, one after another, are cut from a place that differs each epoch.

        Parameters
        ----------
        column: the column of lists; by default the only one.
        pad: fills the sequence of a block that has fewer tokens than one.
        segments: adds `<column>_segments`, which of the sequence's lists a token is of.
        """
        self._refuse_second_shape(
            "pack", self._settings.filter, self._settings.windows, self._settings.images
        )
        schema = self._opened.source.columns
        lists = [n for n in self._settings.columns if pa.types.is_nested(schema.field(n).type)]
        if column is None and len(lists) != 1:
            raise OrderError(f"say which column is packed: pack({seq_len}, column=...)")
        options = PackOptions(column or lists[0], seq_len, pad, segments)
        return self.select_columns([options.column])._with(pack=options)

    def decode_image(
        self,
        size: int | tuple[int, int],
        *,
        column: str | None = None,
        fit: Literal["crop", "stretch"] = "crop",
        cached: bool = False,
        threads: int | None = None,
    ) -> Dataset:
        """A column of encoded images as (samples, height, width, 3) uint8, decoded in threads.

        Parameters
        ----------
        size: height and width in pixels, or one number for both.
        column: the images' column; by default the only binary one.
        fit: `crop` keeps the proportions and cuts what stands over; `stretch` doesn't.
        cached: keep decoded images in the cache, so that later epochs only copy them.
        threads: by default as many as there are cores.
        """
        self._refuse_second_shape("decode_image", self._settings.windows, self._settings.pack)
        schema = self._opened.source.columns
        binary = [n for n in self._settings.columns if _is_binary(schema.field(n).type)]
        if column is None and len(binary) != 1:
            raise OrderError("say which column holds the images: decode_image(size, column=...)")
        if column is not None and column not in binary:
            raise OrderError(
                f"{self.name}: {column} is no column of encoded images; binary columns are: "
                f"{', '.join(binary) or 'none'}"
            )
        if fit not in ("crop", "stretch"):
            raise OrderError(f"images are fitted by crop or stretch, not {fit!r}")
        height, width = (size, size) if isinstance(size, int) else size
        threads = threads or len(os.sched_getaffinity(0))
        options = ImageOptions(column or binary[0], height, width, fit, cached, threads)
        return self._with(images=options)

    def map(
        self,
        function: Callable[..., Any],
        *,
        batched: bool = True,
        workers: int = 1,
        seed: int | None = None,
    ) -> Dataset:
        """Put each batch through a function: a dict of numpy arrays in, a dict of columns out.

        Parameters
        ----------
        batched: False: the function is given one sample at a time.
        workers: threads that run it, each on another batch.
        seed: given, the function's second argument draws random numbers that depend on (seed,
            epoch, row) alone: a `RowRandom`, or a numpy Generator where it isn't batched.
        """
        stage = Stage(function, batched, workers, seed)
        return self._with(stages=(*self._settings.stages, stage))

    def limit(self, rows: int) -> Dataset:
        """Only the first so many samples of each epoch's order."""
        return self._with(limit=_whole("a limit", rows, 1))

    # In which order, and to whom.

    def shuffle(
        self,
        seed: int,
        *,
        mode: Literal["auto", "full", "windowed"] = "auto",
        window: int = 64,
    ) -> Dataset:
        """Another order each epoch, a function of the dataset's fingerprint, seed and epoch.

        Parameters
        ----------
        mode: `full` permutes all samples. `windowed` permutes blocks, then samples within `window`
            of them, so that each block is fetched once an epoch. `auto` takes `full` up to 1 GiB,
            by the bytes that the manifest has.
        """
        if mode not in ("auto", "full", "windowed"):
            raise OrderError(f"a shuffle is auto, full or windowed, not {mode!r}")
        if mode == "auto":
            mode = "full" if self._opened.size_bytes <= FULL_SHUFFLE_BYTES else "windowed"
        seed = _whole("a seed", seed)
        return self._with(shuffle=Full(seed) if mode == "full" else Windowed(seed, window))

    def batch(self, rows: int, *, drop_last: bool = False) -> Dataset:
        """So many samples a step over all ranks; each rank gets its equal part of them.

        With `drop_last` an epoch's last step is left out when it has fewer. Otherwise it is
        shorter, and what does not divide evenly among the ranks is dropped from it, so that every
        rank always gets as many batches and samples as every other.
        """
        return self._with(batch=_whole("a batch", rows, 1), drop_last=drop_last)

    def repeat(self, epochs: int | None = None) -> Dataset:
        """One iteration goes through this many epochs, each in its own order; None: without end.

        It ends before the next epoch whose number this divides: an iteration that was resumed ends
        where it would have ended.
        """
        if epochs is not None and epochs < 1:
            raise OrderError(f"repeat at least 1 epoch, got {epochs}")
        return self._with(epochs=epochs)

    def shard(self, rank: int, world_size: int) -> Dataset:
        """This process's place among those that train together.

        By default it is taken from torch.distributed, the launcher's environment, or JAX.
        """
        return self._with(world=World(rank, world_size))

    def replicate(self, ranks: int) -> Dataset:
        """Groups of so many neighbouring ranks get the same batches (tensor, pipeline parallel)."""
        return self._with(replicas=ranks)

    def to(
        self,
        form: str,
        *,
        device: Any = None,
        dtype: str | None = None,
        pin_memory: bool = False,
    ) -> Dataset:
        """Batches as `numpy`, `torch`, `jax`, `tf`, `arrow` or `polars`.

        In the first four, times come as integers in their stored unit (of what Penstock published,
        int64 microseconds, UTC), missing features as NaN, and columns without a fixed width as
        `Ragged`.

        Parameters
        ----------
        device: where torch, jax or tf batches go.
        dtype: of floating-point columns, such as `float16` or `bfloat16`.
        pin_memory: of torch batches, in page-locked memory.
        """
        return self.in_form(Form.checked(form, device, dtype, pin_memory))

    def in_form(self, form: Form) -> Dataset:
        """Batches in a form."""
        return self._with(form=form)

    def progress(self) -> Dataset:
        """Show how far an epoch is, how fast, and how much it waited, in a line of the terminal."""
        return self._with(shows_progress=True)

    # Feeding.

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next pass has; by default each pass has the next."""
        if epoch < 0:
            raise OrderError(f"an epoch is numbered from 0, got {epoch}")
        self._epoch, self._step, self._resumed = epoch, 0, False

    def __iter__(self) -> Iterator[Any]:
        """The batches of one epoch, or the rest of it after `load_state_dict`."""
        epochs, worker = self._settings.epochs, dataloader_worker()
        if not self._resumed and worker.size == 1 and self._step and self._step == len(self):
            # Whoever counts batches takes the last one and never asks for the end behind it.
            self._epoch, self._step = self._epoch + 1, 0
        first = self._step if self._resumed else 0
        is_own = self._resumed and self._worker is not None and self._worker[:2] == worker.place
        # In an iteration that is continued, workers keep the turns that they had in it.
        turns = self._worker[2] if is_own and self._worker is not None else -first
        self._resumed = False
        last = None if epochs is None else (self._epoch // epochs + 1) * epochs
        while last is None or self._epoch < last:
            self._worker = None if worker.size == 1 else (*worker.place, turns % worker.size)
            steps = len(self)
            if epochs is None and not steps:
                raise OrderError(f"{self.name} {self.split}: an epoch has no batch to repeat")
            yield from self._one_epoch(worker.first_step(first, turns, is_own=is_own), worker)
            first, is_own, turns = 0, False, turns + steps
            if worker.size > 1:
                self._worker = (*worker.place, turns % worker.size)

    def _one_epoch(self, first: int, worker: World) -> Iterator[Any]:
        """One epoch from this step on, or every n-th of its steps in one of n workers."""
        world, order = self._world, self.order(self._epoch)
        epoch = order.epoch
        stretch = Stretch(order, world, range(first, self._steps(order, world), worker.size))
        # Which GPU "cuda" means is asked in the caller's thread, where he has chosen it.
        form = self._settings.form.placed()
        feeder = Feeder(partial(self._made, stretch, form), _CHUNKS_AHEAD)
        chunks = iter(feeder)
        line = None
        if self._settings.shows_progress:
            line = ProgressLine(self.name, epoch, stretch.steps.stop, self._metrics)
        try:
            while True:
                asked = time.monotonic()
                made = next(chunks, None)
                self._metrics.add(starved_seconds=time.monotonic() - asked)
                if made is None:
                    break
                for step, batch, samples, size in made:
                    self._metrics.add(samples=samples, batches=1, bytes_fed=size)
                    self._step = step + 1
                    if line is not None:
                        line.reached(step + 1)
                    yield received(batch)
        finally:
            feeder.close()
            if line is not None:
                line.close()
        self._epoch, self._step = epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Where iteration is: after the batches that the caller has received, whatever is ahead.

        The same on every rank, and valid on any number of ranks. A dataset has one place: of two
        iterations over the same one at a time, it is the place of whichever went on last.
        """
        return self._state().to_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where a state was taken, at the next iteration over this dataset.

        Raises
        ------
        StateError: it belongs to another dataset, seed or batch size.
        """
        resumed = State.resumed(state, self._state())
        self._epoch, self._step, self._resumed = resumed.epoch, resumed.step, True
        self._worker = resumed.worker

    def close(self) -> None:
        """Give files and threads back; the dataset opens them again when used. Twice is fine."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # For people.

    def explain(self) -> Explanation:
        """The plan: blocks, order, window, what will be fetched, the cache's budget, memory."""
        order = None if self._settings.batch is None else self.order(self._epoch)
        return explained(self._opened, self._settings, order, self._world)

    def shuffle_quality(self) -> ShuffleQuality:
        """How far this epoch's order is from a perfect shuffle; `plot()` draws it."""
        return shuffle_quality(self.order(self._epoch), self._opened.source)

    def metrics(self) -> dict[str, float]:
        """Samples, bytes by where they came from, retries, evictions, and seconds starved."""
        return self._metrics.read()

    def serve_metrics(self, port: int) -> Any:
        """Serve `metrics()` to Prometheus at http://<host>:<port>/metrics, until `shutdown()`."""
        labels = {"dataset": self.name, "split": self.split}
        return serve_prometheus(self._metrics, port, labels)

    def __repr__(self) -> str:
        return text_of(self._opened, self._settings, self._counted)

    def _repr_html_(self) -> str:
        return html_of(self._opened, self._settings, self._counted)

    # Behind it.

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_engine": None}

    @property
    def _total(self) -> int:
        if not self._settings.makes_samples:
            return self._opened.rows
        return int(self.engine().samples.counts.sum())

    @property
    def _samples(self) -> int:
        limit = self._settings.limit
        return self._total if limit is None else min(self._total, limit)

    @property
    def _counted(self) -> int | None:
        """Samples, unless they would have to be counted first."""
        if self._settings.makes_samples and self._engine is None:
            return None
        return self._samples

    @property
    def raw_world(self) -> World:
        """This process among all, before ranks that share are taken for one."""
        return self.given_world or current_world()

    @property
    def rank_batch(self) -> int:
        """Samples a batch of one rank."""
        return (self._settings.batch or 0) // self._world.size

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
        return self._settings.world

    @property
    def _world(self) -> World:
        return self.raw_world.replicated(self._settings.replicas)

    def _with(self, **changes: Any) -> Dataset:
        settings = replace(self._settings, **changes)
        kind = Dataset
        if settings.form.name == "torch":
            # What a DataLoader takes for an iterable is a subclass of torch's class.
            kind = importlib.import_module("penstock.feed.torch_dataset").TorchDataset
        return kind(self._opened, settings)

    def order(self, epoch: int) -> Order:
        """The order of an epoch.

        Raises
        ------
        OrderError: no batch size was given.
        """
        settings = self._settings
        if settings.batch is None:
            raise OrderError(f"{self.name}: say how many rows a batch has: .batch(8192)")
        counts = self._opened.source.rows
        if settings.makes_samples:
            counts = self.engine().samples.counts
        return Order(
            fingerprint=self.fingerprint,
            block_rows=counts,
            shuffle=settings.shuffle,
            epoch=epoch,
            global_batch=settings.batch,
            drop_last=settings.drop_last,
            limit=settings.limit,
        )

    def _steps(self, order: Order, world: World) -> int:
        """Steps in which every rank gets a sample."""
        if order.global_batch % world.size:
            raise OrderError(
                f"a batch of {order.global_batch} rows does not divide among {world.size} ranks; "
                f"take a multiple of {world.size}"
            )
        last = order.rows - (order.steps - 1) * order.global_batch
        return order.steps - (1 if order.steps and last < world.size else 0)

    def engine(self) -> Engine:
        """What is open in this process; opened when first asked for."""
        if self._engine is None or self._engine.owner != os.getpid():
            self._engine = Engine(self._opened, self._settings, self._metrics)
        return self._engine

    def _made(
        self, stretch: Stretch, form: Form, caller: Caller
    ) -> Iterator[list[tuple[int, Any, int, int]]]:
        """Finished batches, each with its step, samples and bytes; in the feeder's thread."""
        engine, stages = self.engine(), self._settings.stages
        following = self.order(stretch.order.epoch + 1)
        with_rows = any(stage.seed is not None for stage in stages)
        chunks = engine.feed(stretch, following, with_rows=with_rows, caller=caller)
        epoch = stretch.order.epoch

        def one(step: Step) -> tuple[int, Any, int, int]:
            samples = len(next(iter(step.columns.values()))) if step.columns else 0
            size = sum(
                row_bytes(values) if isinstance(values, pa.Array) else values.nbytes
                for values in step.columns.values()
            )
            return step.number, self._finished(step, epoch, form), samples, size

        try:
            if not stages:
                for chunk in chunks:
                    yield [one(step) for step in chunk]
                return
            steps = (step for chunk in chunks for step in chunk)
            workers = max(stage.workers for stage in stages)
            for made in in_order(steps, one, workers, "penstock-map"):
                yield [made]
        finally:
            chunks.close()  # pyright: ignore[reportAttributeAccessIssue]

    def mapped(self, step: Step, epoch: int) -> dict[str, Any]:
        """A step's columns after every `map`."""
        columns = step.columns
        count = len(next(iter(columns.values()))) if columns else 0
        rows = np.zeros(count, np.int64) if step.rows is None else step.rows
        for stage in self._settings.stages:
            columns = stage.apply(columns, rows, epoch)
        return columns

    def _finished(self, step: Step, epoch: int, form: Form) -> Any:
        return form.of(self.mapped(step, epoch), self.engine().schema)

    def _state(self) -> State:
        settings = self._settings
        return State(
            dataset=self.fingerprint,
            split=self.split,
            samples=settings.samples,
            shuffle=repr(settings.shuffle),
            global_batch=settings.batch or 0,
            limit=settings.limit,
            epoch=self._epoch,
            step=self._step,
            worker=self._worker,
        )

    def _refuse_second_shape(self, name: str, *others: object) -> None:
        if any(other is not None for other in others):
            raise OrderError(
                f"{self.name}: {name} can't be combined with what was asked for before (of filter, "
                "windows, pack and decode_image); publish a dataset of the rows that you want first"
            )


def _whole(what: str, value: Any, least: int | None = None) -> int:
    """A whole number, numpy's too."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise OrderError(f"{what} is a whole number, not {value!r}")
    if least is not None and value < least:
        raise OrderError(f"{what} is at least {least}, got {value}")
    return int(value)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

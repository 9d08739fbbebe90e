"""What a dataset has open in one process: blocks, gatherers, samples."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.errors import OrderError
from penstock.feed.ahead import Ahead
from penstock.feed.blocks import BlockStore
from penstock.feed.feeder import Caller
from penstock.feed.feeding import Step, Stretch, fed
from penstock.feed.filtering import Filtered
from penstock.feed.gather import Gatherer
from penstock.feed.images import Images, PixelCache
from penstock.feed.metrics import Metrics
from penstock.feed.opened import Opened
from penstock.feed.order import Full, Order
from penstock.feed.packed import Packed
from penstock.feed.samples import Rows, Samples
from penstock.feed.settings import Settings
from penstock.feed.windows import Windows

log = logging.getLogger(__name__)


class Engine:
    """Feeds a dataset with some settings; owns what it opens."""

    def __init__(self, opened: Opened, settings: Settings, metrics: Metrics) -> None:
        self.owner = os.getpid()
        self._opened, self._settings, self._metrics = opened, settings, metrics
        self.store = BlockStore(
            opened.source,
            cache=opened.cache,
            fetch=opened.fetch,
            memory=opened.memory,
            metrics=metrics,
            is_sticky=isinstance(settings.shuffle, Full),
        )
        opened_store = weakref.ref(self.store)
        metrics.evictions_now = lambda: getattr(opened_store(), "evictions", 0)
        self._images: Images | None = None
        try:
            self.samples = self._made()
        except BaseException:
            self.close()
            raise
        self.schema = self.samples.schema

    def rows(self, numbers: NDArray[np.int64]) -> dict[str, Any]:
        """Samples by number."""
        plan = self.samples.plan(numbers)
        columns = list[dict[str, Any]]()
        most = max(1, self.store.most_coming)
        if len(plan.blocks) > most:
            raise OrderError(
                f"{len(numbers):,} samples lie in {len(plan.blocks):,} blocks, more than fit into "
                f"memory at once ({most:,}); ask for fewer"
            )
        self.store.want(plan.blocks)
        try:
            self.store.wait(plan.blocks)
            self.samples.open(plan.blocks)
            columns.append(self.samples.gather(plan.samples, plan.block_of))
        finally:
            self.store.release(plan.blocks)
        return columns[0]

    def feed(
        self, stretch: Stretch, following: Order, *, with_rows: bool, caller: Caller
    ) -> Iterator[list[Step]]:
        """The steps of a stretch, a chunk at a time.

        Parameters
        ----------
        following: the next epoch's order, whose first blocks are brought before this one ends.
        caller: who waits for them.
        """
        self.store.is_awaited = caller.is_waiting
        order, world = stretch.order, stretch.world
        part = (world.rank, world.size)
        samples, ahead = self.samples.begin(order.epoch), None
        if not self.store.is_local and not isinstance(order.shuffle, Full) and len(stretch.steps):
            room = max(1, int(self._opened.source.block_bytes.mean()))
            most = max(2, min(self._opened.memory.ahead_bytes // room, self.store.most_coming // 2))
            ahead = Ahead(
                self.store,
                order.sequence(stretch.steps[0], part),
                lambda: following.sequence(0, part),
                most,
            )
            this_turns, next_turns = order.block_turns(), following.block_turns()
            after = int(this_turns.max(initial=0)) + 1

            self.store.next_use = lambda: np.where(
                self.store.is_used, next_turns + after, this_turns
            )
            self.store.is_used[:] = False
            self.store.is_used[np.setdiff1d(np.arange(len(this_turns)), ahead.sequence)] = True
        return fed(stretch, samples, self.store, ahead, caller, with_rows=with_rows)

    def close(self) -> None:
        """Give everything back; twice does no harm."""
        if self._images is not None:
            self._images.close()
        self.store.close()

    def _made(self) -> Samples:
        settings, source = self._settings, self._opened.source
        take = settings.form.take()
        columns = settings.columns
        if settings.pack is not None:
            return Packed(self.store, settings.pack, take)
        images = settings.images
        if images is not None:
            columns = tuple(name for name in columns if name != images.column)
        schema = pa.schema([source.columns.field(name) for name in columns])
        keeps_nulls = settings.form.name in ("arrow", "polars") and not settings.stages
        # Local blocks are mapped until nothing refers to them, so that rows of theirs can be shown.
        as_views = self.store.is_local and settings.form.has_ragged and not settings.stages
        gatherer = Gatherer(self.store, columns, take, keeps_nulls=keeps_nulls, as_views=as_views)
        if settings.windows is not None:
            return Windows(gatherer, self.store, schema, settings.windows)
        samples: Samples = Rows(gatherer, source.rows, schema)
        if settings.filter is not None:
            samples = Filtered(Rows(gatherer, source.rows, schema), self.store, settings.filter)
        if images is None:
            return samples
        encoded = Gatherer(self.store, (images.column,), take, as_views=self.store.is_local)
        place = settings.columns.index(images.column)
        self._images = Images(samples, encoded, images, self._pixels(), place)
        return self._images

    def _pixels(self) -> PixelCache | None:
        images, opened = self._settings.images, self._opened
        if images is None or not images.is_cached:
            return None
        of = f"{opened.fingerprint}/{opened.split}"
        try:
            return PixelCache(opened.cache, of, opened.rows, images)
        except OSError as error:
            log.warning("%s: can't cache decoded images: %s", opened.cache.folder, error)
            return None

"""Token lists packed into sequences of equal length, as samples.

The lists of a block, one after another, are cut every `seq_len` tokens, from a place that differs
each epoch; a sequence runs from one list into the next, and the block's end into its beginning. So
how many sequences a block has is known from its number of tokens, a sequence is a stretch of
memory, and the order of sequences is shuffled, cut and resumed as that of rows is.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from penstock.errors import OrderError
from penstock.feed.blocks import BlockStore
from penstock.feed.gather import Take, cell_of
from penstock.feed.samples import Plan, Samples
from penstock.shards.ranges import is_list

_SCANNED_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class PackOptions:
    """What is packed, and how."""

    column: str
    seq_len: int
    """Tokens of a sequence."""
    pad: int
    """What fills the sequence of a block that has fewer tokens than one sequence."""
    segments: bool
    """Whether to add `<column>_segments`: for each token, which of the sequence's lists it is of,
    counted from 0; -1 for padding."""

    def __post_init__(self) -> None:
        if self.seq_len < 1:
            raise OrderError(f"a sequence has at least 1 token, got seq_len={self.seq_len}")


class Packed:
    """Each sample is a sequence: a column of (samples, seq_len)."""

    def __init__(self, store: BlockStore, options: PackOptions, take: Take) -> None:
        self._store, self._options, self._take = store, options, take
        kind = store.source.columns.field(options.column).type
        cell = cell_of(kind.value_type) if is_list(kind) else None
        if cell is None or cell.shape or cell.bits:
            raise OrderError(f"only lists of numbers are packed, and {options.column} is {kind}")
        self._dtype = cell.dtype
        sequence = pa.fixed_shape_tensor(kind.value_type, [options.seq_len])
        fields = [pa.field(options.column, sequence)]
        if options.segments:
            segments = pa.fixed_shape_tensor(pa.int32(), [options.seq_len])
            fields.append(pa.field(f"{options.column}_segments", segments))
        self.schema = pa.schema(fields)
        known = store.source.elements(options.column)
        self._tokens = self._counted() if known is None else known
        self.counts = np.maximum(
            self._tokens // options.seq_len, (self._tokens > 0).astype(np.int64)
        )
        self._ends = np.cumsum(self.counts)
        self._base = np.zeros(len(self.counts), np.int64)
        self._opened_at = np.full(len(self.counts), -1, np.int64)
        self._phase = 0

    @property
    def bytes_a_sample(self) -> int:
        """A sequence's."""
        each = self._dtype.itemsize + (4 if self._options.segments else 0)
        return self._options.seq_len * each

    def begin(self, epoch: int) -> Samples:
        """Cut from this epoch's own place."""
        text = f"{self._store.source.fingerprint}/{epoch}/pack"
        of_epoch = copy(self)
        of_epoch._phase = xxhash.xxh3_64_intdigest(text.encode()) % self._options.seq_len
        return of_epoch

    def open(self, blocks: NDArray[np.int64]) -> None:
        """Find where their tokens begin."""
        places = self._store.places(blocks)
        for block in blocks[self._opened_at[blocks] != places].tolist():
            column = self._store.batch(block)[self._options.column]
            values = column.values
            start = (values.offset + int(column.offsets[0].as_py())) * self._dtype.itemsize
            self._base[block] = values.buffers()[1].address - self._store.origin + start
        self._opened_at[blocks] = places

    def plan(self, samples: NDArray[np.int64]) -> Plan:
        """A sequence lies in one block."""
        block_of = np.searchsorted(self._ends, samples, side="right")
        return Plan(samples, np.unique(block_of), block_of)

    def gather(self, samples: NDArray[np.int64], block_of: NDArray[np.int64]) -> dict[str, Any]:
        """One copy, but for the sequences in which a block's end meets its beginning."""
        length, item = self._options.seq_len, self._dtype.itemsize
        tokens, starts = self._tokens[block_of], self._starts(samples, block_of)
        base = self._base[block_of]
        is_whole = starts + length <= tokens
        # A sequence that wraps is read from where it may be, and then put right.
        safe = np.where(is_whole, starts, np.maximum(0, tokens - length))
        taken = self._take(self._store.memory, base + safe * item, length * item)
        out = taken.reshape(-1).view(self._dtype).reshape(len(samples), length)
        memory = self._store.memory
        for place in np.flatnonzero(~is_whole).tolist():
            at, count = int(base[place]), int(tokens[place])
            whole = memory[at : at + count * item].view(self._dtype)
            if count < length:
                out[place, :count], out[place, count:] = whole, self._options.pad
            else:
                head = count - int(starts[place])
                out[place, :head] = whole[int(starts[place]) :]
                out[place, head:] = whole[: length - head]
        columns: dict[str, Any] = {self._options.column: out}
        if self._options.segments:
            columns[f"{self._options.column}_segments"] = self._segments(starts, tokens, block_of)
        return columns

    def rows_of(self, samples: NDArray[np.int64], block_of: NDArray[np.int64]) -> NDArray[np.int64]:
        """The sequence's own number: it has no row."""
        return samples

    def _starts(self, samples: NDArray[np.int64], block_of: NDArray[np.int64]) -> NDArray[np.int64]:
        """The token of its block with which each sequence begins."""
        tokens, counts = self._tokens[block_of], self.counts[block_of]
        number = samples - (self._ends - self.counts)[block_of]
        # A block of less than one sequence begins at its first token and is padded.
        phase = np.where(tokens >= self._options.seq_len, self._phase, 0)
        return (phase + number * self._options.seq_len) % np.maximum(tokens, 1) * (counts > 0)

    def _segments(
        self, starts: NDArray[np.int64], tokens: NDArray[np.int64], block_of: NDArray[np.int64]
    ) -> NDArray[np.int32]:
        """For each token, how many lists have begun in its sequence before it."""
        length = self._options.seq_len
        out = np.full((len(starts), length), -1, np.int32)
        for block in np.unique(block_of).tolist():
            places = np.flatnonzero(block_of == block)
            offsets = self._store.batch(block)[self._options.column].offsets.to_numpy()
            firsts = np.unique(offsets.astype(np.int64) - int(offsets[0]))
            count = int(tokens[places[0]])
            kept = min(length, count)
            token = (starts[places, None] + np.arange(kept)) % max(count, 1)
            of_list = np.searchsorted(firsts, token, side="right")
            changes = np.diff(of_list, axis=1, prepend=of_list[:, :1]) != 0
            out[places[:, None], np.arange(kept)] = np.cumsum(changes, axis=1)
        return out

    def _counted(self) -> NDArray[np.int64]:
        """Tokens of each block, of a table that was not published with their numbers."""
        blocks = np.arange(len(self._store.source.rows))
        tokens = np.zeros(len(blocks), np.int64)
        for start in range(0, len(blocks), _SCANNED_AT_ONCE):
            some = blocks[start : start + _SCANNED_AT_ONCE]
            self._store.want(some)
            try:
                self._store.wait(some)
                for block in some.tolist():
                    offsets = self._store.batch(block)[self._options.column].offsets
                    tokens[block] = offsets[-1].as_py() - offsets[0].as_py()
            finally:
                self._store.release(some)
        return tokens

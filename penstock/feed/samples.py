"""Samples by number: what the order shuffles, and how a sample is made of stored rows.

`counts` says how many samples begin in each block, which is all that the order needs to know; a
plan names the blocks that some samples need, and gathering takes them from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.feed.gather import Gatherer


@dataclass(frozen=True, slots=True)
class Plan:
    """Some samples, and the blocks that have to be here to gather them."""

    samples: NDArray[np.int64]
    blocks: NDArray[np.int64]
    """Sorted, each once."""
    block_of: NDArray[np.int64]
    """The block in which each sample begins."""


class Samples(Protocol):
    """Samples of one split."""

    @property
    def counts(self) -> NDArray[np.int64]:
        """(blocks,) samples that begin in each block."""
        ...

    @property
    def schema(self) -> pa.Schema:
        """Of what is gathered."""
        ...

    @property
    def bytes_a_sample(self) -> int:
        """About so many, to size buffers."""
        ...

    def begin(self, epoch: int) -> Samples:
        """The samples of an epoch, which differ where they are cut anew for each."""
        ...

    def plan(self, samples: NDArray[np.int64]) -> Plan:
        """The blocks that these need."""
        ...

    def open(self, blocks: NDArray[np.int64]) -> None:
        """Get blocks that are here ready for gathering."""
        ...

    def gather(self, samples: NDArray[np.int64], block_of: NDArray[np.int64]) -> dict[str, Any]:
        """The samples in this order; the blocks of their plan are here."""
        ...

    def rows_of(self, samples: NDArray[np.int64], block_of: NDArray[np.int64]) -> NDArray[np.int64]:
        """The stored row in which each sample begins: what names it for good."""
        ...


class Rows:
    """Every stored row is a sample."""

    def __init__(self, gatherer: Gatherer, counts: NDArray[np.int64], schema: pa.Schema) -> None:
        self._gatherer, self.counts, self.schema = gatherer, counts, schema

    @property
    def bytes_a_sample(self) -> int:
        """Exact for fixed-width columns; a guess for others."""
        return self._gatherer.bytes_a_row

    def begin(self, epoch: int) -> Samples:
        """The same rows in every epoch."""
        return self

    def open(self, blocks: NDArray[np.int64]) -> None:
        """Find their columns."""
        self._gatherer.open(blocks)

    def plan(self, samples: NDArray[np.int64]) -> Plan:
        """Row numbers are sample numbers."""
        block_of = self._gatherer.blocks_of(samples)
        seen = np.zeros(len(self.counts), np.bool_)
        seen[block_of] = True
        return Plan(samples, np.flatnonzero(seen), block_of)

    def gather(self, samples: NDArray[np.int64], block_of: NDArray[np.int64]) -> dict[str, Any]:
        """One copy a column."""
        return self._gatherer.gather(samples, block_of)

    def rows_of(self, samples: NDArray[np.int64], block_of: NDArray[np.int64]) -> NDArray[np.int64]:
        """Themselves."""
        return samples

"""A gathered batch in the form that the caller trains with."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from penstock.errors import MissingExtra, OrderError
from penstock.feed.cuda import OnDevice, begun
from penstock.feed.gather import Take, numpy_take
from penstock.feed.ragged import Ragged
from penstock.feed.slabs import SLABS

FormName = Literal["numpy", "torch", "jax", "tf", "arrow", "polars"]
FORMS: tuple[FormName, ...] = ("numpy", "torch", "jax", "tf", "arrow", "polars")
DTYPES = ("float16", "bfloat16", "float32", "float64")
_INT32 = 2**31 - 1
_ON_A_DEVICE = ("torch", "jax", "tf")


@dataclass(frozen=True, slots=True)
class Form:
    """What batches come as."""

    name: FormName = "numpy"
    device: Any = None
    dtype: str | None = None
    """Of floating-point columns: `float16`, `bfloat16` (not of numpy), `float32`, `float64`."""
    pin_memory: bool = False

    @classmethod
    def checked(cls, name: str, device: Any, dtype: str | None, pin_memory: bool) -> Form:
        """A form that can be.

        Raises
        ------
        OrderError: no such form, or it has no devices or dtypes.
        """
        known: FormName | None = next((form for form in FORMS if form == name), None)
        if known is None:
            raise OrderError(f"{name!r} is no form of batches; there are {', '.join(FORMS)}")
        if device is not None and known not in _ON_A_DEVICE:
            raise OrderError(f"{name} batches lie in this machine's memory; device= is for torch")
        if pin_memory and known != "torch":
            raise OrderError(f"only torch batches can be pinned, not {name}")
        if dtype is not None and known in ("arrow", "polars"):
            raise OrderError(f"{name} batches keep their types; dtype= is for arrays")
        kind = None if dtype is None else _dtype_name(dtype)
        if kind is not None and kind not in DTYPES:
            raise OrderError(
                f"dtype is of floating-point columns: {', '.join(DTYPES)}; not {dtype}"
            )
        if kind == "bfloat16" and known == "numpy":
            raise OrderError("numpy has no bfloat16; take float32, or torch, jax or tf batches")
        return cls(known, device, kind, pin_memory)

    def placed(self) -> Form:
        """With the number of the GPU that `cuda` means to this thread."""
        if self.name != "torch" or self.device is None:
            return self
        torch = extra("torch")
        target = torch.device(self.device)
        if target.type == "cuda" and not torch.cuda.is_available():
            raise OrderError(
                f"device={str(self.device)!r}: torch {torch.__version__} finds no GPU on this "
                'machine; install its CUDA build, or train on "cpu"'
            )
        if target.type == "cuda" and target.index is None:
            target = torch.device("cuda", torch.cuda.current_device())
        return replace(self, device=target)

    @property
    def has_ragged(self) -> bool:
        """Whether rows of differing length come as `Ragged`."""
        return self.name in ("numpy", "torch", "jax")

    def take(self) -> Take:
        """How rows are copied for it."""
        return _torch_take if self.name == "torch" else numpy_take

    def of(self, columns: dict[str, Any], schema: pa.Schema) -> Any:
        """A batch in this form.

        Returns
        -------
        numpy, torch, jax, tf: a dict from column to an array of (rows, ...); what has no fixed
        width is `Ragged`. arrow: a RecordBatch. polars: a DataFrame. On a GPU, an `OnDevice`, which
        whoever hands the batch out turns into one (`received`).
        """
        match self.name:
            case "numpy":
                return {name: _numpy(values, self.dtype) for name, values in columns.items()}
            case "torch":
                return self._torch(columns)
            case "jax":
                return self._jax(columns)
            case "tf":
                return self._tensorflow(columns)
            case "arrow":
                return as_arrow(columns, schema)
            case "polars":
                return pl.DataFrame(pl.from_arrow(pa.table(as_arrow(columns, schema))))

    def _torch(self, columns: dict[str, Any]) -> dict[str, Any] | OnDevice:
        torch = extra("torch")
        target = None if self.device is None else torch.device(self.device)
        pins = self.pin_memory or (target is not None and target.type == "cuda")
        batch: dict[str, Any] = {}
        for name, values in columns.items():
            if isinstance(values, pa.Array):
                batch[name] = Ragged(values, torch.from_numpy)
                continue
            tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
            if self.dtype is not None and getattr(tensor, "is_floating_point", bool)():
                tensor = tensor.to(getattr(torch, self.dtype))
            if pins and torch.cuda.is_available() and hasattr(tensor, "pin_memory"):
                tensor = tensor.pin_memory()
            if target is not None and target.type != "cuda" and hasattr(tensor, "to"):
                tensor = tensor.to(target)
            batch[name] = tensor
        return (
            begun(torch, batch, target) if target is not None and target.type == "cuda" else batch
        )

    def _jax(self, columns: dict[str, Any]) -> dict[str, Any]:
        jax = extra("jax")
        batch: dict[str, Any] = {}
        for name, values in columns.items():
            if isinstance(values, np.ndarray):
                if self.dtype is not None and values.dtype.kind == "f":
                    values = values.astype(jax.numpy.dtype(self.dtype))
                # JAX would cut 64-bit integers off at 32 bits unless it was told to have them.
                is_cut = values.dtype in (np.int64, np.uint64) and not jax.config.jax_enable_x64
                fits = not is_cut or not len(values) or np.abs(values).max() <= _INT32
                batch[name] = jax.device_put(values, self.device) if fits else values
            else:
                batch[name] = Ragged(values) if isinstance(values, pa.Array) else values
        return batch

    def _tensorflow(self, columns: dict[str, Any]) -> dict[str, Any]:
        tf = extra("tensorflow")
        batch: dict[str, Any] = {}
        with tf.device(self.device):
            for name, values in columns.items():
                if isinstance(values, pa.Array):
                    batch[name] = _tf_ragged(tf, name, values)
                else:
                    batch[name] = tf.convert_to_tensor(_numpy(values, self.dtype))
        return batch


def _tf_ragged(tf: Any, name: str, values: pa.Array) -> Any:
    """Text as a tensor of strings, in which a null is empty; lists of numbers as a RaggedTensor."""
    if not pa.types.is_nested(values.type):
        return tf.constant(
            Ragged(values.fill_null("" if _is_string(values.type) else b"")).tolist()
        )
    inner = getattr(values.type, "value_type", None)
    if inner is None or not (pa.types.is_primitive(inner) and pa.types.is_list(values.type)):
        raise OrderError(
            f"column {name} of {values.type} has no counterpart in TensorFlow; leave it out with "
            "select_columns, or take batches as numpy"
        )
    ragged = Ragged(values)
    return tf.RaggedTensor.from_row_splits(ragged.values, ragged.offsets)


def _is_string(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def as_arrow(columns: dict[str, Any], schema: pa.Schema) -> pa.RecordBatch:
    """Gathered columns with the types of their schema; what is not in it, with numpy's."""
    arrays: list[pa.Array] = []
    fields: list[pa.Field] = []
    for name, values in columns.items():
        at = schema.get_field_index(name)
        kind = schema.field(at).type if at >= 0 else None
        array = _arrow_array(values, kind)
        arrays.append(array)
        fields.append(
            schema.field(at) if at >= 0 and array.type == kind else pa.field(name, array.type)
        )
    return pa.record_batch(arrays, schema=pa.schema(fields))


def extra(name: Literal["torch", "jax", "tensorflow"]) -> Any:
    """A framework that Penstock does not depend on.

    Raises
    ------
    MissingExtra: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtra(name, name) from error


def _dtype_name(dtype: Any) -> str:
    """Of a name, or a torch, numpy or TensorFlow dtype."""
    name = getattr(dtype, "name", None) or getattr(dtype, "__name__", None) or str(dtype)
    return str(name).removeprefix("torch.")


def _numpy(values: Any, dtype: str | None) -> Any:
    if isinstance(values, pa.Array):
        return Ragged(values)
    is_cast = dtype is not None and isinstance(values, np.ndarray) and values.dtype.kind == "f"
    return values.astype(dtype) if is_cast else values


def _arrow_array(values: Any, kind: pa.DataType | None) -> pa.Array:
    if isinstance(values, pa.Array):
        storage = getattr(kind, "storage_type", None)
        if kind is not None and storage is not None and values.type == storage:
            return pa.ExtensionArray.from_storage(kind, values)
        return values if kind is None else values.cast(kind)
    values = np.ascontiguousarray(values)
    if values.ndim > 1:
        if kind is not None and pa.types.is_fixed_size_list(kind):
            flat = pa.array(values.reshape(-1))
            return pa.FixedSizeListArray.from_arrays(flat, kind.list_size).cast(kind)
        if kind is not None and pa.types.is_fixed_size_binary(kind):
            return pa.FixedSizeBinaryArray.from_buffers(
                kind, len(values), [None, pa.py_buffer(values)]
            )
        flat = pa.array(values.reshape(-1))
        shape = list(values.shape[1:])
        tensor = pa.fixed_shape_tensor(flat.type, shape)
        rows = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(shape)))
        return pa.ExtensionArray.from_storage(tensor, rows)
    if kind is not None and pa.types.is_temporal(kind):
        return pa.array(values).cast(kind)
    return pa.array(values, kind)


@cache
def _torch() -> Any:
    return extra("torch")


def _torch_take(
    memory: NDArray[np.uint8], addresses: NDArray[np.int64], width: int
) -> NDArray[np.uint8]:
    """Through index_select, which copies in torch's own threads."""
    torch = _torch()
    out = SLABS.take(len(addresses) * width)
    if not len(addresses):
        return out.reshape(-1, width)
    whole = torch.from_numpy(memory)
    if width in _WORDS and not (addresses[0] % width or len(memory) % width):
        # Cells of a machine word, aligned as Arrow aligns them: a plain load each.
        word = getattr(torch, _WORDS[width])
        taken = torch.from_numpy(out).view(word)
        torch.index_select(whole.view(word), 0, torch.from_numpy(addresses // width), out=taken)
        return out.reshape(-1, width)
    cells = whole.as_strided((len(memory) - width + 1, width), (1, 1))
    taken = torch.from_numpy(out).view(-1, width)
    torch.index_select(cells, 0, torch.from_numpy(addresses), out=taken)
    return out.reshape(-1, width)


_WORDS = {4: "int32", 8: "int64"}

"""Array code recorded as an ONNX graph: what the guards use of the Python array API standard, no more.

A library that records all of the standard (ndonnx) writes matrix products as broadcast sums, with a
temporary of size B N D; a guard's product with its bank must be one MatMul.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from safegen.format.manifest import OPSET

Shape = tuple[int | None, ...]
"""Sizes of an array; None where they are only known when it runs."""
TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}


class Graph:
    """The nodes recorded so far."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self._names = (f"t{i}" for i in itertools.count())

    def argument(self, name: str, dims: Sequence[int | str], dtype: str = "float32") -> Array:
        """An input; dimensions that vary are names."""
        self.inputs.append(helper.make_tensor_value_info(name, TYPES[dtype], list(dims)))
        return Array(self, name, tuple(d if isinstance(d, int) else None for d in dims), dtype)

    def constant(self, value: Any, dtype: str = "float32") -> Array:
        """A number or an array that is part of the graph."""
        values = np.asarray(value, dtype)
        name = next(self._names)
        self.constants.append(numpy_helper.from_array(values, name))
        return Array(self, name, values.shape, dtype)

    def node(self, op: str, inputs: Sequence[Array], shape: Shape, dtype: str, **attributes: Any) -> Array:
        """Record one operator and return its output."""
        name = next(self._names)
        self.nodes.append(helper.make_node(op, [i.name for i in inputs], [name], **attributes))
        return Array(self, name, shape, dtype)

    def build(self, outputs: dict[str, tuple[Array, Sequence[int | str]]]) -> onnx.ModelProto:
        """The finished graph: output name -> (array, its dimensions)."""
        infos = []
        for name, (array, dims) in outputs.items():
            self.nodes.append(helper.make_node("Identity", [array.name], [name]))
            infos.append(helper.make_tensor_value_info(name, TYPES[array.dtype], list(dims)))
        graph = helper.make_graph(self.nodes, "step", self.inputs, infos, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        return model


def _broadcast(a: Shape, b: Shape) -> Shape:
    pairs = itertools.zip_longest(reversed(a), reversed(b), fillvalue=1)
    return tuple(y if x == 1 else x for x, y in pairs)[::-1]


class Array:
    """One value of the graph, with the operators that array code applies to it."""

    def __init__(self, graph: Graph, name: str, shape: Shape, dtype: str) -> None:
        self.graph, self.name, self.shape, self.dtype = graph, name, shape, dtype

    @property
    def ndim(self) -> int:
        """How many dimensions."""
        return len(self.shape)

    def __array_namespace__(self) -> Any:
        return Namespace

    def _with(self, op: str, other: Any, dtype: str | None = None, swap: bool = False) -> Array:
        right = other if isinstance(other, Array) else self.graph.constant(other, self.dtype)
        pair = (right, self) if swap else (self, right)
        return self.graph.node(op, pair, _broadcast(self.shape, right.shape), dtype or self.dtype)

    def __add__(self, other: Any) -> Array:
        return self._with("Add", other)

    def __radd__(self, other: Any) -> Array:
        return self._with("Add", other, swap=True)

    def __sub__(self, other: Any) -> Array:
        return self._with("Sub", other)

    def __rsub__(self, other: Any) -> Array:
        return self._with("Sub", other, swap=True)

    def __mul__(self, other: Any) -> Array:
        return self._with("Mul", other)

    def __rmul__(self, other: Any) -> Array:
        return self._with("Mul", other, swap=True)

    def __truediv__(self, other: Any) -> Array:
        return self._with("Div", other)

    def __rtruediv__(self, other: Any) -> Array:
        return self._with("Div", other, swap=True)

    def __pow__(self, power: int) -> Array:
        if power != 2:
            raise NotImplementedError("only squares are recorded")
        return self * self

    def __neg__(self) -> Array:
        return self.graph.node("Neg", (self,), self.shape, self.dtype)

    def __gt__(self, other: Any) -> Array:
        return self._with("Greater", other, "bool")

    def __ge__(self, other: Any) -> Array:
        return self._with("GreaterOrEqual", other, "bool")

    def __and__(self, other: Array) -> Array:
        return self._with("And", other)

    def __or__(self, other: Array) -> Array:
        return self._with("Or", other)

    def __floordiv__(self, other: Any) -> Array:
        if self.dtype != "int64":
            raise NotImplementedError("only indices, never below 0, are divided to whole numbers")
        return self._with("Div", other)

    def __matmul__(self, other: Array) -> Array:
        return self.graph.node("MatMul", (self, other), (*self.shape[:-1], other.shape[-1]), self.dtype)

    def __getitem__(self, key: Any) -> Array:
        """``x[i]`` of a vector, and ``None`` for new dimensions between whole ones."""
        if isinstance(key, int):
            index = self.graph.constant(key, "int64")
            return self.graph.node("Gather", (self, index), self.shape[1:], self.dtype, axis=0)
        shape: list[int | None] = []
        axes: list[int] = []
        sizes = iter(self.shape)
        for i, part in enumerate(key):
            if part is None:
                axes.append(i)
                shape.append(1)
            elif part == slice(None):
                shape.append(next(sizes))
            else:
                raise NotImplementedError(f"indexing with {part} is not recorded")
        inputs = (self, self.graph.constant(axes, "int64"))
        return self.graph.node("Unsqueeze", inputs, tuple(shape), self.dtype)


class Namespace:
    """The functions of the standard that guards call."""

    float32 = "float32"

    @staticmethod
    def _reduce(op: str, x: Array, axis: int, keepdims: bool) -> Array:
        axis %= x.ndim
        kept = (*x.shape[:axis], *((1,) if keepdims else ()), *x.shape[axis + 1 :])
        axes = x.graph.constant([axis], "int64")
        return x.graph.node(op, (x, axes), kept, x.dtype, keepdims=int(keepdims))

    @staticmethod
    def sum(x: Array, axis: int, keepdims: bool = False) -> Array:
        return Namespace._reduce("ReduceSum", x, axis, keepdims)

    @staticmethod
    def mean(x: Array, axis: int, keepdims: bool = False) -> Array:
        return Namespace._reduce("ReduceMean", x, axis, keepdims)

    @staticmethod
    def max(x: Array, axis: int, keepdims: bool = False) -> Array:
        return Namespace._reduce("ReduceMax", x, axis, keepdims)

    @staticmethod
    def _arg(op: str, x: Array, axis: int) -> Array:
        axis %= x.ndim
        kept = (*x.shape[:axis], *x.shape[axis + 1 :])
        return x.graph.node(op, (x,), kept, "int64", axis=axis, keepdims=0)

    @staticmethod
    def argmax(x: Array, axis: int) -> Array:
        return Namespace._arg("ArgMax", x, axis)

    @staticmethod
    def argmin(x: Array, axis: int) -> Array:
        return Namespace._arg("ArgMin", x, axis)

    @staticmethod
    def exp(x: Array) -> Array:
        return x.graph.node("Exp", (x,), x.shape, x.dtype)

    @staticmethod
    def log(x: Array) -> Array:
        return x.graph.node("Log", (x,), x.shape, x.dtype)

    @staticmethod
    def sqrt(x: Array) -> Array:
        return x.graph.node("Sqrt", (x,), x.shape, x.dtype)

    @staticmethod
    def maximum(x: Array, y: Array) -> Array:
        return x._with("Max", y)

    @staticmethod
    def minimum(x: Array, y: Array) -> Array:
        return x._with("Min", y)

    @staticmethod
    def clip(x: Array, low: Any, high: Any) -> Array:
        return x._with("Max", low)._with("Min", high)

    @staticmethod
    def where(condition: Array, x: Array, y: Array) -> Array:
        shape = _broadcast(condition.shape, _broadcast(x.shape, y.shape))
        return x.graph.node("Where", (condition, x, y), shape, x.dtype)

    @staticmethod
    def zeros_like(x: Array) -> Array:
        return x * 0

    @staticmethod
    def ones_like(x: Array) -> Array:
        return x * 0.0 + 1.0

    @staticmethod
    def full_like(x: Array, value: Any) -> Array:
        return (x * 0.0).__add__(value)

    @staticmethod
    def reshape(x: Array, shape: Sequence[int]) -> Array:
        """With at most one -1, which is what the shape leaves."""
        known = [d for d in shape if d != -1]
        whole = None if None in x.shape else math.prod(d for d in x.shape if d is not None)
        rest = None if whole is None else whole // max(1, math.prod(known))
        target = x.graph.constant(list(shape), "int64")
        return x.graph.node("Reshape", (x, target), tuple(rest if d == -1 else d for d in shape), x.dtype)

    @staticmethod
    def permute_dims(x: Array, axes: Sequence[int]) -> Array:
        shape = tuple(x.shape[axis] for axis in axes)
        return x.graph.node("Transpose", (x,), shape, x.dtype, perm=list(axes))

    @staticmethod
    def concat(arrays: Sequence[Array], axis: int = 0) -> Array:
        first, sides = arrays[0], [x.shape[axis] for x in arrays]
        total = None if None in sides else sum(side for side in sides if side is not None)
        shape = (*first.shape[:axis], total, *first.shape[axis + 1 :])
        return first.graph.node("Concat", arrays, shape, first.dtype, axis=axis)

    @staticmethod
    def asarray(values: Any) -> Any:
        """Numbers that are known when the graph is recorded."""
        return values

    @staticmethod
    def take(x: Array, indices: Any, axis: int) -> Array:
        shape = (*x.shape[:axis], len(indices), *x.shape[axis + 1 :])
        index = x.graph.constant(indices, "int64")
        return x.graph.node("Gather", (x, index), shape, x.dtype, axis=axis)

    @staticmethod
    def take_along_axis(x: Array, indices: Array, axis: int) -> Array:
        """Rows (B, R, K) of x (B, P, K), by one index (B, R, 1) each."""
        if axis != 1 or indices.shape[-1] != 1:
            raise NotImplementedError("only whole rows are taken along the second axis")
        shape = (*indices.shape[:2], *x.shape[2:])
        return x.graph.node("GatherND", (x, indices), shape, x.dtype, batch_dims=1)

    @staticmethod
    def squeeze(x: Array, axis: int) -> Array:
        axis %= x.ndim
        axes = x.graph.constant([axis], "int64")
        return x.graph.node("Squeeze", (x, axes), (*x.shape[:axis], *x.shape[axis + 1 :]), x.dtype)

    @staticmethod
    def matrix_transpose(x: Array) -> Array:
        order = [*range(x.ndim - 2), x.ndim - 1, x.ndim - 2]
        return x.graph.node("Transpose", (x,), (*x.shape[:-2], x.shape[-1], x.shape[-2]), x.dtype, perm=order)

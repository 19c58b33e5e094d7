"""Writes the node tests of the package onnx as files: NAME.onnx, and NAME.case with tolerances, inputs and outputs.

usage: python export.py DIRECTORY STAMP    (STAMP is written to DIRECTORY/stamp when all files are)

A .case file, all little-endian: the bytes TWCASE1\n, f64 rtol, f64 atol, u32 data sets; for each a u32 count of inputs and the
inputs, a u32 count of outputs and the outputs. A datum is a tag byte: 0 tensor, 1 sequence (u32 count, data), 2 empty optional,
3 full optional (a datum). A tensor is u32 type code of ONNX, u32 rank, u64 extents; then for strings each text as u32 length and
UTF-8 bytes, for others u64 bytes and the elements, those narrower than a byte unpacked to one byte each.
"""

import struct
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx.backend.test.case.node import collect_testcases

warnings.filterwarnings("ignore")

NARROW = {TensorProto.UINT4, TensorProto.INT4, TensorProto.FLOAT4E2M1, getattr(TensorProto, "UINT2", -1), getattr(TensorProto, "INT2", -2)}


def tensor(value, code):
    array = np.asarray(value)
    head = struct.pack("<BII", 0, code, array.ndim) + struct.pack(f"<{array.ndim}Q", *array.shape)
    if code == TensorProto.STRING:
        texts = [t if isinstance(t, bytes) else str(t).encode() for t in array.flatten().tolist()]
        return head + b"".join(struct.pack("<I", len(t)) + t for t in texts)
    if code in NARROW and array.dtype.kind in "iu" and array.dtype.itemsize > 1:
        array = array.astype(np.int8 if array.dtype.kind == "i" else np.uint8)
    raw = np.ascontiguousarray(array).tobytes()
    if code in NARROW:
        # ml_dtypes sign-extends nothing: the signed types need it.
        if code == TensorProto.INT4:
            raw = bytes(((b & 15) ^ 8) - 8 & 255 for b in raw)
        elif code == getattr(TensorProto, "INT2", -2):
            raw = bytes(((b & 3) ^ 2) - 2 & 255 for b in raw)
        else:
            raw = bytes(b & (3 if code == getattr(TensorProto, "UINT2", -1) else 15) for b in raw)
    return head + struct.pack("<Q", len(raw)) + raw


def datum(value, type_proto):
    kind = type_proto.WhichOneof("value")
    if kind == "optional_type":
        if value is None:
            return b"\x02"
        return b"\x03" + datum(value, type_proto.optional_type.elem_type)
    if kind == "sequence_type":
        items = [datum(item, type_proto.sequence_type.elem_type) for item in value]
        return struct.pack("<BI", 1, len(items)) + b"".join(items)
    if isinstance(value, TensorProto):
        code = value.data_type
        return tensor(onnx.numpy_helper.to_array(value), code)
    return tensor(value, type_proto.tensor_type.elem_type)


def main(directory, stamp):
    directory.mkdir(parents=True, exist_ok=True)
    for case in collect_testcases(None):
        graph = case.model.graph
        try:
            parts = [b"TWCASE1\n", struct.pack("<ddI", case.rtol, case.atol, len(case.data_sets))]
            for inputs, outputs in case.data_sets:
                for values, protos in ((inputs, graph.input), (outputs, graph.output)):
                    parts.append(struct.pack("<I", len(values)))
                    parts.extend(datum(value, proto.type) for value, proto in zip(values, protos))
            (directory / f"{case.name}.case").write_bytes(b"".join(parts))
            (directory / f"{case.name}.onnx").write_bytes(case.model.SerializeToString())
        except (TypeError, ValueError) as error:
            sys.exit(f"{case.name}: {error}")
    (directory / "stamp").write_text(stamp)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

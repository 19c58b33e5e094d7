"""Writes ONNX's own node tests as models with the types their outputs really have: the oracle of tests/inference.rs.

    python onnx_types.py OUT

OUT gets NAME.onnx for every case, and types.json: name, opset, and for each output its element type (ONNX's number) and shape,
null for what is no tensor.
"""
import json, os, sys, warnings

warnings.filterwarnings("ignore")
import numpy as np
from onnx import helper
from onnx.backend.test.case.node import collect_testcases


def type_of(value):
    if isinstance(value, np.ndarray):
        return [int(helper.np_dtype_to_tensor_dtype(value.dtype)), list(value.shape)]
    return None


def main(out):
    os.makedirs(out, exist_ok=True)
    cases = []
    for case in collect_testcases(None):
        if case.model is None or not case.data_sets:
            continue
        with open(os.path.join(out, case.name + ".onnx"), "wb") as file:
            file.write(case.model.SerializeToString())
        opset = max((o.version for o in case.model.opset_import if o.domain in ("", "ai.onnx")), default=0)
        cases.append(dict(name=case.name, opset=opset, outputs=[type_of(o) for o in case.data_sets[0][1]]))
    with open(os.path.join(out, "types.json"), "w") as file:
        json.dump(cases, file)


main(sys.argv[1])

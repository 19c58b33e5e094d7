"""Compares inferred types with onnx.shape_inference: the second opinion of tests/models.rs.

    python onnx_shapes.py TYPES

TYPES maps a model's path to {"inputs": {name: type}, "values": {name: type}}, a type being [element type, [extents or null]].
The model's inputs are given those shapes, onnx infers the rest, and every value that both know must agree.
"""
import json, sys
import onnx
from onnx import shape_inference


def type_of(value):
    if not value.type.HasField("tensor_type"):
        return None
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return [tensor.elem_type, None]
    return [tensor.elem_type, [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]]


def main(path):
    compared = exact = only_ours = wrong = 0
    for model_path, types in json.load(open(path)).items():
        model = onnx.load(model_path, load_external_data=False)
        constants = {t.name for t in model.graph.initializer}
        for value in model.graph.input:
            if value.name in constants:
                continue
            for dim, extent in zip(value.type.tensor_type.shape.dim, types["inputs"][value.name][1]):
                dim.Clear()
                dim.dim_value = extent
        del model.graph.value_info[:]
        for value in model.graph.output:
            for dim in value.type.tensor_type.shape.dim:
                if not dim.HasField("dim_value"):
                    dim.Clear()
        inferred = shape_inference.infer_shapes(model, data_prop=True)
        for value in list(inferred.graph.value_info) + list(inferred.graph.output):
            ours, theirs = types["values"].get(value.name), type_of(value)
            if ours is None or theirs is None:
                continue
            compared += 1
            if theirs[1] is None:
                only_ours += 1
                bad = ours[0] != theirs[0]
            else:
                bad = ours[0] != theirs[0] or len(ours[1]) != len(theirs[1])
                bad = bad or any(a is not None and b is not None and a != b for a, b in zip(ours[1], theirs[1]))
                exact += not bad and ours[1] == theirs[1]
                only_ours += not bad and ours[1] != theirs[1] and None not in ours[1]
            if bad:
                wrong += 1
                print(f"{model_path}: {value.name}: ours {ours}, onnx {theirs}")
    print(f"{compared} values compared: {exact} alike, {only_ours} known to us only, {wrong} contradictions")
    sys.exit(wrong > 0)


main(sys.argv[1])

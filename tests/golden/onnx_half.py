# SPDX-License-Identifier: BSD-3-Clause
# Writes onnx_half.safetensors: inputs of our own for ONNX's operator Attention in 16 bit, and what its reference
# evaluator makes of them, in the 16-bit type (y16) and of the same numbers in double (y).
# pip install onnx==1.23.2 safetensors; python onnx_half.py
import pathlib

import ml_dtypes
import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from safetensors.numpy import save_file

TYPES = {"bf16": ml_dtypes.bfloat16, "f16": np.float16}
rng = np.random.default_rng(14)
tensors, meta = {}, {}


def numbers(kind, *shape):
    return rng.standard_normal(shape).astype(np.float32).astype(TYPES[kind]).astype(np.float32)


def evaluate(inputs, attributes, dtype):
    """Y of the operator with all floating-point inputs in dtype, by the reference evaluator."""
    order = ["Q", "K", "V", "attn_mask", "past_key", "past_value", "nonpad_kv_seqlen"]
    names = [n if n in inputs else "" for n in order]
    node = onnx.helper.make_node("Attention", names, ["Y"], **attributes)
    feeds = {n: x.astype(dtype) if x.dtype == np.float32 else x for n, x in inputs.items()}
    def info(name, type, shape):
        return onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(type)), shape)

    types = [info(n, x.dtype, x.shape) for n, x in feeds.items()]
    graph = onnx.helper.make_graph([node], "attention", types, [info("Y", dtype, None)])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 25)])
    return ReferenceEvaluator(model).run(None, feeds)[0]


def case(name, kind, inputs, **attributes):
    attributes.setdefault("softmax_precision", onnx.TensorProto.FLOAT)
    # past_key, past_value become part of the key and value tensors of the file, as a cache that was appended to
    y16 = evaluate(inputs, attributes, TYPES[kind]).astype(np.float32)
    y = evaluate(inputs, {**attributes, "softmax_precision": onnx.TensorProto.DOUBLE}, np.float64)
    kept = {"q": inputs["Q"], "k": inputs["K"], "v": inputs["V"], "y": y, "y16": y16}
    past = 0
    if "past_key" in inputs:
        past = inputs["past_key"].shape[2]
        kept["k"] = np.concatenate([inputs["past_key"], inputs["K"]], axis=2)
        kept["v"] = np.concatenate([inputs["past_value"], inputs["V"]], axis=2)
    if "attn_mask" in inputs:
        kept["mask"] = inputs["attn_mask"]
        meta[f"{name}/bool_mask"] = str(int(kept["mask"].dtype == bool))
    if "nonpad_kv_seqlen" in inputs:
        kept["lengths"] = inputs["nonpad_kv_seqlen"].astype(np.int32)
    for key, x in kept.items():
        tensors[f"{name}/{key}"] = np.ascontiguousarray(x)
    meta[f"{name}/type"], meta[f"{name}/past"] = kind, str(past)
    for key, x in attributes.items():
        meta[f"{name}/{key}"] = str(x)


def qkv(kind, b=2, h=3, hk=3, n=4, m=6, d=8, e=8):
    return {"Q": numbers(kind, b, h, n, d), "K": numbers(kind, b, hk, m, d), "V": numbers(kind, b, hk, m, e)}


def flat(x):
    """(batch, heads, seq, dim) to ONNX's 3D (batch, seq, heads * dim)"""
    return {n: t.transpose(0, 2, 1, 3).reshape(t.shape[0], t.shape[2], -1) for n, t in x.items()}


for kind in TYPES:
    at = f"_{kind}"
    case("plain" + at, kind, qkv(kind, e=10))
    case("many_rows" + at, kind, qkv(kind, b=1, h=2, hk=2, n=40, m=70, d=16, e=12), is_causal=1)
    case("causal" + at, kind, qkv(kind), is_causal=1)
    case("scale_softcap" + at, kind, qkv(kind), scale=0.3, softcap=1.5)
    case("gqa_past_mask" + at, kind,
         {**qkv(kind, h=9), "attn_mask": numbers(kind, 4, 18),
          "past_key": numbers(kind, 2, 3, 12, 8), "past_value": numbers(kind, 2, 3, 12, 8)})
    case("past_causal" + at, kind,
         {**qkv(kind, n=5, m=5), "past_key": numbers(kind, 2, 3, 7, 8), "past_value": numbers(kind, 2, 3, 7, 8)},
         is_causal=1)
    case("mask_causal" + at, kind, {**qkv(kind), "attn_mask": numbers(kind, 2, 1, 4, 6)}, is_causal=1)
    case("short_mask_lengths" + at, kind,
         {**qkv(kind), "attn_mask": numbers(kind, 2, 3, 4, 4), "nonpad_kv_seqlen": np.array([3, 4])})
    case("causal_lengths" + at, kind,
         {**qkv(kind, n=2), "attn_mask": numbers(kind, 2, 3, 2, 4), "nonpad_kv_seqlen": np.array([3, 4])}, is_causal=1)
    case("decode_lengths" + at, kind, {**qkv(kind, h=8, hk=2, n=1, m=8), "nonpad_kv_seqlen": np.array([8, 5])},
         is_causal=1)
    case("window_lengths" + at, kind,
         {**qkv(kind, m=8), "attn_mask": numbers(kind, 1, 8), "nonpad_kv_seqlen": np.array([6, 7])},
         is_causal=1, left_window_size=2)
    case("window_both" + at, kind, qkv(kind, n=9, m=9), left_window_size=3, right_window_size=2)
    case("hidden_row" + at, kind, {**qkv(kind, n=2, m=2), "attn_mask": np.array([[False, False], [True, True]])})
    case("3d_causal" + at, kind, flat(qkv(kind, h=6, hk=3)), is_causal=1, q_num_heads=6, kv_num_heads=3)

save_file(tensors, pathlib.Path(__file__).with_suffix(".safetensors"), metadata=meta)

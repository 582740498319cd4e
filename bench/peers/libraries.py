# SPDX-License-Identifier: BSD-3-Clause
"""The libraries: for each row, the ways in which a user of the library could compute it.

forms(case) gives {name: build}. build(x, threads) takes the arrays of cases.data, does all that needs doing once, and
returns a Ready. A library that has no form for a row says why by raising Missing. Where there are several, peers.py
times the fastest one.
"""

import ctypes
import dataclasses
import math
import os
import pathlib
import sys
from collections.abc import Callable

import numpy as np

from cases import RIDGE, STORED, aligned, empty, to_double


@dataclasses.dataclass
class Ready:
    run: Callable  # computes the row
    results: Callable  # reads it back as arrays (B, H, N, D) in double
    before: Callable = lambda: None  # brings the state to where run() starts, outside of the clock


class Missing(Exception):
    """A library that does not have what a row needs; the text says what."""


# ---- heed -----------------------------------------------------------------------------------------------------------


class Heed:
    name = "heed"

    def __init__(self, path):
        self.library = ctypes.CDLL(str(path))
        self.library.heed_error.restype = ctypes.c_char_p
        self.version = "this tree"

    def forms(self, case):
        return {case.verb: lambda x, threads: self.build(case, x, threads)}

    def build(self, case, x, threads):
        sizes = (ctypes.c_int64 * 7)(case.b, case.h, case.hk, case.n, case.m, case.d, case.d)
        kind = ctypes.c_int({"f32": 0, "bf16": 1, "f16": 2}[case.type])
        n_threads, causal, none = ctypes.c_int64(threads), ctypes.c_int(case.causal), ctypes.c_void_p()
        outputs = [empty(x["q"].shape, STORED[case.type])]

        def pointer(array):
            return none if array is None else ctypes.c_void_p(array.ctypes.data)

        q, k, v, o = map(pointer, (x["q"], x["k"], x["v"], outputs[0]))
        keep = []
        if case.verb == "forward":
            f = self.library.heed_softmax_forward
            arguments = (kind, sizes, q, k, v, pointer(x.get("bias")), o, none, causal, n_threads)
        elif case.verb == "decode":
            keep = [np.full(case.b, case.m, np.int32)]
            f = self.library.heed_softmax_decode
            arguments = (kind, sizes, q, k, v, pointer(keep[0]), o, n_threads)
        elif case.verb == "lightning":
            f = self.library.heed_lightning_forward
            arguments = (sizes, q, k, v, pointer(x["slopes"]), o, n_threads)
        elif case.verb == "local_linear":
            f = self.library.heed_local_linear_forward
            arguments = (sizes, q, k, v, ctypes.c_double(RIDGE), o, causal, n_threads)
        else:
            lse = pointer(keep.append(empty(x["q"].shape[:3], np.float32)) or keep[0])
            self.check(self.library.heed_softmax_forward(kind, sizes, q, k, v, none, o, lse, causal, n_threads))
            keep.append(outputs[0])
            outputs = [empty(x[name].shape, np.float32) for name in ("q", "k", "v")]
            f = self.library.heed_softmax_backward
            arguments = (sizes, q, k, v, o, lse, pointer(x["dout"]), *map(pointer, outputs), causal, n_threads)

        def run(f=f, arguments=arguments, keep=keep, x=x):
            if f(*arguments):
                self.check(1)

        return Ready(run, lambda: [to_double(output) for output in outputs])

    def check(self, failed):
        if failed:
            raise RuntimeError(self.library.heed_error().decode())


# ---- torch ----------------------------------------------------------------------------------------------------------


def import_torch(stand_ins):
    """torch, with the libraries of no_cuda.sh in place of CUDA's, if that folder exists."""
    before = sys.getdlopenflags()
    if pathlib.Path(stand_ins).is_dir():
        for path in sorted(pathlib.Path(stand_ins).glob("*.so.*")):
            ctypes.CDLL(str(path))
        sys.setdlopenflags(os.RTLD_LAZY)  # what is never called need not be there
    import torch

    sys.setdlopenflags(before)
    return torch


class Torch:
    name = "torch"

    def __init__(self, stand_ins):
        self.torch = import_torch(stand_ins)
        self.version = self.torch.__version__.split("+")[0]

    def tensor(self, array):
        if array.dtype == np.uint16:
            return self.torch.from_numpy(array.view(np.int16)).view(self.torch.bfloat16)
        return self.torch.from_numpy(array)

    def forms(self, case):
        if case.verb == "backward":
            return {"sdpa, autograd": lambda x, threads: self.backward(case, x, threads)}
        if case.verb == "lightning":
            forms = {f"chunks of {c}": self.form(case, lambda t, c=c: self.lightning_loop(case, t, c))
                     for c in (64, 128, 256)}
            return forms | {f"all chunks of {c} at once": self.form(case, lambda t, c=c: self.lightning_all(case, t, c))
                            for c in (64, 128)}
        if case.verb == "local_linear":
            return {name: self.form(case, lambda t, name=name: self.local_linear(case, t, name))
                    for name in ("cholesky", "solve")}
        sdpa, grouped = self.torch.nn.functional.scaled_dot_product_attention, case.h != case.hk
        how = {"is_causal": case.causal}
        forms = {}
        if not grouped:
            forms["sdpa"] = lambda t: sdpa(t["q"], t["k"], t["v"], t.get("bias"), **how)
        else:
            forms["sdpa, enable_gqa"] = lambda t: sdpa(t["q"], t["k"], t["v"], **how, enable_gqa=True)
            shared = (case.b, case.hk, case.h // case.hk, case.m, case.d)

            def expanded(t):
                k, v = (t[name][:, :, None].expand(shared).reshape(case.b, case.h, case.m, case.d) for name in "kv")
                return sdpa(t["q"], k, v, **how)

            if not case.verb == "decode":
                forms["sdpa, repeated heads"] = expanded
            if not case.causal:  # the heads of a group as rows of one head
                rows = (case.b, case.hk, case.h // case.hk * case.n, case.d)
                forms["sdpa, groups as rows"] = lambda t: sdpa(t["q"].reshape(rows), t["k"], t["v"]).reshape(
                    t["q"].shape)
                forms["matmul, groups as rows"] = lambda t: self.eager(
                    t["q"].reshape(rows), t["k"], t["v"], None).reshape(t["q"].shape)
        if not grouped and not case.causal and (case.n <= 128 or case.verb == "decode"):
            forms["matmul"] = lambda t: self.eager(t["q"], t["k"], t["v"], t.get("bias"))
        return {name: self.form(case, f) for name, f in forms.items()}

    def form(self, case, f):
        """build() of a function of the tensors."""

        def build(x, threads):
            torch = self.torch
            torch.set_num_threads(threads)
            tensors = {name: self.tensor(array) for name, array in x.items()}
            if case.verb == "lightning":
                tensors |= {c: self.decays(tensors["slopes"], c) for c in (64, 128, 256)}
            last = []

            def run():
                with torch.inference_mode():
                    last[:] = [f(tensors)]

            return Ready(run, lambda: [last[0].double().numpy()])

        return build

    def eager(self, q, k, v, bias):
        s = (q * (1 / math.sqrt(q.shape[3]))) @ k.mT
        return self.torch.softmax(s if bias is None else s + bias, -1) @ v

    def backward(self, case, x, threads):
        torch = self.torch
        torch.set_num_threads(threads)
        q, k, v = (self.tensor(x[name]).requires_grad_() for name in "qkv")
        dout = self.tensor(x["dout"])
        o = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=case.causal)
        last = []

        def run():
            last[:] = torch.autograd.grad(o, (q, k, v), dout, retain_graph=True)

        return Ready(run, lambda: [gradient.double().numpy() for gradient in last])

    def decays(self, slopes, c):
        """The powers of lambda of a chunk: between its tokens, from the state, into the state, of the whole chunk."""
        torch = self.torch
        t, slope = torch.arange(c), slopes.view(-1, 1, 1)
        back = t[:, None] - t
        between = torch.exp(-slope * back.clamp(min=0)) * (back >= 0)
        rows = t.view(1, -1, 1)
        return between, torch.exp(-slope * (rows + 1)), torch.exp(-slope * (c - 1 - rows)), torch.exp(-slope * c)

    def lightning_loop(self, case, t, c):
        """One chunk after the other, all heads at once."""
        between, from_state, into_state, whole = t[c]
        o = self.torch.empty_like(t["q"])
        state = self.torch.zeros(case.b, case.h, case.d, case.d)
        for q, k, v, out in zip(*(y.split(c, 2) for y in (t["q"], t["k"], t["v"], o))):
            self.torch.add(((q @ k.mT) * between) @ v, (q * from_state) @ state, out=out)
            state = whole * state + (k * into_state).mT @ v
        return o

    def lightning_all(self, case, t, c):
        """The products of all chunks as one batch, and a loop over the states alone."""
        between, from_state, into_state, whole = t[c]
        q, k, v = (t[name].view(case.b, case.h, case.n // c, c, case.d) for name in "qkv")
        added = (k * into_state[:, None]).mT @ v
        states = self.torch.zeros_like(added)
        for i in range(1, case.n // c):
            self.torch.add(whole * states[:, :, i - 1], added[:, :, i - 1], out=states[:, :, i])
        o = ((q @ k.mT) * between[:, None]) @ v + (q * from_state[:, None]) @ states
        return o.view(t["q"].shape)

    def local_linear(self, case, t, solver):
        """A system for each query: second moments of the keys as one product with all k_j k_j^T."""
        torch, (q, k, v) = self.torch, (t["q"], t["k"], t["v"])
        s = (q * (1 / math.sqrt(case.d))) @ k.mT
        if case.causal:
            s = s.masked_fill(torch.ones(case.n, case.m, dtype=torch.bool).triu(1), -math.inf)
        p = torch.softmax(s, -1)
        mean = p @ k
        squares = (k[..., :, None] * k[..., None, :]).flatten(-2)
        c = (p @ squares).unflatten(-1, (case.d, case.d)) - mean[..., :, None] * mean[..., None, :]
        c.diagonal(dim1=-2, dim2=-1).add_(RIDGE)
        right = (q - mean)[..., None]
        if solver == "cholesky":
            y = torch.cholesky_solve(right, torch.linalg.cholesky_ex(c).L)[..., 0]
        else:
            y = torch.linalg.solve(c, right)[..., 0]
        return (p * (1 + y @ k.mT - (y * mean).sum(-1, keepdim=True))) @ v


# ---- onnxruntime ----------------------------------------------------------------------------------------------------


def token_major(x):
    """(B, H, N, D) to (B, N, H D)"""
    b, h, n, d = x.shape
    return aligned(x.transpose(0, 2, 1, 3)).reshape(b, n, h * d)


class OnnxRuntime:
    name = "onnxruntime"

    def __init__(self):
        import onnx
        import onnxruntime

        self.onnx, self.ort = onnx, onnxruntime
        self.version = onnxruntime.__version__
        onnxruntime.set_default_logger_severity(4)

    def forms(self, case):
        if case.verb == "backward":
            raise Missing("its Python package has no training")
        if case.verb == "local_linear":
            raise Missing("no operator")
        if case.type == "bf16":
            raise Missing("its attention on CPUs has no bf16")
        if case.verb == "lightning":
            return {"com.microsoft.LinearAttention": lambda x, threads: self.linear(case, x, threads)}
        forms = {"Attention": lambda x, threads: self.attention(case, x, threads)}
        if case.h == case.hk:
            forms["com.microsoft.MultiHeadAttention"] = lambda x, threads: self.multi_head(case, x, threads)
        if (case.causal or case.verb == "decode") and not case.bias:
            forms["com.microsoft.GroupQueryAttention"] = lambda x, threads: self.group_query(case, x, threads)
        return forms

    def attention(self, case, x, threads):
        """ONNX's own operator, head-major as the data is."""
        inputs = {"Q": x["q"], "K": x["k"], "V": x["v"]}
        if case.bias:
            inputs["attn_mask"] = x["bias"]
        attributes = {"is_causal": int(case.causal)}
        return self.session("Attention", "", inputs, list(inputs), {"o": x["q"].shape}, threads, attributes, case)

    def multi_head(self, case, x, threads):
        inputs = {name: token_major(x[name]) for name in "qkv"}
        names = ["q", "k", "v"]
        if case.bias:
            inputs["bias"] = x["bias"]
            names += ["", "", "bias"]
        attributes = {"num_heads": case.h, "unidirectional": int(case.causal)}
        return self.session("MultiHeadAttention", "com.microsoft", inputs, names, {"o": inputs["q"].shape}, threads,
                            attributes, case)

    def group_query(self, case, x, threads):
        """In decode it also writes the newest token into the cache, in place."""
        total, shape = case.m, (case.b, case.hk, case.m, case.d)
        inputs = {"q": token_major(x["q"])}
        inputs |= {name: token_major(x[name][:, :, -case.n :]) for name in "kv"}
        names = ["q", "k", "v", "", "", "lengths", "total"]
        outputs, shared = {"o": inputs["q"].shape, "present_k": shape, "present_v": shape}, {}
        if case.verb == "decode":
            inputs |= {"past_k": aligned(x["k"]), "past_v": aligned(x["v"])}
            names[3:5], shared = ["past_k", "past_v"], {"present_k": "past_k", "present_v": "past_v"}
        inputs |= {"lengths": np.full(case.b, total - 1, np.int32), "total": np.array(total, np.int32)}
        attributes = {"num_heads": case.h, "kv_num_heads": case.hk}
        return self.session("GroupQueryAttention", "com.microsoft", inputs, names, outputs, threads, attributes, case,
                            shared)

    def linear(self, case, x, threads):
        inputs = {name: token_major(x[name]) for name in "qkv"}
        inputs["decay"] = aligned(np.broadcast_to(-x["slopes"], (case.b, case.n, case.h)))
        outputs = {"o": inputs["q"].shape, "state": (case.b, case.h, case.d, case.d)}
        attributes = {"q_num_heads": case.h, "kv_num_heads": case.hk, "scale": 1.0, "update_rule": "gated"}
        return self.session("LinearAttention", "com.microsoft", inputs, ["q", "k", "v", "", "decay"], outputs, threads,
                            attributes, case)

    def session(self, operator, domain, inputs, names, outputs, threads, attributes, case, shared=None):
        """A graph of one node. All inputs and outputs stay in memory that is bound once."""
        helper, ort = self.onnx.helper, self.ort
        kind = {np.dtype(np.float32): 1, np.dtype(np.float16): 10, np.dtype(np.int32): 6}
        x_type = inputs[names[0]].dtype
        node = helper.make_node(operator, names, list(outputs), domain=domain, **attributes)
        graph = helper.make_graph(
            [node], "row",
            [helper.make_tensor_value_info(name, kind[y.dtype], y.shape) for name, y in inputs.items()],
            [helper.make_tensor_value_info(name, kind[x_type], shape) for name, shape in outputs.items()])
        opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        values = {name: ort.OrtValue.ortvalue_from_numpy(y) for name, y in inputs.items()}
        for name, shape in outputs.items():
            if shared and name in shared:
                values[name] = values[shared[name]]
            else:
                values[name] = ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, x_type))
        for name in inputs:
            binding.bind_ortvalue_input(name, values[name])
        for name in outputs:
            binding.bind_ortvalue_output(name, values[name])

        def results():
            o = values["o"].numpy().astype(np.float64)
            if o.ndim == 3:
                o = o.reshape(case.b, case.n, case.h, case.d).transpose(0, 2, 1, 3)
            return [o]

        return Ready(lambda: session.run_with_iobinding(binding), results)


# ---- openvino -------------------------------------------------------------------------------------------------------


SDPA = "ScaledDotProductAttention"


class OpenVino:
    name = "openvino"

    def __init__(self):
        import openvino

        self.ov = openvino
        self.version = openvino.__version__.split("-")[0]
        self.core = openvino.Core()

    def forms(self, case):
        if case.verb == "backward":
            raise Missing("no training")
        if case.verb in ("lightning", "local_linear"):
            raise Missing("no operator")
        forms = {}
        for precision in ("f32", "f16") if case.type == "f16" else (case.type,):
            inside = "" if precision == case.type else f" in {precision}"
            for heads in ("",) if case.h == case.hk else (", repeated heads", ", groups as rows"):
                if case.causal and "rows" in heads:
                    continue
                for operator in (SDPA, "MatMul and Softmax"):
                    if operator == SDPA or (not case.causal and (case.n <= 128 or case.verb == "decode")):
                        how = operator, heads, precision
                        forms[f"{operator}{heads}{inside}"] = (
                            lambda x, threads, how=how: self.build(case, x, threads, *how))
        if case.verb == "decode":
            forms[SDPA + " on a state"] = lambda x, threads: self.decode(case, x, threads)
        return forms

    def build(self, case, x, threads, operator, heads, precision):
        ov, ops, kind = self.ov, self.ov.opset13, self.kind(case)
        arrays = [x["q"], x["k"], x["v"]] + ([x["bias"]] if case.bias else [])
        if "rows" in heads:
            arrays[0] = arrays[0].reshape(case.b, case.hk, -1, case.d)
        inputs = [ops.parameter(array.shape, kind) for array in arrays]
        q, k, v = inputs[:3]
        if "repeated" in heads:
            def repeat(y):
                wide = ops.broadcast(ops.unsqueeze(y, np.int64(2)),
                                     np.array([case.b, case.hk, case.h // case.hk, case.m, case.d], np.int64))
                return ops.reshape(wide, np.array([case.b, case.h, case.m, case.d], np.int64), False)

            k, v = repeat(k), repeat(v)
        bias = inputs[3] if case.bias else None
        if operator == SDPA:
            o = ops.scaled_dot_product_attention(q, k, v, bias, causal=case.causal)
        else:
            scale = ops.convert(ops.constant(np.float32(1 / math.sqrt(case.d))), kind)
            s = ops.matmul(ops.multiply(q, scale), k, False, True)
            o = ops.matmul(ops.softmax(s if bias is None else ops.add(s, bias), -1), v, False, False)
        request = self.request(ov.Model([ops.result(o)], inputs, "row"), threads, precision)
        output = empty(arrays[0].shape, STORED[case.type])
        keep = [self.tensor(array) for array in arrays] + [self.tensor(output)]
        for i in range(len(arrays)):
            request.set_input_tensor(i, keep[i])
        request.set_output_tensor(0, keep[-1])

        def run(request=request, keep=keep):
            request.infer()

        return Ready(run, lambda: [to_double(output).reshape(x["q"].shape)])

    def decode(self, case, x, threads):
        """The cache is a state of the model, which every call makes one token longer. before() puts it back to 4095
        tokens and adds the one that the row asks for; the calls behind it read 4097 tokens, 4098, ..."""
        ov, ops, kind = self.ov, self.ov.opset13, self.kind(case)
        q, k, v = (ops.parameter([-1, heads, -1, case.d], kind) for heads in (case.h, case.hk, case.hk))
        beam = ops.parameter([-1], ov.Type.i32)
        group, assigned, all_tokens = case.h // case.hk, [], []
        for name, new in (("k", k), ("v", v)):
            nothing = ops.convert(ops.constant(np.zeros((case.b, case.hk, 0, case.d), np.float32)), kind)
            past = ov.opset6.read_value(nothing, name, kind, ov.PartialShape([-1, case.hk, -1, case.d]))
            tokens = ops.concat([ops.gather(past, beam, ops.constant(np.int64(0))), new], 2)
            assigned.append(ov.opset6.assign(tokens, name))
            if group > 1:
                ones = ov.op.Constant(kind, ov.Shape([1, 1, group, 1, 1]), [1.0] * group)  # recognised as a repeat
                wide = ops.multiply(ops.unsqueeze(tokens, np.int64(2)), ones)
                tokens = ops.reshape(wide, np.array([0, case.h, -1, case.d], np.int64), True)
            all_tokens.append(tokens)
        o = ops.scaled_dot_product_attention(q, *all_tokens, causal=False)
        model = ov.Model([ops.result(o)], assigned, [q, k, v, beam], "row")
        request = self.request(model, threads, case.type, KV_CACHE_PRECISION=case.type)
        past = {name: aligned(x[name][:, :, :-1]) for name in "kv"}
        inputs = [x["q"], *(aligned(x[name][:, :, -1:]) for name in "kv"), np.arange(case.b, dtype=np.int32)]
        output = empty(x["q"].shape, STORED[case.type])
        keep = [self.tensor(array) for array in (*inputs, output)]
        for i in range(4):
            request.set_input_tensor(i, keep[i])
        request.set_output_tensor(0, keep[4])
        first = empty(output.shape, output.dtype)

        def before(keep=keep):
            for state in request.query_state():
                state.state = self.tensor(past[state.name])
            request.infer()  # takes the state over, which it does once
            first[...] = output
            request.infer()

        return Ready(request.infer, lambda: [to_double(first)], before)

    def kind(self, case):
        return {"f32": self.ov.Type.f32, "bf16": self.ov.Type.bf16, "f16": self.ov.Type.f16}[case.type]

    def tensor(self, array):
        if array.dtype == np.uint16:
            return self.ov.Tensor(array, self.ov.Shape(array.shape), self.ov.Type.bf16)
        return self.ov.Tensor(array, shared_memory=True)

    def request(self, model, threads, precision, **more):
        compiled = self.core.compile_model(model, "CPU", {
            "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": precision, "ENABLE_CPU_PINNING": False} | more)
        return compiled.create_infer_request()

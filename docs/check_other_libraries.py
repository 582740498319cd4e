#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Runs the PyTorch and ONNX calls of docs/from_other_libraries.md and heed's beside them, on the same numbers.

It needs g++, xsimd and NumPy, and checks what is there of torch and onnx (the reference evaluator).
"""

import pathlib
import subprocess
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
B, H, HK, N, M, D = 2, 4, 2, 24, 40, 32

PROGRAM = r"""
#include <heed/softmax.hpp>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>
template <class T = float> std::vector<T> read(const std::string& name, heed::index_t count) {
  std::vector<T> x(static_cast<std::size_t>(count));
  std::FILE* const file = std::fopen((name + ".bin").c_str(), "rb");
  if (file == nullptr || std::fread(x.data(), sizeof(T), x.size(), file) != x.size()) x.clear();
  if (file != nullptr) std::fclose(file);
  return x;
}
int main() {
  constexpr heed::index_t B = 2, H = 4, Hk = 2, N = 24, M = 40, D = 32;
  const auto q = read("q", B * H * N * D), k = read("k", B * Hk * M * D), v = read("v", B * Hk * M * D);
  const auto bias = read("bias", B * H * N * M);
  const auto bits = read<unsigned char>("keep", N * M);
  bool keep[N * M];
  for (heed::index_t i = 0; i < N * M; ++i) keep[i] = bits[static_cast<std::size_t>(i)] != 0;
  std::vector<float> o(q.size()), lse(B * H * N);
  bool good = true;
  const auto differ = [&](const std::string& name, const std::vector<float>& x) {
    const auto other = read(name, static_cast<heed::index_t>(x.size()));
    double most = 0;
    for (std::size_t i = 0; i < other.size(); ++i)
      most = std::fmax(most, std::fabs(static_cast<double>(x[i]) - static_cast<double>(other[i])));
    if (other.empty()) return;
    std::printf("%-28s largest difference %.1e\n", name.c_str(), most);
    good = good && most < 2e-6;
  };
  const auto run = [&](const std::string& name, const heed::softmax::options<>& options) {
    heed::softmax::forward(heed::bhsd(q.data(), B, H, N, D), heed::bhsd(k.data(), B, Hk, M, D),
                           heed::bhsd(v.data(), B, Hk, M, D), heed::bhsd(o.data(), B, H, N, D), options);
    for (const char* const library : {"torch_", "onnx_"}) differ(library + name, o);
  };
  run("causal", {.mask = heed::causal(), .align = heed::top_left});
  run("causal_lower_right", {.mask = heed::causal()});
  run("float_mask", {.scale = 0.25, .bias = heed::bhsd(bias.data(), B, H, N, M)});
  run("bool_mask", {.mask = heed::keep(heed::bhsd(&keep[0], 1, 1, N, M))});
  run("softcap", {.softcap = 20});
  run("flex", {.mask = heed::causal() & heed::window(10),
               .score = [](float s, const heed::position& at) { return s - 0.125f * float(at.place - at.key); },
               .lse = heed::contiguous(lse.data(), {B, H, N})});
  differ("torch_flex_lse", lse);
  return good ? 0 : 1;
}
"""


def torch_calls(data, save):
    import torch
    import torch.nn.functional as F
    from torch.nn.attention.bias import causal_lower_right
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    print("PyTorch", torch.__version__)
    q, k, v, bias, keep = (torch.from_numpy(data[name]) for name in ("q", "k", "v", "bias", "keep"))
    sdpa = F.scaled_dot_product_attention
    save("torch_causal", sdpa(q, k, v, is_causal=True, enable_gqa=True))
    every = k.repeat_interleave(H // HK, 1), v.repeat_interleave(H // HK, 1)
    save("torch_causal_lower_right", sdpa(q, *every, attn_mask=causal_lower_right(N, M)))
    save("torch_float_mask", sdpa(q, k, v, attn_mask=bias, scale=0.25, enable_gqa=True))
    save("torch_bool_mask", sdpa(q, k, v, attn_mask=keep, enable_gqa=True))
    past = M - N

    def score_mod(score, b, h, i, j):
        return score - 0.125 * (i + past - j)

    def mask_mod(b, h, i, j):
        return (j <= i + past) & (j >= i + past - 10)
    blocks = create_block_mask(mask_mod, B, H, N, M, device="cpu")
    o, lse = flex_attention(q, k, v, score_mod=score_mod, block_mask=blocks, enable_gqa=True, return_lse=True)
    save("torch_flex", o), save("torch_flex_lse", lse)
    print("a row without a key:", sdpa(q, k, v, attn_mask=torch.zeros_like(keep), enable_gqa=True)[0, 0, 0, 0].item())


def onnx_calls(data, save):
    import onnx
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    print("onnx", onnx.__version__)

    def attention(mask=None, **attributes):
        given = {name: data[name] for name in ("q", "k", "v")} | ({} if mask is None else {"mask": mask})
        types = {"bool": TensorProto.BOOL, "float32": TensorProto.FLOAT}
        inputs = [helper.make_tensor_value_info(n, types[str(x.dtype)], x.shape) for n, x in given.items()]
        node = helper.make_node("Attention", list(given), ["o"], **attributes)
        graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("o", TensorProto.FLOAT, None)])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])
        return ReferenceEvaluator(model).run(None, given)[0]
    save("onnx_causal", attention(is_causal=1))
    save("onnx_float_mask", attention(mask=data["bias"], scale=0.25))
    save("onnx_bool_mask", attention(mask=data["keep"]))
    save("onnx_softcap", attention(softcap=20.0))


def main():
    random = np.random.default_rng(1)
    data = {name: random.standard_normal(shape, dtype=np.float32) for name, shape in (
        ("q", (B, H, N, D)), ("k", (B, HK, M, D)), ("v", (B, HK, M, D)), ("bias", (B, H, N, M)))}
    data["keep"] = random.random((1, 1, N, M)) < 0.7
    with tempfile.TemporaryDirectory() as folder:
        def save(name, array):
            np.ascontiguousarray(array).tofile(f"{folder}/{name}.bin")
        for name, array in data.items():
            save(name, array)
        for calls in (torch_calls, onnx_calls):
            try:
                calls(data, save)
            except ImportError as missing:
                print(f"not checked: {missing}")
        pathlib.Path(folder, "check.cpp").write_text(PROGRAM)
        subprocess.run(["g++", "-std=c++20", "-O1", "-march=native", f"-I{ROOT}/include", "check.cpp", "-o", "check"],
                       cwd=folder, check=True)
        subprocess.run(["./check"], cwd=folder, check=True)


main()

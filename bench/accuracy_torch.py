#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Adds the errors of PyTorch's scaled_dot_product_attention to what `./run bench accuracy --json FILE` has written.

The tensors are made again here, number for number, and the sums beside which PyTorch stands are NumPy's in double.

    ./run bench accuracy --json docs/numerics.json
    build/peers-env/bin/python bench/accuracy_torch.py docs/numerics.json     # ./run peers makes that environment
"""

import argparse
import json
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "peers"))
import libraries  # noqa: E402

CHECKED = 8  # queries whose results are compared


def numbers(seed, count, mean=0):
    """The same as numbers() of bench/support/accuracy.hpp."""
    def mixed(h):
        h ^= h >> 16
        h *= np.uint32(0x85EBCA6B)
        h ^= h >> 13
        h *= np.uint32(0xC2B2AE35)
        return h ^ h >> 16

    a = mixed(np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B9) + np.uint32(seed))
    b = mixed(a + np.uint32(0x6A09E667))
    total = sum((x >> 16).astype(np.int32) + (x & 0xFFFF).astype(np.int32) for x in (a, b)) - 2 * 65535
    return np.float32(mean) + total.astype(np.float32) * np.float32(2.64e-5)


def problem(n, m, d, scores):
    q, k, v = numbers(1, n * d).reshape(n, d), numbers(2, m * d).reshape(m, d), numbers(3, m * d, 1).reshape(m, d)
    if scores == "equal":
        k[:], v[:] = k[0], v[0]
    return q, k, v, {"4x": 4, "16x": 16}.get(scores, 1) / np.sqrt(d)


def exact(q, k, v, scale):
    s = scale * (q.astype(np.float64) @ k.astype(np.float64).T)
    p = np.exp(s - s.max(axis=1, keepdims=True))
    return (p @ v.astype(np.float64)) / p.sum(axis=1, keepdims=True)


def errors(got, expected):
    difference = np.abs(got.astype(np.float64) - expected)
    return float(difference.max() / np.abs(expected).max()), \
        float(np.sqrt((difference ** 2).sum() / (expected ** 2).sum()))


def measure(torch, row):
    n = 64 if row["path"] == "forward 64 rows" else 1
    q, k, v, scale = problem(max(n, CHECKED), row["m"], row["d"], row["scores"])
    as_type = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16, "f64": torch.float64}[row["type"]]
    stored = [torch.from_numpy(x).to(as_type) for x in (q, k, v)]
    out = []
    for i in range(0, CHECKED, n):
        rows = stored[0][i:i + n][None, None]
        with torch.no_grad():
            o = torch.nn.functional.scaled_dot_product_attention(rows, stored[1][None, None], stored[2][None, None],
                                                                 scale=float(scale))
        out.append(o[0, 0].to(torch.float64).numpy())
    q, k, v = (x.to(torch.float64).numpy() for x in stored)
    return errors(np.concatenate(out)[:CHECKED], exact(q[:CHECKED], k, v, scale))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="written by ./run bench accuracy --json FILE; PyTorch's rows are added to it")
    parser.add_argument("--no-cuda", default=pathlib.Path(__file__).resolve().parents[1] / "build/peers/no_cuda",
                        help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    path = pathlib.Path(arguments.file)
    data = json.loads(path.read_text())
    check = float(numbers(1, 1)[0] + numbers(2, 2)[1] + numbers(3, 3)[2])
    if abs(check - data["check"]) > 1e-5:
        sys.exit(f"these are other numbers: {check} here, {data['check']} in {path}")
    torch = libraries.import_torch(arguments.no_cuda)
    data["torch"] = torch.__version__
    data["rows"] = [row for row in data["rows"] if row["by"] != "torch"]
    wanted = [row for row in data["rows"] if row["kernel"] == "softmax" and row["scores"] != "dominant"
              and row["path"] in ("forward 64 rows", "forward 1 row") and row["by"] in ("heed", "heed, stored")
              and row["type"] != "f64"]
    for row in wanted:
        largest, rms = measure(torch, row)
        print(*(row[key] for key in ("path", "type", "scores", "m", "d")), f"{largest:.2e} ({rms:.2e})", flush=True)
        found = {"max": float(f"{largest:.3e}"), "rms": float(f"{rms:.3e}")}
        data["rows"].append(row | found | {"by": "torch", "plan": ""})
    lines = ",\n".join("  " + json.dumps(row) for row in data.pop("rows"))
    head = json.dumps(data, indent=1)[:-2]
    path.write_text(f"{head},\n \"rows\": [\n{lines}\n ]\n}}\n")


if __name__ == "__main__":
    main()

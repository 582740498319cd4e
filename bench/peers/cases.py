# SPDX-License-Identifier: BSD-3-Clause
"""The rows of the comparison: sizes, data, and the result in double, by numpy alone."""

import dataclasses

import numpy as np

RIDGE = 0.1  # of local linear

# The largest error over the largest number of the result. float: what float32 matrix products of these sizes leave.
# 16-bit: half a unit of the result, and weights and scores rounded to the same type.
ALLOWED = {"f32": 2e-5, "bf16": 2e-2, "f16": 3e-3}
ALLOWED_LOCAL_LINEAR = 1e-3  # a system of condition 100 in float


@dataclasses.dataclass(frozen=True)
class Case:
    """One row. batch, heads, kv_heads; n queries on m keys; dim d of keys and values."""

    group: str
    name: str
    verb: str = "forward"  # forward, decode, backward, lightning, local_linear
    b: int = 1
    h: int = 8
    hk: int = 8
    n: int = 1024
    m: int = 1024
    d: int = 64
    causal: bool = False
    bias: bool = False
    type: str = "f32"  # bf16, f16
    main: bool = False  # runs on every count of --threads, the others on the first alone
    picture: bool = False  # in the short picture

    @property
    def large(self):
        return self.verb not in ("decode",) and self.n * self.m > 1024 * 1024 * 4

    @property
    def allowed(self):
        return ALLOWED_LOCAL_LINEAR if self.verb == "local_linear" else ALLOWED[self.type]

    @property
    def shape(self):
        heads = f"{self.h} heads" if self.h == self.hk else f"{self.h} heads on {self.hk}"
        return f"B = {self.b}, {heads}, N = {self.n}, M = {self.m}, D = {self.d}"


def all_cases():
    for causal in (False, True):
        mask = "causal" if causal else "dense"
        for n in (1024, 4096):
            for d in (64, 128):
                yield Case("prefill, float", f"{mask}, N = {n}, D = {d}", n=n, m=n, d=d, causal=causal,
                           main=n == 4096, picture=n == 4096)
    for n in (1024, 4096):
        yield Case("prefill, float", f"causal, 8 heads on 2, N = {n}, D = 128", hk=2, n=n, m=n, d=128, causal=True,
                   main=n == 4096, picture=n == 4096)
    for n, b in ((16, 64), (64, 16), (128, 8)):
        yield Case("short, float", f"dense, {b} x N = {n}, D = 64", b=b, n=n, m=n, picture=n < 128)
    yield Case("short, float", "32 boards of 64, bias per head, D = 32", b=32, n=64, m=64, d=32, bias=True, main=True,
               picture=True)
    for d in (64, 128):
        for n in (1024, 4096):
            yield Case("prefill, 16-bit", f"dense, bf16, N = {n}, D = {d}", n=n, m=n, d=d, type="bf16",
                       main=n == 4096 and d == 128, picture=n == 4096)
    yield Case("prefill, 16-bit", "causal, bf16, N = 4096, D = 128", n=4096, m=4096, d=128, causal=True, type="bf16",
               main=True, picture=True)
    yield Case("prefill, 16-bit", "dense, f16, N = 1024, D = 64", type="f16")
    for kind in ("f32", "bf16"):
        for group in (1, 4, 8):
            named = "float" if kind == "f32" else kind
            yield Case("decode, one token", f"{named} cache, M = 4096, groups of {group}, D = 128", "decode",
                       h=8 * group, n=1, m=4096, d=128, type=kind, main=group == 4, picture=group != 8)
    for n in (4096, 16384):
        for d in (64, 128):
            yield Case("lightning", f"N = {n}, D = {d}", "lightning", n=n, m=n, d=d, causal=True,
                       main=n == 4096 and d == 128, picture=n == 16384)
    for causal in (False, True):
        for d in (32, 64):
            yield Case("local linear", f"{'causal' if causal else 'dense'}, N = 512, D = {d}", "local_linear", h=4,
                       hk=4, n=512, m=512, d=d, causal=causal, main=d == 64 and causal, picture=d == 64)
    for causal in (False, True):
        yield Case("backward, float", f"{'causal' if causal else 'dense'}, N = 1024, D = 64", "backward",
                   causal=causal, main=causal, picture=True)


# ---- data -----------------------------------------------------------------------------------------------------------


def empty(shape, dtype):
    """An array at a multiple of 64 bytes, as every library here would allocate it."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    block = np.zeros(size + 64, np.uint8)
    start = -block.ctypes.data % 64
    return block[start : start + size].view(dtype).reshape(shape)


def aligned(x):
    y = empty(x.shape, x.dtype)
    y[...] = x
    return y


def to_bf16(x):
    """float32 to the bits of bf16, to nearest even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def to_double(x):
    """float32, float16, or the bits of bf16."""
    if x.dtype == np.uint16:
        return (x.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return x.astype(np.float64)


STORED = {"f32": np.float32, "bf16": np.uint16, "f16": np.float16}


def data(case):
    """{name: array}: q, k, v, and bias, dout, slopes where the row has them."""
    random = np.random.default_rng(case.n * case.d + case.h)

    def tensor(*shape):
        x = random.standard_normal(shape, np.float32)
        return aligned(to_bf16(x) if case.type == "bf16" else x.astype(STORED[case.type]))

    x = {"q": tensor(case.b, case.h, case.n, case.d), "k": tensor(case.b, case.hk, case.m, case.d),
         "v": tensor(case.b, case.hk, case.m, case.d)}
    if case.bias:
        x["bias"] = tensor(1, case.h, case.n, case.m)
    if case.verb == "backward":
        x["dout"] = tensor(case.b, case.h, case.n, case.d)
    if case.verb == "lightning":
        x["slopes"] = aligned(np.exp2(-8 * np.arange(1, case.h + 1) / case.h).astype(np.float32))
    return x


# ---- results in double ----------------------------------------------------------------------------------------------


def weights(case, q, k, bias, first):
    """Softmax weights of the rows q, of which the first is query `first`."""
    s = q @ k.T / np.sqrt(case.d)
    if bias is not None:
        s = s + bias
    if case.causal:
        place = first + np.arange(len(q)) + case.m - case.n
        s[np.arange(case.m) > place[:, None]] = -np.inf
    s = np.exp(s - s.max(1, keepdims=True))
    return s / s.sum(1, keepdims=True)


def softmax(case, q, k, v, bias):
    o = np.empty_like(q)
    for i in range(0, case.n, 512):
        rows = slice(i, i + 512)
        o[rows] = weights(case, q[rows], k, None if bias is None else bias[rows], i) @ v
    return [o]


def softmax_backward(case, q, k, v, dout):
    p = weights(case, q, k, None, 0)
    dp = dout @ v.T
    ds = p * (dp - (p * dp).sum(1, keepdims=True)) / np.sqrt(case.d)
    return [ds @ k, ds.T @ q, p.T @ dout]


def lightning(case, q, k, v, slope):
    o, state, chunk = np.empty_like(q), np.zeros((case.d, case.d)), 128
    for i in range(0, case.n, chunk):
        rows = slice(i, i + chunk)
        t = np.arange(len(q[rows]))
        pairs = np.tril(np.exp(-slope * np.maximum(t[:, None] - t, 0)))
        o[rows] = (q[rows] @ k[rows].T * pairs) @ v[rows] + np.exp(-slope * (t[:, None] + 1)) * (q[rows] @ state)
        state = np.exp(-slope * len(t)) * state + (np.exp(-slope * (len(t) - 1 - t[:, None])) * k[rows]).T @ v[rows]
    return [o]


def local_linear(case, q, k, v):
    p = weights(case, q, k, None, 0)
    mean, o = p @ k, np.empty_like(q)
    for i in range(case.n):
        centred = k - mean[i]
        y = np.linalg.solve((p[i, :, None] * centred).T @ centred + RIDGE * np.eye(case.d), q[i] - mean[i])
        o[i] = (p[i] * (1 + centred @ y)) @ v
    return [o]


def reference(case, x):
    """The results of a row in double: [o], or [dq, dk, dv]; each head of k and v serves a group of heads of q."""
    wide = {name: to_double(value) for name, value in x.items()}
    results = None
    for b in range(case.b):
        for h in range(case.h):
            of_kv = h * case.hk // case.h
            q, k, v = wide["q"][b, h], wide["k"][b, of_kv], wide["v"][b, of_kv]
            if case.verb == "backward":
                parts = softmax_backward(case, q, k, v, wide["dout"][b, h])
            elif case.verb == "lightning":
                parts = lightning(case, q, k, v, wide["slopes"][h])
            elif case.verb == "local_linear":
                parts = local_linear(case, q, k, v)
            else:
                parts = softmax(case, q, k, v, wide["bias"][0, h] if case.bias else None)
            if results is None:
                results = [np.empty((case.b, case.h, *part.shape)) for part in parts]
            for result, part in zip(results, parts):
                result[b, h] = part
    return results


def error(got, want):
    """The largest error over the largest number, the worst of the results; NaN counts as infinite."""
    worst = 0.0
    for mine, right in zip(got, want, strict=True):
        assert mine.shape == right.shape, (mine.shape, right.shape)
        distance = np.abs(mine - right).max() / np.abs(right).max()
        worst = max(worst, float(distance) if np.isfinite(distance) else np.inf)
    return worst

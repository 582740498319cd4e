#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Compares heed's gradients with torch autograd.

    python3 examples/torch_check.py build/dev/tests/gradients_of_file

Writes small calls of five kernels to a safetensors file, lets the program (tests/torch/gradients_of_file.cpp) run
heed's forward and backward on them in float and double, and holds every output and gradient against the textbook
formula in torch, float64. The formulas below are also the shortest definition of what heed computes. Without torch it
exits with 77, which ctest counts as skipped.
"""

import json
import math
import pathlib
import struct
import subprocess
import sys
import tempfile

SKIPPED = 77

try:
    import torch
except ImportError:
    print("skipped: torch cannot be imported")
    sys.exit(SKIPPED)

# The largest error over the largest number of each tensor, or over 1: the inputs' own size. float: dozens of roundings
# of 6e-8, which a denominator amplifies; local linear solves a system per row, to 1e-13 and to 1e-6
ALLOWED = {"double": 1e-12, "float": 1e-5}
ALLOWED_LOCAL_LINEAR = {"double": 1e-10, "float": 5e-5}


# ---- safetensors: 8 bytes with the length of a JSON header, the header, the numbers ---------------------------------


def write_file(path, tensors, metadata):
    header, blocks, at = {"__metadata__": metadata}, [], 0
    for name, x in tensors.items():
        block = struct.pack(f"<{x.numel()}d", *x.detach().reshape(-1).tolist())
        header[name] = {"dtype": "F64", "shape": list(x.shape), "data_offsets": [at, at + len(block)]}
        blocks.append(block)
        at += len(block)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blocks))


def read_file(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    tensors = {}
    for name, entry in json.loads(data[8 : 8 + length]).items():
        first, end = (8 + length + offset for offset in entry["data_offsets"])
        numbers = struct.unpack(f"<{(end - first) // 8}d", data[first:end])
        tensors[name] = torch.tensor(numbers, dtype=torch.float64).reshape(entry["shape"])
    return tensors


# ---- the kernels, as formulas of x, the tensors of a call, and how, its options -------------------------------------


def heads(x, count):
    """(batch, head, seq, dim) with `count` heads: each head of x serves a group of them."""
    return x.repeat_interleave(count // x.shape[1], 1)


def places(n, m):
    """Where the queries sit on the key axis, (n, 1), and the keys, (1, m)."""
    return torch.arange(n).view(-1, 1) + m - n, torch.arange(m).view(1, -1)


def scores(x, how):
    """Scale, soft-cap, ALiBi, bias, mask: (batch, head, n, m), -inf where hidden."""
    count = max(x["q"].shape[1], x["k"].shape[1])
    q, k = heads(x["q"], count), heads(x["k"], count)
    place, key = places(q.shape[2], k.shape[2])
    s = how["scale"] * q @ k.transpose(2, 3)
    if how["softcap"] > 0:
        s = how["softcap"] * torch.tanh(s / how["softcap"])
    if "slopes" in x:
        s = s - x["slopes"].view(1, -1, 1, 1) * (place - key).abs()
    if "bias" in x:
        s = s + x["bias"]
    visible = torch.ones_like(place + key, dtype=torch.bool)
    if how["causal"]:
        visible = visible & (key <= place)
    if how["window"] > 0:
        visible = visible & (key >= place - how["window"])
    return s.masked_fill(~visible, -math.inf)


def weights(s, sinks=None):
    """Softmax weights and lse. A row that sees no key has weights 0; a sink joins the sum alone."""
    joined = s if sinks is None else torch.cat([s, sinks.view(1, -1, 1, 1).expand(*s.shape[:3], 1)], 3)
    empty = (joined == -math.inf).all(3, keepdim=True)
    lse = torch.logsumexp(joined.masked_fill(empty, 0), 3, keepdim=True).masked_fill(empty, 0)
    return torch.exp(s - lse).masked_fill(empty, 0), lse.squeeze(3)


def softmax(x, how):
    p, lse = weights(scores(x, how), x.get("sinks"))
    o = p @ heads(x["v"], p.shape[1])
    return {"o": o}, (o * x["dout"]).sum() + ((lse * x["dlse"]).sum() if "dlse" in x else 0)


def mixture_of_head(x, how):
    p, _ = weights(scores(x, how))
    o = x["gates"].unsqueeze(3) * (p @ heads(x["v"], p.shape[1]))
    return {"o": o}, (o * x["dout"]).sum()


def local_linear(x, how):
    """o = sum_j p_j (1 + c_j.y) v_j with c_j = k_j - mean key and (sum_j p_j c_j c_j^T + ridge) y = q - mean key."""
    p, _ = weights(scores(x, how))
    count = p.shape[1]
    q, k, v = heads(x["q"], count), heads(x["k"], count), heads(x["v"], count)
    mean = p @ k
    centred = k.unsqueeze(2) - mean.unsqueeze(3)  # (batch, head, n, m, d)
    covariance = torch.einsum("bhnm,bhnmd,bhnme->bhnde", p, centred, centred)
    ridge = x["ridge"].view(1, -1, 1, 1, 1) * torch.eye(k.shape[3], dtype=torch.float64)
    y = torch.linalg.solve(covariance + ridge, (q - mean).unsqueeze(4)).squeeze(4)
    o = torch.einsum("bhnm,bhme->bhne", p * (1 + torch.einsum("bhnmd,bhnd->bhnm", centred, y)), v)
    return {"o": o}, (o * x["dout"]).sum()


def taylor(x):
    squares = torch.einsum("...a,...b->...ab", x, x).flatten(-2) / math.sqrt(2)
    return torch.cat([torch.ones_like(x[..., :1]), x, squares], -1)


FEATURES = {
    "identity": lambda x: x,
    "elu_plus_one": lambda x: torch.nn.functional.elu(x) + 1,
    "relu": torch.relu,
    "relu_squared": lambda x: torch.relu(x) ** 2,
    "silu": torch.nn.functional.silu,
    "exp": torch.exp,
    "softmax": lambda x: torch.softmax(x, -1),
    "taylor": taylor,
}


def state_loss(x, s, z=None):
    loss = (s * x["dfinal_state"]).sum() if "dfinal_state" in x else 0
    return loss + ((z * x["dfinal_z"]).sum() if "dfinal_z" in x else 0)


def linear(x, how):
    feature, count = FEATURES[how["feature"]], x["q"].shape[1]
    q, k, v = feature(x["q"]), feature(x["k"]), x["v"]
    s, z = k.transpose(2, 3) @ v, k.sum(2)  # what the keys leave
    if "initial_state" in x:
        s, z = s + x["initial_state"], z + (x["initial_z"] if "initial_z" in x else 0)
    place, key = places(q.shape[2], k.shape[2])
    seen = key <= place if how["causal"] else torch.ones_like(place + key, dtype=torch.bool)
    pairs = (q @ heads(k, count).transpose(2, 3)) * seen
    o, total = pairs @ heads(v, count), pairs.sum(3, keepdim=True)
    if "initial_state" in x:
        o = o + q @ heads(x["initial_state"], count)
    if "initial_z" in x:
        total = total + q @ heads(x["initial_z"].unsqueeze(3), count)
    o = how["scale"] * o
    if how["normalize"]:
        o = o / (how["scale"] * total + how["eps"])
    return {"o": o}, (o * x["dout"]).sum() + state_loss(x, s, z)


def lightning(x, how):
    """Token by token: S = lambda S + k v^T, o = scale S^T q, with one state per head of the decay."""
    states = x["gates"].shape[1] if "gates" in x else x["slopes"].shape[0]
    q, k, v = x["q"], heads(x["k"], states), heads(x["v"], states)
    if "gates" in x:
        decay = torch.exp(x["gates"])
    else:
        decay = torch.exp(-x["slopes"]).view(1, -1, 1).expand(q.shape[0], states, q.shape[2])
    s = x.get("initial_state", torch.zeros(q.shape[0], states, k.shape[3], v.shape[3], dtype=torch.float64))
    rows = []
    for t in range(q.shape[2]):
        s = decay[:, :, t, None, None] * s + k[:, :, t, :, None] * v[:, :, t, None, :]
        rows.append(torch.einsum("bhd,bhde->bhe", q[:, :, t], heads(s, q.shape[1])))
    o = how["scale"] * torch.stack(rows, 2)
    return {"o": o}, (o * x["dout"]).sum() + state_loss(x, s)


# ---- the calls ------------------------------------------------------------------------------------------------------

COTANGENTS = ("dout", "dlse", "dfinal_state", "dfinal_z")


def random(*shape):
    """Numbers that float32 holds, so that both types of heed see what torch sees."""
    return torch.randn(*shape, dtype=torch.float32).double()


def positive(*shape):
    return torch.rand(*shape, dtype=torch.float32).double() + 0.125


def tensors(b=2, h=4, hk=2, n=19, m=23, d=5, e=7):
    return {"q": random(b, h, n, d), "k": random(b, hk, m, d), "v": random(b, hk, m, e),
            "dout": random(b, max(h, hk), n, e)}


def pairwise_cases(kernel, extra):
    """Masks and score options of the softmax family. extra(x): adds what else the kernel takes."""
    plain = {"causal": 0, "window": 0, "softcap": 0.0, "scale": 0.4}
    for name, how, more, shape in [
        ("dense", {}, {}, {}),
        ("causal", {"causal": 1}, {}, {}),
        ("rows without keys", {"causal": 1}, {}, {"n": 23, "m": 19}),
        ("window", {"causal": 1, "window": 4}, {}, {}),
        ("softcap", {"softcap": 1.5}, {}, {}),
        ("bias of all", {"causal": 1}, {"bias": random(2, 4, 19, 23)}, {}),
        ("bias of heads", {}, {"bias": random(1, 4, 1, 23)}, {}),
        ("one key", {}, {}, {"m": 1}),
        ("everything", {"causal": 1, "window": 9, "softcap": 2.0}, {"bias": random(1, 1, 19, 23)}, {}),
        ("longer", {"causal": 1}, {}, {"b": 1, "h": 2, "hk": 1, "n": 150, "m": 150, "d": 24, "e": 17}),
    ]:
        x = {**tensors(**shape), **more}
        extra(x)
        yield f"{kernel}, {name}", kernel, x, {**plain, **how}


def softmax_cases():
    def dlse(x):
        x["dlse"] = random(*x["dout"].shape[:3])

    yield from pairwise_cases("softmax", dlse)
    for name, more, shape in [
        ("alibi", {"slopes": positive(4)}, {}),
        ("sinks", {"sinks": random(4)}, {}),
        ("alibi and sinks", {"slopes": positive(4), "sinks": random(4)}, {"n": 23, "m": 19}),
        ("more key heads", {}, {"h": 2, "hk": 6}),
    ]:
        yield f"softmax, {name}", "softmax", {**tensors(**shape), **more}, {
            "causal": 1, "window": 0, "softcap": 0.0, "scale": 0.4}


def mixture_cases():
    def gates(x):
        gate = positive(*x["dout"].shape[:3])
        x["gates"] = gate * (torch.rand(gate.shape) < 0.6)

    yield from pairwise_cases("mixture_of_head", gates)


def local_linear_cases():
    def ridge(x):
        x["ridge"] = positive(x["dout"].shape[1])

    yield from pairwise_cases("local_linear", ridge)


def linear_cases():
    for feature in FEATURES:
        for causal in (0, 1):
            for normalize in (0, 1):
                if normalize and feature in ("identity", "silu"):
                    continue  # their denominators may be anything
                for states in (0, 1):
                    x = tensors(d=4)
                    width = FEATURES[feature](x["k"]).shape[3]
                    if states:
                        x["initial_state"], x["dfinal_state"] = random(2, 2, width, 7), random(2, 2, width, 7)
                    if states and normalize:
                        x["initial_z"], x["dfinal_z"] = positive(2, 2, width), random(2, 2, width)
                    how = {"causal": causal, "normalize": normalize, "scale": 0.7, "eps": 0.25, "feature": feature}
                    words = ["causal"] * causal + ["normalised"] * normalize + ["states"] * states
                    yield f"linear, {' '.join([feature] + words)}", "linear", x, how


def lightning_cases():
    for gated in (0, 1):
        for decays in (4, 2):
            for states in (0, 1):
                for n in (1, 19, 150):
                    x = tensors(n=n, m=n)
                    if gated:
                        x["gates"] = -0.5 * positive(2, decays, n)
                    else:
                        x["slopes"] = positive(decays)
                    if states:
                        x["initial_state"], x["dfinal_state"] = random(2, decays, 5, 7), random(2, decays, 5, 7)
                    name = f"{decays} {'gates' if gated else 'slopes'}, N {n}{', states' if states else ''}"
                    yield f"lightning, {name}", "lightning", x, {"scale": 0.6}


FORMULAS = {f.__name__: f for f in (softmax, mixture_of_head, local_linear, linear, lightning)}


def expected(kernel, x, how):
    """o, and the gradients of the loss by every input that is not a cotangent, as d<name>."""
    leaves = {name: t.clone().requires_grad_(name not in COTANGENTS) for name, t in x.items()}
    outputs, loss = FORMULAS[kernel](leaves, how)
    loss.backward()
    results = {name: t.detach() for name, t in outputs.items()}
    for name, t in leaves.items():
        if name not in COTANGENTS:
            results["d" + name] = t.grad if t.grad is not None else torch.zeros_like(t)
    if "gates" in x and kernel == "mixture_of_head":
        results["dgates"] = results["dgates"] * (x["gates"] != 0)  # the kernel does not compute a head that is off
    return results


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    if not pathlib.Path(sys.argv[1]).is_file():
        print(f"skipped: {sys.argv[1]} is not there; it is built where cmake has found torch")
        sys.exit(SKIPPED)
    torch.manual_seed(1)
    makers = (softmax_cases, mixture_cases, local_linear_cases, linear_cases, lightning_cases)
    cases = [case for make in makers for case in make()]
    inputs, metadata = {}, {}
    for name, kernel, x, how in cases:
        inputs.update({f"{name}/{key}": t for key, t in x.items()})
        metadata.update({f"{name}/{key}": str(value) for key, value in {"kernel": kernel, **how}.items()})
    with tempfile.TemporaryDirectory() as folder:
        to, back = pathlib.Path(folder, "calls.safetensors"), pathlib.Path(folder, "gradients.safetensors")
        write_file(to, inputs, metadata)
        subprocess.run([sys.argv[1], to, back], check=True)
        got = read_file(back)

    compared, wrong, worst = 0, [], {}
    for name, kernel, x, how in cases:
        for key, want in expected(kernel, x, how).items():
            for kind, allowed in (ALLOWED_LOCAL_LINEAR if kernel == "local_linear" else ALLOWED).items():
                mine = got[f"{name}/{kind}/{key}"]
                error = ((mine - want).abs().max() / max(want.abs().max(), 1)).item() if want.numel() else 0.0
                worst[kernel, kind] = max(worst.get((kernel, kind), 0.0), error)
                compared += 1
                if not error <= allowed:
                    wrong.append(f"{name}: {key} in {kind} is off by {error:.2g} of its largest number")
    for (kernel, kind), error in worst.items():
        print(f"{kernel:16} {kind:6}  largest error {error:.1e}")
    for line in wrong:
        print(line)
    print(f"{len(cases)} calls, {compared} tensors, {len(wrong)} wrong; torch {torch.__version__}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Compares the chat program with independent implementations on the same file.

    ./run chat check
    python3 examples/chat/check.py build/chat/examples/chat_check build/chat/model/SmolLM2-135M-Instruct.Q4_1.gguf

- tokens: the package tokenizers, made of the file's vocabulary and merges, on 200 lines of mixed text
- scores: the package gguf reads the file, and the loop below computes the model in float32, on a prompt of 64 tokens
- greedy: 48 tokens for each of three prompts, by the same loop
Where torch and transformers can be imported, scores and greedy tokens are compared with those as well. Without the
packages gguf, numpy and tokenizers, or without the file, it exits with 77, which ctest counts as skipped.
"""

import os
import pathlib
import random
import subprocess
import sys
import unicodedata

SKIPPED = 77
ALLOWED = 1e-3  # the largest difference of a score, over the largest score

try:
    import gguf
    import numpy as np
    import tokenizers
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(SKIPPED)


class Model:
    """The Llama architecture as its equations say it, in float32."""

    def __init__(self, reader):
        def value(name):
            return reader.fields[f"llama.{name}"].contents()

        self.layers, self.heads = value("block_count"), value("attention.head_count")
        self.kv_heads, self.epsilon = value("attention.head_count_kv"), value("attention.layer_norm_rms_epsilon")
        self.base, self.rotated = value("rope.freq_base"), value("rope.dimension_count")
        self.weights = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
        self.weights = {name: np.ascontiguousarray(w, dtype=np.float32) for name, w in self.weights.items()}

    def norm(self, x, name):
        mean = (x * x).mean(axis=-1, keepdims=True)
        return x / np.sqrt(mean + np.float32(self.epsilon)) * self.weights[name]

    def rotate(self, x, first):
        """Turns the neighbours 2 i and 2 i + 1 of every head; x is (tokens, heads, dim)."""
        angle = self.base ** (-np.arange(0, self.rotated, 2) / self.rotated)
        angle = (first + np.arange(len(x)))[:, None, None] * angle
        c, s = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        a, b = x[..., 0 : self.rotated : 2].copy(), x[..., 1 : self.rotated : 2].copy()
        x[..., 0 : self.rotated : 2], x[..., 1 : self.rotated : 2] = a * c - b * s, a * s + b * c
        return x

    def scores(self, ids, past):
        """The scores behind each token. past: a list of keys and values per layer, to which theirs are added."""
        embeddings = self.weights["token_embd.weight"]
        x = embeddings[ids]
        first = len(past[0][0]) if past else 0
        for layer in range(self.layers):

            def times(y, name):
                return y @ self.weights[f"blk.{layer}.{name}.weight"].T

            n = self.norm(x, f"blk.{layer}.attn_norm.weight")
            q = self.rotate(times(n, "attn_q").reshape(len(ids), self.heads, -1), first)
            k = self.rotate(times(n, "attn_k").reshape(len(ids), self.kv_heads, -1), first)
            v = times(n, "attn_v").reshape(len(ids), self.kv_heads, -1)
            if layer < len(past):
                k, v = np.concatenate([past[layer][0], k]), np.concatenate([past[layer][1], v])
                past[layer] = (k, v)
            else:
                past.append((k, v))
            visible = np.arange(len(k))[None, :] <= first + np.arange(len(ids))[:, None]
            o = np.empty_like(q)
            for head in range(self.heads):
                kv_head = head // (self.heads // self.kv_heads)
                s = q[:, head] @ k[:, kv_head].T / np.sqrt(np.float32(q.shape[-1]))
                s = np.where(visible, s, -np.inf)
                p = np.exp(s - s.max(axis=-1, keepdims=True))
                o[:, head] = p / p.sum(axis=-1, keepdims=True) @ v[:, kv_head]
            x = x + times(o.reshape(len(ids), -1), "attn_output")
            n = self.norm(x, f"blk.{layer}.ffn_norm.weight")
            gate = times(n, "ffn_gate")
            x = x + times(gate / (1 + np.exp(-gate)) * times(n, "ffn_up"), "ffn_down")
        return self.norm(x, "output_norm.weight") @ self.weights.get("output.weight", embeddings).T

    def greedy(self, ids, count):
        past, chosen, smallest = [], [], np.inf
        scores = self.scores(ids, past)[-1]
        for _ in range(count):
            best = np.partition(scores, -2)[-2:]
            smallest = min(smallest, best[1] - best[0])
            chosen.append(int(scores.argmax()))
            scores = self.scores([chosen[-1]], past)[-1]
        return chosen, smallest


def make_tokenizer(reader):
    def value(name):
        return reader.fields[f"tokenizer.ggml.{name}"].contents()

    words = value("tokens")
    merges = [tuple(m.split(" ")) for m in value("merges")]
    made = tokenizers.Tokenizer(tokenizers.models.BPE({w: i for i, w in enumerate(words)}, merges))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    made.add_special_tokens([w for w, kind in zip(words, value("token_type")) if kind == 3])
    return made


def mixed_lines(count):
    """Lines of text: of people, of programs, of many scripts, and of characters drawn at random."""
    draw = random.Random(18)
    phrases = [
        "The quick brown fox jumps over the lazy dog.",
        "I'm sure they've said we'll see; it's what you'd do, isn't it?",
        "for (int i = 0; i < n; ++i) { sum += x[i] * y[i]; }", "\tdef f(x):  return x**2  # a square",
        "   indented  by 3", "3.14159, 1,000,000 and 0x7fff_ffff; 12 34", "naïve café Ångström Straße",
        "Привет, мир! Как дела?", "你好，世界。今天是2024年5月3日。", "こんにちは、世界。ｶﾀｶﾅ", "안녕하세요 세계", "مرحبا بالعالم ١٢٣",
        "שלום עולם", "नमस\u094dत\u0947 द\u0941निया ४५६", "สว\u0e31สด\u0e35ชาวโลก", "Γειά σου Κόσμε",
        "👩\u200d👩\u200d👧\u200d👦 🎉🎉 ☃\ufe0f 🇫🇷", "½ ⅓ Ⅷ ² ① ௧௦௦", "e\u0301 n\u0303 a\u0308\u0323",
        "\u00a0nbsp\u3000wide\u2003em", "<|im_start|>user", "<|im_end|>", "''''s 'S 'LL 'll''t",
        "http://example.org/a?b=c&d=%20#e", "~!@#$%^&*()_+-=[]{}|;':\",./<>?`", "ﬁ ﬂ ™ © € £ ¥ ∑ ∫ √ ∞ ≠", "    ",
        "a", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈 𒀀 𓀀", "ǅ ǈ ᾳ ʰ ª º",
    ]  # fmt: skip
    assigned = [chr(c) for c in range(32, 0x30000) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co", "Cc")]
    lines = list(phrases)
    while len(lines) < count:
        parts = [draw.choice(phrases) for _ in range(draw.randrange(1, 4))]
        parts += ["".join(draw.choices(assigned, k=draw.randrange(1, 12))) for _ in range(draw.randrange(3))]
        parts += [str(draw.randrange(10 ** draw.randrange(1, 12))) for _ in range(draw.randrange(2))]
        draw.shuffle(parts)
        lines.append(draw.choice(["", " ", "  ", "\t"]).join(parts))
    return lines[:count]


def check(name, good, text):
    print(f"{name:8s} {'ok    ' if good else 'FAILED'} {text}", flush=True)
    return good


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    program, path = sys.argv[1:]
    for needed in (program, path):
        if not pathlib.Path(needed).is_file():
            print(f"skipped: there is no {needed}")
            return SKIPPED

    def run(*arguments, text=None):
        command = [program, path, *map(str, arguments)]
        return subprocess.run(command, input=text, stdout=subprocess.PIPE, check=True).stdout

    reader = gguf.GGUFReader(path)
    words, model = make_tokenizer(reader), Model(reader)
    good = True

    lines = mixed_lines(200)
    ours = run("tokens", text="".join(line + "\n" for line in lines).encode()).decode().splitlines()
    theirs = [words.encode(line).ids for line in lines]
    wrong = [i for i in range(len(lines)) if list(map(int, ours[i].split())) != theirs[i]]
    count = sum(map(len, theirs))
    good &= check("tokens", not wrong, f"{len(lines)} lines, {count} tokens, {len(wrong)} lines differ {wrong[:5]}")

    text = "<|im_start|>user\nWhat is attention, and why do language models need it?<|im_end|>\n<|im_start|>assistant\n"
    prompt = words.encode(text + pathlib.Path(__file__).read_text()).ids[:64]
    raw = np.frombuffer(run("scores", *prompt), np.float32).reshape(len(prompt), -1)

    def compare_scores(name, expected):
        largest = np.abs(expected).max()
        error = np.abs(raw - expected).max() / largest
        return check(name, error <= ALLOWED, f"{len(prompt)} tokens: {error:.1e} of the largest score, {largest:.2f}")

    good &= compare_scores("scores", model.scores(prompt, []))

    questions = ["What is the capital of France?", "Write a story about a fox and a river.", "Explain how rain forms."]
    prompts, chosen = [], []
    for question in questions:
        text = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        prompts.append(words.encode(text).ids)
        chosen.append(list(map(int, run("greedy", 48, *prompts[-1]).split())))
        expected, margin = model.greedy(prompts[-1], 48)
        same = sum(a == b for a, b in zip(chosen[-1], expected))
        good &= check("greedy", chosen[-1] == expected, f"{same} of 48 tokens; the smallest lead was {margin:.3f}")

    try:
        import torch
        import transformers
    except ImportError as missing:
        print(f"not compared with transformers: {missing}")
        return 0 if good else 1
    os.environ["HF_HUB_OFFLINE"] = "1"
    folder, file = os.path.split(os.path.abspath(path))
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval()
    with torch.no_grad():
        good &= compare_scores("scores", loaded(torch.tensor([prompt])).logits[0].numpy())
        for ids, own in zip(prompts, chosen):
            options = {"max_new_tokens": 48, "min_new_tokens": 48, "do_sample": False}
            options["eos_token_id"] = None
            options["attention_mask"] = torch.ones(1, len(ids))  # else it hides <|im_end|>, which also pads
            answer = loaded.generate(torch.tensor([ids]), **options)[0][len(ids) :].tolist()
            same = sum(a == b for a, b in zip(own, answer))
            good &= check("greedy", own == answer, f"{same} of 48 tokens of transformers {transformers.__version__}")
    return 0 if good else 1


sys.exit(main())

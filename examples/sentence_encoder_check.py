#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Compares examples/sentence_encoder.cpp with the `tokenizers` package and with PyTorch, on the same model.

    python3 examples/sentence_encoder_check.py PROGRAM MODEL_FOLDER [--speed]

Tokens of 200 lines of mixed text, and of every Unicode character alone, must be those of `tokenizers`. Embeddings must
be equal to those of the same weights in torch, float32, within 1e-5. With --speed it then compares sentences per
second. Without torch, tokenizers or the model it exits with 77, which ctest counts as skipped.
"""

import array
import json
import pathlib
import random
import re
import struct
import subprocess
import sys
import tempfile
import time
import unicodedata

SKIPPED = 77
ROOT = pathlib.Path(__file__).resolve().parent.parent

try:
    import tokenizers
    import torch
    from torch.nn import functional
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(SKIPPED)


# ---- the texts ------------------------------------------------------------------------------------------------------

SAMPLES = """
The quick brown fox jumps over the lazy dog.
Isn't it $3.50 (about 12 %)? "Yes" -- it's 50/50; see §4, p. 12...
CamelCase, snake_case, x86_64, C++20, a<b && c>d, e-mail: someone@example.org #tag ~/file.txt
Ça va? Où est l'élève naïf, là-bas, à Nîmes? Garçon! Œuvre, cœur, ÆSIR
Größe, Straße, Übermut, ÄÖÜ, STRASSE, ẞ
İstanbul'da ılık bir gün, IĞDIR
Đặng Thị Ngọc Thịnh, Việt Nam, thuyền ơi
Zażółć gęślą jaźń; Příliš žluťoučký kůň úpěl ďábelské ódy
Αθήνα, Ελλάδα; το Πανεπιστήμιο; ΌΣΟΣ σοφός;
Съешь же ещё этих мягких французских булок, да выпей чаю. ЙОГА Ё
שלום עולם, בְּרֵאשִׁית בָּרָא אֱלֹהִים
مرحبا بالعالم، كيف حالك؟ السَّلَامُ عَلَيْكُمْ
नमस्ते दुनिया। हिन्दी में क़लम ज़्यादा
বাংলা ভাষা কো কৌ, தமிழ் மொழி கொ கோ கௌ, മലയാളം കൊ
ภาษาไทยไม่มีช่องว่าง
你好，世界！这是一个测试。漢字かな交じり文　全角スペース
東京タワーは高い。ガギグゲゴ ぱぴぷぺぽ ﾊﾝｶｸ
한국어 문장입니다. 각 값 힣 가
豈更車賈 金 龜 fi ﬁ ﬂ Å Å Ω ℃ ½ ² Ⅻ ⓐ ㌀
emoji 😀👍🏽 👨‍👩‍👧 ❤️ ☃ ∑ ≠ ≤ → ∀x∈A: x² ≥ 0
pneumonoultramicroscopicsilicovolcanoconiosis antidisestablishmentarianism
[CLS] [SEP] [MASK] [UNK] [PAD] ##ing ##
""".strip().split("\n") + [
    "", " ", "\t", "a\tb\rc  d\u00a0e\u2003f\u3000g\u2028h",
    "zero\u200bwidth\u200djoin\ufeff\u00adsoft\x00nul\x07bell\x85",
    "e\u0301le\u0300ve a\u0308\u0323 n\u0303 \u0301alone", "\ufffd\ufffdreplacement",
    "x" * 100, "x" * 101, "日" * 150,
    "word " * 300, "a" * 60 + "é" * 45, "private \ue000\uf8ff \U000f0000 \U0010ffff",
    "𝐁𝐨𝐥𝐝 𝔉𝔯𝔞𝔨𝔱𝔲𝔯 𐐀𐐨 𐍈 𠀀𠀁 𫝀",
    "..!?,;:", "--- *** ### === +++ |||", "3.14159 1,000,000 0x7f 1e-5 10^6 -40°C",
    "«guillemets» „quotes“ ‘single’ ‚low’ ‹x›",
]  # fmt: skip


def mixed_lines(count):
    """The samples, then lines of this repository, then words of all of them at random, with random characters."""
    lines = list(SAMPLES)
    lines += [line for line in (ROOT / "README.md").read_text().split("\n") if len(line) > 20][:60]
    pick, words = random.Random(1), [word for line in lines for word in line.split(" ") if word]
    blocks = ((0x20, 0x250), (0x370, 0x530), (0x3040, 0x3100), (0x4E00, 0x9FA6), (0xAC00, 0xD7A4))  # old ones
    while len(lines) < count:
        line = [pick.choice(words) for _ in range(pick.randrange(1, 40))]
        line += [chr(pick.randrange(*pick.choice(blocks))) for _ in range(5)]
        pick.shuffle(line)
        lines.append(pick.choice((" ", "", " ")).join(line).replace("\n", " "))
    return lines[:count]


def speed_lines(longest, most):
    """Lines of the pages of this repository, joined by 1 to `longest`, with the lengths of sentences or paragraphs."""
    pages = sorted((ROOT / "docs").rglob("*.md"))
    lines = [line for page in pages for line in page.read_text().split("\n") if re.search(r"\w{3}", line)]
    pick, joined = random.Random(1), []
    while lines:
        count = pick.randrange(1, longest + 1)
        joined.append(" ".join(lines[:count]))
        lines = lines[count:]
    return joined[:most]


# ---- the model in torch ---------------------------------------------------------------------------------------------


def read_weights(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    weights = {}
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if entry.get("dtype") == "F32":
            first, end = (8 + length + offset for offset in entry["data_offsets"])
            weights[name] = torch.frombuffer(bytearray(data[first:end]), dtype=torch.float32).reshape(entry["shape"])
    return weights


class Encoder:
    def __init__(self, folder):
        self.config = json.loads((folder / "config.json").read_text())
        self.weights = read_weights(folder / "model.safetensors")

    def dense(self, x, name):
        return functional.linear(x, self.weights[name + ".weight"], self.weights[name + ".bias"])

    def norm(self, x, name):
        weight, bias = self.weights[name + ".weight"], self.weights[name + ".bias"]
        return functional.layer_norm(x, weight.shape, weight, bias, self.config["layer_norm_eps"])

    def batch(self, sentences):
        """Sentences of any lengths, padded to the longest: a row of norm 1 for each."""
        rows, longest, heads = len(sentences), max(map(len, sentences)), self.config["num_attention_heads"]
        ids = torch.zeros(rows, longest, dtype=torch.long)
        for row, sentence in zip(ids, sentences):
            row[: len(sentence)] = torch.tensor(sentence)
        lengths = torch.tensor([len(sentence) for sentence in sentences])
        visible = torch.arange(longest) < lengths[:, None]
        mask = None if bool(visible.all()) else visible[:, None, None, :]

        x = self.weights["embeddings.word_embeddings.weight"][ids]
        x = x + self.weights["embeddings.position_embeddings.weight"][:longest]
        x = self.norm(x + self.weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        for layer in range(self.config["num_hidden_layers"]):
            name = f"encoder.layer.{layer}."
            q, k, v = (
                self.dense(x, name + "attention.self." + part).view(rows, longest, heads, -1).transpose(1, 2)
                for part in ("query", "key", "value")
            )
            o = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(x.shape)
            x = self.norm(x + self.dense(o, name + "attention.output.dense"), name + "attention.output.LayerNorm")
            hidden = functional.gelu(self.dense(x, name + "intermediate.dense"))
            x = self.norm(x + self.dense(hidden, name + "output.dense"), name + "output.LayerNorm")
        mean = (x * visible[:, :, None]).sum(1) / lengths[:, None]
        return functional.normalize(mean, dim=1)

    @torch.inference_mode()
    def __call__(self, sentences, batch, by_length):
        order = sorted(range(len(sentences)), key=lambda i: len(sentences[i])) if by_length else range(len(sentences))
        order, rows = list(order), torch.empty(len(sentences), self.config["hidden_size"])
        for first in range(0, len(order), batch):
            chosen = order[first : first + batch]
            rows[chosen] = self.batch([sentences[i] for i in chosen])
        return rows


# ---- the comparison -------------------------------------------------------------------------------------------------


class Program:
    def __init__(self, path, model):
        self.command = [str(path), "--model", str(model)]
        self.folder = tempfile.TemporaryDirectory()
        self.file = pathlib.Path(self.folder.name) / "lines.txt"

    def run(self, lines, *options):
        self.file.write_bytes("".join(line + "\n" for line in lines).encode())
        command = [*self.command, *options, str(self.file)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def tokens(self, lines):
        return [[int(number) for number in line.split(" ")] for line in self.run(lines, "--tokens").splitlines()]

    def embeddings(self, lines, threads=1):
        out = pathlib.Path(self.folder.name) / "out.bin"
        printed = self.run(lines, "--threads", str(threads), "--save", str(out))
        numbers = array.array("f", out.read_bytes())
        return torch.tensor(numbers).reshape(len(lines), -1), printed


def check_tokens(program, tokenizer, limit):
    tokenizer.no_padding()
    tokenizer.enable_truncation(limit)
    tokenizer.encode_special_tokens = True  # text that spells a special token is text
    lines = mixed_lines(200)
    ours, theirs = program.tokens(lines), [e.ids for e in tokenizer.encode_batch(lines)]
    different = [i for i in range(len(lines)) if ours[i] != theirs[i]]
    for i in different[:5]:
        print(f"{lines[i]!r}\n  heed       {ours[i]}\n  tokenizers {theirs[i]}")
    print(f"tokens: {len(lines) - len(different)} of {len(lines)} lines equal, {sum(map(len, ours))} tokens")

    characters = [chr(c) for c in range(1, 0x110000) if not 0xD800 <= c < 0xE000 and c != 0x0A]
    lines = [f"a{c}b" for c in characters]
    ours, theirs = program.tokens(lines), [e.ids for e in tokenizer.encode_batch(lines)]
    odd = [c for c, a, b in zip(characters, ours, theirs) if a != b]
    # `tokenizers` has tables of several Unicode versions, the oldest of 2015.
    print(f"characters: {len(characters) - len(odd)} of {len(characters)} equal")
    kinds = {}
    for c in odd:
        kinds.setdefault(unicodedata.category(c), []).append(f"{ord(c):X}")
    for kind, found in sorted(kinds.items()):
        print(f"  {kind}: {len(found)} differ: {' '.join(found[:8])}{' ...' if len(found) > 8 else ''}")
    return not different and len(odd) < 1000


def check_embeddings(program, model):
    lines = mixed_lines(200)
    sentences = program.tokens(lines)
    ours, _ = program.embeddings(lines)
    padded, alone = model(sentences, 32, False), model(sentences, 1, False)
    error = (ours - padded).abs().max().item()
    print(
        f"embeddings: largest difference to torch {error:.1e} in batches of 32 with padding, "
        f"{(ours - alone).abs().max():.1e} one by one; torch to itself {(padded - alone).abs().max():.1e}"
    )
    two, _ = program.embeddings(lines, threads=2)
    same = torch.equal(ours, two)
    print(f"two threads: {'the same bits' if same else 'OTHER BITS'}")
    return error < 1e-5 and same


def best(seconds):
    return min(seconds() for _ in range(3))


def print_speed(program, model):
    print("sentences per second, best of 3; torch in batches of 32 (the better of 32 and 128 where it is sorted)")
    for longest, most in ((1, 1000), (10, 300)):
        lines = speed_lines(longest, most)
        sentences = program.tokens(lines)
        count, lengths = sum(map(len, sentences)), sorted(map(len, sentences))
        padded = sum(32 * max(map(len, sentences[i : i + 32])) for i in range(0, len(sentences), 32))
        print(
            f"{len(lines)} lines of {lengths[0]} to {lengths[-1]} tokens, median {lengths[len(lengths) // 2]}; "
            f"padding adds {100 * (padded / count - 1):.0f} %"
        )
        for threads in (1, 2):
            torch.set_num_threads(threads)
            pattern = re.compile(r"embedded in ([0-9.]+) s")
            printed = ""

            def ours():
                nonlocal printed
                _, printed = program.embeddings(lines, threads)
                return float(pattern.search(printed)[1])

            def theirs(batch, by_length):
                begin = time.perf_counter()
                model(sentences, batch, by_length)
                return time.perf_counter() - begin

            model(sentences[:64], 32, False)
            seconds = [best(ours), best(lambda: theirs(32, False))]
            seconds.append(min(best(lambda: theirs(32, True)), best(lambda: theirs(128, True))))
            rates = [len(lines) / s for s in seconds]
            share = re.search(r"([0-9.]+ %) of the time in attention", printed)[1]
            print(
                f"  {threads} thread{'s' if threads > 1 else ''}: heed {rates[0]:.0f} ({share} in attention), "
                f"torch {rates[1]:.0f}, sorted by length {rates[2]:.0f}",
                flush=True,
            )


def main():
    if len(sys.argv) < 3:
        print(__doc__)
        return 2
    program, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    for path in (program, folder / "tokenizer.json", folder / "model.safetensors"):
        if not path.is_file():
            print(f"skipped: there is no {path}; ./run encoder makes it")
            return SKIPPED
    torch.set_num_threads(1)
    run = Program(program, folder)
    limit = json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    good = check_tokens(run, tokenizer, limit)
    model = Encoder(folder)
    good = check_embeddings(run, model) and good
    if "--speed" in sys.argv[3:]:
        print_speed(run, model)
    return 0 if good else 1


sys.exit(main())

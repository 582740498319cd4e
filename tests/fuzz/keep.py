# SPDX-License-Identifier: BSD-3-Clause
"""keep.py [COUNT]: chooses for every verb the inputs of build/fuzz/corpus that reach most of the library, COUNT (14) at
most, short ones first among equals, and leaves them in tests/fuzz/corpus in place of those that are there. Inputs named
found-* stay: each has found something."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

root = Path(__file__).resolve().parents[2]
count = int(sys.argv[1]) if len(sys.argv) > 1 else 14


def reached(program, verb, folders):
    """Returns {file: edges of the library that it reaches} of the inputs that a merge keeps."""
    with tempfile.TemporaryDirectory() as scratch:
        control, merged = Path(scratch, "control"), Path(scratch, "merged")
        merged.mkdir()
        subprocess.run([program, "-merge=1", f"-merge_control_file={control}", merged, *folders], check=True,
                       capture_output=True, env={**os.environ, "HEED_FUZZ_VERB": verb})
        files, edges = [], {}
        lines = control.read_text().splitlines()
        files = lines[2:2 + int(lines[0])]
        for line in lines[2 + len(files):]:
            word, number, *rest = line.split()
            if word == "COV":
                edges[files[int(number)]] = set(rest)
        return edges


def choose(edges):
    """Takes one by one the input that adds most, as long as one adds something."""
    # A merge lists of each file only what those before it have not reached.
    chosen, left = [], dict(edges)
    while left and len(chosen) < count:
        best = max(left, key=lambda f: (len(left[f]), -os.path.getsize(f)))
        if not left[best]:
            break
        chosen.append(Path(best))
        del left[best]
    return chosen


for targets in sorted(root.glob("tests/fuzz/*_targets.cpp")):
    program = root / "build/fuzz/tests" / ("fuzz_" + targets.name.removesuffix("_targets.cpp"))
    for verb in re.findall(r"X\(([a-z_]+)\)", targets.read_text()):
        kept = root / "tests/fuzz/corpus" / verb
        kept.mkdir(parents=True, exist_ok=True)
        folders = [f for f in (kept, root / "build/fuzz/corpus" / verb) if f.is_dir()]
        chosen = [(f.read_bytes(), f.name) for f in choose(reached(program, verb, folders))]
        for old in kept.iterdir():
            if not old.name.startswith("found-"):
                old.unlink()
        for data, name in chosen:
            if not name.startswith("found-"):
                (kept / f"{len(list(kept.iterdir())):02d}").write_bytes(data)
        print(f"{verb}: {len(list(kept.iterdir()))} inputs")

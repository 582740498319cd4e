# SPDX-License-Identifier: BSD-3-Clause
"""A copy of the sources that has all chosen mutants, each behind a switch (switch.hpp), and the build of its tests."""

import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import subprocess

import draw

SHARED = ("CMakeLists.txt", "cmake", "src", "tests", "packaging", "README.md", "LICENSE", "CHANGELOG.md")
# The tests that are built: of the units that have mutants, and of the kernels that run them.
UNITS = r"^(tile|pairwise|recurrent|core_mask|core_context|convert)"
KERNELS = (r"^((softmax|linear|lightning|sparse_query|mixture_of_head|local_linear)_"
           r"(forward|backward|decode|nan|layout|packed|half|executor|hidden|pairs|rows|few|far|cache|gates|options"
           r"|apply|functions|score|properties|numbers|extremes|plan|prepared|errors|option))")
TESTS = {"plain": f"{UNITS}|{KERNELS}", "tsan": "^pairwise_value_blocks"}
FLAGS = {  # kernels unoptimised would be slow, with -O2 they would take long to compile
    "plain": "-O1 -DHEED_ASSERTIONS=1",
    "tsan": "-O1 -g1 -DHEED_ASSERTIONS=1 -fsanitize=thread",
}


class Failed(Exception):
    pass


def switched(spot, number):
    """What takes the place of a spot: the mutant where it is switched on, else what was there."""
    on, mutated, was = f"heed_mutants::on({number})", draw.restore(spot.text), draw.restore(spot.was)
    if spot.operator == "flush" and not spot.text:
        kind, name = re.match(r"const ([\w:]+) (\w+);", spot.was).groups()
        return f"std::optional<{kind}> {name}; if (!{on}) {name}.emplace();"
    if not spot.text:
        return f"({on} ? void() : static_cast<void>({was}))"
    return f"({on} ? ({mutated}) : ({was}))"


def mutate(text, chosen):
    """text with all of its mutants: [(number, spot)]. Lines keep their numbers."""
    for number, spot in sorted(chosen, key=lambda x: -x[1].start):
        lines = text.count("\n", spot.start, spot.end)
        new = " ".join(switched(spot, number).split())
        text = text[: spot.start] + new + "\n" * lines + text[spot.end :]
    return text


def places(said):
    """{(file, line)} in the headers that a compiler's output calls wrong."""
    errors = re.findall(r"include/heed/([\w/]+\.hpp):(\d+):\d+: error", said)
    errors = errors or re.findall(r"include/heed/([\w/]+\.hpp):(\d+):\d+: ", said)
    if not errors:
        raise Failed(said[-6000:])
    return {(file, int(line)) for file, line in errors}


class Tree:
    def __init__(self, root, folder, flavour="plain"):
        self.root, self.flavour = pathlib.Path(root), flavour
        self.tree = pathlib.Path(folder) / ("tree" if flavour == "plain" else f"tree_{flavour}")
        self.binaries = pathlib.Path(folder) / flavour

    def write(self, chosen):
        """Writes the sources with chosen: {number: spot}. Files that do not change keep their times; returns whether
        any did."""
        changed = False
        self.tree.mkdir(parents=True, exist_ok=True)
        for name in SHARED:
            if not (self.tree / name).is_symlink() and (self.root / name).exists():
                (self.tree / name).symlink_to(self.root / name)
        by_file = {}
        for number, spot in chosen.items():
            by_file.setdefault(spot.file, []).append((number, spot))
        for path in sorted((self.root / "include").rglob("*")):
            if not path.is_file():
                continue
            name, to = str(path.relative_to(self.root / "include/heed")), self.tree / path.relative_to(self.root)
            text = mutate(path.read_text(), by_file.get(name, []))
            if not to.exists() or to.read_text() != text:
                to.parent.mkdir(parents=True, exist_ok=True)
                to.write_text(text)
                changed = True
        return changed

    def configure(self, match):
        flags = f"{FLAGS[self.flavour]} -w -include {self.root}/tests/mutants/switch.hpp"
        command = ["cmake", "-S", self.tree, "-B", self.binaries, "-G", "Ninja", f"-DCMAKE_CXX_FLAGS={flags}",
                   "-DCMAKE_BUILD_TYPE=None", "-DHEED_TEST_ISAS=native", "-DHEED_TEST_BRIEF=ON",
                   "-DHEED_TEST_PACKAGING=OFF", "-DHEED_BUILD_BENCH=OFF", "-DHEED_BUILD_EXAMPLES=OFF",
                   "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON",
                   f"-DHEED_TEST_MATCH={match}"]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if done.returncode:
            raise Failed(done.stdout[-2000:] + done.stderr[-4000:])

    def check(self, jobs):
        """Compiles what calls the kernels and the units without code for it. Returns the places of errors."""
        listed = subprocess.run(["ninja", "-C", self.binaries, "-t", "targets", "all"], capture_output=True, text=True)
        units = re.findall(r"^(tests/groups/\S+\.cpp): CUSTOM", listed.stdout, re.M)
        subprocess.run(["ninja", "-C", self.binaries, *units], capture_output=True, check=True)
        calls = json.loads((self.binaries / "compile_commands.json").read_text())
        calls = [c for c in calls if re.search(r"_native\b", c["command"])]

        def one(call):
            command = re.sub(r" -o \S+ -c ", " -fsyntax-only -fmax-errors=0 ", call["command"])
            done = subprocess.run(command, shell=True, cwd=call["directory"], capture_output=True, text=True)
            return places(done.stderr) if done.returncode else set()

        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            return set().union(*pool.map(one, calls))

    def build(self, jobs):
        """Builds what can be built. Returns the places that do not compile."""
        done = subprocess.run(["cmake", "--build", str(self.binaries), "-j", str(jobs), "--", "-k", "0"],
                              capture_output=True, text=True)
        (self.binaries / "build.log").write_text(done.stdout + done.stderr)
        return places(done.stdout) if done.returncode else set()

    def tests(self):
        """[(name, command, environment)] of all that ctest would run."""
        shown = subprocess.run(["ctest", "--test-dir", str(self.binaries), "--show-only=json-v1"], check=True,
                               capture_output=True, text=True)
        found = []
        for test in json.loads(shown.stdout)["tests"]:
            properties = {p["name"]: p["value"] for p in test.get("properties", [])}
            environment = dict(x.split("=", 1) for x in properties.get("ENVIRONMENT", []))
            if "command" in test and os.path.exists(test["command"][0]) and not shutil.which(test["name"]):
                found.append((test["name"], test["command"], environment))
        return found

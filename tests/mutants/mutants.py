#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Changes one spot of the library at a time and demands that a test fails.

Spots are chosen by a seed, evenly over the files of tile/, pairwise/, recurrent/, core/mask.hpp and over the operators
(operators.py); what cannot change a result is left out by rule (draw.py). One build has all chosen mutants, each behind
a switch, so that nothing is compiled per mutant. A run without mutants says which test comes by which mutant; each
mutant then runs the tests that come by it, the cheapest first, until one fails. A test that takes ten times as long as
without the mutant, or that ends by a signal, has failed. Results: build/mutants/results.jsonl; a run goes on where the
last one of the same commit ended.
"""

import argparse
import collections
import concurrent.futures
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import draw  # noqa: E402
import tree as trees  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build/mutants"


def commit():
    done = subprocess.run(["git", "-C", str(ROOT), "log", "-1", "--format=%h", "--", "include", "tests"],
                          capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def run(test, limit, **environment):
    """(red, seconds, how) of a test. limit: seconds of processor time; a busy machine is no reason to fail."""
    name, command, own = test
    begin = time.monotonic()

    def limits():
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit) + 5))
        if "tsan" not in command[0]:
            resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))

    try:
        done = subprocess.run(command, env={**os.environ, **own, **environment}, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, timeout=10 * limit, cwd=tempfile.gettempdir(),
                              preexec_fn=limits)
        code = done.returncode
    except subprocess.TimeoutExpired:
        return True, 10 * limit, "timeout"
    how = "fails" if code > 0 else "passes" if code == 0 else signal.Signals(-code).name
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        how = "timeout"
    return code not in (0, 77), time.monotonic() - begin, how


class Session:
    def __init__(self, arguments):
        self.arguments, self.commit = arguments, commit()
        self.match = arguments.match or trees.TESTS[arguments.flavour]
        self.tree = trees.Tree(ROOT, FOLDER, arguments.flavour)
        self.results_file = FOLDER / "results.jsonl"
        FOLDER.mkdir(parents=True, exist_ok=True)
        self.results = {}
        if self.results_file.exists():
            for line in self.results_file.read_text().splitlines():
                x = json.loads(line)
                self.results[x["commit"], x["key"], x["flavour"]] = x
        if arguments.trust:
            self.results.update({(self.commit, key, flavour): {**x, "commit": self.commit} for (of, key, flavour), x
                                 in list(self.results.items()) if of != self.commit and x["status"] == "killed"})
        self.equivalent = json.loads((ROOT / "tests/mutants/equivalent.json").read_text())

    def wanted(self, spot):
        return (spot.operator == "fence") == (self.arguments.flavour == "tsan")

    def choose(self):
        """Chooses spots and builds them; those that do not compile make room for the next."""
        order = (s for s in draw.order(ROOT / "include", self.arguments.seed) if self.wanted(s))
        chosen, self.broken, number = {}, [], 0
        known = self.known_broken()
        while True:
            while len(chosen) < self.arguments.count and (spot := next(order, None)):
                if spot.key() in known:
                    self.broken.append(spot)
                elif not draw.overlaps(spot, chosen.values()):
                    chosen[number] = spot
                    number += 1
            changed = self.tree.write(chosen)
            self.tree.configure(self.match)
            print(f"building {len(chosen)} mutants", flush=True)
            places = (changed and self.tree.check(self.arguments.jobs)) or self.tree.build(self.arguments.jobs)
            if not places:
                return chosen
            bad = [n for n, s in chosen.items() if any(
                s.file == file and s.line <= line <= s.line + s.was.count("\n") + 3 for file, line in places)]
            if not bad:
                raise trees.Failed(f"no mutant is at {sorted(places)}, see {self.tree.binaries}/build.log")
            for n in bad:
                print(f"does not compile: {chosen[n].key()}", flush=True)
                self.record(chosen[n], "does not compile")
                self.broken.append(chosen.pop(n))

    def known_broken(self):
        return {x["key"] for x in self.results.values() if x["status"] in ("does not compile", "not here")
                and x["commit"] == self.commit and x["flavour"] == self.arguments.flavour}

    def record(self, spot, status, **more):
        x = {"commit": self.commit, "key": spot.key(), "flavour": self.arguments.flavour, "file": spot.file,
             "line": spot.line, "operator": spot.operator, "was": spot.was, "mutant": spot.shown(), "code": spot.code,
             "status": status, **more}
        self.results[self.commit, spot.key(), self.arguments.flavour] = x
        with self.results_file.open("a") as file:
            file.write(json.dumps(x) + "\n")

    def cover(self, tests, chosen):
        """Runs every test without a mutant. Returns {test name: (seconds, numbers of the mutants it comes by)}."""
        kept = FOLDER / f"cover_{self.arguments.flavour}.json"
        binaries = {command[0] for _, command, _ in tests}
        stamp = [[s.key() for s in chosen.values()], sorted((b, os.stat(b).st_mtime) for b in binaries)]
        stamp = json.loads(json.dumps(stamp))
        if kept.exists() and (x := json.loads(kept.read_text()))["stamp"] == stamp:
            return {name: (seconds, set(numbers)) for name, (seconds, numbers) in x["cover"].items()}
        cover = {}

        def one(test):
            with tempfile.NamedTemporaryFile("r", suffix=".reached") as file:
                red, seconds, how = run(test, 1800, HEED_MUTANTS_REACHED=file.name)
                return test[0], red, seconds, how, {int(x) for x in file.read().split()}

        with concurrent.futures.ThreadPoolExecutor(self.arguments.jobs) as pool:
            for name, red, seconds, how, numbers in pool.map(one, tests):
                if red:
                    raise trees.Failed(f"{name} fails without a mutant: {how}")
                cover[name] = seconds, numbers
        kept.write_text(json.dumps({"stamp": stamp, "cover": {n: [t, sorted(x)] for n, (t, x) in cover.items()}}))
        return cover

    def proof(self, spot):
        for x in self.equivalent:
            if (x["file"], x["operator"], x["code"], x["was"], x["mutant"]) == (
                    spot.file, spot.operator, spot.code, spot.was, spot.shown()):
                return x["proof"]
        return None

    def try_mutant(self, number, spot, tests, cover):
        mine = sorted((t for t in tests if number in cover[t[0]][1]), key=lambda t: cover[t[0]][0])
        units = ("tile_", "pairwise_", "recurrent_", "core_")
        mine.sort(key=lambda t: cover[t[0]][0] + (0 if t[0].startswith(units) else 2))
        seconds = 0.0
        for test in mine:
            red, took, how = run(test, 20 + 10 * cover[test[0]][0], HEED_MUTANT=str(number))
            seconds += took
            if red:
                return "killed", {"test": test[0], "how": how, "seconds": round(seconds, 1)}
        return "survived", {"tests": len(mine), "seconds": round(seconds, 1)}

    def run(self):
        chosen = self.choose()
        if self.arguments.build:
            return 0
        tests = self.tree.tests()
        print(f"{len(tests)} tests without a mutant", flush=True)
        cover = self.cover(tests, chosen)
        todo = [(n, s) for n, s in chosen.items()
                if self.results.get((self.commit, s.key(), self.arguments.flavour), {}).get("status") != "killed"]
        print(f"{len(chosen) - len(todo)} are killed already, {len(todo)} to run", flush=True)

        def one(x):
            number, spot = x
            if self.proof(spot):
                return spot, "equivalent", {}
            return (spot, *self.try_mutant(number, spot, tests, cover))

        with concurrent.futures.ThreadPoolExecutor(self.arguments.jobs) as pool:
            for spot, status, more in pool.map(one, todo):
                self.record(spot, status, **more)
                print(f"{status}: {spot.key()} | {spot.was} {more}", flush=True)
        return self.report(chosen)

    def report(self, chosen):
        found = [self.results[self.commit, s.key(), self.arguments.flavour] for s in chosen.values()]
        lines = [f"# Mutants of {self.commit}, seed {self.arguments.seed}, {self.arguments.flavour}", ""]
        count = collections.Counter(x["status"] for x in found)
        lines += [f"{len(found)} mutants: " + ", ".join(f"{count[s]} {s}" for s in ("killed", "survived", "equivalent"))
                  + f"; {len(self.broken)} did not compile.", "", "| file:line | operator | was | mutant | result |",
                  "|---|---|---|---|---|"]
        for x in sorted(found, key=lambda x: (x["status"], x["file"], x["line"])):
            result = x["status"] + (f" by {x['test']} ({x['how']})" if x["status"] == "killed" else "")
            cells = [f"{x['file']}:{x['line']}", x["operator"], x["was"], x["mutant"], result]
            lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
        (FOLDER / f"report_{self.arguments.flavour}.md").write_text("\n".join(lines) + "\n")
        print(lines[2])
        return 1 if count["survived"] else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=160, help="mutants that compile")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--build", action="store_true", help="only build")
    parser.add_argument("--trust", action="store_true", help="what was killed at another commit is, where tests only "
                        "have become more")
    parser.add_argument("--match", help="tests that are built, see HEED_TEST_MATCH in tests/")
    parser.add_argument("--flavour", choices=sorted(trees.FLAGS), default="plain", help="tsan: mutants of fences")
    try:
        return Session(parser.parse_args()).run()
    except trees.Failed as failed:
        print(failed, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

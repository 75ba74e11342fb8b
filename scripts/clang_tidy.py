#!/usr/bin/env python3
"""Runs clang-tidy on our sources, two at once, and remembers what was clean.

    scripts/clang_tidy.py build/release                  all our sources in that build's compile_commands.json
    scripts/clang_tidy.py build/release src/core         those whose path contains one of the given parts
    scripts/clang_tidy.py build/release --since HEAD~9   those that changed since, and one that includes each changed header

A file is checked again when it, a header of ours it includes, its compile command or .clang-tidy changed. The
includes come from ninja's dependency log, so build first.
"""

import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
OURS = ("kernels/", "src/", "launcher/", "tests/")
STAMPS = ROOT / "build" / "tidy"


def relative(path: str, folder: str) -> str:
    return os.path.relpath(os.path.join(folder, path), ROOT)


def dependencies(build: pathlib.Path) -> dict[str, list[str]]:
    """Object file → our headers and sources that it was made of."""
    listing = subprocess.run(["ninja", "-C", str(build), "-t", "deps"], capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in listing.stdout.splitlines():
        if line.startswith("    "):
            path = relative(line.strip(), str(build))
            if path.startswith(OURS):
                current.append(path)
        elif ": #deps" in line:
            current = found.setdefault(line.split(":")[0], [])
    return found


def fingerprint(command: str, files: list[str]) -> str:
    digest = hashlib.sha256(command.encode())
    for path in [".clang-tidy", *sorted(set(files))]:
        digest.update(path.encode())
        digest.update((ROOT / path).read_bytes())
    return digest.hexdigest()


def compile_flags(command: str) -> list[str]:
    """The command without the compiler (and ccache before it), its input and its output."""
    words = shlex.split(command)
    flags = words[next(i for i, word in enumerate(words) if word.startswith("-")) :]
    for i, word in reversed(list(enumerate(flags))):
        if word in ("-o", "-c", "-MF", "-MT"):
            del flags[i : i + 2]
    return flags


def check(folder: str, path: str, flags: list[str], stamp: pathlib.Path) -> str | None:
    """Returns the findings, or None when there are none."""
    command = ["clang-tidy", "--quiet", str(ROOT / path), "--", *flags, "-Wno-unknown-warning-option"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        stamp.touch()
        return None
    return result.stdout + re.sub(r"\d+ warnings? .*\n|Suppressed .*\n|Use -header-filter.*\n", "", result.stderr)


def changed_since(revision: str, includes: dict[str, list[str]]) -> set[str] | None:
    """The sources to check for what changed; None for all: there is no such revision, or the rules changed."""
    known = subprocess.run(["git", "rev-parse", "--verify", "--quiet", revision], cwd=ROOT, capture_output=True, check=False)
    if known.returncode != 0:
        return None
    command = ["git", "diff", "--name-only", "--relative", revision]
    changed = set(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines())
    if ".clang-tidy" in changed:
        return None
    sources = {path for path in changed if path.endswith(".cpp")}
    for header in sorted(changed - sources):
        including = sorted(file for files in includes.values() if header in files for file in files if file.endswith(".cpp"))
        if including and sources.isdisjoint(including):
            sources.add(including[0])
    return sources


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        print(__doc__)
        return 2
    build = pathlib.Path(sys.argv[1]).resolve()
    parts = sys.argv[2:]
    headers = dependencies(build)
    only = None
    if parts[:1] == ["--since"]:
        only = changed_since(parts[1], headers)
        parts = []
    STAMPS.mkdir(parents=True, exist_ok=True)
    work = []
    seen = set()
    for entry in json.loads((build / "compile_commands.json").read_text()):
        path = relative(entry["file"], entry["directory"])
        if path.endswith(".cu"):  # clang 14 does not know this CUDA
            continue
        if not path.startswith(OURS) or (parts and not any(part in path for part in parts)):
            continue
        if only is not None and path not in only:
            continue
        if path in seen:  # kernels that are compiled once for each instruction set
            continue
        seen.add(path)
        entry_output = re.search(r" -o (\S+)", entry["command"])
        files = headers.get(entry_output.group(1), []) if entry_output else []
        stamp = STAMPS / fingerprint(entry["command"], [path, *files])
        if not stamp.exists():
            work.append((entry, path, stamp))
    num_dirty = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = {
            pool.submit(check, entry["directory"], path, compile_flags(entry["command"]), stamp): path
            for entry, path, stamp in work
        }
        for done, future in enumerate(concurrent.futures.as_completed(futures), 1):
            findings = future.result()
            print(f"[{done}/{len(work)}] {futures[future]}{'' if findings is None else ': findings'}", flush=True)
            if findings is not None:
                num_dirty += 1
                print(findings, flush=True)
    print(f"note: {len(seen)} files, {len(seen) - len(work)} unchanged since they were clean")
    if num_dirty:
        print(f"{num_dirty} of {len(seen)} files have findings")
    return 1 if num_dirty else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Checks that the documentation tells the truth about names: every path in README, CONTRIBUTING and docs/ exists, every
`weft` command line uses a command and flags that its --help shows, and every link leads to a file.

    scripts/check_docs.py build/release/weft
"""

import functools
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = ("launcher", "src", "kernels", "configs", "tests", "scripts", "docs", "cmake")
# A path of ours: no placeholder in capitals (NAME, FILE), no pattern.
PATH = re.compile(r"(?<![\w/.-])(?:\./)?((?:%s)/[\w./-]*\w/?|[A-Z]\w+\.(?:md|txt|json))" % "|".join(FOLDERS))
CODE = re.compile(r"`([^`\n]+)`|^ {4}(.*)$", re.MULTILINE)
COMMAND = re.compile(r"(?:^|[\s/(])weft ([^\n#]*)")


@functools.cache
def help_of(binary: str, command: str) -> str:
    return subprocess.run([binary, command, "--help"], capture_output=True, text=True, timeout=30, check=False).stdout


@functools.cache
def known_commands(binary: str) -> frozenset[str]:
    text = subprocess.run([binary, "--help"], capture_output=True, text=True, timeout=30, check=False).stdout
    return frozenset(re.findall(r"^  ([a-z-]+) ", text, re.MULTILINE))


def check_paths(text: str) -> list[str]:
    found = []
    for path in sorted(set(PATH.findall(text))):
        if "NAME" not in path and not (ROOT / path).exists():
            found.append(f"{path} does not exist")
    return found


def check_links(page: pathlib.Path, text: str) -> list[str]:
    targets = re.findall(r"\]\(([^)#:]+)\)", text)
    return [f"link to {target} leads nowhere" for target in targets if not (page.parent / target).exists()]


def check_commands(binary: str, text: str) -> list[str]:
    """A line may hold two commands: `weft launch -n 2 -- generate …`."""
    found = []
    code = "\n".join(span or line for span, line in CODE.findall(text))
    for line in COMMAND.findall(code):
        for part in line.split(" -- "):
            command = part.split()[0]
            if not command.islower():  # a placeholder, or a flag of weft itself
                continue
            if command not in known_commands(binary):
                found.append(f"weft has no command '{command}' ({line.strip()})")
                continue
            for flag in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", part):
                if not re.search(rf"(?<![\w-]){flag}(?![\w-])", help_of(binary, command)):
                    found.append(f"weft {command} has no flag {flag} ({line.strip()})")
    return found


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    binary = str(pathlib.Path(sys.argv[1]).resolve())
    if not known_commands(binary):
        print(f"{binary} --help lists no commands")
        return 1
    failures = 0
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for finding in [*check_paths(text), *check_links(page, text), *check_commands(binary, text)]:
            print(f"{page.relative_to(ROOT)}: {finding}")
            failures += 1
    print(f"note: {len(PAGES)} pages")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

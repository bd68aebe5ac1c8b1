"""What scripts/check-includes and scripts/check-style share: the files and the C text."""

import os
import re
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SKIPPED = {"build", "__pycache__", "store", "node_modules"}

# A comment, a string or a character constant; newlines in a comment are kept.
TOKENS = re.compile(
    r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)


def files(root, wanted):
    """Paths relative to root of the files that wanted(path) takes, sorted."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [f for f in folders if f not in SKIPPED and not f.startswith(".")]
        for name in names:
            path = os.path.relpath(os.path.join(folder, name), root)
            if wanted(path):
                found.append(path)
    return sorted(found)


def read(root, path):
    with open(os.path.join(root, path), encoding="utf-8", errors="replace", newline="") as file:
        return file.read()


def bare(text):
    """C text without comments and with empty strings, on the same lines."""
    def blank(match):
        token = match.group()
        return token[0] * 2 if token[0] in "\"'" else "\n" * token.count("\n") or " "
    return TOKENS.sub(blank, text)


def line_of(text, offset):
    return text.count("\n", 0, offset) + 1


def report(problems, what):
    for problem in problems:
        print(problem)
    print(f"{what}: {len(problems)} problems" if problems else f"{what}: ok")
    return 1 if problems else 0


def self_test(check, base, cases):
    """Proves that check can fail: base alone has no problem, and each case, a name and files to
    add to base, has one whose text holds that name."""
    failed = 0
    for name, added in [("", {}), *cases]:
        with tempfile.TemporaryDirectory() as root:
            for path, text in {**base, **added}.items():
                os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
                with open(os.path.join(root, path), "w", encoding="utf-8", newline="") as file:
                    file.write(text)
            problems = check(root)
        if any(name in p for p in problems) if name else not problems:
            continue
        failed += 1
        print(f"self-test '{name or 'no problem'}' failed, reported: {problems}", file=sys.stderr)
    print(f"self-test: {len(cases) + 1} cases, {failed} failed")
    return 1 if failed else 0

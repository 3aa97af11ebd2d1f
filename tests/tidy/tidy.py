#!/usr/bin/env python3
"""What a reviewer should not have to say: sizes, include directions, fresh generated files, links.

tidy.py --root DIR --config-gen PROGRAM

Prints one line for each finding and exits with 1 when there is one. exceptions.txt holds the
findings that are allowed, one `check path reason` a line; a line that allows nothing any more is a
finding itself, so that the list only shrinks.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import checks
import layers

EXCEPTIONS = 'tests/tidy/exceptions.txt'


def tracked(root):
    listed = subprocess.run(
        ['git', '-C', root, 'ls-files', '--cached', '--others', '--exclude-standard', '-z'],
        check=True, capture_output=True, text=True).stdout
    return [p for p in listed.split('\0') if p and (Path(root) / p).is_file()]


def all_findings(tree, generator):
    yield from checks.sizes(tree)
    yield from checks.headers(tree)
    yield from checks.words(tree)
    yield from checks.links(tree)
    yield from checks.declarations(tree)
    yield from checks.generated(tree, generator)
    yield from layers.includes(tree)
    yield from layers.cmake_deps(tree)
    yield from layers.unlisted(tree)


def read_exceptions(text):
    """{(check, path)}; every line must give a reason."""
    allowed = set()
    for line in text.split('\n'):
        words = line.split(None, 2)
        if not words or words[0].startswith('#'):
            continue
        if len(words) < 3:
            raise SystemExit(f'{EXCEPTIONS}: no reason given: {line}')
        allowed.add((words[0], words[1]))
    return allowed


def judge(findings, allowed):
    """The findings that no exception allows, and one for every exception that allows nothing."""
    used, kept = set(), []
    for finding in findings:
        key = (finding.check, finding.path)
        if key in allowed:
            used.add(key)
        else:
            kept.append(finding)
    for check, path in sorted(allowed - used):
        kept.append(checks.Finding('exception', EXCEPTIONS, f'{check} {path} is not needed'))
    return kept


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--root', default=str(Path(__file__).resolve().parents[2]))
    parser.add_argument('--config-gen', required=True)
    args = parser.parse_args()

    def generator(what):
        return subprocess.run([args.config_gen, what], check=True, capture_output=True,
                              text=True).stdout

    tree = checks.Tree(args.root, tracked(args.root))
    allowed = read_exceptions((Path(args.root) / EXCEPTIONS).read_text(encoding='utf-8'))
    kept = judge(all_findings(tree, generator), allowed)
    for finding in kept:
        print(f'{finding.path}: {finding.check}: {finding.text}')
    print(f'tidy: {len(kept)} findings in {len(tree.paths)} files, {len(allowed)} exceptions')
    return 1 if kept else 0


if __name__ == '__main__':
    sys.exit(main())

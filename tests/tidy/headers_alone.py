#!/usr/bin/env python3
"""Every header compiles alone: it includes what it uses.

headers_alone.py --build BUILD_FOLDER   (label slow: a compiler run for each header)

The flags are those of a source of the same folder, from the build's compile_commands.json.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def flags_by_folder(build):
    """{folder: compiler words without source, output and dependency files}"""
    flags = {}
    for entry in json.loads((build / 'compile_commands.json').read_text(encoding='utf-8')):
        folder = os.path.relpath(os.path.dirname(entry['file']), ROOT)
        words = [w for w in shlex.split(entry['command']) if 'ccache' not in w]
        kept, skip = [], False
        for word in words:
            if skip or word in ('-c', entry['file']):
                skip = False
            elif word in ('-o', '-MF', '-MT'):
                skip = True
            elif word != '-MD':
                kept.append(word)
        flags.setdefault(folder, (kept, entry['directory']))
    return flags


def check(header, flags, fallback):
    folder = header.parent
    while str(folder) not in flags and folder != folder.parent:
        folder = folder.parent
    words, directory = flags.get(str(folder), fallback)
    source = f'#include "{ROOT / header}"\n#include "{ROOT / header}"\n'
    run = subprocess.run(words + ['-fsyntax-only', '-x', 'c++', '-'], cwd=directory,
                         input=source, text=True, capture_output=True, check=False)
    return '' if run.returncode == 0 else f'{header} does not compile alone:\n{run.stderr[:2000]}'


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--build', type=Path, required=True)
    args = parser.parse_args()
    flags = flags_by_folder(args.build)
    headers = [h.relative_to(ROOT) for top in ('include', 'src')
               for h in ROOT.glob(f'{top}/**/*.h') if 'cuda' not in h.parts]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        failures = [f for f in pool.map(lambda h: check(h, flags, flags['src/base']), headers) if f]
    print('\n'.join(failures))
    print(f'{len(headers)} headers, {len(failures)} do not compile alone')
    return 1 if failures or not headers else 0


if __name__ == '__main__':
    sys.exit(main())

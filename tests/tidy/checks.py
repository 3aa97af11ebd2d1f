"""The checks of tests/tidy. Each takes a Tree and yields Findings."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from cpp_source import Function, blank_out, functions

COLUMNS_MAX = 100
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70

CPP = ('.h', '.cpp', '.cu', '.cuh', '.def')
SCRIPTS = ('.py', '.sh', '.cmake', '.txt', '.proto')
CUDA_FOLDERS = ('kernels/', 'src/ops/cuda/', 'src/comm/cuda/')
GENERATED = {'docs/configuration.md': 'markdown', 'configs/fathom.yaml': 'yaml'}


@dataclass(frozen=True)
class Finding:
    check: str
    path: str
    text: str


class Tree:
    """The files that git tracks or would, below `root`."""

    def __init__(self, root, paths):
        self.root = Path(root)
        self.paths = sorted(paths)
        self._texts = {}

    def text(self, path):
        if path not in self._texts:
            self._texts[path] = (self.root / path).read_text(encoding='utf-8', errors='replace')
        return self._texts[path]

    def having(self, suffixes, below=''):
        return [p for p in self.paths if p.endswith(suffixes) and p.startswith(below)]

    def code(self):
        """C++ and CUDA of ours."""
        return self.having(CPP)


def sizes(tree):
    """Files of at most 500 lines, functions of at most 70, 100 columns."""
    for path in tree.code() + [p for p in tree.having(SCRIPTS) if _is_source(p)]:
        lines = tree.text(path).split('\n')
        if len(lines) - 1 > FILE_LINES_MAX:
            yield Finding('file-lines', path, f'{len(lines) - 1} lines')
        for number, line in enumerate(lines, 1):
            if len(line) > COLUMNS_MAX:
                yield Finding('columns', path, f'line {number} has {len(line)} columns')
        for function in _functions(path, tree.text(path)):
            if function.lines > FUNCTION_LINES_MAX:
                yield Finding('function-lines', path,
                              f'{function.name} (line {function.first}) has {function.lines} lines')


def _is_source(path):
    return not path.endswith('.txt') or path.endswith('CMakeLists.txt')


def _functions(path, text):
    if path.endswith('.py'):
        return _python_functions(text)
    return functions(text) if path.endswith(CPP) else []


def _python_functions(text):
    nodes = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [Function(n.name, n.lineno, n.end_lineno)
            for n in ast.walk(ast.parse(text)) if isinstance(n, nodes)]


def headers(tree):
    """Every file says first what it is for; headers have an include guard."""
    for path in tree.code():
        if not path.startswith(('src/', 'include/', 'kernels/', 'benchmarks/')):
            continue
        if not tree.text(path).startswith('//'):
            yield Finding('file-comment', path, 'does not begin with a comment')
        if path.endswith(('.h', '.cuh')) and '#pragma once' not in tree.text(path):
            yield Finding('pragma-once', path, 'has no #pragma once')


# Words that stand only where they may. (name, pattern, where it may stand, what is wrong)
_WORDS = [
    ('getenv', r'\b(secure_)?getenv\s*\(', ('src/config/', 'tests/', 'benchmarks/'),
     'only src/config reads the environment'),
    ('throw', r'\bthrow\b(?!\s*\(\))', (), 'our code throws nothing'),
    ('cuda-malloc', r'\bcudaMalloc\w*\s*\(',
     ('src/ops/cuda/', 'src/comm/cuda/', 'tests/', 'benchmarks/'),
     'device memory is taken in src/ops/cuda and src/comm/cuda alone'),
    ('disabled-test', r'\bDISABLED_', (), 'a test that does not run'),
]
_MARKERS = re.compile(r'\b(TO' r'DO|FIX' r'ME|X' r'XX)\b')


def words(tree):
    for path in tree.code():
        code = blank_out(tree.text(path))
        for name, pattern, allowed, why in _WORDS:
            for match in re.finditer(pattern, code):
                if not path.startswith(allowed or ('//',)):
                    line = code.count('\n', 0, match.start()) + 1
                    yield Finding(name, path, f'line {line}: {why}')
    for path in tree.having(CPP + SCRIPTS + ('.md', 'Makefile')):
        for number, line in enumerate(tree.text(path).split('\n'), 1):
            if _MARKERS.search(line):
                yield Finding('marker', path, f'line {number}: an open end')


def links(tree):
    """Relative links of the documentation lead to files, and anchors to headings."""
    for path in tree.having(('.md',)):
        text = re.sub(r'```.*?```', '', tree.text(path), flags=re.S)
        for target in re.findall(r'\]\(([^)\s]+)\)', text):
            if re.match(r'[a-z]+:', target):
                continue
            name, _, anchor = target.partition('#')
            file = (tree.root / path).parent / name if name else tree.root / path
            if not file.exists():
                yield Finding('link', path, f'{target} leads nowhere')
            elif anchor and file.suffix == '.md' and anchor not in _anchors(file):
                yield Finding('link', path, f'{target}: no such heading')


def _anchors(file):
    headings = re.findall(r'^#+ (.*)$', file.read_text(encoding='utf-8'), re.M)
    return {re.sub(r'[^\w\- ]', '', h.lower()).strip().replace(' ', '-') for h in headings}


def generated(tree, generator):
    """`generator(what)` gives the text that the file must hold."""
    for path, what in GENERATED.items():
        if path not in tree.paths or tree.text(path) != generator(what):
            yield Finding('generated', path,
                          f'is stale: build/release/bin/fathom_config_gen {what} > {path}')


# Config itself resolves or checks these; the others ask Config, or need not know.
_READ_AT_HOME = {'max_num_batched_tokens', 'allow_plaintext', 'dtype', 'data_parallel_size',
                 'enable_expert_parallel'}


def declarations(tree):
    """Every setting and metric that is declared is read by somebody."""
    users = '\n'.join(blank_out(tree.text(p)) for p in tree.code()
                      if p.startswith(('src/', 'benchmarks/')) and not p.endswith('.def')
                      and not p.startswith(('src/config/', 'src/base/metrics')))
    lists = {'src/config/settings.def': _settings, 'src/base/metrics.def': _metrics}
    for path, declared in lists.items():
        if path not in tree.paths:
            continue
        for name, used in declared(re.sub(r'//[^\n]*', '', tree.text(path))):
            if name not in _READ_AT_HOME and not re.search(used, users):
                yield Finding('unused', path, f'{name} is declared and nobody reads it')


def _settings(text):
    """(name, how a reader spells it: `server.port`)"""
    group = ''
    for kind, first, second in re.findall(r'^(GROUP|SETTING)\(([^,]+), (\w+),', text, re.M):
        if kind == 'GROUP':
            group = first
        else:
            yield second, rf'\b{group}\.{second}\b'


def _metrics(text):
    for name in re.findall(r'^FATHOM_\w+\(\s*(\w+),', text, re.M):
        yield name, rf'Id::{name}\b'

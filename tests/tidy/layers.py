"""Include directions: the table of docs/architecture.md against every #include and every DEPS."""

import re

from checks import CUDA_FOLDERS, Finding

TABLE = 'docs/architecture.md'
ALWAYS = {'include/fathom', 'src/base'}
# Generated protobuf headers stop here.
PROTO_USERS = ('src/api/', 'src/engine/', 'src/daemon/', 'src/ctl/', 'tests/', 'benchmarks/')


def read_table(text):
    """{folder: set of folders it may include}; None stands for every folder."""
    rows = re.findall(r'^\| `([^`]+)` \| [^|]* \| ([^|]*) \|$', text, re.M)
    folders = [folder for folder, _ in rows]
    table = {}
    for folder, cell in rows:
        words = cell.strip()
        if words == 'all':
            table[folder] = set(folders)
        elif words == 'all but daemon':
            table[folder] = set(folders) - {'src/daemon'}
        else:
            names = [] if words == 'nothing' else [w.strip() for w in words.split(',')]
            table[folder] = {f for name in names for f in _folders_of(name, folders)}
        leaf = folder in ('include/fathom', 'kernels')
        table[folder] |= {folder} | (set() if leaf else ALWAYS)
    return table


def _folders_of(name, folders):
    """`ops` names src/ops/cpu and its sisters; a CUDA folder is named in full alone."""
    found = [f for f in folders if f in (name, 'src/' + name)]
    found += [f for f in folders if f.startswith(f'src/{name}/') and not f.endswith('/cuda')]
    if not found:
        raise ValueError(f'{TABLE} names {name}, which is no folder of the table')
    return found


def folder_of(path, folders):
    """The row that `path` belongs to: the longest that is a prefix."""
    fitting = [f for f in folders if path.startswith(f + '/')]
    return max(fitting, key=len) if fitting else None


def _target(tree, path, include):
    """The path in the tree that `#include "include"` of `path` means."""
    beside = path.rsplit('/', 1)[0] + '/' + include
    for candidate in (f'include/{include}', f'src/{include}', f'tests/{include}', include,
                      beside):
        if candidate in tree.paths:
            return candidate
    return None


def _includes(text):
    return re.findall(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', text, re.M)


def includes(tree):
    table = read_table(tree.text(TABLE))
    for path in tree.code():
        own = folder_of(path, table)
        for quote, name in _includes(tree.text(path)):
            if name.endswith('.pb.h'):
                if own and not path.startswith(PROTO_USERS):
                    yield Finding('layer', path, f'includes {name}: generated types stop earlier')
            elif name == 'cuda_runtime.h' or name == 'cuda_runtime_api.h':
                if own and not path.startswith(CUDA_FOLDERS):
                    yield Finding('layer', path, f'includes {name} outside the CUDA folders')
            elif quote == '"':
                yield from _check_own(tree, table, path, own, name)


def _check_own(tree, table, path, own, name):
    target = _target(tree, path, name)
    if target is None:
        yield Finding('layer', path, f'"{name}" is no file of the tree; third party takes <>')
        return
    other = folder_of(target, table)
    if own and other and other not in table[own]:
        yield Finding('layer', path, f'includes {name}: {own} may not depend on {other}')


def cmake_deps(tree):
    """DEPS of fathom_module, fathom_plugin and fathom_program against the same table."""
    table = read_table(tree.text(TABLE))
    calls = re.compile(r'^fathom_(?:module|plugin|program)\(\s*(\w+)([^)]*)\)', re.M)
    targets = {}
    for path in tree.having(('CMakeLists.txt',)):
        for name, _ in calls.findall(tree.text(path)):
            targets[name] = folder_of(path, table)
    for path in tree.having(('CMakeLists.txt',)):
        own = folder_of(path, table)
        if own is None:
            continue
        for name, body in calls.findall(tree.text(path)):
            listed = re.search(r'\bDEPS\s+([\w\s]*?)(?=\b[A-Z]{4,}\b|$)', body)
            for dep in listed.group(1).split() if listed else []:
                other = targets.get(dep)
                if other and other not in table[own]:
                    yield Finding('layer', path, f'{name} lists {dep}: {own} may not use {other}')


def unlisted(tree):
    """Every folder with code below src/ has a row."""
    table = read_table(tree.text(TABLE))
    for path in tree.code():
        if path.startswith(('src/', 'include/', 'kernels/')) and folder_of(path, table) is None:
            yield Finding('layer', path, f'its folder has no row in {TABLE}')

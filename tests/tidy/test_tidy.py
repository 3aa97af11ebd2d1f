#!/usr/bin/env python3
"""Every check of tidy finds what is planted, and nothing in a clean tree."""

import tempfile
import unittest
from pathlib import Path

import checks
import layers
import tidy
from cpp_source import functions

TABLE = '''
| folder | what lives there | may depend on |
|---|---|---|
| `include/fathom` | seams | nothing |
| `src/base` | base | nothing |
| `src/config` | config | base |
| `src/net` | net | base |
| `src/ops/cpu` | cpu | base |
| `src/ops/cuda` | cuda | kernels |
| `kernels` | kernels | nothing |
| `src/engine` | engine | ops |
| `src/daemon` | main | all |
| `src/ctl` | ctl | all but daemon |
'''
CLEAN = {
    'docs/architecture.md': TABLE,
    'docs/configuration.md': 'markdown',
    'configs/fathom.yaml': 'yaml',
    'src/base/log.h': '// Log.\n#pragma once\n',
    'src/net/server.cpp': '// Server.\n#include <vector>\n#include "base/log.h"\nvoid f() {}\n',
    'src/ops/cpu/ops.h': '// Ops.\n#pragma once\n',
    'src/ops/cuda/ops.cu': '// Ops.\n#include <cuda_runtime.h>\n#include "kernels/k.h"\n',
    'kernels/k.h': '// K.\n#pragma once\n',
    'src/engine/engine.cpp': '// Engine.\n#include "ops/cpu/ops.h"\n',
    'src/net/CMakeLists.txt': 'fathom_module(net SOURCES server.cpp DEPS base)\n',
    'src/engine/CMakeLists.txt': 'fathom_module(engine\n  SOURCES engine.cpp\n  DEPS base)\n',
}


class TidyTest(unittest.TestCase):
    def findings(self, changes=None):
        files = {**CLEAN, **(changes or {})}
        with tempfile.TemporaryDirectory() as root:
            for path, text in files.items():
                file = Path(root) / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding='utf-8')
            tree = checks.Tree(root, files)
            return list(tidy.all_findings(tree, lambda what: what))

    def names(self, changes):
        return [f.check for f in self.findings(changes)]

    def test_a_clean_tree_has_no_findings(self):
        self.assertEqual(self.findings(), [])

    def test_sizes_at_the_limit_and_one_past_it(self):
        body = '// F.\nvoid f() {\n' + '  g();\n' * 68 + '}\n'
        self.assertEqual(self.names({'src/net/f.cpp': body}), [])
        self.assertEqual(self.names({'src/net/f.cpp': body.replace('{\n', '{\n  g();\n')}),
                         ['function-lines'])
        self.assertEqual(self.names({'src/net/f.cpp': '//\n' * 500}), [])
        self.assertEqual(self.names({'src/net/f.cpp': '//\n' * 501}), ['file-lines'])
        self.assertEqual(self.names({'src/net/f.cpp': '//' + 'x' * 98}), [])
        self.assertEqual(self.names({'src/net/f.cpp': '//' + 'x' * 99}), ['columns'])
        self.assertEqual(self.names({'t/f.py': 'def f():\n' + '    pass\n' * 70}),
                         ['function-lines'])

    def test_functions_are_found_in_every_dress(self):
        text = '''
            namespace a {
            struct S { S() : x_{1}, y_(2) { } int get() const noexcept { return "}{"[0]; } };
            template <typename T> auto f(T t) -> decltype(t) { if (t) { } return [&] { }(); }
            constexpr int table[] = {1, 2}; enum class E { kA };
            TEST(Suite, Name) { /* } */ } // {
            }  // namespace a
            '''
        self.assertEqual([f.name for f in functions(text)], ['S', 'get', 'f', 'TEST'])

    def test_file_comment_and_guard(self):
        self.assertEqual(self.names({'src/net/a.h': '#pragma once\n'}), ['file-comment'])
        self.assertEqual(self.names({'src/net/a.h': '// A.\n'}), ['pragma-once'])

    def test_words(self):
        for name, line in [('getenv', 'auto x = std::getenv("A");'), ('throw', 'throw 1;'),
                           ('cuda-malloc', 'cudaMalloc(&p, 1);')]:
            self.assertEqual(self.names({'src/net/a.cpp': f'// A.\nvoid f() {{ {line} }}\n'}),
                             [name])
            self.assertEqual(self.names({'src/net/a.cpp': f'// A. {line}\n'}), [])
        self.assertEqual(self.names({'docs/a.md': 'TO' 'DO: more\n'}), ['marker'])
        self.assertEqual(self.names({'tests/net/a.cpp': 'TEST(A, DISABLED_b) {}\n'}),
                         ['disabled-test'])

    def test_include_directions(self):
        for include in ('"net/server.h"', '"daemon/x.h"', '<cuda_runtime.h>', '<fathom/x.pb.h>',
                        '"nowhere/x.h"'):
            changes = {'src/base/a.cpp': f'// A.\n#include {include}\n',
                       'src/net/server.h': '// S.\n#pragma once\n',
                       'src/daemon/x.h': '// X.\n#pragma once\n'}
            self.assertEqual(self.names(changes), ['layer'], include)
        cuda = {'src/engine/a.cpp': '// A.\n#include "ops/cuda/x.h"\n',
                'src/ops/cuda/x.h': '// X.\n#pragma once\n'}
        self.assertEqual(self.names(cuda), ['layer'])
        self.assertEqual(self.names({'src/new/a.cpp': '// A.\n'}), ['layer'])
        main = {'src/daemon/main.cpp': '// M.\n#include "engine/e.h"\n',
                'src/engine/e.h': '// E.\n#pragma once\n'}
        self.assertEqual(self.names(main), [])
        ctl = {'src/ctl/main.cpp': '// M.\n#include "daemon/d.h"\n',
               'src/daemon/d.h': '// D.\n#pragma once\n'}
        self.assertEqual(self.names(ctl), ['layer'])

    def test_cmake_dependencies(self):
        text = 'fathom_module(net\n  SOURCES server.cpp\n  DEPS base engine\n  LIBS x)\n'
        self.assertEqual(self.names({'src/net/CMakeLists.txt': text}), ['layer'])

    def test_a_table_that_names_no_folder_is_refused(self):
        with self.assertRaises(ValueError):
            layers.read_table(TABLE + '| `src/x` | x | bass |\n')

    def test_links(self):
        self.assertEqual(self.names({'docs/a.md': '[x](b.md)\n'}), ['link'])
        self.assertEqual(self.names({'docs/a.md': '# A b\n[x](#a-b) [y](https://a/b.md)\n'}), [])
        self.assertEqual(self.names({'docs/a.md': '# A\n[x](#b)\n'}), ['link'])

    def test_stale_and_missing_generated_files(self):
        self.assertEqual(self.names({'configs/fathom.yaml': 'old'}), ['generated'])

    def test_declarations_that_nobody_reads(self):
        settings = ('GROUP(server, Server, "")\n'
                    'SETTING(std::optional<int64_t>, alpha, 1, none(), "", "")\n')
        files = {'src/config/settings.def': '// S.\n' + settings}
        self.assertEqual(self.names(files), ['unused'])
        files['src/net/a.cpp'] = '// A.\nint f(C c) { return c.server.alpha; }\n'
        self.assertEqual(self.names(files), [])
        files['src/net/a.cpp'] = '// A.\nint f(C c) { return c.other.alpha; }\n'
        self.assertEqual(self.names(files), ['unused'])
        files['src/net/a.cpp'] = '// server.alpha\n'
        self.assertEqual(self.names(files), ['unused'])
        metric = {'src/base/metrics.def': '// M.\nFATHOM_COUNTER(\n    kOne, "x")\n'}
        self.assertEqual(self.names(metric), ['unused'])

    def test_exceptions_allow_and_expire(self):
        finding = checks.Finding('columns', 'a.cpp', 'x')
        allowed = tidy.read_exceptions('# c\ncolumns a.cpp a table of figures\n')
        self.assertEqual(tidy.judge([finding], allowed), [])
        self.assertEqual([f.check for f in tidy.judge([], allowed)], ['exception'])
        with self.assertRaises(SystemExit):
            tidy.read_exceptions('columns a.cpp\n')


if __name__ == '__main__':
    unittest.main()

"""Just enough of C++'s grammar to find functions and their lengths. Used by tidy.py."""

import re
from dataclasses import dataclass

# In this order: what begins first wins, so that a quote inside a comment is no string.
_SKIPPED = re.compile(
    r'//[^\n]*'
    r'|/\*.*?\*/'
    r'|R"(?P<mark>[^()\\\s]{0,16})\(.*?\)(?P=mark)"'
    r'|"(?:\\.|[^"\\\n])*"'
    r"|(?<![0-9A-Fa-f])'(?:\\.|[^'\\\n])*'",
    re.S)
_CONTAINER = re.compile(
    r'\b(namespace|class|struct|enum|union)\b(?![^{]*\)\s*(const|noexcept|override|\s)*$)'
    r'|\bextern\s*$')


@dataclass
class Function:
    """A function's name as written, and its first and last line (1-based)."""
    name: str
    first: int
    last: int

    @property
    def lines(self):
        return self.last - self.first + 1


def blank_out(text):
    """`text` with comments, literals and preprocessor lines as spaces; the lines stay."""
    def spaces(match):
        return re.sub(r'[^\n]', ' ', match.group(0))

    text = _SKIPPED.sub(spaces, text)
    return re.sub(r'^[ \t]*#(?:[^\n\\]|\\\n|\\.)*', spaces, text, flags=re.M)


def functions(text):
    """Every function defined at namespace or class scope; lambdas count as part of theirs."""
    code = blank_out(text)
    found, stack, header_start = [], [], 0
    for match in re.finditer(r'[{};]', code):
        at, char = match.start(), match.group(0)
        inside_function = any(kind == 'function' for kind, _, _ in stack)
        header = code[header_start:at]
        if char == '{':
            kind = 'block' if inside_function else _kind_of(header)
            stack.append((kind, header.strip(), _first_code(code, header_start)))
        elif char == '}' and stack:
            kind, opened, start = stack.pop()
            if kind == 'function':
                found.append(Function(_name_of(opened), _line_at(code, start), _line_at(code, at)))
            elif kind == 'initializer':
                continue  # `: a_{1}` and `int x{1}` are part of what goes on behind them
        if not inside_function or char == '}':
            header_start = at + 1 if not (char == '{' and stack[-1][0] == 'initializer') \
                else header_start
    return found


def _kind_of(header):
    header = header.strip()
    if not header or header.endswith(('=', ',', '(', 'return')):
        return 'initializer' if header else 'block'
    if _CONTAINER.search(header):
        return 'container'
    if re.search(r'\)\s*(const|noexcept(\([^)]*\))?|override|final|mutable|&&?|try|->[^{]*|\s)*$',
                 header):
        return 'function'
    if re.search(r'\)\s*:[^:].*[)}]\s*$', header, re.S):
        return 'function'
    return 'initializer'


def _name_of(header):
    words = re.findall(r'([~\w:]+)\s*\(', header)
    return words[0] if words else header.split('\n')[-1][:40]


def _first_code(code, start):
    while start < len(code) and code[start].isspace():
        start += 1
    return start


def _line_at(code, at):
    return code.count('\n', 0, at) + 1

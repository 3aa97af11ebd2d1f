#!/usr/bin/env python3
"""Tables of a step's kernels, of what `step_bench --timeline FILE` wrote.

    timeline.py FILE

For each case the kernels of a layer in the middle of the step, medians over its layers and steps,
in microseconds from the end of the kernel before: when the first block starts, when the last one
ends, and the link: how much later it ends than the kernel before. Kernels overlap (programmatic
launch), so a kernel's own duration says little; links add up to the step.
"""
import re
import statistics
import sys

LONGEST_LAYER = 20  # kernels


def read(path):
    """Kernels by (model, case): (start ns, end ns, blocks, name)."""
    cases = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            model, case, start, end, grid, _, name = line.rstrip("\n").split("\t")
            kernel = (int(start), int(end), int(grid), short(name))
            cases.setdefault((model, case), []).append(kernel)
    return cases


def short(name):
    name = re.sub(r"\(anonymous namespace\)::|fathom::kernels::|^void |\(fathom::[^)]*\)", "", name)
    return re.match(r"\w+(<[^(]*>)?", name).group(0)


def steps_of(kernels):
    """Steps begin with `advance`; those of the usual length, without the first two and the last."""
    steps = []
    for kernel in kernels:
        if "advance" in kernel[3] or not steps:
            steps.append([])
        steps[-1].append(kernel)
    usual = statistics.mode(len(step) for step in steps)
    return [step for step in steps if len(step) == usual][2:-1]


def layer_of(step):
    """Where a layer that repeats begins, and its number of kernels."""
    names = [(kernel[2], kernel[3]) for kernel in step]
    middle = len(names) // 2
    while middle < len(names) and "norm" not in names[middle][1]:
        middle += 1
    for period in range(3, LONGEST_LAYER):
        if names[middle:middle + period] == names[middle - period:middle]:
            return middle, period
    return middle, min(LONGEST_LAYER, len(names) - middle)


def print_case(key, kernels):
    steps = steps_of(kernels)
    if not steps:
        print(f"{key[0]} {key[1]}: too few steps")
        return
    spans = [1e-3 * (step[-1][1] - step[1][0]) for step in steps]
    print(f"{key[0]} {key[1]}: {len(steps)} steps of {len(steps[0])} kernels, "
          f"{statistics.median(spans):.1f} us")
    first, period = layer_of(steps[0])
    names = [kernel[2:] for kernel in steps[0]]
    layers = [at for at in range(first % period, len(names) - period, period)
              if at > 0 and names[at:at + period] == names[first:first + period]] or [first]
    before = 0.0
    for j in range(period):
        grid, name = names[first + j]
        pairs = [(step[at + j], step[at - 1][1]) for step in steps for at in layers]
        start = statistics.median(1e-3 * (kernel[0] - zero) for kernel, zero in pairs)
        end = statistics.median(1e-3 * (kernel[1] - zero) for kernel, zero in pairs)
        print(f"  {name:48.48} {grid:5d} blocks  {start:8.2f} to {end:8.2f}"
              f"  link {end - before:7.2f}")
        before = end


def main():
    for key, kernels in read(sys.argv[1]).items():
        print_case(key, kernels)


if __name__ == "__main__":
    main()

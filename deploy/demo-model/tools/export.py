"""Writes the FP8 checkpoint of a BF16 original, as train.py leaves it.

python3 export.py --original DIR/bf16 --out ..
"""

import argparse
import pathlib

import checkpoint
import model


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--original", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    checkpoint.save(args.out, model.Shape(), checkpoint.quantized(checkpoint.load(args.original)))


if __name__ == "__main__":
    main()

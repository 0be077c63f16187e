"""Holds networks.py against the published network's own outputs (fixtures/parity), in float64 on the CPU.

Prints a line of JSON for each stored case; exits with 1 if one is off by more than 1e-6, as the crate `reference/` must be too.
"""

import json
import struct
import sys
import warnings

import torch

from networks import FIXTURES, SegFace, network_input

BOUND = 1e-6


def stored_logits(path):
    """The tensor `logits` of a safetensors file."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])["logits"]
    begin, end = (8 + length + offset for offset in header["data_offsets"])
    return torch.frombuffer(bytearray(data[begin:end]), dtype=torch.float32).reshape(header["shape"]).double()


def main():
    warnings.filterwarnings("ignore")
    torch.set_grad_enabled(False)
    wanted, passed = sys.argv[1:], True
    for path in sorted((FIXTURES / "parity").glob("*.safetensors")):
        variant, rest = path.stem.split("_", 1)
        backbone, size = rest.rsplit("_", 1)
        # LaPa's warp is no part of what is measured.
        if variant == "lapa" or (wanted and backbone not in wanted):
            continue
        height, width, batch = (int(side) for side in size.split("x"))
        net = SegFace(backbone, torch.float64, "cpu", variant)
        logits = net(network_input(batch, (height, width), torch.float64, "cpu"))
        truth = stored_logits(path)
        error = ((logits - truth).norm() / truth.norm()).item()
        passed &= error <= BOUND
        print(json.dumps({"record": "torch-parity", "case": path.stem, "error": error, "passed": error <= BOUND}), flush=True)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()

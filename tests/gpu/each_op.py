"""One small call of each native op, in each of its forms, for compute-sanitizer: ``python -m tests.gpu.each_op``.

Rows that vectors of 16 bytes fit, and rows that they do not. ``--dry-run`` calls the CPU kernels.
"""

from __future__ import annotations

import argparse

import torch

from affectron import ops
from affectron.ops.forms import FORMS, use_form
from tests.ops.conftest import halves
from tests.support.oracles import check, check_sums, masking, oracle, programs, runs, tokens, weights


def call_each(device: str, f: int) -> None:
    gate, up = (t.to(device) for t in halves(67, f, torch.bfloat16))
    segments = runs(67, 4).to(device)
    table, rows = programs(3, f).to(device), (torch.arange(67, dtype=torch.int32) % 4 - 1).to(device)
    h = ops.glu(gate, up)
    stats = ops.StatsBuffers(4, f, device=device)
    assert torch.equal(ops.glu_stats(gate, up, segments, stats), h)
    check(stats, oracle(h, gate, segments, 4, False))
    stats = ops.StatsBuffers(4, f, device=device)
    ops.neuron_stats(h, segments, stats, gate)
    check(stats, oracle(h, gate, segments, 4, False))
    for gradients in (None, torch.zeros(4, f, device=device)):
        sums, inputs = torch.zeros(4, f, device=device), [t.detach().requires_grad_() for t in (gate, up)]
        ops.glu_attribution(*inputs, sums, segments, gradients=gradients).backward(h)
        check_sums(sums, [(h, h, segments)], gradients=gradients)
    for program, of in ((table[:1].contiguous(), None), (table, rows)):
        assert ops.glu_steer(gate, up, program, of).isfinite().all()
    w_gate, w_up, w_down = (t.to(device) for t in weights((f, 296, 83), torch.bfloat16))
    mask = masking(programs(1, 296), torch.arange(0, 296, 2)).to(device)
    for n in (1, 3, 16):
        x = tokens(n, f, torch.bfloat16).to(device)
        for down in (w_down, ops.neuron_major(w_down)):
            assert ops.masked_mlp(x, w_gate, w_up, down, mask).isfinite().all()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="on the CPU")
    device = "cpu" if parser.parse_args().dry_run else "cuda"
    with ops.use_backend("native"):
        for f in (264, 77):
            call_each(device, f)
            for form in FORMS["native"]:
                with use_form("native", form, False):
                    call_each(device, f)
    if device == "cuda":
        torch.cuda.synchronize()
    print("each native op was called")


if __name__ == "__main__":
    main()

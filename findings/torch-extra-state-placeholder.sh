#!/usr/bin/env bash
# torch 2.13.0: set_model_state_dict with full_state_dict=True, given some of a module's weights, calls the module's set_extra_state with a
# private placeholder, although the given state dict has no extra state: what the module had is lost. It then says that all keys
# matched, though the bias is missing too, even with strict=True. Lightning's ModelParallelStrategy loads an ordinary checkpoint in this way
# (strict=False and broadcast_from_rank0=True), weight by weight, and never passes the extra state that the checkpoint holds. The
# guess was what load_state_dict does: without the key, set_extra_state is not called, and the missing keys are named.
#
# Seen on 2026-11-30 with Python 3.11:
#   torch 2.13.0 load_state_dict: {'count': 7} missing: ['bias', '_extra_state']
#   strict=False: <class 'torch.distributed.checkpoint.state_dict._EXTRA_STATE'> <All keys matched successfully>
#   strict=True: <class 'torch.distributed.checkpoint.state_dict._EXTRA_STATE'> <All keys matched successfully>
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

class Counting(torch.nn.Linear):
    def get_extra_state(self):
        return getattr(self, "state", {"count": 7})
    def set_extra_state(self, state):
        self.state = state

some, module = {"weight": torch.ones(2, 2)}, Counting(2, 2)
missing = module.load_state_dict(some, strict=False).missing_keys
print("torch", torch.__version__.split("+")[0], "load_state_dict:", module.get_extra_state(), "missing:", missing)
assert module.get_extra_state() == {"count": 7} and missing == ["bias", "_extra_state"]
torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
for strict in (False, True):
    module, options = Counting(2, 2), StateDictOptions(full_state_dict=True, strict=strict, broadcast_from_rank0=not strict)
    result = set_model_state_dict(module, some, options=options)
    print(f"strict={strict}:", type(module.get_extra_state()), result)
    assert type(module.get_extra_state()).__name__ == "_EXTRA_STATE" and not result.missing_keys
torch.distributed.destroy_process_group()
PYTHON

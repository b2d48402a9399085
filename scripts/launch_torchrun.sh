#!/usr/bin/env bash
# Start this machine's part of a run on one or more machines. Give the same arguments on each of them:
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=node0 scripts/launch_torchrun.sh fit --config configs/seqcls.yaml   # on node0
#   NNODES=2 NODE_RANK=1 MASTER_ADDR=node0 scripts/launch_torchrun.sh fit --config configs/seqcls.yaml   # on the other
# All machines must see the same folder of runs (--trainer.default_root_dir). Add --ckpt_path auto to start new or go on.
#
# NNODES       machines. Default: 1
# NODE_RANK    number of this one, from 0. Default: 0
# MASTER_ADDR  name or address of machine 0. Default: 127.0.0.1
# MASTER_PORT  a free port there. Default: 29500
# NPROC        processes on each machine, one for each GPU. Default: the GPUs that there are, else 1
# PYTHON       Default: .venv/bin/python where it exists, else python
set -euo pipefail
if [ $# -eq 0 ]; then
    echo "error: no command; for example: $0 fit --config configs/seqcls.yaml" >&2
    exit 2
fi
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python)}
NPROC=${NPROC:-$("$PYTHON" -c 'import torch; print(torch.cuda.device_count() or 1)')}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec "$PYTHON" -m torch.distributed.run \
    --nnodes "${NNODES:-1}" --node-rank "${NODE_RANK:-0}" --nproc-per-node "$NPROC" \
    --master-addr "${MASTER_ADDR:-127.0.0.1}" --master-port "${MASTER_PORT:-29500}" \
    -m lightning_qsgd "$@" --trainer.num_nodes "${NNODES:-1}" --trainer.devices "$NPROC"

#!/usr/bin/env bash
# A SLURM job that trains, and after preemption, a time limit or a requeue goes on where it was:
#   sbatch --nodes 2 --ntasks-per-node 4 --gpus-per-node 4 scripts/launch_slurm.sh --config configs/seqcls.yaml
# The arguments are those of fit. One process for each task; its runs go to <root>/job_<number of the job>, and all
# machines must see that folder. 90 seconds before the time limit SLURM signals this script: it asks the processes to
# stop (SIGTERM), waits until they have, and puts the job back into the queue. Started again, it finds last.ckpt.
#
# EXPERIMENT  name of the experiment, one for each job. Default: job_$SLURM_JOB_ID, which a requeue keeps
# PYTHON      Default: .venv/bin/python where it exists, else python
#SBATCH --job-name=lightning_qsgd
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@90
set -uo pipefail
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python)}
EXPERIMENT=${EXPERIMENT:-job_$SLURM_JOB_ID}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

requeue=no
stop() { # srun passes the signal on to all processes
    kill -TERM "$step" 2>/dev/null
}
trap 'requeue=yes; stop' USR1 # the time limit is near
trap 'stop' TERM              # preemption: SLURM requeues the job by itself

srun --kill-on-bad-exit=1 "$PYTHON" -m lightning_qsgd fit "$@" \
    --experiment "$EXPERIMENT" --ckpt_path auto \
    --trainer.num_nodes "${SLURM_JOB_NUM_NODES:-1}" --trainer.devices "${SLURM_NTASKS_PER_NODE:-1}" &
step=$!
while true; do # a signal ends wait before the processes have ended
    wait "$step"
    status=$?
    kill -0 "$step" 2>/dev/null || break
done
if [ "$requeue" = yes ]; then
    exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"

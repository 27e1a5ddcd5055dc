#!/usr/bin/env bash
# A run on nodes of a Slurm cluster: one process per node, with all of its accelerators.
#
#   sbatch --nodes=4 launch/slurm.sh simclr runs/simclr --config.batch_size=4096
#   sbatch --nodes=1 --array=0-2 launch/slurm.sh simclr runs/seeds        # seeds 0 to 2, each in runs/seeds/SEED
#
# Ask for what your cluster wants besides (--gres=gpu:8, --partition=..., --account=...) on the same command line.
# Two minutes before the time limit, and on preemption, Slurm sends SIGTERM: the run saves, and is put into the queue
# again, from where it goes on. So it is by hand: `scancel --signal=TERM JOB`, or `scontrol requeue JOB`. Slurm lets a
# job rest for two minutes then; `scontrol update JobId=JOB StartTime=now` doesn't. `scancel JOB` ends it for good.
# SSL_JAX names the program on all nodes; unless set, it is .venv/bin/ssl-jax where sbatch was called, or else ssl-jax.
#SBATCH --job-name=ssl-jax
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
set -euo pipefail

usage() {
  printf 'usage: sbatch --nodes=N launch/slurm.sh CONFIG WORKDIR [--config.FIELD=VALUE ...]\n' >&2
  exit 2
}
[ $# -ge 2 ] || usage
config=$1 workdir=$2
shift 2
[ -n "${SLURM_JOB_ID:-}" ] || usage

if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then # a directory holds one run
  workdir=$workdir/$SLURM_ARRAY_TASK_ID
  set -- "--config.seed=$SLURM_ARRAY_TASK_ID" "$@"
fi
# Slurm runs a copy of this script; the command is SSL_JAX, or that of the directory of sbatch, or that of PATH.
command=${SSL_JAX:-$SLURM_SUBMIT_DIR/.venv/bin/ssl-jax}
[ -n "${SSL_JAX:-}" ] || [ -x "$command" ] || command=ssl-jax

# If one task fails, the others end by themselves within a minute. Slurm would end them with a SIGTERM at once, and a run
# that can't go on would look like one that was asked to stop, and be queued again and again.
status=0
srun --kill-on-bad-exit=0 --cpu-bind=none "$command" pretrain "--config=$config" "--workdir=$workdir" "$@" || status=$?
if [ "$status" = 143 ]; then # SIGTERM came, and the state is saved
  printf 'Saved after SIGTERM; job %s goes into the queue again.\n' "$SLURM_JOB_ID" >&2
  scontrol requeue "$SLURM_JOB_ID" || true # when it was preempted, Slurm does so itself
fi
exit "$status"

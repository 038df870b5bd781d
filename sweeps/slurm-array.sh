#!/usr/bin/env bash
# A sweep by the tasks of a SLURM array job: each is the same command on one PostgreSQL study, and
# takes trials of it for as long as there are some. clusters.md, beside this file, says how to
# start, watch, stop and resume it.
#
#   sbatch --array=0-7 sweeps/slurm-array.sh hydra.sweeper.study_name=widths model.filters=4,8,16
#
#SBATCH --job-name=cifar_hpo
#SBATCH --array=0-3
#SBATCH --cpus-per-task=4
#SBATCH --mem-per-cpu=2G
#SBATCH --time=04:00:00
#SBATCH --output=slurm-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@90

set -euo pipefail

# STUDY_URL=postgresql://… and MLFLOW_TRACKING_URI=http://…, in a file that only you can read.
secrets=${CIFAR_HPO_SECRETS:-$HOME/.cifar_hpo.env}
if [ -r "$secrets" ]; then
    set -a
    # shellcheck source=/dev/null
    . "$secrets"
    set +a
fi
: "${STUDY_URL:?the URL of a PostgreSQL database: export it, or write it to $secrets}"
: "${MLFLOW_TRACKING_URI:?the address of an MLflow server: export it, or write it to $secrets}"

# USR1 comes 90 s before the time limit, to this shell alone: end in order, and come back. TERM is
# of who preempts or cancels the job: end in order; SLURM brings back what it has preempted. Either
# may come before there is a sweep.
sweep=
is_ended=no
comes_back=no
end_sweep() {
    is_ended=yes
    [ -z "$sweep" ] || kill -TERM "$sweep" 2>/dev/null || true
}
trap end_sweep TERM
trap 'comes_back=yes; end_sweep' USR1

# In single quotes: Python reads the URL, and no list of processes shows it.
# shellcheck disable=SC2016
storage='hydra.sweeper.storage=${oc.env:STUDY_URL}'
slots=("hydra.launcher.n_workers=${SLURM_CPUS_PER_TASK:-1}" hydra.launcher.threads_per_worker=1)
if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
    slots=() # a worker for each GPU of the job
fi
"${PYTHON:-python}" -m cifar_hpo -m "$storage" "${slots[@]}" "$@" &
sweep=$!
[ "$is_ended" = no ] || end_sweep

# A signal ends `wait`, not the sweep.
while kill -0 "$sweep" 2>/dev/null; do
    wait "$sweep" || true
done
code=0
wait "$sweep" || code=$?
if [ "$comes_back" = yes ] && [ "$code" -ge 128 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"

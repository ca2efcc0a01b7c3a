#!/bin/bash
# A cohort on Slurm, the whole Dask cluster in one job of several nodes. Submitted again, it goes on.
# On each node --nthreads 3 holds three studies, as --in-flight 3 does on one machine.
#SBATCH --nodes=4 --ntasks-per-node=1 --cpus-per-task=8 --gres=gpu:1 --time=12:00:00
export VOX=/shared/venv/bin SCHED=/shared/run/scheduler-$SLURM_JOB_ID.json
$VOX/dask scheduler --scheduler-file $SCHED --no-dashboard &
srun $VOX/dask worker --scheduler-file $SCHED --nthreads 3 --resources "GPU=3" --no-dashboard &
trap 'kill $(jobs -p); wait' EXIT
while [ ! -f $SCHED ]; do sleep 1; done
ADDRESS=$($VOX/python -c "import json; print(json.load(open('$SCHED'))['address'])")
$VOX/python -m voxmetry cohort run /shared/in -m hippocampus-mr -o /shared/out --scheduler $ADDRESS

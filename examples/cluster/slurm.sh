#!/bin/bash
# Samples, ten million by default, in a Slurm array, a rank and a GPU in each task: sbatch slurm.sh MODEL OUT [N]
#
# Ranks pass nothing but files, so tasks need not run at the same time, and no address is told. The same script goes on
# after any of them was stopped, also with another --array. MODEL and OUT are on a file system that all nodes see.
# In one allocation instead of an array: sbatch --ntasks=64 --wrap "srun bash slurm.sh MODEL OUT", with the same options.
#SBATCH --job-name=samples
#SBATCH --array=0-63
#SBATCH --gpus=1
#SBATCH --cpus-per-task=4
#SBATCH --requeue
#SBATCH --output=samples-%a.log
#SBATCH --open-mode=append
set -euo pipefail

model=${1:?usage: sbatch slurm.sh MODEL OUT [N]}
out=${2:?usage: sbatch slurm.sh MODEL OUT [N]}
export RANK=${SLURM_ARRAY_TASK_ID:-${SLURM_PROCID:?start this by sbatch or srun}}
export WORLD_SIZE=${SLURM_ARRAY_TASK_COUNT:-$SLURM_NTASKS}
exec leapstep sample "$model" --n "${3:-10000000}" --format parquet --on torchrun --resume --out "$out"

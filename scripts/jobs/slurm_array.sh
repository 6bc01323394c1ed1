#!/bin/bash
# A Slurm array that extracts one data set: each task extracts one part of its images into a cache of its own.
#
# Submit the array, here of 4 tasks, then a job that joins the caches:
#
#   sbatch --array=1-4 slurm_array.sh
#   sbatch --dependency=afterok:JOB_ID --wrap 'featurecache merge photos.h5 part-1.h5 part-2.h5 part-3.h5 part-4.h5'
#
# All tasks must see the same folder, and have the same versions and the same kind of processor or GPU. Slurm sends SIGINT
# two minutes before the time limit. featurecache then commits what is finished; submit the same task again, and it
# continues there. The number of threads follows the processors that Slurm gives to the task.

#SBATCH --job-name=featurecache
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --signal=B:INT@120
#SBATCH --output=featurecache-%A-%a.log

set -euo pipefail
part=${SLURM_ARRAY_TASK_ID:?submit this file with sbatch --array}
parts=${SLURM_ARRAY_TASK_COUNT:-1}

# exec: the signal reaches featurecache itself. The weights are read from a file: compute nodes often have no network.
exec featurecache extract photos "part-$part.h5" --part "$part/$parts" --backbone vgg16 --weights vgg16.weights.h5

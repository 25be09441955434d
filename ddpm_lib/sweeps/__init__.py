"""`ddpm sweep`: a notebook over many parameters, on Dask; a sweep's state is its folder, so that it survives anything.

spec, draws       what a sweep's YAML file says: which runs
worker            one run: once for all time, within its limits
cluster, runner   hand the runs out to workers, here or elsewhere
report, summary   the table, the notebook with its plots
cli               the commands
"""

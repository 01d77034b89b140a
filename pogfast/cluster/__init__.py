"""Work on many machines: units that workers do, by an executor that others wrote.

`crews.py` says what a crew must be able to do, `executors.py` and `dask.py` make one, `line.py` has units done and
returns what came of them in order, `units.py` is what travels to the workers and back, `worker.py` runs there. What is
cut into units: `sealing.py` the files of a create, `opening.py` those of a restore or a check, which `reading.py` opens
on a worker. Nothing here knows manifests; no scheduler is ours.
"""

"""Many exposures: a campaign file, what is done of it, and running the rest.

`campaign` reads the file, `fingerprint` tells what is finished, `locks` keeps two batches apart,
`manifest` is the log, `work` does one exposure, `run` all of them, and `status` sums up.
"""

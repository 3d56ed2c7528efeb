"""A run spread over a Ray cluster; the only package that knows ray.

Two runs decide (`evaluate`, `collect`): what a worker is asked next, and what a report costs. Who
is asked is up to `pool`, `replicas` and `staffing`. What runs on a node (`worker`, `collector`,
`replica`) is plain classes, which `actors` wraps; `scaling` and `leases` know no ray either.
"""

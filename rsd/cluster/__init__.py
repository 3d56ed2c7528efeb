"""A run spread over a Ray cluster; the only package that knows ray.

The classes are plain; `actors` wraps them with `ray.remote`. `scaling`, `leases` and `batching` do
not import ray at all.
"""

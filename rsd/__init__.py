"""RSD: Ray-distributed rollouts of speculative vision-language-action policies on LIBERO."""

__version__ = "0.1.0"

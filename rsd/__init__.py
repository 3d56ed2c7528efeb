"""RSD: Ray-distributed rollouts of speculative vision-language-action policies on LIBERO."""

from rsd import arithmetic

__version__ = "0.1.0"

arithmetic.pin()  # before anything loads numpy

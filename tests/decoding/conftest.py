"""Small models are slower, not faster, on several threads."""

from __future__ import annotations

import torch

torch.set_num_threads(1)

"""OpenVLA-OFT (7B) with residual-code heads: a target that speculative decoding can verify.

DINOv2 and SigLIP towers (timm) -> projector -> Llama-2-7B (transformers) with bidirectional
attention over context and action placeholders; blocks of residual codes stand behind them.
Sources: Kim et al. 2024 (OpenVLA), Kim et al. 2025 (OpenVLA-OFT, moojink/openvla-oft@213c5ff).
"""

"""Runs in the experiment trackers that a lab has: wandb, TensorBoard, MLflow. No torch, no ray.

`trackers` holds one class a tracker; `curves` turns finished episodes into points; `log` brings
both together, in threads of its own: a tracker can neither stop a run nor slow it down.
"""

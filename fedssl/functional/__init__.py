"""Pure tensor mathematics: tensors in, tensors out; no I/O, no modules, no global state.

Axes in shapes: B batch, C image channels, K classes including background, F foreground classes
(K - 1), D feature channels, *S space (H, W or D, H, W), *s space of the feature grid, T passes.
"""

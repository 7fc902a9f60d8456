"""Whatever is measured against ours.

Loaders: `dali`, `limit` and `torchvision_loader`, whose `open_epochs(path, config)` gives their `Epochs`. Whole images:
`decoders`. Converters: `ffcv_writer`. Augmentation: `augmentation`. Training: `timm_train`, and in `our_training` the
trainer itself, whole and in parts.
"""
